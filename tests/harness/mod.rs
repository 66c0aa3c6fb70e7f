//! Running the binary, and finding models to run it on.

#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod board;
pub mod model;
pub mod outliers;
pub mod report;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// The binary under test; through an emulator where cargo runs tests through one.
pub fn tessera() -> Command {
    let binary = env!("CARGO_BIN_EXE_tessera");
    let emulator = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER");
    let emulator = emulator.ok().filter(|_| cfg!(target_arch = "aarch64")).unwrap_or_default();
    let mut words = emulator.split_whitespace().chain([binary]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// The tiny real model that the repository carries.
pub fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stories260K-Q8_0.gguf")
}

/// The library that stands in for the vendor's, which cargo builds with the tests of the workspace.
pub fn stand_in() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_tessera"));
    let path = binary.with_file_name("examples/librknn_stand_in.so");
    assert!(
        path.exists(),
        "no {}: cargo build -p tessera-runtime --example rknn_stand_in",
        path.display()
    );
    path
}

/// A folder of further models beside the repository, where there is one.
pub fn shared_models(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models").join(folder);
    if !path.is_dir() {
        println!("skipped: `../shared/models/{folder}` is not here");
        return None;
    }
    Some(path)
}

/// A short text that the repository carries.
pub fn short_text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/alice.txt")
}

/// A text beside the repository, where there is one.
pub fn shared_text(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.is_file() {
        println!("skipped: `../shared/data/{name}` is not here");
        return None;
    }
    Some(path)
}

/// Every GGUF model in a folder, sorted; statistics files are no models.
pub fn models_in(folder: &Path) -> Vec<PathBuf> {
    let mut models: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .filter(|path| !path.to_string_lossy().contains("imatrix"))
        .collect();
    models.sort();
    models
}

/// Converts with `arguments` and returns the summary.
pub fn convert(input: &Path, output: &Path, arguments: &[&str]) -> Value {
    let assert = tessera()
        .arg("convert")
        .arg(input)
        .arg("-o")
        .arg(output)
        .args(arguments)
        .arg("--json")
        .assert()
        .success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// Packs of every scheme, of several segments and domains, of several files, and of experts.
pub fn packs_of_every_scheme(folder: &Path) -> Vec<PathBuf> {
    let experts = model::Model::with_experts(&tiny_model()).write(folder, "experts.gguf");
    let mixed = folder.join("mixed.toml");
    let rules = "[[rule]]\nmatch = \"blk.[0-2].*\"\nscheme = \"w4a4\"\n\n[[rule]]\nmatch = \"output.*\"\n\
                 scheme = \"w16a16\"\n";
    std::fs::write(&mixed, rules).unwrap();
    let mut packs = Vec::new();
    for (index, (model, options)) in [
        (tiny_model(), &["--scheme", "w8a8"][..]),
        (tiny_model(), &["--scheme", "w4a8"]),
        (tiny_model(), &["--scheme", "w4a4"]),
        (tiny_model(), &["--scheme", "w16a16"]),
        (tiny_model(), &["--recipe", mixed.to_str().unwrap(), "--shard-size", "200K"]),
        (tiny_model(), &["--preset", "rk-llama-v3", "--scheme", "w4a4"]),
        (experts.clone(), &["--scheme", "w8a8"]),
        (experts, &["--scheme", "w4a8"]),
    ]
    .into_iter()
    .enumerate()
    {
        let pack = folder.join(format!("{index}.safetensors"));
        convert(&model, &pack, options);
        let sharded = pack.with_extension("safetensors.index.json");
        packs.push(if sharded.exists() { sharded } else { pack });
    }
    packs
}

/// Verifies a pack against its source and returns the report; the pack must be in order.
pub fn verify(pack: &Path, source: &Path) -> Value {
    let assert =
        tessera().arg("verify").arg(pack).arg("--source").arg(source).arg("--json").assert();
    let output = assert.get_output();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report["problems"], serde_json::json!([]), "{}", pack.display());
    assert_eq!(output.status.code(), Some(0));
    report
}

/// Evaluates `models`, each with what is to be made of it, and returns a report for each.
pub fn eval<M: AsRef<str>>(models: &[M], arguments: &[&str]) -> Vec<Value> {
    let models = models.iter().map(AsRef::as_ref);
    let output = tessera().arg("eval").args(models).args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A number of a report.
pub fn figure(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} of {report}"))
}

/// Checks a number of a report.
pub fn near(report: &Value, key: &str, expected: f64, tolerance: f64) {
    let found = figure(report, key);
    let model = &report["model"];
    assert!((found - expected).abs() <= tolerance, "{model} {key}: {found}, not {expected}");
}

/// A model's name with what is to be made of it.
pub fn with(path: &Path, how: &str) -> String {
    format!("{}@{how}", path.display())
}

/// Relative errors by tensor name, from a report.
pub fn errors(report: &Value) -> Vec<(String, f64)> {
    report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| {
            let name = tensor["name"].as_str().unwrap().to_owned();
            (name, tensor["relative_rms"].as_f64().unwrap())
        })
        .collect()
}

/// Runs `tessera`, which must not panic; its exit code, and what it said on stderr.
pub fn run<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> (i32, String) {
    let output = tessera().args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code().unwrap(), stderr)
}
