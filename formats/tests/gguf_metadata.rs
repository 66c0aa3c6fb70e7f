//! Key-value sections on their own: the same keys as in the file, the same rules.

mod gguf;

use std::path::Path;

use gguf::{array, file, info, key, text};
use tessera_formats::gguf::{Gguf, GgufError, MOST_KEYS, Metadata};

fn parse(bytes: &[u8]) -> Result<Metadata, GgufError> {
    Metadata::parse(Path::new("m.safetensors"), bytes.to_vec())
}

fn keys() -> Vec<Vec<u8>> {
    let strings = [text(b"<s>"), text("größe".as_bytes()), text(b"")].concat();
    vec![
        key(b"general.architecture", 8, &text(b"llama")),
        key(b"general.alignment", 4, &64u32.to_le_bytes()),
        array(b"tokenizer.ggml.tokens", 8, 3, &strings),
        array(b"tokenizer.ggml.scores", 6, 2, &[1.5f32.to_le_bytes(), [0; 4]].concat()),
        key(b"b", 7, &[1]),
        key(b"f", 12, &(-0.25f64).to_le_bytes()),
    ]
}

#[test]
fn a_section_has_the_keys_of_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    let bytes = file(&keys(), &[info(b"t", &[32], 0, 0)], 128);
    std::fs::write(&path, bytes).expect("a file");
    let gguf = Gguf::open(&path).expect("a model");
    let parsed = parse(gguf.metadata_bytes()).expect("key-values");
    assert!(parsed.iter().eq(gguf.metadata().iter()));
    assert_eq!(parsed.len(), 6);
    assert_eq!(parsed.bytes(), gguf.metadata_bytes());
    assert!(parse(&[]).expect("none").is_empty());
}

#[test]
fn every_cut_is_refused_or_ends_between_keys() {
    let keys = keys();
    let whole = keys.concat();
    let mut ends = vec![0];
    ends.extend(keys.iter().scan(0, |end, key| {
        *end += key.len();
        Some(*end)
    }));
    for length in 0..=whole.len() {
        let parsed = parse(&whole[..length]);
        match ends.iter().position(|&end| end == length) {
            Some(count) => assert_eq!(parsed.expect("whole keys").len(), count),
            None => assert!(matches!(parsed, Err(GgufError::Malformed { .. })), "cut at {length}"),
        }
    }
}

#[test]
fn rules_of_files_hold() {
    let mut twice = keys();
    twice.push(twice[4].clone());
    let many: Vec<u8> =
        (0..=MOST_KEYS).flat_map(|n| key(n.to_string().as_bytes(), 0, &[0])).collect();
    let huge = array(b"a", 8, u64::MAX, &[]);
    for (bytes, expected) in [
        (twice.concat(), "Duplicate"),
        (key(b"general.alignment", 4, &3u32.to_le_bytes()), "Alignment"),
        (key(b"general.alignment", 8, &text(b"32")), "AlignmentType"),
        (many, "TooMany"),
        (huge, "Count"),
        (key(b"k", 99, &[]), "ValueType"),
    ] {
        match parse(&bytes) {
            Err(GgufError::Malformed { problem, path, .. }) => {
                assert_eq!(path, Path::new("m.safetensors"));
                let found = format!("{problem:?}");
                assert!(found.starts_with(expected), "{found}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}
