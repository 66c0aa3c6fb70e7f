//! Conversion and verification, end to end, on real models of every form.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeMap;

use harness::{convert, errors, models_in, shared_models, tessera, tiny_model, verify};

const SCHEMES: [&str; 4] = ["w16a16", "w8a8", "w4a8", "w4a4"];

/// Largest relative weight error of any tensor that a scheme may show on these models. A uniform
/// quantizer of 2·qmax + 1 levels on Gaussian rows has 0.11 at 4 bits and 0.007 at 8.
fn largest_error(scheme: &str) -> f64 {
    match scheme {
        "w16a16" => 0.0005,
        "w8a8" => 0.02,
        _ => 0.25,
    }
}

#[test]
fn the_carried_model_converts_in_every_scheme() {
    let folder = tempfile::tempdir().unwrap();
    for scheme in SCHEMES {
        let pack = folder.path().join(format!("{scheme}.safetensors"));
        let summary = convert(&tiny_model(), &pack, &["--scheme", scheme]);
        assert_eq!(summary["schemes"][scheme]["tensors"], 36, "35 linears and the tied head");
        let report = verify(&pack, &tiny_model());
        for (name, error) in errors(&report) {
            assert!(error < largest_error(scheme), "{scheme} {name}: {error}");
            assert!(error > 0.0 || scheme == "w16a16", "{scheme} {name} has no error at all");
        }
    }
}

#[test]
fn every_shared_model_converts_in_every_scheme() {
    let Some(models) = shared_models("stories260K") else { return };
    let folder = tempfile::tempdir().unwrap();
    for model in models_in(&models) {
        for scheme in SCHEMES {
            let pack = folder.path().join("pack.safetensors");
            convert(&model, &pack, &["--scheme", scheme, "--force"]);
            for (name, error) in errors(&verify(&pack, &model)) {
                assert!(
                    error < largest_error(scheme),
                    "{} {scheme} {name}: {error}",
                    model.display()
                );
            }
        }
    }
}

#[test]
fn every_option_gives_a_pack_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    for options in [
        &["--scheme", "w8a8", "--rotation", "none"][..],
        &["--scheme", "w4a8", "--rotation", "block"],
        &["--scheme", "w4a4", "--equalization", "none"],
        &["--scheme", "w4a4", "--rotation", "none", "--equalization", "norm"],
        &["--scheme", "w8a8", "--granularity", "tensor"],
        &["--scheme", "w4a4", "--granularity", "tensor", "--calibrator", "mse"],
        &["--scheme", "w4a4", "--granularity", "tensor", "--calibrator", "kl"],
        &["--scheme", "w4a4", "--calibrator", "kl"],
        &["--scheme", "w4a4", "--calibrator", "amax"],
        &["--scheme", "w4a4", "--calibrator", "percentile:99.5"],
        &["--scheme", "w8a8", "--calibrator", "mse"],
        &["--scheme", "w16a16", "--granularity", "tensor", "--rotation", "hadamard"],
        &["--scheme", "w4a4", "--certificate", "dynamic"],
        &["--scheme", "w4a4", "--target", "rk3576", "--seed", "7"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v2", "--rotation", "none"],
        &["--scheme", "w8a8", "--preset", "rk-llama-v2"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v3"],
        &["--scheme", "w8a8", "--preset", "rk-llama-v3", "--rotation", "none"],
        &["--scheme", "w16a16", "--preset", "rk-llama-v3", "--rotation", "hadamard"],
    ] {
        let mut arguments = options.to_vec();
        arguments.push("--force");
        convert(&tiny_model(), &pack, &arguments);
        verify(&pack, &tiny_model());
    }
}

/// Weight errors on trained GPT-2 attention matrices against rk-llama.cpp's own quantization.
#[test]
fn four_bit_weights_beat_rk_llama_on_every_matrix() {
    let Some(models) = shared_models("golden-dequant") else { return };
    let model = models.join("gpt2-small-attn-blk0-F32.gguf");
    let folder = tempfile::tempdir().unwrap();
    let measure = |options: &[&str]| -> BTreeMap<String, f64> {
        let pack = folder.path().join("pack.safetensors");
        convert(&model, &pack, &[options, &["--scheme", "w4a4", "--force"]].concat());
        errors(&verify(&pack, &model)).into_iter().collect()
    };
    let ours = measure(&["--calibrator", "mse", "--equalization", "none"]);
    assert_eq!(ours.len(), 2);
    for preset in ["rk-llama-v2", "rk-llama-v3"] {
        let theirs = measure(&["--preset", preset]);
        for (name, error) in &ours {
            println!("{name}: {error:.5} against {:.5} with {preset}", theirs[name]);
            assert!(
                *error < theirs[name],
                "{name}: {error} against {} with {preset}",
                theirs[name]
            );
        }
    }
}

#[test]
fn a_recipe_chooses_per_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(
        &recipe,
        "[defaults]\nscheme = \"w4a8\"\n\
         [[rule]]\nmatch = 'ffn_down'\nscheme = \"w8a8\"\n\
         [[rule]]\nmatch = '^output\\.weight$'\nscheme = \"w16a16\"\n\
         [[rule]]\nmatch = 'blk\\.0\\.'\nscheme = \"keep\"\n",
    )
    .unwrap();
    let pack = folder.path().join("pack.safetensors");
    let summary = convert(&tiny_model(), &pack, &["--recipe", recipe.to_str().unwrap()]);
    assert_eq!(summary["schemes"]["w4a8"]["tensors"], 24);
    assert_eq!(summary["schemes"]["w8a8"]["tensors"], 4);
    assert_eq!(summary["schemes"]["w16a16"]["tensors"], 1);
    verify(&pack, &tiny_model());
}

#[test]
fn shards_hold_to_their_size_and_make_one_pack() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let summary = convert(&tiny_model(), &pack, &["--shard-size", "200K"]);
    let files = summary["output"].as_array().unwrap();
    assert!(files.len() > 2, "{files:?}");
    let mut total = 0;
    for file in files.iter().filter(|file| file.as_str().unwrap().ends_with(".safetensors")) {
        let bytes = std::fs::metadata(file.as_str().unwrap()).unwrap().len();
        assert!(bytes <= 200 << 10, "{file} has {bytes} bytes");
        total += bytes;
    }
    assert_eq!(summary["bytes_out"], total);
    let index = folder.path().join("pack.safetensors.index.json");
    verify(&index, &tiny_model());
    verify(folder.path(), &tiny_model());
    verify(std::path::Path::new(files[0].as_str().unwrap()), &tiny_model());
}

#[test]
fn a_dry_run_writes_nothing_and_foretells_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let plan = convert(&tiny_model(), &pack, &["--scheme", "w8a8", "--dry-run"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let summary = convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    assert_eq!(plan["schemes"], summary["schemes"]);
    assert_eq!(plan["carried"], summary["carried"]);
    let tensors = plan["bytes_out"].as_u64().unwrap();
    let pack = summary["bytes_out"].as_u64().unwrap();
    assert!(tensors < pack && pack < tensors + (200 << 10), "{tensors} {pack}");
}

#[test]
fn inspect_tells_what_convert_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let inspect = |path: &std::path::Path| -> serde_json::Value {
        let assert = tessera().arg("inspect").arg(path).arg("--json").assert().success();
        serde_json::from_slice(&assert.get_output().stdout).unwrap()
    };
    let model = inspect(&tiny_model());
    assert_eq!(model["architecture"], "llama");
    let summary = convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let eight = &model["schemes"].as_array().unwrap()[1];
    assert_eq!(eight["scheme"], "w8a8");
    assert_eq!(eight["linears"], summary["schemes"]["w8a8"]["tensors"]);
    assert_eq!(eight["tile_bytes"], summary["schemes"]["w8a8"]["tile_bytes"]);
    let packed = inspect(&pack);
    assert_eq!(packed["kind"], "pack");
    assert_eq!(packed["schemes"]["w8a8"]["linears"], 36);
}
