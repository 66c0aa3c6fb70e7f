//! The stand-in for the vendor's library, and tests that run themselves again with its faults planted.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod matmuls;

use std::path::PathBuf;
use std::process::Command;

/// The stand-in, which `cargo test` builds beside the tests unless it is told to build one test alone.
pub fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/librknn_stand_in.so");
    assert!(
        path.exists(),
        "no {}: cargo build -p tessera-runtime --example rknn_stand_in",
        path.display()
    );
    path
}

/// What a test of this file says in a process of its own, with variables that plant faults. Where cargo runs
/// tests through an emulator, so is this.
pub fn with_faults(test: &str, variables: &[(&str, &str)]) -> String {
    let emulator = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER");
    let emulator = emulator.ok().filter(|_| cfg!(target_arch = "aarch64")).unwrap_or_default();
    let myself = std::env::current_exe().unwrap();
    let mut words: Vec<_> =
        emulator.split_whitespace().map(PathBuf::from).chain([myself]).collect();
    let output = Command::new(words.remove(0))
        .args(words)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}
