//! Structures of librknnrt as a C compiler lays them out, beside ours.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tessera_runtime::rknn::abi::LAYOUTS;

/// What a compiler's program says, by structure or `structure.field`; `None` where it is missing.
fn said_by(compiler: &str, runner: &[&str]) -> Option<BTreeMap<String, usize>> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("abi");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rknn_abi.c");
    let compiled = Command::new(compiler).arg("-o").arg(&program).arg(source).status().ok()?;
    assert!(compiled.success(), "{compiler}");
    let words = runner.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]);
    let words: Vec<_> = words.collect();
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    assert!(output.status.success(), "{compiler} {output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    Some(lines.lines().map(pair).collect())
}

#[test]
fn structures_are_those_of_c() {
    let mut ours = BTreeMap::new();
    for (name, size, fields) in LAYOUTS {
        ours.insert((*name).to_owned(), *size);
        ours.extend(fields.iter().map(|(field, at)| (format!("{name}.{field}"), *at)));
    }
    let mut compared = 0;
    for (compiler, runner) in [
        ("cc", &[][..]),
        ("aarch64-linux-gnu-gcc", &["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]),
    ] {
        match said_by(compiler, runner) {
            Some(said) => {
                println!("{compiler}: {} sizes and offsets", said.len());
                assert_eq!(said, ours, "{compiler}");
                compared += 1;
            }
            None => println!("skipped: {compiler} and what runs its programs are not both here"),
        }
    }
    println!("{compared} compilers agree");
}
