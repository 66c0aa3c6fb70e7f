//! What a model says of its vocabulary: class 18.

use super::Verdict::{NotRun, Runs};
use super::{Case, bytes_of, case};
use crate::harness::model::Model;
use crate::harness::tiny_model;
use tessera_formats::gguf::{Gguf, Strings, Value};

/// Tokens of the carried model.
const TOKENS: usize = 512;

/// The carried model with a key of its tokenizer in place of its own.
fn with(key: &str, value: impl Into<Value>) -> Vec<u8> {
    bytes_of(&Model::read(&tiny_model()).key(&format!("tokenizer.ggml.{key}"), value))
}

/// The carried model's tokens after a change.
fn tokens(change: impl FnOnce(&mut Vec<String>)) -> Vec<u8> {
    let gguf = Gguf::open(&tiny_model()).unwrap();
    let strings = gguf.metadata().get("tokenizer.ggml.tokens").and_then(Value::as_strings).unwrap();
    let mut tokens: Vec<_> =
        (0..strings.len()).map(|index| strings.get(index).unwrap().to_owned()).collect();
    assert_eq!(tokens.len(), TOKENS);
    change(&mut tokens);
    with("tokens", tokens.iter().collect::<Strings>())
}

fn wrong(name: &'static str, bytes: Vec<u8>, words: &'static [&'static str]) -> Case {
    case(18, name, bytes, NotRun, words)
}

pub fn cases() -> Vec<Case> {
    vec![
        wrong("one-token-less", tokens(|tokens| drop(tokens.pop())), &["tokenizer.ggml"]),
        wrong(
            "one-token-more",
            tokens(|tokens| tokens.push("more".to_owned())),
            &["tokenizer.ggml"],
        ),
        wrong("no-tokens", tokens(Vec::clear), &["tokenizer.ggml"]),
        wrong("tokens-as-numbers", with("tokens", Value::from(vec![1_u32; TOKENS])), &["tokens"]),
        wrong("scores-too-short", with("scores", Value::from(vec![0.5_f32; 3])), &["scores"]),
        wrong("types-too-short", with("token_type", Value::from(vec![1_i32; 3])), &["token_type"]),
        wrong(
            "types-unknown",
            with("token_type", Value::from(vec![99_i32; TOKENS])),
            &["token_type"],
        ),
        wrong("scores-not-finite", with("scores", Value::from(vec![f32::NAN; TOKENS])), &["score"]),
        wrong("BOS-out-of-range", with("bos_token_id", 512_u32), &["bos_token_id", "512"]),
        wrong("EOS-of-2^32-1", with("eos_token_id", u32::MAX), &["eos_token_id"]),
        wrong("unknown-token-negative", with("unknown_token_id", -1_i32), &["unknown_token_id"]),
        wrong(
            "byte-token-minus-one",
            tokens(|tokens| tokens[3 + 0x41] = "<0x-1>".to_owned()),
            &["<0x-1>"],
        ),
        wrong(
            "byte-token-256",
            tokens(|tokens| tokens[3 + 0x41] = "<0x100>".to_owned()),
            &["<0x100>"],
        ),
        // Of tokenizers that no architecture here has; it is not read.
        case(
            18,
            "normalization-table-cut",
            with("precompiled_charsmap", Value::from(vec![255_u8; 3])),
            Runs,
            &[],
        ),
        wrong("merges-missing", with("model", "gpt2"), &["tokenizer.ggml"]),
        wrong("tokenizer-unknown", with("model", "runes"), &["runes"]),
    ]
}
