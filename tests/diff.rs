//! `tessera diff` names exactly what differs, and measures it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::model::{Model, bell};
use harness::{convert, figure, tessera, tiny_model, verify};
use serde_json::{Value, json};
use tessera_formats::ggml::{self, GgmlType};
use tessera_formats::gguf::Gguf;
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::PackReader;

/// Compares, and returns the report; the exit code must agree with it.
fn diff(a: &Path, b: &Path, arguments: &[&str]) -> Value {
    let output =
        tessera().arg("diff").arg(a).arg(b).args(arguments).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let same = report["same"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if same { 0 } else { 1 }), "{said}");
    report
}

/// Converts the tiny model into `FOLDER/NAME.safetensors`, with a recipe of `rules` and options.
fn pack(folder: &Path, name: &str, rules: &str, options: &[&str]) -> PathBuf {
    let recipe = folder.join(format!("{name}.toml"));
    fs::write(&recipe, rules).unwrap();
    let output = folder.join(format!("{name}.safetensors"));
    let recipe = recipe.to_str().unwrap();
    convert(&tiny_model(), &output, &[&["--recipe", recipe][..], options].concat());
    output
}

fn rule(pattern: &str, options: &str) -> String {
    format!("[[rule]]\nmatch = '{pattern}'\n{options}\n")
}

fn tensors(report: &Value) -> &Vec<Value> {
    report["tensors"].as_array().unwrap()
}

fn names(report: &Value) -> Vec<&str> {
    tensors(report).iter().map(|tensor| tensor["name"].as_str().unwrap()).collect()
}

fn tensor<'a>(report: &'a Value, name: &str) -> &'a Value {
    tensors(report).iter().find(|tensor| tensor["name"] == name).unwrap()
}

/// What differs of a tensor, in one word each.
fn kinds(tensor: &Value) -> Vec<&str> {
    let changes = tensor["changes"].as_array().unwrap().iter();
    changes.map(|change| change["what"].as_str().unwrap()).collect()
}

/// The fields beside the tensors that differ.
fn fields(report: &Value) -> Vec<&str> {
    let other = report["other"].as_array().unwrap().iter();
    other.map(|difference| difference["field"].as_str().unwrap()).collect()
}

/// Tensors equal, different, only in A, only in B.
fn counts(report: &Value) -> [u64; 4] {
    ["equal", "different", "only_in_a", "only_in_b"].map(|key| report[key].as_u64().unwrap())
}

const DOWN: &str = "blk.2.ffn_down.weight";

#[test]
fn exactly_the_tensors_whose_options_differ_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = pack(folder.path(), "base", "", &["--scheme", "w8a8"]);
    for (options, expected) in [
        ("scheme = \"w4a8\"", &["scheme", "calibrator", "activation scale"][..]),
        ("scheme = \"w16a16\"", &["scheme", "rotation", "signs", "activation scale"]),
        ("scale_type = \"bf16\"", &["scale type", "scales", "integers"]),
        ("zero_point = false", &["activation scale"]),
        ("calibrator = \"percentile:99\"", &["calibrator", "scales", "integers"]),
        // Both find that 8 bits are best not clipped.
        ("calibrator = \"mse\"", &["calibrator"]),
        ("granularity = \"tensor\"", &["granularity", "scales", "integers"]),
        ("rotation = \"block\"", &["rotation", "scales", "integers"]),
        ("rotation = \"none\"", &["rotation", "signs", "scales", "integers"]),
    ] {
        let other = pack(folder.path(), "other", &rule(r"blk\.2\.ffn_down", options), &["--force"]);
        let report = diff(&base, &other, &[]);
        assert_eq!(names(&report), [DOWN], "{options}");
        assert_eq!(counts(&report), [47, 1, 0, 0], "{options}");
        let found = kinds(tensor(&report, DOWN));
        for kind in expected {
            assert!(found.contains(kind), "{options}: {found:?}");
        }
        let extra: Vec<_> = found.iter().filter(|kind| !expected.contains(kind)).collect();
        assert!(extra.is_empty(), "{options}: {extra:?}");
        assert!(fields(&report).contains(&"recipe.rules[0]"), "{options}");
        // The other way round the same is said.
        assert_eq!(names(&diff(&other, &base, &[])), [DOWN], "{options}");
    }
}

#[test]
fn a_seed_changes_what_is_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = rule("attn_k", "scheme = \"w16a16\"") + &rule("ffn_down", "rotation = \"none\"");
    let [base, other] = ["0", "1"]
        .map(|seed| pack(folder.path(), &format!("seed{seed}"), &recipe, &["--seed", seed]));
    let report = diff(&base, &other, &["--all"]);
    assert_eq!(fields(&report), ["seed"]);
    for entry in tensors(&report) {
        let name = entry["name"].as_str().unwrap();
        let rotated =
            !["attn_k.", "ffn_down", "norm", "token_embd"].iter().any(|n| name.contains(n));
        assert_eq!(entry["status"], if rotated { "different" } else { "equal" }, "{name}");
        if rotated {
            assert_eq!(kinds(entry), ["signs", "scales", "integers"], "{name}");
            let error = figure(entry, "relative_rms");
            assert!((0.001..0.03).contains(&error), "{name}: {error}");
        }
    }
    assert_eq!(counts(&report), [22, 26, 0, 0]);
}

#[test]
fn what_does_not_touch_the_weights_is_told_without_reading_them() {
    let folder = tempfile::tempdir().unwrap();
    let base = pack(folder.path(), "w4a8", "", &["--scheme", "w4a8"]);
    let other = pack(folder.path(), "w4a4", "", &["--scheme", "w4a4"]);
    let report = diff(&base, &other, &[]);
    assert_eq!(counts(&report), [12, 36, 0, 0]);
    for entry in tensors(&report) {
        assert_eq!(kinds(entry), ["scheme", "activation scale"], "{entry}");
        assert_eq!((figure(entry, "relative_rms"), figure(entry, "cosine")), (0.0, 1.0));
    }
    assert_eq!(fields(&report), ["recipe.defaults.scheme"]);
}

#[test]
fn a_pack_is_itself_and_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    let base = pack(folder.path(), "base", "", &[]);
    let shards = pack(folder.path(), "shards", "", &["--shard-size", "100K"]);
    assert!(!shards.exists());
    let index = folder.path().join("shards.safetensors.index.json");
    let shard = folder.path().join("shards-00002-of-00005.safetensors");
    for (a, b) in [(&base, &base), (&base, &index), (&shard, &base), (&index, &shard)] {
        let report = diff(a, b, &[]);
        assert_eq!(counts(&report), [48, 0, 0, 0]);
        assert_eq!(report["tensors"], json!([]));
        assert_eq!(report["other"], json!([]));
        assert_eq!(report["same"], true);
    }
    let report = diff(&base, &index, &["--all"]);
    assert_eq!(tensors(&report).len(), 48);
    for entry in tensors(&report) {
        assert_eq!((figure(entry, "relative_rms"), figure(entry, "cosine")), (0.0, 1.0));
    }
}

#[test]
fn a_carried_tensor_is_held_against_a_linear() {
    let folder = tempfile::tempdir().unwrap();
    let base = pack(folder.path(), "base", "", &[]);
    let keeping = rule(r"blk\.2\.ffn_down", "scheme = \"keep\"");
    let kept = pack(folder.path(), "kept", &keeping, &[]);
    let report = diff(&kept, &base, &[]);
    assert_eq!(names(&report), [DOWN]);
    let entry = tensor(&report, DOWN);
    assert_eq!((&entry["a"]["type"], &entry["b"]["type"]), (&json!("F16"), &json!("w8a8")));
    assert_eq!(kinds(entry), ["scheme"]);
    // What is carried is the source, of which `verify` knows the error.
    let verified = verify(&base, &tiny_model());
    same_figures(entry, tensor(&verified, DOWN));
}

#[test]
fn a_tied_head_is_held_against_the_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let base = pack(folder.path(), "base", "", &[]);
    let kept = pack(folder.path(), "kept", &rule("^output", "scheme = \"keep\""), &[]);
    let verified = verify(&base, &tiny_model());
    for (other, beside) in [(&kept, true), (&tiny_model(), false)] {
        let report = diff(other, &base, &[]);
        let entry = tensor(&report, "output.weight");
        assert_eq!(entry["a"]["name"], "token_embd.weight");
        assert_eq!((&entry["a"]["type"], &entry["a"]["bytes"]), (&json!("Q8_0"), &json!(0)));
        assert_eq!(kinds(entry), ["name", "scheme"]);
        same_figures(entry, tensor(&verified, "output.weight"));
        let report = diff(&base, other, &["--all"]);
        assert_eq!(tensor(&report, "output.weight")["b"]["name"], "token_embd.weight");
        // The embedding stands for itself, too.
        assert_eq!(tensor(&report, "token_embd.weight")["status"], "equal");
        assert_eq!(counts(&report)[2..], [0, 0]);
        if beside {
            assert_eq!(names(&diff(&base, other, &[])), ["output.weight"]);
        }
    }
}

/// Relative error and cosine are the same but for the order in which rows were added.
fn same_figures(entry: &Value, expected: &Value) {
    for key in ["relative_rms", "cosine"] {
        let (found, expected) = (figure(entry, key), figure(expected, key));
        let name = &entry["name"];
        assert!((found - expected).abs() <= 1e-12 * expected, "{name} {key}: {found}, {expected}");
    }
}

#[test]
fn a_pack_is_as_far_from_its_source_as_verify_says() {
    let folder = tempfile::tempdir().unwrap();
    let split = folder.path().join("split");
    fs::create_dir(&split).unwrap();
    let experts = Model::with_experts(&tiny_model());
    let models = [
        tiny_model(),
        experts.write(folder.path(), "experts.gguf"),
        Model::floats(&tiny_model()).write_split(&split, "model", 3),
    ];
    for model in &models {
        for options in [
            &["--scheme", "w8a8"][..],
            &["--scheme", "w4a4"],
            &["--scheme", "w4a8", "--shard-size", "100K"],
            &["--scheme", "w16a16"],
            &["--scheme", "w8a8", "--granularity", "tensor", "--rotation", "block"],
            &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
        ] {
            let pack = folder.path().join("pack.safetensors");
            let summary = convert(model, &pack, &[options, &["--force"]].concat());
            let files = summary["output"].as_array().unwrap();
            let pack = PathBuf::from(files.last().unwrap().as_str().unwrap());
            let verified = verify(&pack, model);
            let linears = verified["tensors"].as_array().unwrap();
            let report = diff(model, &pack, &[]);
            assert_eq!(tensors(&report).len(), linears.len(), "{options:?}");
            for linear in linears {
                let entry = tensor(&report, linear["name"].as_str().unwrap());
                same_figures(entry, linear);
                assert_eq!(entry["b"]["type"], linear["scheme"]);
            }
            assert_eq!(report["other"], json!([]), "{options:?}");
            for file in files {
                fs::remove_file(file.as_str().unwrap()).unwrap();
            }
        }
    }
}

/// Relative error and cosine of b's weights from a's.
fn figures(a: &[f32], b: &[f32]) -> Value {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum()
    };
    let (aa, bb) = (sum(&|a, _| a * a), sum(&|_, b| b * b));
    let error = sum(&|a, b| (a - b) * (a - b));
    let cosine = sum(&|a, b| a * b) / (aa * bb).sqrt();
    json!({ "relative_rms": (error / aa).sqrt(), "cosine": cosine })
}

#[test]
fn another_quantization_is_measured_against_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let noise = |i: usize, value: f32| value + bell(i + 1, 11, 0.01)[i];
    let exact = Model::floats(&tiny_model()).map("blk.1.attn_q.weight", noise);
    let floats = exact.key("general.file_type", 0u32).write(folder.path(), "floats.gguf");
    let report = diff(&floats, &tiny_model(), &[]);
    let (of_a, of_b) = (Gguf::open(&floats).unwrap(), Gguf::open(&tiny_model()).unwrap());
    let values = |gguf: &Gguf, name: &str| {
        let tensor = gguf.tensor(name).unwrap();
        let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
        gguf.read_at(tensor, 0, &mut bytes).unwrap();
        let mut values = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
        ggml::dequantize(tensor.ggml_type, &bytes, &mut values).unwrap();
        values
    };
    // Norms are F32 in both.
    assert_eq!(counts(&report), [11, 36, 0, 0]);
    for entry in tensors(&report) {
        let name = entry["name"].as_str().unwrap();
        assert_eq!(kinds(entry), ["type"], "{name}");
        let expected = figures(&values(&of_a, name), &values(&of_b, name));
        if name == "blk.1.attn_q.weight" {
            assert!(figure(entry, "relative_rms") > 0.001, "{entry}");
            same_figures(entry, &expected);
        } else {
            assert_eq!((figure(entry, "relative_rms"), figure(entry, "cosine")), (0.0, 1.0));
        }
    }
    assert_eq!(fields(&report), ["metadata.general.file_type"]);
    assert_eq!(report["other"][0]["a"], 0);
}

/// Weights of a linear that is neither rotated nor equalized, by the format page's formulas.
fn plain_weights(pack: &Path, name: &str) -> Vec<f32> {
    let pack = PackReader::open(pack).unwrap();
    let linear = pack.linear(name).unwrap();
    assert!(pack.input(&linear.input).unwrap().vector.is_none());
    let [n, k] = [linear.n, linear.k].map(|dim| usize::try_from(dim).unwrap());
    let scales = pack.read_f32(&linear.scale).unwrap();
    let mut weights = vec![0.0; n * k];
    for (index, segment) in linear.segments.iter().enumerate() {
        let [start, length] = [segment.start, segment.length].map(|x| usize::try_from(x).unwrap());
        let padded = usize::try_from(linear.n_padded).unwrap();
        let layout = TileLayout::new(linear.scheme.engine(), padded, length).unwrap();
        let tiles = pack.read_tensor(&segment.tiles, u64::MAX).unwrap();
        for row in 0..n {
            for column in start..(start + length).min(k) {
                let element = layout.element_index(row, column - start);
                let integer = match linear.scheme.engine().weight_bits() {
                    8 => tiles[element].cast_signed(),
                    // The lower half of a byte is the first of two; a shift keeps the sign.
                    _ if element.is_multiple_of(2) => (tiles[element / 2] << 4).cast_signed() >> 4,
                    _ => tiles[element / 2].cast_signed() >> 4,
                };
                weights[row * k + column] = scales[index * n + row] * f32::from(integer);
            }
        }
    }
    weights
}

#[test]
fn packs_are_as_far_from_each_other_as_their_integers_say() {
    let folder = tempfile::tempdir().unwrap();
    let plain = ["--rotation", "none", "--equalization", "none"];
    let [w8, w4, kl] = [
        ("w8", &["--scheme", "w8a8"][..]),
        ("w4", &["--scheme", "w4a8"]),
        ("kl", &["--scheme", "w4a8", "--calibrator", "kl"]),
    ]
    .map(|(name, options)| pack(folder.path(), name, "", &[options, &plain].concat()));
    for (a, b) in [(&w8, &w4), (&w4, &w8), (&w4, &kl)] {
        let report = diff(a, b, &[]);
        assert_eq!(tensors(&report).len(), 36);
        for entry in tensors(&report) {
            let name = entry["name"].as_str().unwrap();
            let (of_a, of_b) = (plain_weights(a, name), plain_weights(b, name));
            same_figures(entry, &figures(&of_a, &of_b));
        }
    }
    // The figure in the report is the one that was looked for.
    let report = diff(&w4, &kl, &[]);
    let entry = tensor(&report, DOWN);
    assert_eq!(kinds(entry), ["calibrator", "scales", "integers"]);
    let [scales_a, scales_b] = [&w4, &kl].map(|pack| {
        let pack = PackReader::open(pack).unwrap();
        pack.read_f32(&pack.linear(DOWN).unwrap().scale).unwrap()
    });
    let pairs = || scales_a.iter().zip(&scales_b).filter(|(a, b)| a != b);
    let largest = pairs().map(|(a, b)| (f64::from(*b) / f64::from(*a) - 1.0).abs());
    let largest = largest.fold(0.0, f64::max);
    assert_eq!(entry["changes"][1]["changed"], pairs().count());
    assert_eq!(entry["changes"][1]["of"], 64);
    assert!((figure(&entry["changes"][1], "largest_relative_change") - largest).abs() < 1e-12);
    assert_eq!(entry["changes"][2]["of"], 64 * 172);
}

#[test]
fn experts_and_models_of_other_shapes_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let moe = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let [w8, w4] = ["w8a8", "w4a8"].map(|scheme| {
        let pack = folder.path().join(format!("{scheme}.safetensors"));
        convert(&moe, &pack, &["--scheme", scheme, "--seed", "3"]);
        pack
    });
    let report = diff(&w8, &w4, &[]);
    let entry = tensor(&report, "blk.0.ffn_down_exps.weight");
    assert_eq!(entry["a"]["shape"], json!([2, 64, 172]));
    let error = figure(entry, "relative_rms");
    assert!((0.05..0.2).contains(&error), "{error}");

    // Against the dense model: other tensors, and the same beside them.
    let dense = pack(folder.path(), "dense", "", &["--scheme", "w8a8", "--seed", "3"]);
    for (a, b, lacking) in [(&dense, &w8, 0), (&tiny_model(), &moe, 0), (&moe, &dense, 1)] {
        let report = diff(a, b, &[]);
        let [_, _, only_a, only_b] = counts(&report);
        let expected = if lacking == 0 { [15, 20] } else { [20, 15] };
        assert_eq!([only_a, only_b], expected, "{}", a.display());
        let alone = names(&report).into_iter().filter(|name| name.contains("_exps")).count();
        assert_eq!(alone, 15);
        assert!(fields(&report).contains(&"metadata.llama.expert_count"), "{report}");
    }
    let report = diff(&tiny_model(), &moe, &[]);
    let entry = tensor(&report, "blk.0.ffn_gate_exps.weight");
    assert_eq!((&entry["status"], &entry["a"]), (&json!("only_in_b"), &Value::Null));
    assert_eq!((&entry["relative_rms"], &entry["changes"]), (&Value::Null, &json!([])));

    // A matrix of another shape, and one that is missing.
    let changed = Model::read(&tiny_model())
        .without("blk.0.attn_q.weight")
        .without("blk.1.attn_q.weight")
        .bell("blk.1.attn_q.weight", &[64, 32], 0.1);
    let changed = changed.write(folder.path(), "changed.gguf");
    let report = diff(&tiny_model(), &changed, &[]);
    assert_eq!(names(&report), ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]);
    let entry = tensor(&report, "blk.1.attn_q.weight");
    assert_eq!(kinds(entry), ["type", "shape"]);
    assert_eq!(entry["relative_rms"], Value::Null);
    assert_eq!(counts(&report), [45, 1, 1, 0]);
}

#[test]
fn keys_and_what_packs_record_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::read(&tiny_model())
        .key("general.name", "another name")
        .key("llama.rope.freq_base", 20000.0f32)
        .key("new.list", vec![1u32, 2, 3]);
    let model = model.write(folder.path(), "model.gguf");
    let report = diff(&tiny_model(), &model, &[]);
    assert_eq!(counts(&report), [47, 0, 0, 0]);
    assert_eq!(report["same"], false);
    let found = fields(&report);
    for field in ["metadata.general.name", "metadata.llama.rope.freq_base", "metadata.new.list"] {
        assert!(found.contains(&field), "{found:?}");
    }
    let last = report["other"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["a"], &last["b"]), (&Value::Null, &json!("[u32; 3]")));

    let base = pack(folder.path(), "base", "", &[]);
    let other = folder.path().join("other.safetensors");
    convert(&model, &other, &["--target", "rk3576", "--seed", "9", "--scheme", "w8a8"]);
    let report = diff(&base, &other, &[]);
    let found = fields(&report);
    for field in ["metadata.general.name", "seed", "sources[0].sha256", "target.name"] {
        assert!(found.contains(&field), "{found:?}");
    }

    // Statistics change roundings, and are on record.
    let [stats, observed] =
        ["model.stats.safetensors", "observed.safetensors"].map(|name| folder.path().join(name));
    let tiny = tiny_model();
    let arguments = [tiny.to_str().unwrap(), "--tokens", "256", "--ctx", "64", "--hessians"];
    tessera().arg("calibrate").args(arguments).arg("-o").arg(&stats).assert().success();
    let options = ["--calibration", stats.to_str().unwrap(), "--bias-correction", "true"];
    convert(&tiny, &observed, &options);
    let report = diff(&base, &observed, &[]);
    assert!(fields(&report).contains(&"calibration"), "{:?}", fields(&report));
    let found = kinds(tensor(&report, DOWN));
    for kind in ["equalization", "diagonal", "rounding", "correction", "scales", "integers"] {
        assert!(found.contains(&kind), "{found:?}");
    }
    let plain = folder.path().join("plain.safetensors");
    convert(&tiny, &plain, &options[..2]);
    let report = diff(&plain, &observed, &[]);
    for entry in tensors(&report) {
        assert_eq!(kinds(entry)[0], "correction", "{entry}");
    }
}

#[test]
fn threads_and_memory_do_not_change_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let w4 = pack(folder.path(), "w4", "", &["--scheme", "w4a4"]);
    let floats = Model::floats(&tiny_model()).write(folder.path(), "floats.gguf");
    let w8 = pack(folder.path(), "w8", "", &["--scheme", "w8a8"]);
    for (a, b) in [(&w4, &w8), (&floats, &w4), (&w8, &tiny_model()), (&floats, &tiny_model())] {
        let expected = diff(a, b, &[]);
        for arguments in [
            ["--threads", "1", "--memory-budget", "512M"],
            ["--threads", "1", "--memory-budget", "1M"],
            ["--threads", "3", "--memory-budget", "2M"],
        ] {
            assert_eq!(diff(a, b, &arguments), expected, "{arguments:?}");
        }
        let (code, said) = harness::run(&[
            "diff".as_ref(),
            a.as_os_str(),
            b.as_os_str(),
            "--memory-budget".as_ref(),
            "4K".as_ref(),
        ]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("memory budget") && said.contains("weight`"), "{said}");
    }
}

#[test]
fn what_has_no_weights_is_compared_by_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, integers: [u8; 8], zero: f32| {
        Model::read(&tiny_model())
            .bytes("integers", GgmlType::I32, &[2], integers.to_vec())
            .tensor("zeros", &[3], &[zero, 0.0, 0.0])
            .tensor("not.numbers", &[2], &[f32::NAN, zero])
            .write(folder.path(), name)
    };
    let a = model("a.gguf", [0, 1, 2, 3, 4, 5, 6, 7], 0.0);
    let b = model("b.gguf", [0, 1, 2, 3, 4, 5, 6, 8], 1.0);
    assert_eq!(counts(&diff(&a, &a, &[])), [50, 0, 0, 0]);
    let report = diff(&a, &b, &[]);
    assert_eq!(names(&report), ["integers", "zeros", "not.numbers"]);
    for (name, changed, of) in [("integers", 1, 8), ("zeros", 2, 12), ("not.numbers", 2, 8)] {
        let entry = tensor(&report, name);
        assert_eq!(entry["changes"], json!([{ "what": "bytes", "changed": changed, "of": of }]));
        assert_eq!((&entry["relative_rms"], &entry["cosine"]), (&Value::Null, &Value::Null));
    }
    // Packs carry them, and know by the digest.
    let pack = folder.path().join("pack.safetensors");
    convert(&a, &pack, &["--scheme", "keep"]);
    assert_eq!(counts(&diff(&pack, &a, &[])), [50, 0, 0, 0]);
    assert_eq!(names(&diff(&pack, &b, &[])).len(), 3);
}

#[test]
fn a_split_model_is_the_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::read(&tiny_model());
    let split = model.write_split(folder.path(), "model", 4);
    let second = folder.path().join("model-00002-of-00004.gguf");
    for (a, b) in [(&split, &tiny_model()), (&tiny_model(), &second)] {
        let report = diff(a, b, &[]);
        assert_eq!(report["same"], true, "{report}");
        assert_eq!(counts(&report), [47, 0, 0, 0]);
    }
}

#[test]
fn names_and_values_of_both_files_are_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "\x1b]52;c;AA\x07\u{202e}";
    let name = |prefix: &str| format!("{prefix}{hostile}");
    let model = |file: &str, value: &str, more: &str| {
        Model::read(&tiny_model())
            .key(&name("key"), name(value).as_str())
            .key(&name(value), 1u32)
            .tensor(&name(more), &[1], &[1.0])
            .tensor(&name("both"), &[1], &[if value == "a" { 1.0 } else { 2.0 }])
            .write(folder.path(), file)
    };
    let (a, b) = (model("a.gguf", "a", "only a"), model("b.gguf", "b", "only b"));
    let output = tessera().arg("diff").arg(&a).arg(&b).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for character in ['\x1b', '\x07', '\u{202e}'] {
        assert!(!text.contains(character), "{text}");
    }
    assert!(text.contains("only a\\u{1b}") && text.contains("only b\\u{1b}"), "{text}");
    assert!(text.contains("\"a\\u{1b}") && text.contains("metadata.b\\u{1b}"), "{text}");
    // A program gets them as they are.
    let report = diff(&a, &b, &[]);
    assert_eq!(names(&report), [name("only a"), name("both"), name("only b")]);
}
