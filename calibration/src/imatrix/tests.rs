//! Importance matrices of both formats, of a real model and damaged.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{GgufWriter, Value};

use super::*;

/// A tensor of a test's file.
struct Tensor {
    name: &'static str,
    dims: &'static [u64],
    values: Vec<f32>,
}

fn tensor(name: &'static str, dims: &'static [u64], values: &[f32]) -> Tensor {
    Tensor { name, dims, values: values.to_vec() }
}

fn gguf(kind: &str, tensors: &[Tensor]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.metadata("general.type", kind).unwrap();
    writer.metadata("imatrix.chunk_size", Value::U32(512)).unwrap();
    for tensor in tensors {
        writer.tensor(tensor.name, GgmlType::F32, tensor.dims).unwrap();
    }
    let mut file = Vec::new();
    writer.write_header(&mut file).unwrap();
    for tensor in tensors {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        file.extend_from_slice(&bytes);
        writer.write_padding(bytes.len() as u64, &mut file).unwrap();
    }
    file
}

/// A file in the old format: entries of a name, calls and values, and what ends the file.
fn dat(entries: &[(&str, i32, &[f32])], end: &[u8]) -> Vec<u8> {
    let integer = |x: usize| i32::try_from(x).unwrap().to_le_bytes();
    let mut file = integer(entries.len()).to_vec();
    for (name, calls, values) in entries {
        file.extend_from_slice(&integer(name.len()));
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(&calls.to_le_bytes());
        file.extend_from_slice(&integer(values.len()));
        file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    file.extend_from_slice(end);
    file
}

fn read(bytes: &[u8]) -> Result<ImportanceMatrix, ImatrixError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.imatrix");
    fs::write(&path, bytes).unwrap();
    ImportanceMatrix::read(&path)
}

/// `tests/golden/stories260K.imatrix.gguf` is what llama-imatrix (llama.cpp 0c1e57098) wrote for the
/// model of that name (MIT; tests/data/SOURCES.md has it); the means were computed by the Python package `gguf` and NumPy.
#[test]
fn a_real_file_has_the_means_that_another_reader_finds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stories260K.imatrix.gguf");
    let matrix = ImportanceMatrix::read(&path).unwrap();
    assert_eq!(matrix.entries.len(), 35);
    assert_eq!(matrix.datasets, ["../data/tinystories/eval_60k.txt"]);
    assert_eq!(matrix.chunk, Some(512));
    for (name, k, ends, sum) in [
        ("blk.0.attn_q.weight", 64, [0.424_318_73, 0.482_322_96, 0.576_485_75], 82.265_525_068),
        ("blk.4.ffn_down.weight", 172, [0.198_914_21, 0.216_138_6, 0.327_754_23], 55.340_936_627),
        ("blk.2.attn_output.weight", 64, [0.116_172_62, 0.134_942_32, 0.039_295_23], 5.200_999_873),
    ] {
        let entry = &matrix.entries[name];
        assert_eq!(entry.tokens, [28672], "{name}");
        let means = &entry.mean_squares;
        assert_eq!([means[0], means[1], means[k - 1]], ends, "{name}");
        let total: f64 = means.iter().map(|&mean| f64::from(mean)).sum();
        assert!((total - sum).abs() < 1e-6 * sum, "{name}: {total}");
    }
    let channels = |name: &str| match name {
        "blk.0.attn_q.weight" => Some(64),
        "blk.0.ffn_down.weight" => Some(172),
        _ => None,
    };
    let statistics = matrix.to_statistics(channels).unwrap();
    assert_eq!(statistics.inputs.len(), 2);
    let input = statistics.input_of("blk.0.attn_q.weight").unwrap();
    assert_eq!((input.k, input.tokens, input.sampled()), (64, 28672, 0));
    let rms = input.robust_channel_rms().unwrap();
    assert!((rms[0] - f64::from(0.424_318_73f32).sqrt()).abs() < 1e-9);
    assert!(input.hessian.is_none() && input.experts.is_empty());
    // Statistics like any other, which can be written.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    statistics.write(&path).unwrap();
    assert_eq!(Statistics::read(&path).unwrap(), statistics);
    let error = matrix.to_statistics(|_| Some(60)).unwrap_err();
    assert!(error.to_string().contains("has 64 values"), "{error}");
}

#[test]
fn experts_have_counts_of_their_own() {
    let squares = [2.0, 4.0, 0.0, 0.0, 9.0, 3.0];
    let file = gguf(
        "imatrix",
        &[
            tensor("up.in_sum2", &[2, 3], &squares),
            tensor("up.counts", &[1, 3], &[2.0, 0.0, 3.0]),
            tensor("up.in_sum", &[2, 3], &[1.0, -1.0, 0.0, 0.0, 3.0, 0.0]),
            tensor("other", &[1], &[f32::NAN]),
        ],
    );
    let matrix = read(&file).unwrap();
    let entry = &matrix.entries["up"];
    assert_eq!(entry.mean_squares, [1.0, 2.0, 0.0, 0.0, 3.0, 1.0]);
    assert_eq!(entry.means, [0.5, -0.5, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(entry.tokens, [2, 0, 3]);
    let statistics = matrix.to_statistics(|_| Some(2)).unwrap();
    let input = &statistics.inputs[0];
    assert_eq!((input.tokens, input.experts.len()), (5, 3));
    assert_eq!((&input.squares[..], &input.sum[..]), (&[11.0, 7.0][..], &[4.0, -1.0][..]));
    assert_eq!(input.experts[2].squares, [9.0, 3.0]);
    assert!(matrix.to_statistics(|_| Some(3)).is_err());
}

#[test]
fn the_old_format_is_read() {
    let entries: &[(&str, i32, &[f32])] =
        &[("b.weight", 4, &[8.0, 2.0]), ("a.weight", 2, &[2.0, 4.0, 6.0, 2.0])];
    let end = [&7i32.to_le_bytes()[..], &5i32.to_le_bytes(), b"a.txt"].concat();
    for (end, datasets) in [(&[][..], 0), (&end[..4], 0), (&end, 1)] {
        let matrix = read(&dat(entries, end)).unwrap();
        assert_eq!(matrix.datasets.len(), datasets);
        assert_eq!(matrix.entries["b.weight"].mean_squares, [2.0, 0.5]);
        assert_eq!(matrix.entries["b.weight"].tokens, [2048]);
        let statistics = matrix.to_statistics(|_| Some(2)).unwrap();
        let experts = &statistics.inputs[0].experts;
        assert_eq!((experts.len(), &experts[1].squares[..]), (2, &[3072.0, 1024.0][..]));
        assert!(statistics.inputs[1].experts.is_empty());
        assert!(matrix.to_statistics(|_| Some(3)).is_err());
        assert!(matrix.to_statistics(|_| Some(0)).is_err());
    }
}

#[test]
fn what_no_importance_can_be_is_refused() {
    let refused = |bytes: &[u8], message: &str| {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    let one = |squares: f32, count: f32| {
        gguf(
            "imatrix",
            &[tensor("a.in_sum2", &[1], &[squares]), tensor("a.counts", &[1], &[count])],
        )
    };
    refused(&one(f32::NAN, 1.0), "element 0 of `a.in_sum2`");
    refused(&one(-1.0, 1.0), "is -1, expected a finite number that is not negative");
    for count in [-1.0, 0.5, 1e30, f32::NAN] {
        refused(&one(1.0, count), "expected a count below 2^53");
    }
    refused(&gguf("model", &[]), "its `general.type` is `model`, expected `imatrix`");
    refused(&gguf("imatrix", &[]), "has no entries");
    refused(&gguf("imatrix", &[tensor("a.in_sum2", &[1], &[1.0])]), "`a.counts` in");
    refused(&gguf("imatrix", &[tensor("a.counts", &[1], &[1.0])]), "`a.in_sum2` in");
    let shapes = |squares: &'static [u64], counts: &'static [u64], sums: &'static [u64]| {
        let tensor = |name, dims: &'static [u64]| {
            tensor(name, dims, &vec![1.0; dims.iter().product::<u64>() as usize])
        };
        let tensors =
            [tensor("a.in_sum2", squares), tensor("a.counts", counts), tensor("a.in_sum", sums)];
        gguf("imatrix", &tensors)
    };
    refused(&shapes(&[4, 3], &[1, 2], &[4, 3]), "is of 2 elements, expected of 3 elements");
    refused(&shapes(&[4, 3], &[1, 3], &[4]), "is of 4 elements, expected of 12 elements");
    assert!(read(&shapes(&[4, 3], &[1, 1], &[4, 3])).is_ok());

    let good: &[(&str, i32, &[f32])] = &[("a", 1, &[1.0, 2.0])];
    refused(&dat(&[("a", 1, &[1.0, f32::INFINITY])], &[]), "element 1 of `a`");
    refused(&dat(&[("a", -1, &[1.0])], &[]), "the number of calls is -1");
    refused(&dat(&[("a", 1, &[])], &[]), "the number of values is 0");
    refused(&dat(&[("", 1, &[1.0])], &[]), "the length of a name is 0");
    refused(&dat(&[good[0], good[0]], &[]), "a name is `a` again");
    refused(&dat(good, &[0; 9]), "byte 33 of");
    refused(&[0; 4], "the number of entries is 0");
    refused(&[], "the number of entries is cut at 0 bytes");
    refused(&i32::MAX.to_le_bytes(), "expected from 1 to 0");
    let whole = dat(good, &[]);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
    assert!(matches!(ImportanceMatrix::read(Path::new("/")), Err(ImatrixError::NotAFile { .. })));
}

proptest! {
    /// Whatever the bytes, reading them gives importances or an error.
    #[test]
    fn reading_never_panics(
        change in (0usize..60, any::<u8>()),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let _ = dat::parse(Path::new("a"), &bytes);
        let mut file = dat(&[("a", 1, &[1.0, 2.0]), ("b", 1, &[3.0])], &[0; 8]);
        let length = file.len();
        file[change.0 % length] = change.1;
        let _ = dat::parse(Path::new("a"), &file);
    }
}
