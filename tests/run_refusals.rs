//! Models, texts and options that `eval` and `run` refuse: exit code 2, and words that name what is
//! wrong.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;

use harness::model::{Model, bell};
use harness::{convert, eval, run, short_text, tiny_model};
use tessera_formats::gguf::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command that must be refused with these words, and returns all of them.
fn refused(arguments: &[&str], words: &[&str]) -> String {
    let (code, said) = run(arguments);
    assert_eq!(code, 2, "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no {word:?} in {said}");
    }
    said
}

/// A model that must be refused by both commands, whatever is made of it; what was said.
fn never_runs(model: &Path, words: &[&str]) -> Vec<String> {
    let story = short_text();
    let four = format!("{}@w4a8", model.display());
    let words = [&[text(model)], words].concat();
    let mut said = Vec::new();
    for named in [text(model), &four] {
        said.push(refused(&["eval", named, "--text", text(&story), "--ctx", "64"], &words));
        said.push(refused(&["run", named, "-p", "Once", "-n", "2"], &words));
    }
    said
}

#[test]
fn models_that_are_not_understood_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = || Model::read(&tiny_model());
    let short: Vec<&str> = vec!["a", "b"];
    let cases: [(&str, Model, &[&str]); 14] = [
        ("other", model().key("general.architecture", "mamba"), &["`mamba`", "qwen3moe"]),
        ("adapter", model().key("general.type", "adapter"), &["general.type", "adapter"]),
        ("key", model().key("llama.attention.twist", 2u32), &["llama.attention.twist", "(2)"]),
        ("value", model().key("llama.block_count", "five"), &["llama.block_count", "five"]),
        ("none", model().key("llama.block_count", 0u32), &["llama.block_count", "from 1 to"]),
        ("more", model().key("llama.block_count", 6u32), &["blk.5."]),
        ("fewer", model().key("llama.block_count", 4u32), &["blk.4."]),
        ("heads", model().key("llama.attention.head_count", 7u32), &["head_count"]),
        ("width", model().key("llama.feed_forward_length", 100u32), &["ffn_", "has shape"]),
        (
            "tensor",
            model().bell("blk.2.attn_sinks.weight", &[8], 1.0),
            &["blk.2.attn_sinks.weight", "not known"],
        ),
        ("missing", model().without("blk.3.ffn_up.weight"), &["blk.3.ffn_up.weight", "needs"]),
        (
            "shape",
            model().without("blk.1.attn_norm.weight").bell("blk.1.attn_norm.weight", &[32], 1.0),
            &["blk.1.attn_norm.weight", "[32]", "[64]"],
        ),
        ("tokenizer", model().key("tokenizer.ggml.model", "runes"), &["runes"]),
        (
            "tokens",
            model().key("tokenizer.ggml.tokens", Value::from(&short[..])),
            &["tokenizer.ggml"],
        ),
    ];
    for (name, model, words) in cases {
        never_runs(&model.write(folder.path(), &format!("{name}.gguf")), words);
    }
    never_runs(Path::new("no.gguf"), &["No such file"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut gains = bell(64, 3, 1.0);
    gains[17] = f32::NAN;
    for norm in ["blk.2.ffn_norm.weight", "output_norm.weight"] {
        let model = Model::read(&tiny_model()).without(norm).tensor(norm, &[64], &gains);
        for said in never_runs(&model.write(folder.path(), "nan.gguf"), &[]) {
            assert!(said.contains("not finite") || said.contains("a logit of NaN"), "{said}");
        }
    }
}

#[test]
fn texts_that_cannot_be_scored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let story = short_text();
    let latin = folder.path().join("latin.txt");
    fs::write(&latin, b"caf\xe9 ").unwrap();
    let empty = folder.path().join("empty.txt");
    fs::write(&empty, "").unwrap();
    let eval = |path: &Path, more: &[&str], words: &[&str]| {
        refused(&[&["eval", text(&model), "--text", text(path)], more].concat(), words);
    };
    eval(&story, &[], &["alice.txt", "1024 tokens", "706"]);
    eval(&empty, &["--ctx", "16"], &["empty.txt", "32 tokens"]);
    eval(&latin, &["--ctx", "16"], &["latin.txt", "utf-8"]);
    eval(Path::new("no.txt"), &[], &["no.txt", "No such file"]);
    eval(folder.path(), &[], &[text(folder.path()), "is a directory"]);
    // Which gives zeros for as long as there is memory.
    eval(Path::new("/dev/zero"), &[], &["/dev/zero", "not a regular file"]);
    eval(&story, &["--ctx", "2"], &["at least 3"]);
    eval(&story, &["--ctx", "64", "--chunks", "0"], &["0 chunks"]);
    eval(&story, &["--ctx", "64", "--memory-budget", "1K"], &["bytes of memory", "1024"]);
    refused(&["eval", text(&model)], &["--text"]);
}

#[test]
fn models_that_cannot_be_compared_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let gguf = Model::read(&model);
    let tokens = (0..512).map(|token| format!("<{token}>")).collect::<Vec<_>>();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    let other = gguf.key("tokenizer.ggml.tokens", Value::from(&tokens[..]));
    let other = other.write(folder.path(), "other.gguf");
    let story = short_text();
    for arguments in
        [&[text(&model), text(&other)][..], &[text(&other), "--reference", text(&model)]]
    {
        let more = ["--text", text(&story), "--ctx", "64"];
        let words = ["different vocabularies", "other.gguf", "stories260K-Q8_0.gguf"];
        refused(&[&["eval"], arguments, &more].concat(), &words);
    }
}

#[test]
fn options_that_would_not_be_heeded_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, pack, story) = (tiny_model(), folder.path().join("pack.safetensors"), short_text());
    convert(&model, &pack, &["--scheme", "w8a8"]);
    let (model, pack) = (text(&model), text(&pack));
    let at = |how: &str| format!("{model}@{how}");
    for (arguments, words) in [
        (&[&at("w5a5")[..]][..], &["@w5a5", "@w8a8"][..]),
        (&[&at("rk-llama-v9:w4a4")], &["rk-llama-v9", "@rk-llama-v3:w4a4"]),
        (&[&at("rk-llama-v2:w4a8")], &["w4a8", "rk-llama.cpp"]),
        (&[model, "--device", "sim"], &["no integers", "scheme"]),
        (&[model, "--cpu-like", "--device", "sim"], &["no integers", "scheme"]),
        (&[model, "--cpu-like", "--scheme", "w8a8"], &["--cpu-like", "FILE@w8a8"]),
        (&[model, "--device", "npu9"], &["npu9", "sim"]),
        (&[model, "--recipe", "no.toml"], &["no.toml"]),
        (&[model, "--target", "rk1", "--scheme", "w8a8"], &["rk1"]),
        (&[model, "--threads", "0"], &["--threads"]),
        (&[pack, "--scheme", "w4a8"], &["is a pack", "--scheme"]),
        (&[pack, "--calibrator", "mse"], &["is a pack"]),
        (&[&format!("{pack}@w4a8")], &["is a pack"]),
    ] {
        let text = ["--text", text(&story), "--ctx", "64"];
        refused(&[&["eval"], arguments, &text].concat(), words);
        refused(&[&["run"], arguments, &["-p", "a", "-n", "1"]].concat(), words);
    }
    // Beside a pack, each GGUF file says for itself what it becomes; a reference is never quantized.
    let arguments = ["--text", text(&story), "--ctx", "64", "--chunks", "1"];
    assert_eq!(eval(&[pack.to_owned(), at("w4a8")], &arguments).len(), 2);
    let scheme = ["--scheme", "w4a8", "--reference", pack];
    assert_eq!(eval(&[model], &[&arguments[..], &scheme].concat()).len(), 1);
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let model = tiny_model();
    let run = |more: &[&str], words: &[&str]| {
        refused(&[&["run", text(&model)], more].concat(), words);
    };
    run(&["-p", "a", "-n", "511"], &["2 tokens of prompt", "511", "512", "-n"]);
    run(&["-p", &"a".repeat(600), "-n", "0"], &["tokens of prompt", "512"]);
    run(&["-p", "a", "-n", "18446744073709551615"], &["512"]);
    run(&["-p", "a", "--temp", "nan"], &["--temp"]);
    run(&["-p", "a", "--temp=-1"], &["--temp"]);
    run(&["-p", "a", "--top-p", "inf"], &["--top-p"]);
    run(&[], &["--prompt"]);
}

#[test]
fn logits_files_of_another_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (model, story, logits) = (tiny_model(), short_text(), path("alice.logits"));
    let base = ["eval", text(&model)];
    let saved = ["--text", text(&story), "--ctx", "64", "--save-logits", text(&logits)];
    eval(&[text(&model)], &saved);
    let bytes = fs::read(&logits).unwrap();

    refused(&[&base[..], &saved].concat(), &["alice.logits", "already exists"]);
    assert!(fs::read(&logits).unwrap() == bytes);
    let new = path("new.logits");
    let of_two = [&base[..], &base[1..], &saved[..5], &[text(&new)]].concat();
    refused(&of_two, &["--save-logits", "of which"]);
    assert!(!new.exists());

    let other = path("other.txt");
    let changed = fs::read_to_string(&story).unwrap().replace("sister", "mother");
    fs::write(&other, changed).unwrap();
    let from = |more: &[&str], words: &[&str]| {
        refused(&[&base[..], &["--from-logits", text(&logits)], more].concat(), words);
    };
    from(&["--text", text(&other)], &["alice.logits", "another text"]);
    from(&["--text", text(&story), "--ctx", "128"], &["context of 64", "128"]);
    from(&["--ctx", "128"], &["64 tokens", "--ctx"]);
    from(&["--reference", text(&model)], &["--reference"]);

    let cut = path("cut.logits");
    let from_cut =
        |words: &[&str]| refused(&[&base[..], &["--from-logits", text(&cut)]].concat(), words);
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    from_cut(&["cut.logits", "incomplete"]);
    fs::write(&cut, [&bytes[..], &[0]].concat()).unwrap();
    from_cut(&["cut.logits", "its end"]);
    fs::write(&cut, &bytes[..10]).unwrap();
    from_cut(&["cut.logits", "10 bytes"]);
    fs::write(&cut, "a text").unwrap();
    from_cut(&["cut.logits", "`a text`"]);
    fs::remove_file(&cut).unwrap();
    from_cut(&["cut.logits", "No such file"]);
    // A vocabulary of 511 instead of 512 gives rows of the same length, rounded up to even numbers.
    let mut smaller = bytes;
    smaller[12..16].copy_from_slice(&511u32.to_le_bytes());
    fs::write(&cut, &smaller).unwrap();
    from_cut(&["cut.logits", "511", "512"]);
}
