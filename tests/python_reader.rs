//! The example reader in Python, written from the format page, agrees with `tessera verify`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{convert, shared_models, tiny_model, verify};

/// Whether Python and what the comparison imports are here. Continuous integration requires them.
fn python_is_here() -> bool {
    let here = Command::new("python3")
        .args(["-c", "import numpy, gguf"])
        .output()
        .is_ok_and(|output| output.status.success());
    let required = std::env::var_os("TESSERA_REQUIRE_PYTHON").is_some();
    assert!(here || !required, "python3 with numpy and gguf is required and missing");
    if !here {
        println!("skipped: python3 with numpy and gguf is not here");
    }
    here
}

/// Linears on which reader and report agree.
fn agreeing(model: &Path, options: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let summary = convert(model, &pack, options);
    // The first file of a sharded pack stands beside an index; the reader takes the index.
    let files = summary["output"].as_array().unwrap();
    let pack = PathBuf::from(files.last().unwrap().as_str().unwrap());
    let report = folder.path().join("report.json");
    std::fs::write(&report, verify(&pack, model).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/agree_with_verify.py");
    let output =
        Command::new("python3").arg(script).arg(&pack).arg(model).arg(&report).output().unwrap();
    assert!(
        output.status.success(),
        "{} {options:?}: {}{}",
        model.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[test]
fn python_rebuilds_the_weights_that_verify_measures() {
    if !python_is_here() {
        return;
    }
    for options in [
        &["--scheme", "w8a8"][..],
        &["--scheme", "w4a4"],
        &["--scheme", "w4a8", "--rotation", "block"],
        &["--scheme", "w16a16"],
        &["--scheme", "w8a8", "--granularity", "tensor", "--rotation", "none"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v3"],
        &["--scheme", "w8a8", "--shard-size", "200K"],
    ] {
        assert_eq!(agreeing(&tiny_model(), options), 36, "{options:?}");
    }
    if let Some(models) = shared_models("stories260K") {
        let model = models.join("stories260K-as-moe-F32.gguf");
        assert_eq!(agreeing(&model, &["--scheme", "w4a4"]), 36);
    }
    if let Some(models) = shared_models("golden-dequant") {
        let model = models.join("gpt2-small-attn-blk0-F32.gguf");
        assert_eq!(agreeing(&model, &["--scheme", "w4a8"]), 2);
    }
}
