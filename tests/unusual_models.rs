//! Models that no one trains: they are converted in order, or refused by name, and never more.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs::File;
use std::path::Path;

use harness::model::{Model, bell};
use harness::{run, verify};
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::GgufWriter;

const SCHEMES: [&str; 4] = ["w16a16", "w8a8", "w4a8", "w4a4"];

/// Options that lead through different code.
const OPTIONS: &[&[&str]] = &[
    &["--scheme", "w16a16"],
    &["--scheme", "w16a16", "--granularity", "tensor", "--rotation", "hadamard"],
    &["--scheme", "w8a8"],
    &["--scheme", "w8a8", "--calibrator", "kl"],
    &["--scheme", "w8a8", "--granularity", "tensor", "--calibrator", "mse"],
    &["--scheme", "w4a8", "--rotation", "block", "--calibrator", "percentile"],
    &["--scheme", "w4a4"],
    &["--scheme", "w4a4", "--rotation", "none", "--equalization", "norm"],
    &["--scheme", "w4a4", "--granularity", "tensor", "--calibrator", "kl"],
    &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
    &["--scheme", "w8a8", "--preset", "rk-llama-v3"],
    &["--scheme", "w16a16", "--preset", "rk-llama-v3"],
];

/// Converts and verifies; whether it was converted. A refusal names `tensor`.
fn converts_or_refuses(model: &Path, options: &[&str], tensor: &str) -> bool {
    let pack = model.with_extension("safetensors");
    let command = ["convert", model.to_str().unwrap(), "-o", pack.to_str().unwrap(), "--force"];
    let (code, said) = run(&[&command[..], options].concat());
    if code == 0 {
        verify(&pack, model);
        std::fs::remove_file(pack).unwrap();
        return true;
    }
    assert_eq!(code, 2, "{} {options:?}: {said}", model.display());
    assert!(said.contains(tensor), "{} {options:?}: {said}", model.display());
    assert!(!pack.exists());
    false
}

#[test]
fn shapes_that_align_to_nothing_convert() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for (index, (k, n)) in
        [(1, 1), (1, 70), (2, 3), (3, 1), (31, 33), (33, 31), (65, 1), (1021, 2)].iter().enumerate()
    {
        model = model.bell(&format!("blk.{index}.ffn_down.weight"), &[*k, *n], 0.1);
        model = model.bell(&format!("blk.{index}.ffn_norm.weight"), &[*k], 1.0);
        model = model.bell(&format!("blk.{index}.ffn_up.weight"), &[*k, *n], 0.1);
    }
    let model = model
        .bell("blk.8.ffn_down_exps.weight", &[1, 1, 3], 0.1)
        .bell("blk.8.ffn_up_exps.weight", &[33, 1, 5], 0.1)
        .write(folder.path(), "shapes.gguf");
    for options in OPTIONS {
        assert!(converts_or_refuses(&model, options, "blk."), "{options:?}");
    }
}

#[test]
fn weights_of_any_magnitude_convert_or_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (k, n) = (40usize, 3usize);
    let normal = bell(k * n, 3, 1.0);
    let of = |factor: f32| normal.iter().map(|w| w * factor).collect::<Vec<f32>>();
    let mut one_huge = of(1.0);
    one_huge[k + 1] = 3e38;
    let mut one_nan = of(1.0);
    one_nan[2 * k + 5] = f32::NAN;
    let cases: &[(&str, Vec<f32>, Option<bool>)] = &[
        ("zeros", vec![0.0; k * n], Some(true)),
        ("negative-zeros", vec![-0.0; k * n], Some(true)),
        ("smallest", vec![f32::from_bits(1); k * n], Some(true)),
        ("denormal", of(1e-40), Some(true)),
        ("tiny", of(1e-30), Some(true)),
        ("small", of(1e-21), Some(true)),
        ("large", of(1e10), Some(true)),
        ("huge", of(1e19), None),
        ("greatest", vec![f32::MAX; k * n], None),
        (
            "alternating",
            (0..k * n).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect(),
            None,
        ),
        ("one-huge", one_huge, None),
        ("one-nan", one_nan, Some(false)),
        ("infinite", vec![f32::INFINITY; k * n], Some(false)),
    ];
    for (name, values, expected) in cases {
        let dims = [u64::try_from(k).unwrap(), u64::try_from(n).unwrap()];
        let model = Model::new()
            .tensor("blk.0.ffn_up.weight", &dims, values)
            .write(folder.path(), &format!("{name}.gguf"));
        for options in OPTIONS {
            let done = converts_or_refuses(&model, options, "blk.0.ffn_up.weight");
            // rk-llama.cpp casts to f16 without a scale.
            let unscaled = options.contains(&"rk-llama-v3") && options.contains(&"w16a16");
            let expected = expected.filter(|_| !unscaled);
            assert!(expected.is_none_or(|expected| expected == done), "{name} {options:?}");
        }
    }
}

#[test]
fn norm_gains_of_any_kind_leave_a_pack_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let k = 40usize;
    let base = || Model::new().bell("blk.0.attn_q.weight", &[40, 33], 0.1);
    let with = |gain: &[f32]| base().tensor("blk.0.attn_norm.weight", &[40], gain);
    let mixed = [0.0, f32::NAN, f32::INFINITY, -1.0, 1e-45, f32::MAX, 1.0, 2.0].repeat(5);
    let integers = vec![1; k * 4];
    for (name, model) in [
        ("zero", with(&vec![0.0; k])),
        ("nan", with(&vec![f32::NAN; k])),
        ("infinite", with(&vec![f32::INFINITY; k])),
        ("mixed", with(&mixed)),
        ("short", base().tensor("blk.0.attn_norm.weight", &[39], &mixed[1..])),
        ("matrix", base().tensor("blk.0.attn_norm.weight", &[8, 5], &mixed)),
        ("integers", base().bytes("blk.0.attn_norm.weight", GgmlType::I32, &[40], integers)),
    ] {
        let model = model.write(folder.path(), &format!("{name}.gguf"));
        for scheme in SCHEMES {
            let options = ["--scheme", scheme, "--equalization", "norm"];
            assert!(converts_or_refuses(&model, &options, "blk.0"), "{name} {scheme}");
        }
    }
}

/// A sparse file of `bytes` zeros after the header of a model with one tensor.
fn sparse(folder: &Path, name: &str, dims: &[u64]) -> std::path::PathBuf {
    let mut writer = GgufWriter::new();
    writer.metadata("general.architecture", "llama").unwrap();
    writer.tensor(name, GgmlType::F32, dims).unwrap();
    let path = folder.join("sparse.gguf");
    let mut file = File::create(&path).unwrap();
    writer.write_header(&mut file).unwrap();
    file.set_len(writer.file_bytes()).unwrap();
    path
}

#[test]
fn sizes_beyond_the_budget_are_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    for (name, dims) in [
        ("blk.0.ffn_down.weight", &[1 << 31, 1][..]),
        ("blk.0.ffn_down.weight", &[(1 << 31) - 1, 1]),
        ("blk.0.ffn_down.weight", &[1 << 25, 1]),
        ("blk.0.ffn_down.weight", &[1, 1 << 31]),
        ("blk.0.ffn_down.weight", &[1, 1 << 26]),
        ("blk.0.ffn_up_exps.weight", &[1, 1, 1 << 22]),
        ("blk.0.ffn_up_exps.weight", &[32, 1 << 16, 1 << 10]),
    ] {
        let model = sparse(folder.path(), name, dims);
        for scheme in SCHEMES {
            let pack = folder.path().join("pack.safetensors");
            // 1 GiB of address space: what is refused must not have been allocated.
            let output = std::process::Command::new("sh")
                .args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\""])
                .arg(env!("CARGO_BIN_EXE_tessera"))
                .args(["convert", model.to_str().unwrap(), "-o", pack.to_str().unwrap()])
                .args(["--scheme", scheme, "--memory-budget", "16M", "--threads", "2"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{dims:?} {scheme}: {said}");
            assert!(said.contains(name), "{dims:?} {scheme}: {said}");
            let (code, said) = run(&["inspect", model.to_str().unwrap(), "--json"]);
            assert_eq!(code, 0, "{said}");
        }
    }
}

#[test]
fn many_small_tensors_convert() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for layer in 0..300 {
        model = model.tensor(&format!("blk.{layer}.attn_q.weight"), &[2, 1], &[0.5, -1.0]);
        model = model.tensor(&format!("blk.{layer}.attn_norm.weight"), &[2], &[1.0, 2.0]);
    }
    let experts = 3000;
    let model = model
        .bell("blk.0.ffn_up_exps.weight", &[3, 1, experts], 1.0)
        .write(folder.path(), "many.gguf");
    for options in [&["--scheme", "w8a8"][..], &["--scheme", "w4a4", "--granularity", "tensor"]] {
        assert!(converts_or_refuses(&model, options, "blk."));
    }
}

#[test]
fn rotations_of_too_many_lengths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for k in (901..1021).step_by(2) {
        model = model.bell(&format!("blk.{k}.ffn_down.weight"), &[k, 1], 1.0);
    }
    let model = model.write(folder.path(), "lengths.gguf");
    assert!(!converts_or_refuses(&model, &["--scheme", "w8a8"], "ffn_down"));
    assert!(converts_or_refuses(&model, &["--scheme", "w8a8", "--rotation", "block"], "blk."));
}

/// Rows of `k` weights of which row 0 is mild and row `n - 1` as hard on the accumulator as can be.
fn adversarial(k: u64, n: u64) -> Vec<f32> {
    let (k, n) = (usize::try_from(k).unwrap(), usize::try_from(n).unwrap());
    let mut values = bell(k * n, 11, 0.02);
    values[k * (n - 1)..].fill(0.5);
    values
}

#[test]
fn a_late_row_that_needs_more_segments_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let (k, n) = (10_240u64, 200u64);
    let model = Model::new()
        .tensor("blk.0.ffn_down.weight", &[k, n], &adversarial(k, n))
        .bell("blk.1.ffn_down.weight", &[k, 70], 0.02)
        .write(folder.path(), "adversarial.gguf");
    // The longest segments that hold for any weights: 640 columns, and 576 with the digit -8.
    for (scheme, worst) in [("w4a4", 18), ("w4a8", 18)] {
        for target in ["rk3588", "rk3576"] {
            let pack = folder.path().join("pack.safetensors");
            let base = ["--scheme", scheme, "--target", target, "--rotation", "none", "--force"];
            let with = |more: &[&str]| {
                let summary = harness::convert(&model, &pack, &[&base[..], more].concat());
                let report = verify(&pack, &model);
                (summary, report["tensors"].clone(), std::fs::read(&pack).unwrap())
            };
            let (_, tensors, bytes) = with(&[]);
            assert_eq!(tensors[0]["segments"], worst, "equal magnitudes need the worst case");
            let mild = tensors[1]["segments"].as_u64().unwrap();
            assert!((2..worst).contains(&mild), "{mild}");
            // However the work is cut, the same rows decide.
            assert!(with(&["--memory-budget", "12M", "--threads", "1"]).2 == bytes);
            // A certificate that is left to run time costs no segments beyond the target's.
            let (_, tensors, _) = with(&["--certificate", "dynamic"]);
            let fewest = if target == "rk3576" { 3 } else { 2 };
            assert_eq!(tensors[0]["segments"], fewest);
        }
    }
}

#[test]
fn a_preset_works_with_a_target_of_shorter_segments() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::new()
        .bell("blk.0.ffn_down.weight", &[5000, 70], 0.02)
        .bell("blk.1.ffn_down.weight", &[20_000, 3], 0.02)
        .write(folder.path(), "long.gguf");
    for preset in ["rk-llama-v2", "rk-llama-v3"] {
        for rotation in ["hadamard", "none"] {
            for scheme in ["w4a4", "w8a8"] {
                let options = ["--scheme", scheme, "--preset", preset, "--rotation", rotation];
                let options = [&options[..], &["--target", "rk3576"]].concat();
                assert!(converts_or_refuses(&model, &options, "blk."), "{options:?}");
            }
        }
    }
}
