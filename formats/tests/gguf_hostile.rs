//! Hostile and damaged files are refused, each for its own reason, at the right byte, quickly,
//! and without memory being reserved for what they claim.

mod gguf;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use gguf::{array, file, header, info, info_of, key, text};
use proptest::prelude::*;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{
    Gguf, GgufError, GgufWriter, LARGEST_HEADER, LONGEST_KEY, LONGEST_TENSOR_NAME, MOST_KEYS,
    MOST_TENSORS, Problem, Strings, TensorInfo,
};

/// A file, and where and why it is refused.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    offset: u64,
    /// What the message says was being read.
    subject: &'static str,
    problem: Problem,
}

fn case(
    name: &'static str,
    bytes: Vec<u8>,
    offset: u64,
    subject: &'static str,
    problem: Problem,
) -> Case {
    Case { name, bytes, offset, subject, problem }
}

fn past_end(needed: u64, remaining: u64) -> Problem {
    Problem::PastEnd { needed, remaining }
}

fn count(things: &'static str, found: u64, expected: u64, remaining: u64) -> Problem {
    Problem::Count { things, found, expected, remaining }
}

/// A version instead of the right one.
fn version(version: u32) -> Vec<u8> {
    let mut bytes = header(0, 0);
    bytes.splice(4..8, version.to_le_bytes());
    bytes
}

/// Magic, versions, counts.
fn headers() -> Vec<Case> {
    let zeros = |bytes: Vec<u8>, length| [bytes, vec![0; length]].concat();
    let (most_keys, most_tensors) =
        (usize::try_from(MOST_KEYS).expect("small"), usize::try_from(MOST_TENSORS).expect("small"));
    let refused = |name, bytes, offset, problem| case(name, bytes, offset, "header", problem);
    vec![
        refused("empty file", vec![], 0, past_end(4, 0)),
        refused("shorter than the magic", b"GGU".to_vec(), 0, past_end(4, 3)),
        refused("ggml magic", b"GGML".to_vec(), 0, Problem::Magic { found: *b"GGML" }),
        refused("zip", b"PK\x03\x04....".to_vec(), 0, Problem::Magic { found: *b"PK\x03\x04" }),
        refused("byte-swapped magic", b"FUGG\0\0\0\x03".to_vec(), 0, Problem::BigEndian),
        refused("magic only", b"GGUF".to_vec(), 4, past_end(4, 0)),
        refused("version 0", version(0), 4, Problem::Version { found: 0 }),
        refused("version 1", version(1), 4, Problem::Version { found: 1 }),
        refused("future version", version(4), 4, Problem::Version { found: 4 }),
        refused("largest version", version(u32::MAX), 4, Problem::Version { found: u32::MAX }),
        refused("big-endian 3", version(0x0300_0000), 4, Problem::BigEndian),
        refused("big-endian 2", version(0x0200_0000), 4, Problem::BigEndian),
        refused("cut before the counts", header(0, 0)[..8].to_vec(), 8, past_end(8, 0)),
        refused("cut in the tensor count", header(0, 0)[..15].to_vec(), 8, past_end(8, 7)),
        refused("cut in the key count", header(0, 0)[..20].to_vec(), 16, past_end(8, 4)),
        refused("2^64-1 tensors", header(u64::MAX, 0), 8, count("tensors", u64::MAX, 0, 0)),
        refused("2^63 tensors", header(1 << 63, 0), 8, count("tensors", 1 << 63, 0, 0)),
        refused("one tensor, no bytes", header(1, 0), 8, count("tensors", 1, 0, 0)),
        refused(
            "one tensor more than fits",
            zeros(header(4, 0), 33 * 4 - 1),
            8,
            count("tensors", 4, 3, 131),
        ),
        refused("2^64-1 keys", header(0, u64::MAX), 16, count("key-values", u64::MAX, 0, 0)),
        refused("2^61 keys", header(0, 1 << 61), 16, count("key-values", 1 << 61, 0, 0)),
        refused("one key, no bytes", header(0, 1), 16, count("key-values", 1, 0, 0)),
        refused(
            "a million keys in a small file",
            zeros(header(0, 1_000_000), 1400),
            16,
            count("key-values", 1_000_000, 100, 1400),
        ),
        refused(
            "more keys than are read",
            zeros(header(0, MOST_KEYS + 1), 14 * (most_keys + 1)),
            16,
            Problem::TooMany { things: "key-values", found: MOST_KEYS + 1, limit: MOST_KEYS },
        ),
        refused(
            "more tensors than are read",
            zeros(header(MOST_TENSORS + 1, 0), 33 * (most_tensors + 1)),
            8,
            Problem::TooMany { things: "tensors", found: MOST_TENSORS + 1, limit: MOST_TENSORS },
        ),
    ]
}

/// Names of keys. The first key begins at byte 24.
fn keys() -> Vec<Case> {
    let claims = |length: u64| {
        [header(0, 1), length.to_le_bytes().to_vec(), b"general.name".to_vec()].concat()
    };
    let named = |name: &[u8]| file(&[key(name, 0, &[7])], &[], 0);
    let refused = |name, bytes, problem| case(name, bytes, 24, "name of key 0", problem);
    let longest = usize::try_from(LONGEST_KEY).expect("small");
    vec![
        refused("key of 2^64-1 bytes", claims(u64::MAX), past_end(u64::MAX, 12)),
        refused("key of 2^63 bytes", claims(1 << 63), past_end(1 << 63, 12)),
        refused("key of 2^32 bytes", claims(1 << 32), past_end(1 << 32, 12)),
        refused("key one byte past the end", claims(13), past_end(13, 12)),
        case("key to the end", claims(12), 44, "key `general.name`", past_end(4, 0)),
        refused("empty key", file(&[key(b"", 8, &text(b"v"))], &[], 0), Problem::Empty),
        refused("key with NUL", named(b"a.b\0c"), Problem::Nul { at: 3 }),
        refused("key not UTF-8", named(b"general.\xff"), Problem::Utf8 { at: 8 }),
        refused("key with half a character", named(b"a\xc3"), Problem::Utf8 { at: 1 }),
        refused("key with a surrogate", named(b"\xed\xa0\x80"), Problem::Utf8 { at: 0 }),
        refused(
            "key of 65536 bytes",
            named(&vec![b'k'; longest + 1]),
            Problem::TooLong { found: LONGEST_KEY + 1, limit: LONGEST_KEY },
        ),
        case(
            "duplicate key",
            file(&[key(b"k", 0, &[1]), key(b"k", 0, &[2])], &[], 0),
            38,
            "name of key 1",
            Problem::Duplicate { name: "k".to_owned() },
        ),
    ]
}

/// Values. The key is `k`: its type is at byte 33, its value at byte 37.
fn values() -> Vec<Case> {
    let one = |key| file(&[key], &[], 0);
    let scalar = |ty, value: &[u8]| one(key(b"k", ty, value));
    let list = |ty, count, elements: &[u8]| one(array(b"k", ty, count, elements));
    let refused = |name, bytes, offset, problem| case(name, bytes, offset, "key `k`", problem);
    let bools = |found| Problem::Bool { found };
    vec![
        refused("unknown type", scalar(13, &[0; 8]), 33, Problem::ValueType { found: 13 }),
        refused(
            "negative type",
            scalar(u32::MAX, &[0; 8]),
            33,
            Problem::ValueType { found: u32::MAX },
        ),
        refused("value cut off", scalar(10, &[0; 3]), 37, past_end(8, 3)),
        refused("bool 2", scalar(7, &[2]), 37, bools(2)),
        refused("bool 255", scalar(7, &[255]), 37, bools(255)),
        refused(
            "string of 2^64-1 bytes",
            scalar(8, &u64::MAX.to_le_bytes()),
            37,
            past_end(u64::MAX, 0),
        ),
        refused(
            "string one byte past the end",
            scalar(8, &[&5_u64.to_le_bytes()[..], b"abcd"].concat()),
            37,
            past_end(5, 4),
        ),
        refused("string not UTF-8", scalar(8, &text(b"ok\xfe")), 37, Problem::Utf8 { at: 2 }),
        refused("overlong NUL", scalar(8, &text(b"\xc0\x80")), 37, Problem::Utf8 { at: 0 }),
        refused("array head cut off", scalar(9, &[4, 0, 0, 0, 1, 0]), 41, past_end(8, 2)),
        refused("array of unknown", list(99, 0, &[]), 37, Problem::ValueType { found: 99 }),
        refused("array of arrays", list(9, 1, &[0; 12]), 37, Problem::NestedArray),
        refused("array nested 200,000 deep", scalar(9, &nested(200_000)), 37, Problem::NestedArray),
        refused(
            "2^61 u64, whose bytes wrap to 0",
            list(10, 1 << 61, &[]),
            41,
            count("array elements", 1 << 61, 0, 0),
        ),
        refused(
            "2^61+1 u64, whose bytes wrap to 8",
            list(10, (1 << 61) + 1, &[0; 8]),
            41,
            count("array elements", (1 << 61) + 1, 1, 8),
        ),
        refused(
            "10^9 bools in a file of 43 bytes",
            list(7, 1_000_000_000, &[]),
            41,
            count("array elements", 1_000_000_000, 0, 0),
        ),
        refused(
            "2^64-1 strings",
            list(8, u64::MAX, &[0; 16]),
            41,
            count("array elements", u64::MAX, 2, 16),
        ),
        refused("2^63 u8", list(0, 1 << 63, &[0; 5]), 41, count("array elements", 1 << 63, 5, 5)),
        refused("array of bools with a 7", list(7, 3, &[1, 7, 0]), 50, bools(7)),
        case(
            "second string past the end",
            list(8, 2, &[text(b"ab"), 9_u64.to_le_bytes().to_vec()].concat()),
            59,
            "element 1 of key `k`",
            past_end(9, 0),
        ),
        case(
            "second string not UTF-8",
            list(8, 2, &[text(b"ab"), text(b"\x80")].concat()),
            59,
            "element 1 of key `k`",
            Problem::Utf8 { at: 0 },
        ),
    ]
}

/// Arrays of one array each.
fn nested(levels: usize) -> Vec<u8> {
    [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(levels)
}

/// `general.alignment`, whose type is at byte 49.
fn alignments() -> Vec<Case> {
    let with = |ty, value: &[u8]| file(&[key(b"general.alignment", ty, value)], &[], 0);
    let refused = |name, bytes, problem| case(name, bytes, 49, "key `general.alignment`", problem);
    let number = |name, found: u32| {
        refused(name, with(4, &found.to_le_bytes()), Problem::Alignment { found })
    };
    vec![
        refused(
            "alignment of type u64",
            with(10, &32_u64.to_le_bytes()),
            Problem::AlignmentType { found: "u64" },
        ),
        refused(
            "alignment of type string",
            with(8, &text(b"32")),
            Problem::AlignmentType { found: "string" },
        ),
        refused(
            "alignment of type i32",
            with(5, &32_i32.to_le_bytes()),
            Problem::AlignmentType { found: "i32" },
        ),
        number("alignment 0", 0),
        number("alignment 1", 1),
        number("alignment 4", 4),
        number("alignment 13", 13),
        number("alignment 24", 24),
        number("alignment 2^31", 1 << 31),
        number("alignment 2^32-1", u32::MAX),
    ]
}

/// Names of tensors. There are no keys: the first info begins at byte 24.
fn tensor_names() -> Vec<Case> {
    let named = |name: &[u8]| file(&[], &[info(name, &[8], 0, 0)], 32);
    let refused = |name, bytes, problem| case(name, bytes, 24, "name of tensor 0", problem);
    let limit = LONGEST_TENSOR_NAME;
    vec![
        refused(
            "tensor without a name",
            file(&[], &[info_of(&text(b""), 1, &[8], 0, 0)], 32),
            Problem::Empty,
        ),
        refused("name of 64 bytes", named(&[b'n'; 64]), Problem::TooLong { found: 64, limit }),
        refused(
            "name of 1 MiB",
            named(&vec![b'n'; 1 << 20]),
            Problem::TooLong { found: 1 << 20, limit },
        ),
        refused(
            "name of 2^64-1 bytes",
            [header(1, 0), u64::MAX.to_le_bytes().to_vec(), vec![0; 40]].concat(),
            past_end(u64::MAX, 40),
        ),
        refused("name with NUL", named(b"blk.0\0"), Problem::Nul { at: 5 }),
        refused("name not UTF-8", named(b"\xf0\x9f\x98"), Problem::Utf8 { at: 0 }),
        case(
            "duplicate name",
            file(&[], &[info(b"a", &[8], 0, 0), info(b"a", &[8], 0, 32)], 64),
            57,
            "name of tensor 1",
            Problem::Duplicate { name: "a".to_owned() },
        ),
    ]
}

/// Shapes and types of the tensor `w`: number of dimensions at byte 33, dimensions from byte 37.
fn shapes() -> Vec<Case> {
    let tensor = |dims: &[u64], ty| file(&[], &[info(b"w", dims, ty, 0)], 64);
    let declared = |count| file(&[], &[info_of(&text(b"w"), count, &[8], 0, 0)], 64);
    let refused = |name, bytes, offset, problem| case(name, bytes, offset, "tensor `w`", problem);
    let elements = |name, dims: &[u64]| {
        refused(name, tensor(dims, 0), 37, Problem::Elements { dims: dims.to_vec() })
    };
    let dimensions =
        |name, found| refused(name, declared(found), 33, Problem::Dimensions { found });
    let row = |ty, found, expected| Problem::Row { ty, found, expected };
    let mut cases = vec![
        dimensions("no dimensions", 0),
        dimensions("5 dimensions", 5),
        dimensions("10^6 dimensions", 1_000_000),
        dimensions("2^32-1 dimensions", u32::MAX),
        refused("first dimension 0", tensor(&[0, 4], 0), 37, Problem::ZeroDimension { axis: 0 }),
        refused("third dimension 0", tensor(&[4, 4, 0], 0), 37, Problem::ZeroDimension { axis: 2 }),
        elements("dimension 2^63", &[1 << 63]),
        elements("dimension -1", &[u64::MAX]),
        elements("largest i64 times 2", &[i64::MAX.unsigned_abs(), 2]),
        elements("2^32 times 2^32, product 0", &[1 << 32, 1 << 32]),
        elements("product wraps to 256", &[(1 << 61) + 32, 8]),
        elements("four dimensions of 2^16", &[1 << 16, 1 << 16, 1 << 16, 1 << 16]),
        refused("bytes wrap to 0", tensor(&[1 << 62], 0), 37, Problem::Bytes),
        refused("F64 bytes wrap", tensor(&[1 << 60, 2], 28), 37, Problem::Bytes),
        refused(
            "2^64-16 bytes, padding wraps",
            tensor(&[4, (1 << 30) - 1, (1 << 30) + 1], 0),
            65,
            Problem::Bytes,
        ),
        refused("Q4_0 with rows of 33", tensor(&[33], 2), 37, row("Q4_0", 33, 32)),
        refused("Q4_K with rows of 128", tensor(&[128, 2], 12), 37, row("Q4_K", 128, 256)),
        refused("MXFP4 with rows of 16", tensor(&[16, 4], 39), 37, row("MXFP4", 16, 32)),
        refused("type 43", tensor(&[32], 43), 45, Problem::UnknownType { found: 43 }),
        refused(
            "negative type of tensor",
            tensor(&[32], u32::MAX),
            45,
            Problem::UnknownType { found: u32::MAX },
        ),
    ];
    for (found, name) in [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ] {
        let problem = Problem::RemovedType { found, name };
        cases.push(refused("removed type", tensor(&[32], found), 45, problem));
    }
    cases
}

/// Offsets and data. An info with a name of 1 byte and 1 dimension has 33 bytes, its offset is
/// at byte 25 of them; with two of them the data begins at byte 96.
fn data() -> Vec<Case> {
    let two = |first, second, data| {
        file(&[], &[info(b"a", &[8], 0, first), info(b"b", &[16], 0, second)], data)
    };
    let offset = |found, expected| Problem::Offset { found, expected };
    let ends = |expected, found| Problem::DataPastEnd { expected, found };
    let cut = |at| file(&[], &[info(&[b'n'; 40], &[8, 8], 0, 0)], 256)[..at].to_vec();
    let name = "tensor `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn`";
    vec![
        case("unaligned offset", two(4, 32, 96), 49, "tensor `a`", offset(4, 0)),
        case("gap before the first", two(32, 64, 128), 49, "tensor `a`", offset(32, 0)),
        case("offset into the header", two(0u64.wrapping_sub(32), 0, 96), 49, "tensor `a`", {
            offset(0u64.wrapping_sub(32), 0)
        }),
        case("offset past the end", two(1 << 40, 0, 96), 49, "tensor `a`", offset(1 << 40, 0)),
        case("same data twice", two(0, 0, 96), 82, "tensor `b`", offset(0, 32)),
        case("partial overlap", two(0, 16, 96), 82, "tensor `b`", offset(16, 32)),
        case("gap between", two(0, 64, 128), 82, "tensor `b`", offset(64, 32)),
        case("out of order", two(64, 0, 96), 49, "tensor `a`", offset(64, 0)),
        case("no data at all", two(0, 32, 0), 49, "tensor `a`", ends(128, 96)),
        case("second cut off", two(0, 32, 64), 82, "tensor `b`", ends(192, 160)),
        case("last byte missing", two(0, 32, 95), 82, "tensor `b`", ends(192, 191)),
        case("ends before the data", two(0, 32, 0)[..90].to_vec(), 49, "tensor `a`", ends(128, 90)),
        case(
            "sizes add up past 2^64",
            file(&[], &[info(b"a", &[1 << 61], 0, 0), info(b"b", &[1 << 61], 0, 1 << 63)], 0),
            49,
            "tensor `a`",
            ends((1 << 63) + 96, 96),
        ),
        case(
            "one byte too many",
            two(0, 32, 97),
            192,
            "tensor data",
            Problem::Trailing { found: 1 },
        ),
        case(
            "a ZIP appended",
            [two(0, 32, 96), b"PK\x05\x06".to_vec(), vec![0; 18]].concat(),
            192,
            "tensor data",
            Problem::Trailing { found: 22 },
        ),
        case(
            "bytes after no tensors",
            [file(&[key(b"k", 0, &[1])], &[], 0), vec![0; 27]].concat(),
            64,
            "tensor data",
            Problem::Trailing { found: 27 },
        ),
        case("info cut in its name", cut(60), 24, "name of tensor 0", past_end(40, 28)),
        case("info cut in its dimension count", cut(74), 72, name, past_end(4, 2)),
        case("info cut in its dimensions", cut(90), 84, name, past_end(8, 6)),
        case("info cut in its type", cut(94), 92, name, past_end(4, 2)),
        case("info cut in its offset", cut(103), 96, name, past_end(8, 7)),
    ]
}

#[test]
fn hostile_files_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hostile.gguf");
    let cases = [headers(), keys(), values(), alignments(), tensor_names(), shapes(), data()];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    for Case { name, bytes, offset, subject, problem } in cases {
        std::fs::write(&path, &bytes).expect("room on the disk");
        let error = open_quickly(&path, name);
        let message = error.to_string();
        match &error {
            GgufError::Malformed { offset: at, problem: found, .. } => {
                assert_eq!((at, found), (&offset, &problem), "{name}: {message}");
            }
            other => panic!("{name}: {other}"),
        }
        let place = format!("hostile.gguf`, byte {offset}, {subject}: ");
        assert!(message.contains(&place), "{name}: {message}");
        assert!(!message.contains(char::is_control), "{name}: {message}");
        assert!(!message.ends_with('.'), "{name}: {message}");
    }
    // Of this whole process: the largest case is a file of 9 MB, and the claims begin at 4 GB.
    for (figure, limit) in [("VmHWM", 128 << 10), ("VmPeak", 2 << 20)] {
        if let Some(kib) = peak_kib(figure) {
            assert!(kib < limit, "{figure} is {kib} KiB");
        }
    }
}

/// Opens a bad file, which must take far less than a second; on a busy machine, not each time.
fn open_quickly(path: &Path, name: &str) -> GgufError {
    for _ in 0..5 {
        let start = Instant::now();
        let error = Gguf::open(path).expect_err(name);
        if start.elapsed() < Duration::from_millis(300) {
            return error;
        }
    }
    panic!("{name}: takes too long");
}

/// A memory figure of this process, where the system tells it.
fn peak_kib(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn names_are_escaped_in_messages() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("\u{1b}[2J.gguf");
    let name = "x\u{1b}]52;c;AA\u{7}\r\u{202e}";
    std::fs::write(&path, file(&[], &[info(name.as_bytes(), &[8], 99, 0)], 32)).expect("room");
    let message = Gguf::open(&path).expect_err("type 99").to_string();
    assert!(!message.contains(char::is_control) && !message.contains('\u{202e}'), "{message}");
    assert!(message.contains(r"tensor `x\u{1b}]52;c;AA\u{7}\u{d}\u{202e}`"), "{message}");
    assert!(message.contains(r"\u{1b}[2J.gguf"), "{message}");
}

#[test]
fn what_the_format_allows_is_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("good.gguf");
    let longest = usize::try_from(LONGEST_TENSOR_NAME).expect("small");
    let longest_key = usize::try_from(LONGEST_KEY).expect("small");
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    };
    for (name, bytes) in [
        ("no keys, no tensors", file(&[], &[], 0)),
        ("padded without tensors", padded(file(&[key(b"k", 0, &[1])], &[], 0))),
        ("longest key", file(&[key(&vec![b'k'; longest_key], 0, &[1])], &[], 0)),
        ("value with NUL", file(&[key(b"k", 8, &text(b"a\0b"))], &[], 0)),
        ("NaN", file(&[key(b"k", 6, &f32::NAN.to_le_bytes())], &[], 0)),
        ("tokens as numbers", file(&[array(b"tokenizer.ggml.tokens", 4, 1, &[0; 4])], &[], 0)),
        ("longest name", file(&[], &[info(&vec![b'n'; longest], &[8], 0, 0)], 32)),
        ("name with a path", file(&[], &[info(b"../../etc/passwd", &[8], 0, 0)], 32)),
        (
            "names that differ in case",
            file(&[], &[info(b"a", &[8], 0, 0), info(b"A", &[8], 0, 32)], 64),
        ),
        ("last padding left out", file(&[], &[info(b"w", &[3], 0, 0)], 12)),
        ("last padding cut short", file(&[], &[info(b"w", &[3], 0, 0)], 20)),
        ("four dimensions", file(&[], &[info(b"w", &[2, 2, 2, 1], 0, 0)], 32)),
    ] {
        std::fs::write(&path, bytes).expect("room on the disk");
        Gguf::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[cfg(unix)]
#[test]
fn a_sparse_file_does_not_make_a_large_header() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sparse.gguf");
    let length = 1_u64 << 40;
    for (name, bytes, offset) in [
        ("string", file(&[key(b"k", 8, &(length / 2).to_le_bytes())], &[], 0), 45),
        ("array", file(&[array(b"k", 10, LARGEST_HEADER / 8, &[])], &[], 0), 49),
    ] {
        std::fs::write(&path, bytes).expect("room on the disk");
        let sparse = File::options().write(true).open(&path).expect("the file");
        if sparse.set_len(length).is_err() {
            println!("skipped: the file system has no file of {length} bytes");
            return;
        }
        match open_quickly(&path, name) {
            GgufError::Malformed { offset: at, problem, .. } => {
                let expected = Problem::HeaderTooLarge { limit: LARGEST_HEADER };
                assert_eq!((at, problem), (offset, expected), "{name}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn special_files_are_not_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    let (fifo, socket) = (directory.path().join("fifo"), directory.path().join("socket"));
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let mut cases = vec![
        (directory.path(), "a directory"),
        (Path::new("/dev/zero"), "a character device"),
        (&socket, "a socket"),
    ];
    if made.is_ok_and(|status| status.success()) {
        cases.push((&fifo, "a FIFO"));
    }
    for (path, kind) in cases {
        match Gguf::open(path).expect_err(kind) {
            GgufError::NotRegular { found, .. } => assert_eq!(found, kind),
            other => panic!("{other}"),
        }
    }
    let absent = Gguf::open(&directory.path().join("absent")).expect_err("no file");
    assert!(matches!(absent, GgufError::Open { .. }), "{absent}");
}

/// A small good file with keys of many types and tensors of several.
fn good() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.metadata("general.architecture", "llama").expect("a key");
    writer.metadata("general.alignment", 64_u32).expect("a key");
    writer.metadata("llama.block_count", 2_u32).expect("a key");
    writer.metadata("a.bool", true).expect("a key");
    writer.metadata("a.list", vec![1_i16, -2, 3]).expect("a key");
    writer.metadata("a.bools", vec![true, false]).expect("a key");
    writer.metadata("tokens", ["a", "", "bcd"].iter().collect::<Strings>()).expect("a key");
    for (name, ty, dims) in [
        ("token_embd.weight", GgmlType::Q8_0, &[32, 3][..]),
        ("blk.0.attn_norm.weight", GgmlType::F32, &[5]),
        ("blk.0.ffn.weight", GgmlType::Q4K, &[256, 1, 2]),
        ("output.weight", GgmlType::F16, &[7, 2, 1, 1]),
    ] {
        writer.tensor(name, ty, dims).expect("a tensor");
    }
    let mut bytes = Vec::new();
    let data = |tensor: &TensorInfo| vec![0x5a; usize::try_from(tensor.bytes).expect("small")];
    writer.write(&mut bytes, data).expect("a vector takes all");
    bytes
}

/// Opens a file and, if that works, checks that all it promises can be read, from where no other
/// tensor is.
fn open_and_read_all(path: &Path, length: u64) -> bool {
    let Ok(model) = Gguf::open(path) else { return false };
    let mut end = model.shards()[0].data_start();
    for tensor in model.tensors() {
        assert!(tensor.offset >= end, "{tensor:?}");
        end = tensor.offset.checked_add(tensor.bytes).expect("in bounds");
        assert!(end <= length, "{tensor:?}");
        let rows = tensor.dims[1..].iter().product::<u64>();
        assert_eq!(rows * tensor.row_bytes(), tensor.bytes);
        let mut data = vec![0; usize::try_from(tensor.bytes).expect("small")];
        model.read_at(tensor, 0, &mut data).expect("in bounds");
    }
    for (_, value) in model.metadata().iter() {
        if let Some(strings) = value.as_strings() {
            assert!((0..strings.len()).all(|index| strings.get(index).is_some()));
        }
    }
    true
}

#[test]
fn every_truncation_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cut.gguf");
    let bytes = good();
    std::fs::write(&path, &bytes).expect("room on the disk");
    let file = File::options().write(true).open(&path).expect("the file");
    let last_padding = 64 - 28;
    for length in (0..=bytes.len()).rev() {
        file.set_len(length as u64).expect("a shorter file");
        let accepted = open_and_read_all(&path, length as u64);
        assert_eq!(accepted, length >= bytes.len() - last_padding, "{length} of {}", bytes.len());
    }
}

#[test]
fn every_changed_byte_of_the_header_is_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("changed.gguf");
    let bytes = good();
    std::fs::write(&path, &bytes).expect("room on the disk");
    let header = Gguf::open(&path).expect("a good file").shards()[0].data_start();
    let mut file = File::options().write(true).open(&path).expect("the file");
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).expect("in the file");
        file.write_all(&[byte]).expect("a byte in place");
    };
    for at in 0..usize::try_from(header).expect("small") {
        let kept = bytes[at];
        for changed in [0, 1, 0x7f, 0x80, 0xff, kept ^ 1, kept ^ 0x20, kept.wrapping_add(1)] {
            put(at, changed);
            open_and_read_all(&path, bytes.len() as u64);
        }
        put(at, kept);
    }
    assert!(open_and_read_all(&path, bytes.len() as u64));
}

/// Values that length and count fields are attacked with.
fn number() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 2, 31, 32, 33, 63, 64, 255, 256];
    prop_oneof![
        prop::sample::select(edges.to_vec()),
        (0_u32..64).prop_map(|bit| 1 << bit),
        (0_u32..64).prop_map(|bit| (1_u64 << bit).wrapping_neg()),
        (0_u32..64).prop_map(|bit| (1 << bit) - 1),
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn mutations_never_panic_nor_leave_the_file(
        numbers in prop::collection::vec((any::<prop::sample::Index>(), number(), 1_usize..=8), 0..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        copied in prop::option::weighted(0.2, (
            any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_usize..80
        )),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mutated.gguf");
        let mut bytes = good();
        for (at, number, width) in numbers {
            let at = at.index(600);
            for (place, byte) in bytes[at..].iter_mut().zip(&number.to_le_bytes()[..width]) {
                *place = *byte;
            }
        }
        if let Some((from, to, length)) = copied {
            let (from, to) = (from.index(600), to.index(600));
            bytes.copy_within(from..from + length, to);
        }
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).expect("room on the disk");
        open_and_read_all(&path, bytes.len() as u64);
    }
}
