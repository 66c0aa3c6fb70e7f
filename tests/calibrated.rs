//! Conversion by what calibration observed, end to end: packs, evaluation in memory, refusals, and
//! models with outlier channels and massive tokens.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::model::Model;
use harness::{
    convert, eval, figure, outliers, run, shared_models, short_text, tessera, tiny_model, with,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Statistics of a model on the short text.
fn calibrate(model: &Path, output: &Path, more: &[&str]) {
    let data = short_text();
    let arguments = ["calibrate", text(model), "--dataset", text(&data), "-o", text(output)];
    tessera()
        .args(arguments)
        .args(["--ctx", "64", "--tokens", "2048"])
        .args(more)
        .assert()
        .success();
}

/// Mean KL divergences of what is made of a model on the short text, from the model in floats.
fn divergences(models: &[String], reference: &Path, more: &[&str]) -> Vec<f64> {
    let data = short_text();
    let common = ["--text", text(&data), "--reference", text(reference), "--ctx", "64"];
    let reports = eval(models, &[&common, more].concat());
    reports.iter().map(|report| figure(report, "mean_kld")).collect()
}

#[test]
fn packs_compute_what_was_evaluated_and_do_not_depend_on_threads_or_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let stats = folder.path().join("w4.stats.safetensors");
    calibrate(&model, &stats, &["--preset", "w4"]);
    let made = |name: &str, more: &[&str]| {
        let pack = folder.path().join(name);
        let options = ["--preset", "w4", "--calibration", text(&stats)];
        let summary = convert(&model, &pack, &[&options, more].concat());
        assert_eq!(summary["warnings"], serde_json::json!([]), "{name}");
        let gain = figure(&summary, "gptq_improvement");
        assert!((0.01..0.9).contains(&gain), "GPTQ and descent lower the error: {gain}");
        pack
    };
    let one = made("one.safetensors", &["--threads", "1"]);
    let two = made("two.safetensors", &["--threads", "2", "--memory-budget", "64M"]);
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "the same bytes");
    harness::verify(&one, &model);

    let options = ["--calibration", text(&stats)];
    let memory = divergences(&[with(&model, "w4")], &model, &options);
    let pack = divergences(&[text(&one).to_owned()], &model, &[]);
    assert_eq!(memory, pack);
    let plain = divergences(&[with(&model, "w4a8")], &model, &[]);
    assert!(memory[0] < 0.7 * plain[0], "{memory:?} {plain:?}");

    // In one go: the same statistics, and so the same weights.
    let data = short_text();
    let direct = folder.path().join("direct.safetensors");
    let options = ["--preset", "w4", "--dataset", text(&data), "--ctx", "64", "--tokens", "2048"];
    convert(&model, &direct, &options);
    assert_eq!(divergences(&[text(&direct).to_owned()], &model, &[]), pack);
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tessera")), "{left:?}");
}

#[test]
fn every_choice_can_be_made_on_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let stats = folder.path().join("stats.safetensors");
    calibrate(&model, &stats, &["--hessians"]);
    let of = |how: &str, more: &[&str]| {
        let options = [&["--calibration", text(&stats)], more].concat();
        divergences(&[with(&model, how)], &model, &options)[0]
    };
    let dynamic = of("w8a8", &[]);
    // One threshold for every row is worse, whatever method finds it, and still works.
    for method in ["static:kl", "static:amax", "static:mse", "static:percentile:99.99"] {
        let found = of("w8a8", &["--activation-scale", method]);
        assert!(found > dynamic && found < 0.5, "{method}: {found} {dynamic}");
    }
    let four = of("w4a4", &[]);
    for more in [
        ["--rounding", "nearest"],
        ["--zero-point", "false"],
        ["--equalization", "none"],
        ["--bias-correction", "true"],
        ["--sign-trials", "4"],
        ["--scale-type", "bf16"],
        ["--activation-scale", "rms:2.75"],
        ["--act-order", "false"],
    ] {
        let found = of("w4a4", &more);
        assert!(found != four && found.is_finite(), "{more:?} changes nothing");
    }
    assert!(of("w4a4", &["--rounding", "nearest"]) > four);
    assert!(of("w4a8", &["--rounding", "nearest"]) > of("w4a8", &[]));
}

#[test]
fn importance_matrices_and_experts() {
    let folder = tempfile::tempdir().unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let stats = folder.path().join("experts.safetensors");
    calibrate(&experts, &stats, &["--scheme", "w4a8"]);
    let observed =
        divergences(&[with(&experts, "w4a8")], &experts, &["--calibration", text(&stats)]);
    let plain = divergences(&[with(&experts, "w4a8")], &experts, &[]);
    assert!(observed[0] < plain[0], "{observed:?} {plain:?}");

    let Some(shared) = shared_models("stories260K") else { return };
    let model = shared.join("stories260K-F32.gguf");
    let matrix = shared.join("stories260K.imatrix.gguf");
    let options = ["--rotation", "none", "--scheme", "w4a8"];
    let unrotated = |more: &[&str]| {
        divergences(&[text(&model).to_owned()], &model, &[&options, more].concat())[0]
    };
    let weighted = unrotated(&[
        "--calibration",
        text(&matrix),
        "--rounding",
        "nearest",
        "--equalization",
        "none",
    ]);
    assert!(weighted < unrotated(&["--equalization", "none"]));
    let pack = folder.path().join("pack.safetensors");
    let arguments = [&options[..], &["--calibration", text(&matrix)]].concat();
    let summary = convert(&model, &pack, &arguments);
    let warnings = summary["warnings"].to_string();
    assert!(warnings.contains("no second moments"), "{warnings}");
}

#[test]
fn what_is_missing_or_of_another_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let output = folder.path().join("out.safetensors");
    let refused = |more: &[&str], expected: &str| {
        let arguments = ["convert", text(&model), "-o", text(&output)];
        let (code, stderr) = run(&[&arguments, more].concat());
        assert_eq!(code, 2, "{more:?}: {stderr}");
        assert!(stderr.contains(expected), "{more:?}: {stderr}");
        assert!(!output.exists());
    };
    for more in [
        &["--preset", "w4"][..],
        &["--rounding", "gptq"],
        &["--activation-scale", "static:kl"],
        &["--activation-scale", "rms"],
        &["--equalization", "observed"],
        &["--sign-trials", "8"],
        &["--bias-correction", "true"],
    ] {
        refused(more, "needs statistics");
    }
    refused(&["--activation-scale", "sometimes"], "expected dynamic");
    refused(&["--damping", "0"], "damping");
    refused(&["--scheme", "w16a16", "--zero-point", "true"], "w16a16");
    let stats = folder.path().join("stats.safetensors");
    calibrate(&model, &stats, &[]);
    let other =
        Model::read(&model).key("general.name", "another").write(folder.path(), "other.gguf");
    let arguments = ["convert", text(&other), "-o", text(&output), "--calibration", text(&stats)];
    let (code, stderr) = run(&arguments);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("stats.safetensors") && stderr.contains("model"), "{stderr}");
    fs::write(folder.path().join("junk.safetensors"), b"not statistics at all").unwrap();
    refused(&["--calibration", text(&folder.path().join("junk.safetensors"))], "junk");

    // Statistics that were observed behind another recipe's layers serve, with a warning.
    let behind = folder.path().join("behind.safetensors");
    calibrate(&model, &behind, &["--preset", "w4"]);
    let summary = convert(&model, &output, &["--preset", "w8", "--calibration", text(&behind)]);
    assert!(summary["warnings"].to_string().contains("other options"), "{summary}");
}

#[test]
fn a_killed_conversion_leaves_nothing_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (tiny_model(), short_text());
    let output = folder.path().join("out.safetensors");
    let arguments = ["convert", text(&model), "-o", text(&output), "--preset", "w4"];
    let more = ["--dataset", text(&data), "--ctx", "64", "--tokens", "4096"];
    for delay in [20, 90, 250, 600] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(arguments)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let finished = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(output.exists(), finished);
        if finished {
            fs::remove_file(&output).unwrap();
        }
    }
    tessera().args(arguments).args(more).assert().success();
    harness::verify(&output, &model);
}

#[test]
fn outlier_channels_are_balanced() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Model::floats(&tiny_model()).write(folder.path(), "plain.gguf");
    let quantized =
        |model: &Path, how: &str, more: &[&str]| divergences(&[with(model, how)], &plain, more)[0];
    for (seed, strength) in [(1, 32.0), (2, 64.0)] {
        let outliers = outliers::with_channels(Model::floats(&tiny_model()), seed, strength)
            .write(folder.path(), &format!("outliers-{seed}.gguf"));
        let same = divergences(&[text(&outliers).to_owned()], &plain, &[])[0];
        assert!(same < 1e-6, "the same function: {same}");
        let stats = |model: &Path, name: &str| {
            let path = folder.path().join(format!("{name}-{seed}.safetensors"));
            calibrate(model, &path, &["--hessians"]);
            path
        };
        let (of_plain, of_outliers) = (stats(&plain, "plain"), stats(&outliers, "outliers"));
        for how in ["w8a8", "w4a8"] {
            let healthy = quantized(&plain, how, &["--calibration", text(&of_plain)]);
            let repaired = quantized(&outliers, how, &["--calibration", text(&of_outliers)]);
            let unbalanced = ["--equalization", "none", "--rounding", "nearest"];
            let damaged = quantized(&outliers, how, &unbalanced);
            println!("{how}: {healthy} without outliers, {repaired} with, {damaged} unbalanced");
            assert!(repaired < 1.5 * healthy, "{how}: {repaired} {healthy}");
            assert!(damaged > 2.0 * repaired, "{how}: {damaged} {repaired}");
        }
    }
}

#[test]
fn massive_tokens_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::floats(&tiny_model());
    let original = model.write(folder.path(), "original.gguf");
    let of = |magnitude: f64| {
        let path = outliers::with_massive_token(&model, magnitude)
            .write(folder.path(), &format!("massive-{magnitude}.gguf"));
        let same = divergences(&[text(&path).to_owned()], &original, &[])[0];
        assert!(same < 1e-9, "the same function: {same}");
        ["w8a8", "w4a8"].map(|how| {
            let stats = folder.path().join(format!("{magnitude}-{how}.safetensors"));
            calibrate(&path, &stats, &["--scheme", how]);
            divergences(&[with(&path, how)], &original, &["--calibration", text(&stats)])[0]
        })
    };
    let plain = of(0.0);
    for magnitude in [30.0, 1000.0] {
        let massive = of(magnitude);
        println!("{plain:?} without a massive token, {massive:?} with one of {magnitude}");
        for (plain, massive) in plain.iter().zip(massive) {
            assert!(massive < 1.5 * plain, "{magnitude}: {massive} {plain}");
        }
    }
}
