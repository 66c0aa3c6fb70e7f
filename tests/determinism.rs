//! The same input, options and seed give the same bytes, whatever the machine has to offer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{convert, shared_models, tiny_model};

fn pack(model: &Path, folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let path = folder.join("pack.safetensors");
    convert(model, &path, &[arguments, &["--force"]].concat());
    fs::read(&path).unwrap()
}

#[test]
fn bytes_do_not_depend_on_threads_budget_or_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut models = vec![tiny_model()];
    if let Some(folder) = shared_models("books7m") {
        models.push(folder.join("books7m-F16.gguf"));
    }
    for model in models {
        for options in [
            &["--scheme", "w8a8"][..],
            &["--scheme", "w4a8"],
            &["--scheme", "w4a4", "--granularity", "tensor", "--calibrator", "kl"],
            &["--scheme", "w4a4", "--preset", "rk-llama-v2"],
        ] {
            let with = |more: &[&str]| pack(&model, folder.path(), &[options, more].concat());
            let reference = with(&["--threads", "1"]);
            for more in [
                &["--threads", "1"][..],
                &["--threads", "2"],
                &["--threads", "5"],
                &["--memory-budget", "24M"],
                &["--memory-budget", "4G"],
            ] {
                assert!(with(more) == reference, "{} {options:?} {more:?}", model.display());
            }
        }
    }
}

#[test]
fn another_seed_gives_other_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let one = pack(&tiny_model(), folder.path(), &["--seed", "1"]);
    let other = pack(&tiny_model(), folder.path(), &["--seed", "2"]);
    assert_ne!(one, other);
}
