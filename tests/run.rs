//! Completion, end to end: llama.cpp's tokens, packs beside models quantized in memory, sampling.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use harness::model::Model;
use harness::{convert, shared_models, tessera, tiny_model};

/// The prompt with its completion, as printed.
fn complete(model: &str, prompt: &str, arguments: &[&str]) -> String {
    let output = tessera().args(["run", model, "-p", prompt]).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{model} {arguments:?}: {said}");
    assert!(said.contains("generated: "), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `tests/data/SOURCES.md` says how the texts were made.
#[test]
fn the_carried_model_says_what_it_says_in_llama_cpp() {
    for (prompt, completion) in [
        (
            "Once upon a time",
            ", there was a little girl named Lily. She loved to play outside in the park. One day, \
             she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom \
             said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do",
        ),
        (
            "Alice was beginning to get",
            " a blue box. Anna was very excited to see what was inside. She was so excited to see \
             what was inside.\nAnna saw a big box and wanted to see what was inside. She wanted to \
             see what was inside. She said",
        ),
    ] {
        let expected = format!("{prompt}{completion}");
        for arguments in [&["-n", "100"][..], &["-n", "100", "--temp", "0", "--threads", "1"]] {
            assert_eq!(complete(text(&tiny_model()), prompt, arguments), expected);
        }
    }
}

#[test]
fn a_shared_model_says_what_it_says_in_llama_cpp() {
    let Some(folder) = shared_models("stories260K") else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/golden/greedy.json");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let cases = golden.as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let (prompt, completion) = (case["prompt"].as_str(), case["text"].as_str());
        let (prompt, completion) = (prompt.unwrap(), completion.unwrap());
        for form in ["F32", "as-qwen2-F32", "as-phi3-F32", "as-moe-F32"] {
            let model = folder.join(format!("stories260K-{form}.gguf"));
            let found = complete(text(&model), prompt, &["-n", "100"]);
            assert_eq!(found, format!("{prompt}{completion}"), "{form}");
        }
    }
}

#[test]
fn a_pack_says_what_the_model_says_quantized_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let pack = folder.path().join("pack.safetensors");
    let mut said = BTreeSet::new();
    for (model, scheme) in
        [(tiny_model(), "w8a8"), (tiny_model(), "w4a8"), (tiny_model(), "w4a4"), (experts, "w4a8")]
    {
        convert(&model, &pack, &["--scheme", scheme, "--force"]);
        for device in ["sim", "reference"] {
            let arguments = ["-n", "60", "--device", device];
            let packed = complete(text(&pack), "The little dog", &arguments);
            let named = format!("{}@{scheme}", model.display());
            assert_eq!(complete(&named, "The little dog", &arguments), packed, "{scheme} {device}");
            let options = [&arguments[..], &["--scheme", scheme]].concat();
            assert_eq!(complete(text(&model), "The little dog", &options), packed);
            said.insert(packed);
        }
    }
    assert!(said.len() > 3, "{said:?}");
}

#[test]
fn a_seed_is_a_text() {
    let model = tiny_model();
    let model = text(&model);
    let draw = |seed: &str, more: &[&str]| {
        let arguments = [&["-n", "60", "--temp", "0.8", "--seed", seed], more].concat();
        complete(model, "One day", &arguments)
    };
    assert_eq!(draw("1", &[]), draw("1", &["--threads", "3"]));
    assert_ne!(draw("1", &[]), draw("2", &[]));
    let greedy = complete(model, "One day", &["-n", "60"]);
    assert_ne!(draw("1", &[]), greedy);
    assert_eq!(draw("1", &["--top-k", "1"]), greedy);
    assert_eq!(draw("1", &["--top-p", "0"]), greedy);
}

#[test]
fn memory_changes_no_token() {
    let model = tiny_model();
    let expected = complete(text(&model), "One day", &["-n", "20"]);
    for size in ["1K", "400K", "8M"] {
        let arguments = ["-n", "20", "--memory-budget", size];
        assert_eq!(complete(text(&model), "One day", &arguments), expected, "{size}");
    }
}

#[test]
fn lengths_are_kept_to() {
    let model = tiny_model();
    let model = text(&model);
    assert_eq!(complete(model, "Once upon a time", &["-n", "0"]), "Once upon a time");
    // A model with a token of beginning needs no prompt.
    let (one, many) = (complete(model, "", &["-n", "1"]), complete(model, "", &["-n", "30"]));
    assert!(many.starts_with(&one) && many.len() > one.len() && !one.is_empty(), "{many}");
    // BOS and 511 tokens fill the context of 512.
    assert!(complete(model, "", &["-n", "511"]).starts_with(&many));
}

/// A reader that has left ends the run at once, and quietly.
#[test]
fn a_closed_pipe_ends_it() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(["run", text(&tiny_model()), "-p", "Once upon a time", "-n", "500"])
        .stdout(writer)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("error") && !said.contains("panicked"), "{said}");
    assert!(said.contains("generated: 1 tokens"), "{said}");
}
