//! Files that are written, read, damaged and merged.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::fs;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::super::tests::{near, of_experts, of_rows, options, rows};
use super::*;
use crate::statistics::{CollectionOptions, DataSource, FileDigest, InputStatistics, merge};

const K: usize = 12;

fn provenance(data: &str) -> Provenance {
    Provenance {
        model: vec![FileDigest { name: "m.gguf".into(), bytes: 7, sha256: "ab".repeat(32) }],
        architecture: "llama".into(),
        data: vec![DataSource { name: data.into(), bytes: 3, sha256: "cd".repeat(32) }],
        tokens: 2000,
        context: 512,
        seed: 3,
        tool: "0.1.0".into(),
        options: CollectionOptions {
            hessians: true,
            hessian_limit: 8192,
            expert_hessian_bytes: 4 << 30,
            rows: 16,
            rows_large: 4096,
            prefix: "float".into(),
        },
    }
}

/// A plain input, an input of experts, and one of which only squares are known.
fn statistics(data: &str, rows: &[f32]) -> Statistics {
    let mut plain = of_rows("blk.0.attn_q.weight", rows, K);
    plain.linears.push("blk.0.attn_k.weight".into());
    let importance = InputStatistics {
        linears: vec!["output.weight".into()],
        k: 3,
        tokens: 9,
        squares: vec![1.0, 2.0, 0.5],
        ..InputStatistics::default()
    };
    let experts = of_experts("blk.0.ffn_up_exps.weight", rows, K, 3);
    Statistics { provenance: provenance(data), inputs: vec![plain, experts, importance] }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_is_written_is_read() {
    let folder = folder();
    let path = folder.path().join("a.stats.safetensors");
    let written = statistics("a.txt", &rows(2000, K, 1));
    written.write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(Statistics::read(&path).unwrap(), written);
    // Again, over what stands there, the same bytes; and nothing else in the folder.
    written.write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    // Any safetensors reader sees aligned tensors.
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 7 + 12 + 1);
    let hessian = tensors.tensor("blk.0.ffn_up_exps.weight.experts.hessian").unwrap();
    assert_eq!(hessian.shape(), [3, K, K]);
    for (name, tensor) in tensors.iter() {
        let offset = tensor.data().as_ptr().addr() - bytes.as_ptr().addr();
        assert!(offset.is_multiple_of(tensor.dtype().bitsize() / 8), "{name}");
    }

    let file = StatisticsFile::open(&path).unwrap();
    assert_eq!(file.path(), path);
    assert_eq!(file.index_of("blk.0.attn_k.weight"), Some(0));
    assert_eq!(file.index_of("blk.0.attn_v.weight"), None);
    let entry = &file.inputs()[1];
    assert_eq!((entry.experts, entry.hessian, entry.expert_hessians), (Some(3), true, true));
    let input = &written.inputs[1];
    assert_eq!(file.load_hessian(1, None).unwrap(), input.hessian);
    assert_eq!(file.load_hessian(1, Some(2)).unwrap(), input.experts[2].hessian);
    assert_eq!(file.load_hessian(2, None).unwrap(), None);
    let mut light = file.load_sums(1).unwrap();
    assert!(light.rows.is_empty() && light.hessian.is_none());
    light.hessian = input.hessian.clone();
    for (expert, full) in light.experts.iter_mut().zip(&input.experts) {
        expert.hessian = full.hessian.clone();
    }
    light.rows = file.load_sums_and_rows(1).unwrap().rows;
    assert_eq!(&light, input);
}

#[test]
fn parts_are_concatenated_to_the_bytes_of_the_whole() {
    let folder = folder();
    let whole = statistics("a.txt", &rows(1500, K, 1));
    let path = |name: &str| folder.path().join(name);
    whole.write(&path("whole")).unwrap();
    let parts: Vec<PathBuf> = whole
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let part = path(&index.to_string());
            let inputs = vec![input.clone()];
            Statistics { provenance: Provenance::default(), inputs }.write(&part).unwrap();
            part
        })
        .collect();
    concatenate(&parts, &whole.provenance, &path("joined")).unwrap();
    assert_eq!(fs::read(path("joined")).unwrap(), fs::read(path("whole")).unwrap());
    let twice = concatenate(&[path("0"), path("0")], &whole.provenance, &path("twice"));
    assert!(twice.unwrap_err().to_string().contains("`blk.0.attn_q.weight` occurs twice"));
    assert!(!path("twice").exists());
}

#[test]
fn two_texts_merge_to_what_is_observed_of_both() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    // The same rows first, and so the same medians.
    let first = rows(1024, K, 1);
    let (a, b) = ([&first[..], &rows(300, K, 2)].concat(), [&first[..], &rows(700, K, 3)].concat());
    statistics("a.txt", &a).write(&path("a")).unwrap();
    statistics("b.txt", &b).write(&path("b")).unwrap();
    merge(&[path("a"), path("b")], &path("merged")).unwrap();
    let merged = Statistics::read(&path("merged")).unwrap();
    let whole = statistics("both", &[a, b].concat());

    let names: Vec<&str> = merged.provenance.data.iter().map(|data| data.name.as_str()).collect();
    assert_eq!(names, ["a.txt", "b.txt"]);
    assert_eq!(merged.provenance.tokens, 4000);
    let plain = (&merged.inputs[0], &whole.inputs[0]);
    assert_eq!(plain.0.sampled(), 16);
    assert_eq!(merged.inputs[2].squares, [2.0, 4.0, 1.0]);
    for (merged, whole) in merged.inputs.iter().zip(&whole.inputs).take(2) {
        assert_eq!(merged.tokens, whole.tokens);
        assert_eq!(merged.magnitudes, whole.magnitudes);
        assert_eq!(merged.rotated, whole.rotated);
        assert_eq!((merged.rms.count, merged.crest.count), (whole.rms.count, whole.crest.count));
        assert_eq!((merged.rms.least, merged.rms.greatest), (whole.rms.least, whole.rms.greatest));
        for channel in 0..K {
            let size = whole.squares[channel];
            assert!(near(merged.squares[channel], size, size, 1e-12));
            assert!(near(merged.sum[channel], whole.sum[channel], size, 1e-12));
        }
    }
    // Experts' first rows differ with what follows them, and so do their medians.
    for channel in 0..K {
        let size = plain.1.robust_squares[channel];
        assert!(near(plain.0.robust_squares[channel], size, size, 1e-12));
    }
    assert!(near(plain.0.robust_weight, plain.1.robust_weight, plain.1.robust_weight, 1e-12));
    let [found, expected] = [plain.0, plain.1].map(|input| input.hessian.as_ref().unwrap());
    for index in 0..K * K {
        let size = (expected[index / K * (K + 1)] * expected[index % K * (K + 1)]).sqrt();
        let (found, expected) = (f64::from(found[index]), f64::from(expected[index]));
        assert!(near(found, expected, f64::from(size), 1e-5), "{found} {expected}");
    }
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let whole = statistics("a.txt", &rows(100, K, 1));
    whole.write(&path("a")).unwrap();
    let refused = |change: fn(&mut Statistics), message: &str| {
        let mut other = whole.clone();
        change(&mut other);
        other.write(&path("b")).unwrap();
        let error = merge(&[path("a"), path("b")], &path("merged")).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("/b`") && error.hint().is_some());
        assert!(!path("merged").exists());
    };
    refused(
        |other| other.provenance.model[0].sha256 = "0".repeat(64),
        "the model is `m.gguf` (7 bytes, SHA-256 abababababab…) in the first and `m.gguf` (7 bytes, \
         SHA-256 000000000000…) in the second",
    );
    refused(|other| other.provenance.options.prefix = "w4a8".into(), "the prefix is float");
    refused(|other| other.provenance.options.rows = 9, "the set of options is");
    refused(|other| other.inputs.truncate(2), "the number of inputs is 3 in the first and 2");
    refused(|other| other.inputs[0].linears[1] = "x".into(), "missing in the second");
    refused(
        |other| other.inputs[0].hessian = None,
        "the input of `blk.0.attn_q.weight` is 12 chan",
    );
    assert!(matches!(merge(&[], &path("merged")), Err(StatisticsError::Nothing)));
}

#[test]
fn statistics_of_another_model_are_refused() {
    let mut statistics = statistics("a.txt", &rows(10, K, 1));
    let mut model = statistics.provenance.model.clone();
    model[0].name = "renamed.gguf".into();
    statistics.check_model(&model).unwrap();
    model[0].bytes = 8;
    let error = statistics.check_model(&model).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the statistics are of `m.gguf` (7 bytes, SHA-256 abababababab…), the model is \
         `renamed.gguf` (8 bytes, SHA-256 abababababab…)"
    );
    assert_eq!(error.hint(), Some("run `tessera calibrate` with this model"));
    assert!(statistics.check_model(&[]).is_err());
    statistics.provenance.model.clear();
    statistics.check_model(&model).unwrap();
}

#[test]
fn what_no_sum_can_be_is_not_written() {
    let folder = folder();
    let path = folder.path().join("a");
    let whole = statistics("a.txt", &rows(100, K, 1));
    let refused = |change: fn(&mut InputStatistics), message: &str| {
        let mut broken = whole.clone();
        change(&mut broken.inputs[0]);
        let error = broken.write(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!path.exists());
    };
    refused(|input| input.squares[3] = -1.0, "element 3 of `blk.0.attn_q.weight.squares` in `");
    refused(|input| input.sum[2] = f64::NAN, "is NaN, expected a finite number");
    refused(|input| input.squares.truncate(3), "squares of the input of");
    refused(|input| input.hessian.as_mut().unwrap()[1] += 1.0, "is ");
    refused(|input| input.rows[5] = 0.1, "a finite number of BF16");
    refused(|input| input.rms.count = 1000, "rms of the input of");
    refused(|input| input.tokens = 99, "magnitudes of the input of");
    refused(|input| input.tokens = u64::MAX, "size of the input of");
    refused(|input| input.robust_weight = f64::INFINITY, "robust weight");
    refused(|input| input.massive = 101, "massive of the input of");
    refused(|input| input.linears.clear(), "linears of the input of");
}

/// The bytes of a file, its header as text, and where its data begin.
fn parts(bytes: &[u8]) -> (String, usize) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..8 + length].to_vec()).unwrap(), 8 + length)
}

/// The file with a part of its header replaced.
fn with_header(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (header, data) = parts(bytes);
    assert!(header.contains(from), "{from} in {header}");
    let header = header.replacen(from, to, 1);
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &bytes[data..]].concat()
}

#[test]
fn damaged_files_are_refused_with_what_is_wrong() {
    let folder = folder();
    let path = folder.path().join("a\u{1b}[2J");
    statistics("a.txt", &rows(100, K, 1)).write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let (_, data) = parts(&good);
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Statistics::read(&path).unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        error
    };
    let header = |from: &str, to: &str, message: &str| {
        let error = read(&with_header(&good, from, to)).to_string();
        assert!(error.contains(message), "{error}");
    };
    header("\\\"version\\\":[1,0]", "\\\"version\\\":[1,1]", "has version 1.1 of the statistics");
    header("\\\"version\\\":[1,0]", "\\\"version\\\":[2,0]", "this tessera reads 1.0 to 1.0");
    header("\\\"format\\\":\\\"tessera-s", "\\\"format\\\":\\\"x", "`format` is `xtatistics`");
    header("{\"tessera-statistics\"", "{\"tessera\"", "holds no statistics");
    header("\\\"medians\\\"", "\\\"median\\\"", "unknown field `median`");
    header("\\\"seed\\\":3", "\\\"seed\\\":3,\\\"seed\\\":3", "duplicate field `seed`");
    header("\\\"tokens\\\":100", "\\\"tokens\\\":101", "expected of 1212 finite elements");
    header("\\\"k\\\":12", "\\\"k\\\":18446744073709551615", "expected F64 [18446744073709551615]");
    header("\\\"k\\\":12", "\\\"k\\\":0", "k of the input of `blk.0.attn_q.weight`");
    header("\\\"experts\\\":3", "\\\"experts\\\":4", "U64 [3], expected U64 [4]");
    header("\\\"experts\\\":3,", "", "absent: the input has no experts");
    header("output.weight.squares", "output.weight.squared", "belongs to no input");
    header("blk.0.ffn_up_exps.weight.experts.tokens", "x", "is missing, expected U64 [3]");
    header(
        "\"dtype\":\"F64\",\"shape\":[12]",
        "\"dtype\":\"U64\",\"shape\":[12]",
        "expected F64 [12]",
    );
    header("\"shape\":[12]", "\"shape\":[3,4]", "is F64 [3, 4], expected F64 [12]");
    header("\"shape\":[12]", "\"shape\":[13]", "the header of");
    header(
        "blk.0.attn_k.weight",
        "blk.0.attn_q.weight",
        "linear `blk.0.attn_q.weight` occurs twice",
    );
    header("\\\"exponent\\\":-", "\\\"exponent\\\":-1", "width of bins");

    // A square of the first input: its second tensor.
    let mut bytes = good.clone();
    bytes[data + (K + 7) * 8..][..8].copy_from_slice(&f64::NAN.to_le_bytes());
    let error = read(&bytes);
    let StatisticsError::Value { input, tensor, index, .. } = &error else { panic!("{error}") };
    assert_eq!((input.as_str(), *tensor, *index), ("blk.0.attn_q.weight", "squares", 7));
    let mut bytes = good.clone();
    bytes[data + (K + 7) * 8..][..8].copy_from_slice(&(-1e-300f64).to_le_bytes());
    assert!(read(&bytes).to_string().contains("is -0.0000"), "negative square");

    for length in [0, 7, 8, 100, data - 1, data, good.len() - 1] {
        read(&good[..length]);
    }
    read(&[&good[..], b"x"].concat());
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(read(&long), StatisticsError::HeaderLength { .. }));
    assert!(matches!(StatisticsFile::open(folder.path()), Err(StatisticsError::NotAFile { .. })));
    let missing = StatisticsFile::open(&folder.path().join("none")).unwrap_err();
    assert!(matches!(missing, StatisticsError::Io { action: "open", .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever bytes are changed, reading gives statistics or an error.
    #[test]
    fn reading_never_panics(
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>(), any::<bool>()), 1..4),
    ) {
        let folder = folder();
        let path = folder.path().join("a");
        statistics("a.txt", &rows(40, K, 1)).write(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let (header, _) = parts(&bytes);
        let used = header.trim_end().len() + 8;
        for (place, byte, in_header) in changes {
            let range = if in_header { used } else { bytes.len() };
            let index = (place * range as f64) as usize;
            bytes[index] = byte;
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(statistics) = Statistics::read(&path) {
            prop_assert!(statistics.write(&path).is_ok());
        }
    }
}

/// Options are those that the tests' provenance tells of.
#[test]
fn provenance_tells_the_options() {
    assert_eq!(provenance("a").options.rows, options().rows as u64);
}
