//! The example reader in Python, written from the format page, agrees with `tessera verify` and
//! `tessera diff`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::model::Model;
use harness::{convert, shared_models, tessera, tiny_model, verify};
use tessera_formats::pack::PackReader;

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
    run("agree_with_verify.py", &[&pack, model, &report])
}

/// Segments of a pack of `model` whose golden vectors the script computed again, and its linears.
fn golden(model: &Path, options: &[&str]) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let summary = convert(model, &pack, options);
    let files = summary["output"].as_array().unwrap();
    let pack = PathBuf::from(files.last().unwrap().as_str().unwrap());
    let reader = PackReader::open(&pack).unwrap();
    let segments = reader.linears().map(|linear| linear.segments.len()).sum();
    assert_eq!(run("golden_vectors.py", &[&pack]), segments, "{options:?}");
    (segments, reader.linears().count())
}

/// Runs a script, which must succeed, and returns the number that it prints.
fn run(script: &str, arguments: &[&Path]) -> usize {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let output = Command::new("python3").arg(script).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}{}",
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

#[test]
fn python_computes_the_golden_vectors_again() {
    if !python_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("mix.toml");
    let mix = "[defaults]\nscheme = \"w4a8\"\n\
               [[rule]]\nmatch = 'ffn_down'\nscheme = \"w8a8\"\nzero_point = false\n\
               [[rule]]\nmatch = 'attn_q'\nscheme = \"w4a4\"\nzero_point = false\n\
               [[rule]]\nmatch = '^output\\.weight$'\nscheme = \"w16a16\"\n";
    std::fs::write(&recipe, mix).unwrap();
    for options in [
        &["--scheme", "w16a16"][..],
        &["--scheme", "w8a8"],
        &["--scheme", "w4a8", "--seed", "7"],
        &["--scheme", "w4a4"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
        &["--recipe", recipe.to_str().unwrap(), "--shard-size", "200K"],
    ] {
        assert_eq!(golden(&tiny_model(), options).1, 36, "{options:?}");
    }
    // Experts, and rows so long that K is cut.
    let experts = folder.path().join("experts.gguf");
    Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    assert_eq!(golden(&experts, &["--scheme", "w4a4"]).1, 36);
    let long = Model::new().bell("blk.0.ffn_down.weight", &[2080, 70], 1.0);
    let long = long.write(folder.path(), "long.gguf");
    let (segments, linears) = golden(&long, &["--scheme", "w4a8"]);
    assert!(segments > linears, "{segments}");
}

#[test]
fn python_finds_packs_as_far_apart_as_diff_does() {
    if !python_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pack = |name: &str, options: &[&str]| {
        let pack = folder.path().join(format!("{name}.safetensors"));
        convert(&tiny_model(), &pack, options);
        pack
    };
    let w8 = pack("w8", &["--scheme", "w8a8"]);
    let w4 = pack("w4", &["--scheme", "w4a8", "--scale-type", "bf16", "--seed", "1"]);
    let block = pack("block", &["--scheme", "w4a4", "--rotation", "block", "--seed", "2"]);
    let halves = pack("halves", &["--scheme", "w16a16"]);
    let padded = pack("padded", &["--scheme", "w4a4", "--preset", "rk-llama-v2"]);
    for (a, b) in [
        (&w8, &w4),
        (&w4, &block),
        (&block, &padded),
        (&halves, &w8),
        (&padded, &halves),
        (&tiny_model(), &w4),
        (&w4, &tiny_model()),
    ] {
        let output = tessera().arg("diff").arg(a).arg(b).arg("--json").output().unwrap();
        let report = folder.path().join("report.json");
        std::fs::write(&report, output.stdout).unwrap();
        assert_eq!(
            run("agree_with_diff.py", &[a, b, &report]),
            36,
            "{} {}",
            a.display(),
            b.display()
        );
    }
}
