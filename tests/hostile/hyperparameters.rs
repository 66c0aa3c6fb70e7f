//! What a model says of its shape: class 17. Such a file is converted, because a pack carries what it
//! says; it is not run.

use super::Verdict::{NotRun, Runs};
use super::{Case, bytes_of, case};
use crate::harness::model::Model;
use crate::harness::tiny_model;
use tessera_formats::gguf::Value;

/// The carried model with a key in place of its own.
fn with(key: &str, value: impl Into<Value>) -> Vec<u8> {
    bytes_of(&Model::read(&tiny_model()).key(key, value))
}

/// A model that says what cannot be, and the key or the tensor that the message names.
fn wrong(name: &'static str, bytes: Vec<u8>, words: &'static [&'static str]) -> Case {
    case(17, name, bytes, NotRun, words)
}

pub fn cases() -> Vec<Case> {
    let count = "llama.block_count";
    vec![
        wrong("no-layers", with(count, 0_u32), &["llama.block_count", "from 1 to"]),
        wrong("513-layers", with(count, 513_u32), &["blk.5."]),
        wrong(
            "2^31-layers",
            with(count, 1_u32 << 31),
            &["llama.block_count", "2147483648", "at most 1024"],
        ),
        wrong("minus-one-layers", with(count, -1_i32), &["llama.block_count"]),
        wrong("2^63-layers", with(count, 1_u64 << 63), &["llama.block_count"]),
        wrong("no-heads", with("llama.attention.head_count", 0_u32), &["head_count"]),
        wrong("2^31-heads", with("llama.attention.head_count", 1_u32 << 31), &["head_count"]),
        wrong(
            "more-KV-heads-than-heads",
            with("llama.attention.head_count_kv", 16_u32),
            &["head_count_kv", "16"],
        ),
        wrong("no-KV-heads", with("llama.attention.head_count_kv", 0_u32), &["head_count_kv"]),
        wrong(
            "odd-dimension-of-RoPE",
            with("llama.rope.dimension_count", 7_u32),
            &["rope.dimension_count"],
        ),
        wrong(
            "RoPE-wider-than-a-head",
            with("llama.rope.dimension_count", 64_u32),
            &["rope.dimension_count"],
        ),
        wrong("2^31-experts", with("llama.expert_count", 1_u32 << 31), &["expert"]),
        wrong("no-width", with("llama.embedding_length", 0_u32), &["embedding_length"]),
        wrong("width-of-2^32-1", with("llama.embedding_length", u32::MAX), &["embedding_length"]),
        wrong(
            "other-feed-forward-width",
            with("llama.feed_forward_length", 100_u32),
            &["ffn_", "shape"],
        ),
        wrong("no-context", with("llama.context_length", 0_u32), &["context_length"]),
        // The tokens and the rows of the embedding are counted; nothing reads this.
        case(17, "vocabulary-of-another-size", with("llama.vocab_size", 511_u32), Runs, &[]),
        wrong(
            "negative-epsilon",
            with("llama.attention.layer_norm_rms_epsilon", -1.0_f32),
            &["layer_norm_rms_epsilon"],
        ),
        wrong(
            "infinite-base-of-RoPE",
            with("llama.rope.freq_base", f32::INFINITY),
            &["rope.freq_base"],
        ),
        wrong(
            "scaling-of-RoPE-by-NaN",
            {
                let model = Model::read(&tiny_model()).key("llama.rope.scaling.type", "linear");
                bytes_of(&model.key("llama.rope.scaling.factor", f32::NAN))
            },
            &["rope.scaling.factor"],
        ),
    ]
}
