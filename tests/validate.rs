//! Validation of packs through a library that stands in for the vendor's: whole ones, and each fault.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{convert, packs_of_every_scheme, short_text, stand_in, tessera, tiny_model};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Exit code, report if there is one, and what was said on stderr.
fn validate(
    pack: &Path,
    options: &[&str],
    variables: &[(&str, &str)],
) -> (i32, Option<Value>, String) {
    let output = tessera()
        .args(["validate", text(pack), "--json"])
        .args(options)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).ok(), said)
}

#[test]
fn packs_of_every_scheme_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in();
    for pack in packs_of_every_scheme(folder.path()) {
        for options in [
            &["--device", "stand-in", "--library", text(&library), "--full"][..],
            &["--device", "stand-in", "--library", text(&library), "--quick"],
            &["--device", "sim"],
        ] {
            let (code, report, said) = validate(&pack, options, &[]);
            let report = report.unwrap_or_else(|| panic!("{said}"));
            assert_eq!((code, &report["ok"]), (0, &true.into()), "{options:?}: {report:#}");
            assert_eq!(report["golden"], true);
            assert_eq!(report["self_test"], serde_json::json!([]));
            for linear in report["linears"].as_array().unwrap() {
                assert_eq!(linear["mismatches"], 0, "{linear}");
                let matmuls =
                    linear["segments"].as_u64().unwrap() * linear["experts"].as_u64().unwrap_or(1);
                let of_each = match options.last() {
                    // M = 4, 64, and four times 1; three turns.
                    Some(&"--full") => 18,
                    Some(&"--quick") => 1,
                    _ => 6,
                };
                assert_eq!(linear["runs"], matmuls * of_each);
            }
            if options.contains(&"--full") {
                assert_eq!(report["device"]["name"], "stand-in");
                assert!(report["device"]["library"].as_str().unwrap().contains("stand-in"));
                let model = &report["model"];
                assert_eq!(
                    (&model["layers"], &model["first_difference"]),
                    (&5.into(), &Value::Null)
                );
            }
        }
    }
}

#[test]
fn each_fault_is_caught_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in();
    let device = ["--device", "stand-in", "--library", text(&library), "--full"];
    let (narrow, wide) =
        (folder.path().join("w4a8.safetensors"), folder.path().join("w8a8.safetensors"));
    convert(&tiny_model(), &narrow, &["--scheme", "w4a8"]);
    convert(&tiny_model(), &wide, &["--scheme", "w8a8"]);
    // The fault, its name, and whether results of w4a8 and of w8a8 packs are wrong with it.
    for (fault, cause, of_narrow, of_wide) in [
        ("nibbles", "nibble-order", true, false),
        ("tile-order", "tile-order", true, true),
        // Sums of packs fit 16 bits.
        ("wrap", "wrap", false, false),
        ("stale", "stale-memory", true, true),
        ("core", "dead-core", true, true),
    ] {
        for (pack, wrong) in [(&narrow, of_narrow), (&wide, of_wide)] {
            let (code, report, said) = validate(pack, &device, &[("RKNN_STAND_IN_FAULT", fault)]);
            let report = report.unwrap_or_else(|| panic!("{fault}: {said}"));
            assert_eq!((code, &report["ok"]), (1, &false.into()), "{fault}: {report:#}");
            let faults = report["self_test"].as_array().unwrap();
            assert!(!faults.is_empty() && faults.iter().all(|f| f["cause"] == cause), "{faults:?}");
            let linears = report["linears"].as_array().unwrap();
            assert_eq!(linears.len(), 36);
            let mismatched: Vec<_> = linears.iter().filter(|l| l["mismatches"] != 0).collect();
            assert_eq!(!mismatched.is_empty(), wrong, "{fault}");
            for linear in mismatched {
                let first = &linear["first"];
                assert_eq!(first["segment"], 0, "{linear}");
                assert!(first["channel"].is_u64() && first["found"] != first["expected"]);
                if fault != "stale" {
                    assert_eq!(first["cause"], cause, "{linear}");
                }
                if fault == "core" {
                    assert_eq!((&first["core"], &first["found"]), (&1.into(), &0.0.into()));
                }
            }
            let model = &report["model"];
            assert_eq!(model["first_difference"].is_null(), !wrong, "{fault}: {model}");
        }
    }
    let (code, report, _) = validate(&narrow, &device, &[("RKNN_STAND_IN_FAULT", "run")]);
    let report = report.unwrap();
    assert_eq!(code, 1);
    let fault = &report["self_test"][0];
    assert_eq!(fault["cause"], "call");
    assert!(fault["text"].as_str().unwrap().contains("`rknn_matmul_run` returned -2 (timeout)"));
    // Without what it takes, nothing is validated.
    for (variable, value, words) in [
        ("RKNN_STAND_IN_DOMAIN_BYTES", "100000", "gave no memory"),
        ("RKNN_STAND_IN_DESCRIPTORS", "2", "no file descriptors left"),
    ] {
        let (code, report, said) = validate(&narrow, &device, &[(variable, value)]);
        let said = report.map_or(said, |report| report.to_string());
        assert!(code != 0 && said.contains(words), "{variable}: {said}");
    }
    let old = folder.path().join("librknnrt.so");
    let mut bytes = fs::read(&library).unwrap();
    let mark = b"librknnrt version: 2.3.2";
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap();
    bytes[at + 19..at + 24].copy_from_slice(b"1.6.0");
    fs::write(&old, bytes).unwrap();
    let options = ["--device", "stand-in", "--library", text(&old)];
    let (code, _, said) = validate(&narrow, &options, &[]);
    assert!(code != 0 && said.contains("has version 1.6.0, and 2.0.0 is the least"), "{said}");
}

/// Tiles that are not those of the manifest, found in the NPU's memory.
#[test]
fn damaged_tiles_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let mut bytes = fs::read(&pack).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    bytes[8 + header + 5] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let device = ["--device", "stand-in", "--library", text(&library)];
    let (code, _, said) = validate(&pack, &device, &[]);
    assert!(code == 2 && said.contains("does not have the SHA-256"), "{said}");
    // Not hashed: the golden vectors show it.
    let (code, report, said) = validate(&pack, &[&device[..], &["--quick"]].concat(), &[]);
    let report = report.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(code, 1);
    let wrong: Vec<_> =
        report["linears"].as_array().unwrap().iter().filter(|l| !l["error"].is_null()).collect();
    let [linear] = wrong[..] else { panic!("{report:#}") };
    assert!(linear["error"].as_str().unwrap().contains("the pack is damaged"), "{linear}");
}

#[test]
fn log_probabilities_of_a_file_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (library, story) = (stand_in(), short_text());
    let save = |pack: &Path, logits: &Path| {
        let arguments =
            ["eval", text(pack), "--text", text(&story), "--ctx", "64", "--chunks", "1"];
        tessera().args(arguments).args(["--save-logits", text(logits)]).assert().success();
    };
    let pack = |scheme: &str| {
        let pack = folder.path().join(format!("{scheme}.safetensors"));
        convert(&tiny_model(), &pack, &["--scheme", scheme]);
        let logits = pack.with_extension("logits");
        save(&pack, &logits);
        (pack, logits)
    };
    let ((own, own_logits), (_, other_logits)) = (pack("w8a8"), pack("w4a4"));
    for (logits, ok) in [(own_logits, true), (other_logits, false)] {
        let options = ["--device", "stand-in", "--library", text(&library)];
        let options = [&options[..], &["--reference", text(&logits)]].concat();
        let (code, report, said) = validate(&own, &options, &[]);
        let report = report.unwrap_or_else(|| panic!("{said}"));
        assert_eq!((code == 0, &report["ok"]), (ok, &ok.into()), "{report:#}");
        let reference = &report["reference"];
        assert!((reference["mean_kld"].as_f64().unwrap() < 1e-4) == ok, "{reference}");
        assert!(reference["tokens"].as_u64().unwrap() > 20);
    }
}
