//! `tessera rotate`: rotated models compute what they computed, whatever else is in the file stays,
//! and converting leaves alone what is rotated already.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::model::Model;
use harness::{
    convert, eval, figure, models_in, run, shared_models, shared_text, short_text, tessera,
    tiny_model, verify,
};
use serde_json::Value;
use tessera_formats::ggml::{self, GgmlType};
use tessera_formats::gguf::{self, Gguf};
use tessera_formats::pack::PackReader;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::{Decoder, LayerCache, Sequence};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Rotates with `arguments` and returns the summary.
fn rotate(input: &Path, output: &Path, arguments: &[&str]) -> Value {
    let command = ["rotate", text(input), "-o", text(output), "--force", "--json"];
    let assert = tessera().args(command).args(arguments).assert().success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// Mean KLD and share of equal top tokens, in percent, of a model against its original.
fn difference(model: &Path, original: &Path, arguments: &[&str]) -> (f64, f64) {
    let against = ["--reference", text(original)];
    let report = eval(&[text(model)], &[&against[..], arguments].concat()).remove(0);
    (figure(&report, "mean_kld"), figure(&report, "same_top"))
}

/// A tensor as floats.
fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no `{name}`"));
    let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
    gguf.read_at(tensor, 0, &mut bytes).unwrap();
    let mut values = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    ggml::dequantize(tensor.ggml_type, &bytes, &mut values).unwrap();
    values
}

/// Logits after each of `tokens`.
fn logits(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let gguf = Gguf::open(path).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::for_context(&checkpoint, 64).unwrap();
    let mut hidden = decoder.embed(tokens).unwrap();
    for layer in 0..decoder.model().layers {
        let mut cache = LayerCache::new();
        let mut sequences = [Sequence { tokens: tokens.len(), cache: &mut cache }];
        decoder.layer(layer).unwrap().forward(&mut hidden, &mut sequences, None).unwrap();
    }
    decoder.head().unwrap().forward(&hidden, None).unwrap()
}

/// √(Σ (a − b)² / Σ b²).
fn relative_rms(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let errors = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b)));
    let energy: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (errors.sum::<f64>() / energy).sqrt()
}

#[test]
fn a_rotated_model_predicts_what_the_original_does() {
    let folder = tempfile::tempdir().unwrap();
    let rotated = folder.path().join("rotated.gguf");
    let story = short_text();
    let arguments = ["--text", text(&story), "--ctx", "128"];
    for options in [&[][..], &["--no-heads", "--seed", "5"]] {
        rotate(&tiny_model(), &rotated, options);
        let (kld, same_top) = difference(&rotated, &tiny_model(), &arguments);
        assert!(kld < 1e-9 && same_top > 99.9, "{options:?}: {kld}, {same_top} %");
    }
    // Rounding to fewer bits costs what it costs: far less than 8-bit integers, but not nothing.
    for (ty, most) in [("f16", 1e-4), ("bf16", 1e-2)] {
        let summary = rotate(&tiny_model(), &rotated, &["--type", ty]);
        assert_eq!(summary["type"].as_str().unwrap(), ty.to_uppercase());
        let (kld, _) = difference(&rotated, &tiny_model(), &arguments);
        assert!(kld > 1e-7 && kld < most, "{ty}: {kld}");
    }
}

#[test]
fn larger_models_predict_what_their_originals_do() {
    let Some(models) = shared_models("stories260K") else { return };
    let Some(story) = shared_text("eval_60k.txt") else { return };
    let folder = tempfile::tempdir().unwrap();
    let rotated = folder.path().join("rotated.gguf");
    for name in ["F32", "Q4_K_M", "as-qwen2-F32", "as-phi3-F32", "as-moe-F32"] {
        let original = models.join(format!("stories260K-{name}.gguf"));
        rotate(&original, &rotated, &[]);
        let arguments = ["--text", text(&story), "--chunks", "5"];
        let (kld, same_top) = difference(&rotated, &original, &arguments);
        assert!(kld < 1e-6 && same_top > 99.9, "{name}: {kld}, {same_top} %");
    }
}

/// Every form of the graph, with random weights; llama.cpp's logits of the originals are compared in
/// the runtime's tests.
#[test]
fn every_graph_is_preserved_or_refused() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/golden");
    let folder = tempfile::tempdir().unwrap();
    let rotated = folder.path().join("rotated.gguf");
    let tokens: Vec<u32> = (0..48u32).map(|token| token * 37 % 125 + 3).collect();
    let models = models_in(&golden);
    assert_eq!(models.len(), 25);
    let mut refused = Vec::new();
    for model in models {
        let name = model.file_stem().unwrap().to_str().unwrap();
        if ["gemma2", "gemma3", "olmo2"].iter().any(|family| name.starts_with(family)) {
            let (code, said) = run(&["rotate", text(&model), "-o", text(&rotated), "--force"]);
            assert_eq!(code, 2, "{name}: {said}");
            let reason = format!("the residual stream of `{}`", name.split('-').next().unwrap());
            for words in [&reason[..], "a norm follows", "hint: convert the model as it is"] {
                assert!(said.contains(words), "{name}: {said}");
            }
            refused.push(name.to_owned());
            continue;
        }
        let expected = logits(&model, &tokens);
        for options in [&[][..], &["--no-heads", "--seed", "9"]] {
            let summary = rotate(&model, &rotated, options);
            let error = relative_rms(&logits(&rotated, &tokens), &expected);
            assert!(error < 1e-5, "{name} {options:?}: {error:.2e}");
            assert_eq!(summary["heads"].is_null(), !options.is_empty());
            let warned = !summary["warnings"].as_array().unwrap().is_empty();
            assert_eq!(warned, name == "gemma", "{summary}");
        }
    }
    refused.sort();
    assert_eq!(refused, ["gemma2", "gemma3", "gemma3-linear", "olmo2", "olmo2-window"]);
}

/// Tensors that do not meet a state.
const STAYING: &[&str] = &[
    "attn_q.bias",
    "attn_k.bias",
    "attn_q_norm",
    "attn_k_norm",
    "ffn_gate.bias",
    "ffn_up.bias",
    "rope_",
];

fn is_any(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

#[test]
fn weights_turn_gains_become_ones_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/golden");
    let rotated = folder.path().join("rotated.gguf");
    for name in ["qwen2moe", "llama-biases", "qwen3", "phi3-longrope-long"] {
        let path = golden.join(format!("{name}.gguf"));
        rotate(&path, &rotated, &["--type", "bf16", "--seed", "1"]);
        let (before, after) = (Gguf::open(&path).unwrap(), Gguf::open(&rotated).unwrap());
        let own_head = before.tensor("output.weight").is_some();
        assert_eq!(after.tensors().len(), before.tensors().len() + usize::from(!own_head));
        assert_eq!(after.tensor("output.weight").unwrap().dims, before.tensors()[0].dims);
        for tensor in before.tensors() {
            let name = &tensor.name;
            let new = after.tensor(name).unwrap();
            assert_eq!(new.dims, tensor.dims, "{name}");
            let (old, values) = (values(&before, name), values(&after, name));
            let matrix = tensor.dims.len() > 1 && !name.contains("gate_inp");
            assert_eq!(new.ggml_type == GgmlType::Bf16, matrix, "{name}");
            if is_any(name, &["attn_norm", "ffn_norm", "output_norm"]) {
                assert!(values.iter().all(|&value| value == 1.0), "{name}");
            } else if is_any(name, STAYING) {
                assert_eq!(values, old, "{name}");
            } else {
                let length = values.len();
                let same = values.iter().zip(&old).filter(|(new, old)| new == old).count();
                assert!(same * 10 < length, "{name}: {same} of {length} are as they were");
            }
        }
    }
}

#[test]
fn keys_are_kept_and_the_rotation_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let rotated = folder.path().join("rotated.gguf");
    let split = Model::read(&tiny_model())
        .key("general.alignment", 64u32)
        .key("general.file_type", 7u32)
        .write_split(folder.path(), "split", 3);
    rotate(&split, &rotated, &["--type", "f16", "--seed", "18446744073709551615", "--no-heads"]);
    let (before, after) = (Gguf::open(&split).unwrap(), Gguf::open(&rotated).unwrap());
    assert_eq!((after.shards().len(), after.alignment()), (1, 64));
    let mut expected: Vec<(&str, gguf::Value)> = before
        .metadata()
        .iter()
        .filter(|(key, _)| !key.starts_with("split."))
        .map(|(key, value)| (key, value.clone()))
        .collect();
    for (key, value) in &mut expected {
        if *key == "general.file_type" {
            *value = 1u32.into();
        }
    }
    expected.push(("tessera.rotated.residual", u64::MAX.into()));
    expected.push(("tessera.rotated.heads", false.into()));
    let found: Vec<_> = after.metadata().iter().map(|(key, value)| (key, value.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn bytes_depend_on_neither_threads_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/golden/phi3.gguf");
    let rotated = folder.path().join("rotated.gguf");
    let mut seen = Vec::new();
    for model in [tiny_model(), experts, golden] {
        let bytes = |arguments: &[&str]| {
            rotate(&model, &rotated, arguments);
            fs::read(&rotated).unwrap()
        };
        let expected = bytes(&["--threads", "1"]);
        for arguments in [
            ["--threads", "2", "--memory-budget", "512M"],
            ["--threads", "7", "--memory-budget", "1G"],
            ["--threads", "1", "--memory-budget", "48K"],
            ["--threads", "3", "--memory-budget", "100K"],
        ] {
            assert!(bytes(&arguments) == expected, "{arguments:?} of {}", model.display());
        }
        assert!(bytes(&["--seed", "1"]) != expected);
        seen.push(expected);
    }
    let (code, said) = run(&[
        "rotate",
        text(&tiny_model()),
        "-o",
        text(&rotated),
        "--force",
        "--memory-budget",
        "8K",
    ]);
    assert_eq!(code, 2);
    assert!(said.contains("too small for `") && said.contains("at least"), "{said}");
    // Nothing was written before that was known.
    assert!(fs::read(&rotated).unwrap() != seen[0]);
    assert!(!said.contains("rotating"), "{said}");
}

/// The rotations and vectors of a pack's inputs: name, order of the matrix, whether it has a vector.
fn inputs(pack: &Path) -> Vec<(String, u64, bool)> {
    let reader = PackReader::open(pack).unwrap();
    let order = |input: &tessera_formats::pack::manifest::Input| {
        let factor = input.rotation.factor.as_ref().map_or(1, |factor| factor.order);
        input.rotation.sylvester * factor
    };
    let mut inputs: Vec<_> = reader
        .inputs()
        .filter(|input| input.name.starts_with("blk.0.") || !input.name.starts_with("blk."))
        .map(|input| (input.name.clone(), order(input), input.vector.is_some()))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn converting_rotates_only_what_is_not_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let recipe = path("recipe.toml");
    fs::write(&recipe, "[[rule]]\nmatch = 'attn_output'\nrotation = \"block\"\n").unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let (turned, still) = ((64, true), (1, false));
    for (model, rotation, options, [attention, output, ffn, down, head]) in [
        (&tiny_model(), &[][..], &[][..], [still, still, still, (172, true), still]),
        (&tiny_model(), &["--no-heads"], &[], [still, turned, still, (172, true), still]),
        (
            &tiny_model(),
            &[],
            &["--rotation", "hadamard"],
            [turned, turned, turned, (172, true), turned],
        ),
        (
            &tiny_model(),
            &[],
            &["--recipe", text(&recipe)],
            [still, turned, still, (172, true), still],
        ),
        (&tiny_model(), &[], &["--rotation", "none"], [still, still, still, still, still]),
        (
            &tiny_model(),
            &[],
            &["--equalization", "norm"],
            [(1, true), still, (1, true), (172, true), still],
        ),
        (&experts, &[], &[], [still, still, still, (172, true), still]),
    ] {
        let (rotated, pack) = (path("rotated.gguf"), path("pack.safetensors"));
        rotate(model, &rotated, rotation);
        convert(&rotated, &pack, &[options, &["--force", "--scheme", "w4a8"]].concat());
        verify(&pack, &rotated);
        let (ffn_input, ffn_down) = match *model == experts {
            true => ("blk.0.ffn_experts_input", "blk.0.ffn_down_exps_input"),
            false => ("blk.0.ffn_input", "blk.0.ffn_down_input"),
        };
        let mut expected = vec![
            ("blk.0.attn_input", attention),
            ("blk.0.attn_output_input", output),
            (ffn_input, ffn),
            (ffn_down, down),
            ("output_input", head),
        ];
        expected.sort_unstable();
        let expected = expected.into_iter().map(|(name, (order, vector))| {
            let order = if name == "output_input" && order > 1 { 64 } else { order };
            (name.to_owned(), order, vector)
        });
        assert_eq!(inputs(&pack), expected.collect::<Vec<_>>(), "{rotation:?} {options:?}");
    }

    // A preset reproduces another system, on whatever model.
    let (rotated, pack) = (path("rotated.gguf"), path("pack.safetensors"));
    rotate(&tiny_model(), &rotated, &[]);
    convert(&rotated, &pack, &["--force", "--preset", "rk-llama-v3", "--scheme", "w4a4"]);
    assert!(inputs(&pack).iter().all(|(_, order, vector)| *order > 1 && *vector));
}

#[test]
fn what_cannot_be_rotated_is_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let model = Model::read(&tiny_model());
    let rotated = path("rotated.gguf");
    rotate(&tiny_model(), &rotated, &[]);
    let norm = "blk.1.ffn_norm.weight";
    let gain = |value: f32| model.clone().without(norm).tensor(norm, &[64], &[value; 64]);
    let cases = [
        (rotated.clone(), "other.gguf", &[][..], "rotated already, with seed 0"),
        (tiny_model(), "rotated.gguf", &[], "--force"),
        (tiny_model(), "other.bin", &["--force"], "NAME.gguf"),
        (tiny_model(), "missing/other.gguf", &[], "does not exist"),
        (
            model.clone().key("general.type", "adapter").write(folder.path(), "adapter.gguf"),
            "other.gguf",
            &[],
            "is not a model",
        ),
        (
            model.clone().key("general.architecture", "mamba").write(folder.path(), "mamba.gguf"),
            "other.gguf",
            &[],
            "`mamba` is not known",
        ),
        (
            model.clone().bell("blk.0.attn_sinks.weight", &[8], 1.0).write(folder.path(), "s.gguf"),
            "other.gguf",
            &[],
            "attn_sinks",
        ),
        (gain(f32::NAN).write(folder.path(), "nan.gguf"), "other.gguf", &[], "not finite"),
        (gain(1e6).write(folder.path(), "f16.gguf"), "other.gguf", &["--type", "f16"], "--type"),
        (gain(3e38).write(folder.path(), "huge.gguf"), "other.gguf", &[], "of type F32"),
    ];
    let before = fs::read(&rotated).unwrap();
    let files = fs::read_dir(folder.path()).unwrap().count();
    for (input, output, more, words) in cases {
        let output = path(output);
        let command = ["rotate", text(&input), "-o", text(&output)];
        let (code, said) = run(&[&command[..], more].concat());
        assert_eq!(code, 2, "{words}: {said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), files, "{words}");
    }
    assert!(fs::read(&rotated).unwrap() == before);

    // The input is never the output, by whatever name.
    let copy = path("copy.gguf");
    fs::copy(tiny_model(), &copy).unwrap();
    let (link, hard) = (path("link.gguf"), path("hard.gguf"));
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    fs::hard_link(&copy, &hard).unwrap();
    for output in [&copy, &link, &hard] {
        let (code, said) = run(&["rotate", text(&copy), "-o", text(output), "--force"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("is the input"), "{said}");
    }
    assert!(fs::read(&copy).unwrap() == fs::read(tiny_model()).unwrap());
}
