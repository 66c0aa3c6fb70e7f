//! Tensor infos and where their data is: classes 20 to 33.

use super::Verdict::Converted;
use super::gguf::{file, info, info_of, key, text};
use super::keys::EVIL;
use super::{Case, case, refused};

const F32: u32 = 0;
const Q4_0: u32 = 2;

/// A tensor `w`: its number of dimensions is at byte 33, its dimensions begin at byte 37.
fn tensor(dims: &[u64], ty: u32) -> Vec<u8> {
    file(&[], &[info(b"w", dims, ty, 0)], 64)
}

/// The tensor `w` with another number of dimensions declared.
fn dimensions(count: u32) -> Vec<u8> {
    file(&[], &[info_of(&text(b"w"), count, &[8], F32, 0)], 64)
}

/// A tensor of this name, which begins at byte 24.
fn named(name: &[u8]) -> Vec<u8> {
    file(&[], &[info(name, &[8], F32, 0)], 32)
}

/// Tensors `a` and `b` of 8 numbers with these offsets, which are at bytes 49 and 82.
fn offsets(first: u64, second: u64) -> Vec<u8> {
    file(&[], &[info(b"a", &[8], F32, first), info(b"b", &[8], F32, second)], 64)
}

/// A model of one linear and of two other tensors with these names.
fn model(names: [&[u8]; 2]) -> Vec<u8> {
    let architecture = key(b"general.architecture", 8, &text(b"llama"));
    let infos = [
        info(b"blk.0.ffn_up.weight", &[32, 4], F32, 0),
        info(names[0], &[8], F32, 512),
        info(names[1], &[8], F32, 544),
    ];
    file(&[architecture], &infos, 576)
}

/// One linear with the data aligned to 64 bytes, with this offset of a second tensor.
fn aligned(second: u64) -> Vec<u8> {
    let keys = [
        key(b"general.architecture", 8, &text(b"llama")),
        key(b"general.alignment", 4, &64_u32.to_le_bytes()),
    ];
    let infos = [
        info(b"blk.0.ffn_norm.weight", &[8], F32, 0),
        info(b"blk.0.ffn_up.weight", &[8, 4], F32, second),
    ];
    let mut bytes = file(&keys, &infos, 0);
    bytes.resize(bytes.len().next_multiple_of(64) + 64 + 128, 0);
    bytes
}

pub fn cases() -> Vec<Case> {
    let count = &["tensor `w`", "dimensions"];
    let product = &["tensor `w`", "elements"];
    let bytes = &["tensor `w`", "sizes add up to 2^64"];
    let offset = &["data offset is", "padded end of the tensor before it is"];
    let largest = i64::MAX.unsigned_abs();
    let mut cases = vec![
        refused(20, "no-dimensions", dimensions(0), 33, count),
        refused(20, "TENSORS_BAD_N_DIMS", dimensions(5), 33, count),
        refused(20, "10^6-dimensions", dimensions(1_000_000), 33, count),
        refused(20, "2^32-1-dimensions", dimensions(u32::MAX), 33, count),
        // llama.cpp takes these; a matrix without weights is of no use to an NPU.
        refused(21, "TENSORS_ZERO_DIM", tensor(&[0, 4], F32), 37, &["tensor `w`", "is 0"]),
        refused(21, "third-dimension-0", tensor(&[4, 4, 0], F32), 37, &["tensor `w`", "is 0"]),
        refused(22, "TENSORS_BAD_SHAPE", tensor(&[u64::MAX], F32), 37, product),
        refused(22, "dimension-2^63", tensor(&[1 << 63], F32), 37, product),
        refused(22, "largest-i64-times-2", tensor(&[largest, 2], F32), 37, product),
        refused(23, "TENSORS_NE_TOO_BIG", tensor(&[1 << 32, 1 << 32], F32), 37, product),
        refused(23, "product-wraps-to-256", tensor(&[(1 << 61) + 32, 8], F32), 37, product),
        refused(23, "four-times-2^16", tensor(&[1 << 16; 4], F32), 37, product),
        refused(24, "TENSORS_NBYTES_TOO_BIG", tensor(&[1 << 62], F32), 37, bytes),
        refused(24, "F64-bytes-wrap", tensor(&[1 << 60, 2], 28), 37, bytes),
        refused(
            24,
            "quantized-bytes-beyond-the-file",
            tensor(&[(1 << 42) + 32, 1 << 20], Q4_0),
            57,
            &["tensor `w`", "ends at byte"],
        ),
        refused(
            25,
            "TENSORS_NBYTES_PAD_WRAP",
            tensor(&[4, (1 << 30) - 1, (1 << 30) + 1], F32),
            65,
            bytes,
        ),
        refused(
            26,
            "DATA_MEM_SIZE_OVERFLOW",
            file(&[], &[info(b"w", &[1 << 61], F32, 0), info(b"v", &[1 << 61], F32, 1 << 63)], 64),
            49,
            &["tensor `w`", "ends at byte"],
        ),
        refused(27, "Q4_0-with-rows-of-33", tensor(&[33], Q4_0), 37, &["Q4_0", "33", "32"]),
        refused(27, "Q4_K-with-rows-of-128", tensor(&[128, 2], 12), 37, &["Q4_K", "128", "256"]),
        refused(28, "TENSORS_BAD_TYPE", tensor(&[32], 43), 45, &["type 43", "unknown"]),
        refused(28, "negative-type-of-tensor", tensor(&[32], u32::MAX), 45, &["unknown"]),
        refused(
            29,
            "tensor-without-a-name",
            file(&[], &[info_of(&text(b""), 1, &[8], F32, 0)], 32),
            24,
            &["empty"],
        ),
        refused(29, "name-of-64-bytes", named(&[b'n'; 64]), 24, &["64 bytes", "at most 63"]),
        refused(29, "name-of-1-MiB", named(&vec![b'n'; 1 << 20]), 24, &["1048576 bytes"]),
        refused(29, "name-with-NUL", named(b"blk.0\0"), 24, &["NUL at its byte 5"]),
        refused(29, "name-not-UTF-8", named(b"\xf0\x9f\x98"), 24, &["not UTF-8"]),
        refused(
            29,
            "TENSORS_DUPLICATE_NAME",
            file(&[], &[info(b"a", &[8], F32, 0), info(b"a", &[8], F32, 32)], 64),
            57,
            &["`a` occurs a second time"],
        ),
        case(29, "names-that-differ-in-case", model([b"x.weight", b"X.weight"]), Converted, &[]),
        case(
            29,
            "names-that-differ-in-normalization",
            model(["\u{e9}.weight".as_bytes(), "e\u{301}.weight".as_bytes()]),
            Converted,
            &[],
        ),
        case(29, "names-of-paths", model([b"../../../etc/passwd", b"/etc/CON"]), Converted, &[]),
        case(
            10,
            "escapes-in-names-of-tensors",
            model([&EVIL.as_bytes()[..60], &EVIL.as_bytes()[30..60]]),
            Converted,
            &[],
        ),
        case(
            11,
            "markup-in-names-of-tensors",
            model([b"</td><script>alert(1)</script>", b"=HYPERLINK(\"http://x\")"]),
            Converted,
            &[],
        ),
        refused(30, "TENSORS_BAD_OFFSET", offsets(0, 33), 82, offset),
        refused(30, "first-offset-not-0", offsets(32, 64), 49, offset),
        refused(
            30,
            "offset-2^64-32-into-the-header",
            offsets(0, 0_u64.wrapping_sub(32)),
            82,
            offset,
        ),
        refused(30, "same-data-twice", offsets(0, 0), 82, offset),
        refused(30, "partly-overlapping", offsets(0, 16), 82, offset),
        refused(30, "a-gap", offsets(0, 64), 82, offset),
        refused(30, "out-of-order", offsets(32, 0), 49, offset),
        refused(
            30,
            "shape-beyond-the-data",
            file(&[], &[info(b"w", &[1 << 20], F32, 0)], 64),
            49,
            &["tensor `w`", "ends at byte", "128"],
        ),
        refused(
            31,
            "DATA_NOT_ENOUGH_DATA",
            {
                let mut bytes = offsets(0, 32);
                bytes.pop();
                bytes
            },
            82,
            &["tensor `b`", "ends at byte 160", "159"],
        ),
        refused(31, "no-data", file(&[], &[info(b"w", &[8], F32, 0)], 0), 49, &["ends at byte 96"]),
        case(32, "TENSORS_CUSTOM_ALIGN", aligned(64), Converted, &[]),
        refused(32, "TENSORS_INCONSISTENT_ALIGN", aligned(32), 206, offset),
        case(
            31,
            "DATA_SUCCESS",
            model([b"blk.0.ffn_norm.weight", b"blk.0.attn_norm.weight"]),
            Converted,
            &[],
        ),
    ];
    let removed: [(u32, &'static str, &'static [&'static str]); 8] = [
        (4, "removed-type-4", &["Q4_2"]),
        (5, "removed-type-5", &["Q4_3"]),
        (31, "removed-type-31", &["Q4_0_4_4"]),
        (32, "removed-type-32", &["Q4_0_4_8"]),
        (33, "removed-type-33", &["Q4_0_8_8"]),
        (36, "removed-type-36", &["IQ4_NL_4_4"]),
        (37, "removed-type-37", &["IQ4_NL_4_8"]),
        (38, "removed-type-38", &["IQ4_NL_8_8"]),
    ];
    let of_removed =
        removed.map(|(ty, name, words)| refused(28, name, tensor(&[32], ty), 45, words));
    cases.extend(of_removed);
    cases
}
