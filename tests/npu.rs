//! Packs on the NPU, through a library that stands in for the vendor's: the figures are the simulator's.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::path::Path;

use harness::{
    convert, eval, packs_of_every_scheme, run, short_text, stand_in, tessera, tiny_model,
};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What does not depend on the device.
fn figures(report: &Value) -> Value {
    let mut report = report.clone();
    for key in ["scheme", "seconds", "saturated"] {
        report.as_object_mut().unwrap().remove(key).unwrap();
    }
    report
}

#[test]
fn the_npu_has_the_figures_of_the_simulator() {
    let folder = tempfile::tempdir().unwrap();
    let packs = packs_of_every_scheme(folder.path());
    let models: Vec<_> = packs.iter().map(|pack| text(pack)).collect();
    let (story, reference, library) = (short_text(), tiny_model(), stand_in());
    let options = ["--text", text(&story), "--ctx", "64", "--chunks", "1"];
    let options = [&options[..], &["--reference", text(&reference)]].concat();
    let simulated = eval(&models, &[&options[..], &["--device", "sim"]].concat());
    let device = ["--device", "stand-in", "--library", text(&library)];
    for threads in ["1", "3"] {
        let found = eval(&models, &[&options[..], &device, &["--threads", threads]].concat());
        assert_eq!(found.len(), simulated.len());
        for (found, simulated) in found.iter().zip(&simulated) {
            assert_eq!(figures(found), figures(simulated));
            let scheme = found["scheme"].as_str().unwrap();
            assert!(scheme.contains("librknnrt 2.3.2 (stand-in"), "{scheme}");
        }
    }
}

#[test]
fn the_npu_continues_a_prompt_as_the_simulator() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w4a8"]);
    let library = stand_in();
    let said = |device: &[&str], descriptors: &str| {
        let output = tessera()
            .env("RKNN_STAND_IN_DESCRIPTORS", descriptors)
            .args(["run", text(&pack), "-p", "Once upon a time", "-n", "12"])
            .args(device)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let simulated = said(&["--device", "sim"], "");
    let device = ["--device", "stand-in", "--library", text(&library)];
    assert_eq!(said(&device, ""), simulated);
    // Too few descriptors to keep a matmul of every shape: those that are kept make room.
    assert_eq!(said(&device, "20"), simulated);
}

#[test]
fn what_the_npu_cannot_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let (library, model) = (stand_in(), tiny_model());
    let (library, story) = (text(&library), short_text());
    let eval = |model: &str, options: &[&str]| {
        run(&[&["eval", model, "--text", text(&story), "--ctx", "64"][..], options].concat())
    };
    for (model, options, words) in [
        (
            text(&model),
            &["--device", "stand-in", "--library", library][..],
            "the NPU executes packs",
        ),
        (text(&pack), &["--library", library], "`--library` is for `--device rknn`"),
        (text(&pack), &["--device", "rknn", "--library", library], "stand-in"),
        (text(&pack), &["--device", "rknn", "--library", "/nonexistent.so"], "/nonexistent.so"),
    ] {
        let (code, said) = eval(model, options);
        println!("{said}");
        assert!(code != 0 && said.contains(words), "{options:?}: {said}");
    }
    let faults = [
        ("RKNN_STAND_IN_FAULT", "run", "`rknn_matmul_run` returned -2 (timeout)"),
        ("RKNN_STAND_IN_DOMAIN_BYTES", "65536", "gave no memory"),
        ("RKNN_STAND_IN_DESCRIPTORS", "3", "no file descriptors left"),
    ];
    for (variable, value, words) in faults {
        let output = tessera()
            .args(["eval", text(&pack), "--text", text(&story), "--ctx", "64", "--chunks", "1"])
            .args(["--device", "stand-in", "--library", library])
            .env(variable, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{said}");
        assert!(!output.status.success() && said.contains(words), "{variable}: {said}");
    }
}
