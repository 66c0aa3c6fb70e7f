//! Names of the tensors in a pack, and of its files.

use crate::shard_name;

/// The GGUF key-value section, verbatim, U8 `[bytes]`; in the first shard.
pub const GGUF_METADATA: &str = "gguf.metadata";

/// Rows of activations that golden vectors are the results of, I8 `[4, K]`; in the first shard. K is
/// the greatest `k_padded` of the pack's linears. Since 1.2.
pub const GOLDEN_INPUTS: &str = "golden.inputs";

/// Rows of [`GOLDEN_INPUTS`].
pub const GOLDEN_ROWS: u64 = 4;

/// The header's key that is not a tensor.
pub const HEADER_METADATA: &str = "__metadata__";

/// Ends the name of every shard.
pub const SHARD_SUFFIX: &str = ".safetensors";

/// Ends the name of an index.
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// Most shards that five digits can number.
pub const MOST_SHARDS: u32 = 99_999;

/// Tiles of segment `segment` of a linear with `segments` segments.
pub fn tiles(linear: &str, segment: usize, segments: usize) -> String {
    if segments == 1 { format!("{linear}.tiles") } else { format!("{linear}.tiles.{segment}") }
}

/// Scales of a linear.
pub fn scale(linear: &str) -> String {
    format!("{linear}.scale")
}

/// Correction of a linear's outputs.
pub fn correction(linear: &str) -> String {
    format!("{linear}.correction")
}

/// Vector that a row of an input is multiplied by before it is rotated.
pub fn vector(input: &str) -> String {
    format!("{input}.rotation")
}

/// Dense factor of rotations, shared by every input that uses the same one.
pub fn factor(kind: &str, order: u64) -> String {
    format!("rotation.{kind}.{order}")
}

/// File name of shard `index` (1-based) of `count`.
pub fn shard_file(stem: &str, index: u32, count: u32) -> String {
    shard_name::format(stem, index.into(), count.into(), SHARD_SUFFIX)
}

/// Stem, index and count of a shard's file name; `None` for any other name.
pub fn parse_shard_file(name: &str) -> Option<(&str, u32, u32)> {
    shard_name::parse(name, SHARD_SUFFIX)
}

/// Whether a name is that of a file in the same folder: one path component, nothing that a
/// file system or a shell on any system would take for more.
pub fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|character| {
            matches!(character, '/' | '\\' | ':' | '\u{7f}') || u32::from(character) < 32
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_round_trip() {
        let name = shard_file("a-b.q8", 3, 12);
        assert_eq!(name, "a-b.q8-00003-of-00012.safetensors");
        assert_eq!(parse_shard_file(&name), Some(("a-b.q8", 3, 12)));
    }

    #[test]
    fn other_names_are_no_shards() {
        for name in [
            "a.safetensors",
            "a-1-of-2.safetensors",
            "a-00001-of-2.safetensors",
            "a-00001-00002.safetensors",
            "a-+0001-of-00002.safetensors",
            "a-00001-of-00002.gguf",
            "a-00001-of-00002.safetensors.index.json",
        ] {
            assert_eq!(parse_shard_file(name), None, "{name}");
        }
    }

    #[test]
    fn file_names_that_leave_the_folder_are_not_plain() {
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0", "a\nb"] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
        assert!(!is_plain_file_name(&"a".repeat(256)));
        assert!(is_plain_file_name("größe-00001-of-00002.safetensors"));
    }
}
