//! Magic, version and counts: classes 1 to 6.

use super::Verdict::NotPlanned;
use super::gguf::{file, header, info};
use super::{Case, case, refused};

/// A header with another version.
fn version(version: u32) -> Vec<u8> {
    let mut bytes = header(0, 0);
    bytes.splice(4..8, version.to_le_bytes());
    bytes
}

/// A header with room for something behind it.
fn counts(tensors: u64, keys: u64, room: usize) -> Vec<u8> {
    [header(tensors, keys), vec![0; room]].concat()
}

/// One tensor of 8 numbers.
fn good() -> Vec<u8> {
    file(&[], &[info(b"w", &[8], 0, 0)], 32)
}

pub fn cases() -> Vec<Case> {
    let begins = &["begins with", "not with `GGUF`"];
    let version_of = &["GGUF version", "is not supported, versions 2 and 3 are"];
    let big_endian = &["big-endian"];
    let tensors = &["tensors are declared", "bytes that remain hold"];
    let keys = &["key-values are declared", "bytes that remain hold"];
    vec![
        refused(1, "empty-file", vec![], 0, &["4 bytes are needed, 0 remain"]),
        refused(1, "shorter-than-the-magic", b"GGU".to_vec(), 0, &["4 bytes are needed, 3 remain"]),
        refused(1, "magic-only", b"GGUF".to_vec(), 4, &["4 bytes are needed, 0 remain"]),
        refused(1, "cut-in-the-counts", header(0, 0)[..20].to_vec(), 16, &["8 bytes are needed"]),
        refused(1, "HEADER_BAD_MAGIC", b"GGML\x03\0\0\0".to_vec(), 0, begins),
        refused(1, "byte-swapped-magic", b"FUGG\0\0\0\x03".to_vec(), 0, big_endian),
        case(1, "HEADER_EMPTY", header(0, 0), NotPlanned, &["general.architecture"]),
        refused(2, "HEADER_BAD_VERSION_0", version(0), 4, version_of),
        refused(2, "HEADER_BAD_VERSION_1", version(1), 4, version_of),
        refused(2, "HEADER_BAD_VERSION_FUTURE", version(4), 4, version_of),
        refused(2, "version-2^32-1", version(u32::MAX), 4, version_of),
        refused(2, "big-endian", version(0x0300_0000), 4, big_endian),
        refused(3, "HEADER_BAD_N_KV", counts(0, u64::MAX, 0), 16, keys),
        refused(3, "2^61-keys", counts(0, 1 << 61, 64), 16, keys),
        refused(4, "HEADER_BAD_N_TENSORS", counts(u64::MAX, 0, 0), 8, tensors),
        refused(4, "2^60-tensors", counts(1 << 60, 0, 64), 8, tensors),
        refused(5, "a-million-keys-in-1400-bytes", counts(0, 1_000_000, 1400), 16, keys),
        refused(5, "four-tensors-in-the-room-of-three", counts(4, 0, 33 * 4 - 1), 8, tensors),
        refused(
            5,
            "more-keys-than-are-read",
            counts(0, 65_537, 14 * 65_537),
            16,
            &["65537 key-values", "at most 65536"],
        ),
        refused(6, "2^63-keys", counts(0, 1 << 63, 64), 16, keys),
        refused(6, "2^63-tensors", counts(1 << 63, 0, 64), 8, tensors),
        refused(33, "trailing-byte", [good(), vec![0]].concat(), 96, &["1 byte"]),
        refused(
            33,
            "zip-appended",
            [good(), b"PK\x05\x06".to_vec(), vec![0; 18]].concat(),
            96,
            &["tensor data", "22 bytes"],
        ),
        refused(33, "behind-other-bytes", [vec![0; 32], good()].concat(), 0, begins),
        refused(33, "behind-a-script", [b"#!/bin/sh\nexit\n".to_vec(), good()].concat(), 0, begins),
    ]
}
