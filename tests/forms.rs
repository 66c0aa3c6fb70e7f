//! Forms of the same weights give the same tiles: split models, and experts one by one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use harness::model::{Model, bell};
use harness::{convert, verify};
use tessera_formats::pack::PackReader;

/// Every tensor of a pack: name to bytes.
fn contents(pack: &Path) -> BTreeMap<String, Vec<u8>> {
    let pack = PackReader::open(pack).unwrap();
    pack.tensors()
        .iter()
        .map(|tensor| (tensor.name.clone(), pack.read_tensor(&tensor.name, 1 << 30).unwrap()))
        .collect()
}

#[test]
fn a_split_model_is_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for layer in 0..3 {
        model = model
            .bell(&format!("blk.{layer}.attn_norm.weight"), &[96], 1.0)
            .bell(&format!("blk.{layer}.attn_q.weight"), &[96, 70], 0.1)
            .bell(&format!("blk.{layer}.ffn_down.weight"), &[172, 96], 0.1);
    }
    let whole = model.write(folder.path(), "whole.gguf");
    let split = model.write_split(folder.path(), "split", 3);
    for scheme in ["w8a8", "w4a4"] {
        let convert = |input: &Path, name: &str| {
            let pack = folder.path().join(name);
            convert(input, &pack, &["--scheme", scheme, "--force"]);
            verify(&pack, input);
            pack
        };
        let from_whole = convert(&whole, "whole.safetensors");
        let from_split = convert(&split, "split.safetensors");
        let (mut one, mut other) = (contents(&from_whole), contents(&from_split));
        // The key-values differ: a split model has those of the split.
        one.remove("gguf.metadata").unwrap();
        other.remove("gguf.metadata").unwrap();
        assert!(one == other, "{scheme}");
        let pack = PackReader::open(&from_split).unwrap();
        let sources = &pack.manifest(0).unwrap().sources;
        let files: Vec<_> = sources.iter().map(|source| source.file.as_str()).collect();
        assert_eq!(
            files,
            ["split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"]
        );
        // Any of the three means the model.
        let last = folder.path().join("split-00003-of-00003.gguf");
        let from_last = convert(&last, "last.safetensors");
        assert_eq!(std::fs::read(&from_split).unwrap(), std::fs::read(&from_last).unwrap());
    }
}

#[test]
fn an_expert_is_the_linear_that_it_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (k, n, experts) = (172usize, 70usize, 3usize);
    let weights = bell(k * n * experts, 5, 0.1);
    let dims = |more: &[usize]| -> Vec<u64> {
        [k, n].iter().chain(more).map(|&dim| u64::try_from(dim).unwrap()).collect()
    };
    let name = "blk.0.ffn_down_exps.weight";
    let packed =
        Model::new().tensor(name, &dims(&[experts]), &weights).write(folder.path(), "experts.gguf");
    // A matrix of the same name, and so with the same input and signs, declared a plain linear.
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, "[[rule]]\nmatch = 'exps'\nlinear = true\n").unwrap();
    for options in [
        &["--scheme", "w8a8"][..],
        &["--scheme", "w4a4"],
        &["--scheme", "w4a4", "--granularity", "tensor"],
        &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
        &["--scheme", "w16a16"],
    ] {
        let recipe = ["--recipe", recipe.to_str().unwrap(), "--seed", "9", "--force"];
        let options = [options, &recipe].concat();
        let tensors = |model: &Path| {
            let pack = folder.path().join("pack.safetensors");
            convert(model, &pack, &options);
            verify(&pack, model);
            ["tiles", "scale"].map(|part| contents(&pack)[&format!("{name}.{part}")].clone())
        };
        let all = tensors(&packed);
        for (expert, matrix) in weights.chunks_exact(k * n).enumerate() {
            let alone = Model::new().tensor(name, &dims(&[]), matrix);
            let alone = tensors(&alone.write(folder.path(), "alone.gguf"));
            for (all, alone) in all.iter().zip(&alone) {
                assert_eq!(all.len(), experts * alone.len());
                assert!(all[expert * alone.len()..].starts_with(alone), "{options:?} {expert}");
            }
        }
    }
}
