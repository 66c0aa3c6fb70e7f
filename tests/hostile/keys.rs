//! Keys and values: classes 7 to 16 and 19.

use super::Verdict::{Converted, NotPlanned, NotRun, Runs};
use super::gguf::{array, file, header, info, key, text};
use super::{Case, bytes_of, case, refused};
use crate::harness::model::Model;
use crate::harness::tiny_model;
use tessera_formats::gguf::Value;

/// What a terminal, a log and a page could fall for.
pub const EVIL: &str = "\u{1b}[2J\u{1b}]52;c;AA\u{7}\u{1b}]8;;http://x\u{7}\rerror: \nforged: \u{202e}\u{200b}\
                        \u{9b}31m<script>alert(1)</script>=cmd|' /C calc'!A0";

/// A model of one linear with these keys beside its architecture.
fn linear(keys: &[Vec<u8>]) -> Vec<u8> {
    let keys = [&[key(b"general.architecture", 8, &text(b"llama"))], keys].concat();
    file(&keys, &[info(b"blk.0.ffn_up.weight", &[32, 4], 0, 0)], 512)
}

/// A key without tensors.
fn only(key: Vec<u8>) -> Vec<u8> {
    file(&[key], &[], 0)
}

/// A key of no value, with this name. It begins at byte 24.
fn named(name: &[u8]) -> Vec<u8> {
    only(key(name, 0, &[7]))
}

/// The length of the name of the first key, and 12 bytes of it.
fn claims(length: u64) -> Vec<u8> {
    [header(0, 1), length.to_le_bytes().to_vec(), b"general.name".to_vec()].concat()
}

/// The key `k` whose type is at byte 33, and its value at byte 37.
fn scalar(ty: u32, value: &[u8]) -> Vec<u8> {
    only(key(b"k", ty, value))
}

fn list(ty: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    only(array(b"k", ty, count, elements))
}

/// `general.alignment`, whose type is at byte 49.
fn alignment(ty: u32, value: &[u8]) -> Vec<u8> {
    only(key(b"general.alignment", ty, value))
}

fn model() -> Model {
    Model::read(&tiny_model())
}

pub fn cases() -> Vec<Case> {
    let past_end = &["bytes are needed", "remain in the file"];
    let nested =
        |levels: usize| [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(levels);
    let not_utf8 = &["not UTF-8 at its byte"];
    let value_type = &["value type", "is unknown"];
    let elements = &["array elements are declared", "bytes that remain hold"];
    let alignments = &["`general.alignment`", "alignment"];
    let template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in ().__class__ %}\u{1b}[2J{% endfor %}";
    vec![
        refused(7, "KV_BAD_KEY_SIZE", claims(u64::MAX), 24, past_end),
        refused(7, "value-of-2^64-1-bytes", scalar(8, &u64::MAX.to_le_bytes()), 37, past_end),
        refused(
            7,
            "element-of-2^64-1-bytes",
            list(8, 2, &[text(b"ab"), u64::MAX.to_le_bytes().to_vec()].concat()),
            59,
            past_end,
        ),
        refused(
            7,
            "TENSORS_BAD_NAME_SIZE",
            [header(1, 0), u64::MAX.to_le_bytes().to_vec(), vec![0; 40]].concat(),
            24,
            past_end,
        ),
        refused(8, "key-of-2^32-bytes", claims(1 << 32), 24, past_end),
        refused(8, "key-of-2^63-bytes", claims(1 << 63), 24, past_end),
        refused(8, "key-one-byte-past-the-end", claims(13), 24, past_end),
        refused(
            8,
            "value-one-byte-past-the-end",
            scalar(8, &[&5_u64.to_le_bytes()[..], b"abcd"].concat()),
            37,
            past_end,
        ),
        refused(9, "KV_EMPTY_KEY", only(key(b"", 8, &text(b"v"))), 24, &["name of key 0", "empty"]),
        refused(
            9,
            "KV_DUPLICATE_KEY",
            file(&[key(b"k", 0, &[1]), key(b"k", 0, &[2])], &[], 0),
            38,
            &["`k` occurs a second time"],
        ),
        refused(9, "key-with-NUL", named(b"a.b\0c"), 24, &["NUL at its byte 3"]),
        refused(9, "key-not-UTF-8", named(b"general.\xff"), 24, not_utf8),
        refused(9, "key-of-65536-bytes", named(&[b'k'; 65_536]), 24, &["65536 bytes", "65535"]),
        refused(9, "value-not-UTF-8", scalar(8, &text(b"ok\xfe")), 37, not_utf8),
        case(
            9,
            "key-of-other-characters",
            linear(&[key("Größe & Co!".as_bytes(), 0, &[7])]),
            Converted,
            &[],
        ),
        case(9, "KV_SUCCESS", linear(&[key(b"general.name", 8, &text(b"fine"))]), Converted, &[]),
        case(
            10,
            "escapes-in-key-and-value",
            linear(&[key(EVIL.as_bytes(), 8, &text(EVIL.as_bytes()))]),
            Converted,
            &[],
        ),
        case(
            10,
            "escapes-in-the-architecture",
            bytes_of(&model().key("general.architecture", EVIL)),
            NotRun,
            &["architecture", r"\u{1b}[2J"],
        ),
        case(10, "escapes-in-the-name", bytes_of(&model().key("general.name", EVIL)), Runs, &[]),
        case(
            10,
            "escapes-in-a-tokenizer",
            bytes_of(&model().key("tokenizer.ggml.model", EVIL)),
            NotRun,
            &[r"\u{1b}[2J"],
        ),
        case(
            10,
            "escapes-in-a-wrong-type",
            bytes_of(&model().key("llama.block_count", EVIL)),
            NotRun,
            &["llama.block_count"],
        ),
        case(
            11,
            "formula-and-markup-in-keys",
            linear(&[
                key(b"=cmd|' /C calc'!A0", 0, &[1]),
                key(b"<img src=x onerror=alert(1)>", 0, &[1]),
                key(b"$(touch pwned) `touch pwned`", 8, &text(b"\n---\nlicense: evil\n")),
            ]),
            Converted,
            &[],
        ),
        refused(12, "KV_BAD_TYPE", scalar(13, &[0; 8]), 33, value_type),
        refused(12, "negative-type", scalar(u32::MAX, &[0; 8]), 33, value_type),
        refused(12, "array-of-unknown", list(99, 0, &[]), 37, value_type),
        refused(13, "2^61-u64-whose-bytes-wrap-to-0", list(10, 1 << 61, &[]), 41, elements),
        refused(
            13,
            "2^61+1-u64-whose-bytes-wrap-to-8",
            list(10, (1 << 61) + 1, &[0; 8]),
            41,
            elements,
        ),
        refused(13, "10^9-bools-in-49-bytes", list(7, 1_000_000_000, &[]), 41, elements),
        refused(13, "2^64-1-strings", list(8, u64::MAX, &[0; 16]), 41, elements),
        refused(13, "2^63-u8", list(0, 1 << 63, &[0; 5]), 41, elements),
        refused(14, "array-of-arrays", list(9, 1, &[0; 12]), 37, &["array of arrays"]),
        refused(14, "nested-200000-deep", scalar(9, &nested(200_000)), 37, &["array of arrays"]),
        refused(15, "bool-2", scalar(7, &[2]), 37, &["bool"]),
        refused(15, "array-of-bools-with-a-7", list(7, 3, &[1, 7, 0]), 50, &["bool"]),
        case(
            15,
            "NaN-as-a-base-of-RoPE",
            bytes_of(&model().key("llama.rope.freq_base", f32::NAN)),
            NotRun,
            &["llama.rope.freq_base", "NaN"],
        ),
        case(
            15,
            "NaN-as-epsilon",
            bytes_of(&model().key("llama.attention.layer_norm_rms_epsilon", f32::NAN)),
            NotRun,
            &["layer_norm_rms_epsilon", "NaN"],
        ),
        refused(16, "KV_WRONG_TYPE_ALIGN", alignment(8, &text(b"32")), 49, alignments),
        refused(16, "alignment-of-type-u64", alignment(10, &32_u64.to_le_bytes()), 49, alignments),
        case(
            16,
            "architecture-as-a-number",
            bytes_of(&model().key("general.architecture", 3_u32)),
            NotPlanned,
            &["general.architecture", "u32"],
        ),
        case(
            16,
            "scores-as-u8",
            bytes_of(&model().key("tokenizer.ggml.scores", Value::from(vec![1_u8; 512]))),
            NotRun,
            &["tokenizer.ggml.scores"],
        ),
        case(
            19,
            "template-that-runs-code",
            bytes_of(&model().key("tokenizer.chat_template", template)),
            Runs,
            &[],
        ),
        refused(32, "KV_BAD_ALIGN", alignment(4, &13_u32.to_le_bytes()), 49, alignments),
        refused(32, "alignment-0", alignment(4, &0_u32.to_le_bytes()), 49, alignments),
        refused(32, "alignment-1", alignment(4, &1_u32.to_le_bytes()), 49, alignments),
        refused(32, "alignment-4", alignment(4, &4_u32.to_le_bytes()), 49, alignments),
        refused(32, "alignment-2^31", alignment(4, &(1_u32 << 31).to_le_bytes()), 49, alignments),
    ]
}
