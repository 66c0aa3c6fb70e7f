//! Round trips, and files that are not what they say.

use std::io;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::perplexity::{Chunks, LogSoftmax};

/// Two chunks of 5 tokens, 2 scored positions each, over 3 tokens.
fn chunks() -> Chunks {
    Chunks::new(&[0, 1, 2, 0, 1, 2, 2, 1, 0, 0], 5, None, None).unwrap()
}

fn row(logits: &[f32]) -> StoredRow {
    StoredRow::encode(&LogSoftmax::new(logits).unwrap())
}

/// A file of four rows.
fn write(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("base.logits");
    let mut writer = LogitsFileWriter::create(&path, &chunks(), 3).unwrap();
    for index in 0..4u8 {
        writer.write_row(&row(&[f32::from(index), 1.0, -2.5])).unwrap();
    }
    writer.finish(false).unwrap();
    path
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder);
    // Magic, three counts, ten tokens, four rows of 3 rounded to 4 and 4 u16.
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 + 12 + 40 + 4 * 16);
    let file = LogitsFile::open(&path).unwrap();
    assert_eq!((file.context(), file.vocabulary(), file.chunks()), (5, 3, 2));
    assert_eq!(file.tokens(), chunks().tokens());
    for index in 0..4u8 {
        let found = file.row(usize::from(index / 2), usize::from(index % 2)).unwrap();
        assert_eq!(found, row(&[f32::from(index), 1.0, -2.5]));
    }
    for (chunk, position) in [(2, 0), (0, 2), (usize::MAX, 0), (0, usize::MAX)] {
        assert!(matches!(file.row(chunk, position), Err(LogitsFileError::Rows { .. })));
    }
}

#[test]
fn a_file_appears_only_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.logits");
    let mut writer = LogitsFileWriter::create(&path, &chunks(), 3).unwrap();
    let error = writer.write_row(&row(&[0.0; 4])).unwrap_err();
    assert!(matches!(error, LogitsFileError::Rows { expected: 3, found: 4, .. }), "{error}");
    writer.write_row(&row(&[0.0; 3])).unwrap();
    let error = writer.finish(false).unwrap_err();
    assert!(matches!(error, LogitsFileError::Rows { expected: 4, found: 1, .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let path = write(&folder);
    let mut writer = LogitsFileWriter::create(&path, &chunks(), 1).unwrap();
    for _ in 0..4 {
        writer.write_row(&row(&[0.0])).unwrap();
    }
    let error = writer.write_row(&row(&[0.0])).unwrap_err();
    assert!(matches!(error, LogitsFileError::Rows { expected: 4, found: 5, .. }), "{error}");
    assert!(matches!(writer.finish(false), Err(LogitsFileError::Exists { .. })));
    assert_eq!(LogitsFile::open(&path).unwrap().vocabulary(), 3);
    let absent = folder.path().join("absent/base.logits");
    let error = LogitsFileWriter::create(&absent, &chunks(), 3).unwrap_err();
    assert!(matches!(error, LogitsFileError::Io { .. }), "{error}");
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(write(&folder)).unwrap();
    let path = folder.path().join("damaged.logits");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        LogitsFile::open(&path)
    };
    // Every cut is seen at once, whatever is left.
    for length in 0..whole.len() {
        let error = open(&whole[..length]).unwrap_err();
        if length < MAGIC.len() {
            assert!(matches!(error, LogitsFileError::Magic { .. }), "{length}: {error}");
        } else {
            assert!(
                matches!(error, LogitsFileError::Length { found, .. } if found == length as u64),
                "{length}: {error}"
            );
        }
    }
    let error = open(&[&whole[..], &[0]].concat()).unwrap_err();
    assert!(error.to_string().contains("at its end"), "{error}");
    assert!(open(&whole).is_ok());

    // (where, what to put there, the message's end)
    let cases: [(usize, [u8; 4], &str); 13] = [
        (0, *b"GGUF", "it starts with `GGUFits_`, not `_logits_`"),
        (8, [0; 4], "the context at byte 8 is 0, and must be at least 3"),
        (8, [255; 4], "the context at byte 8 is -1, and must be at least 3"),
        (8, 6u32.to_le_bytes(), "its header asks for 132: it is incomplete"),
        (12, [0; 4], "the vocabulary at byte 12 is 0, and must be at least 1"),
        (12, [255, 255, 255, 127], "its header asks for 17179869276: it is incomplete"),
        (12, 4u32.to_le_bytes(), ""),
        (16, [0; 4], "the number of chunks at byte 16 is 0, and must be at least 1"),
        (16, [255, 255, 255, 127], "its header asks for 111669149664: it is incomplete"),
        (16, 1u32.to_le_bytes(), "it has bytes at its end that are not its own"),
        (
            24,
            [255; 4],
            "a token at byte 24 is 4294967295, and must be less than the vocabulary of 3",
        ),
        (
            56,
            3u32.to_le_bytes(),
            "a token at byte 56 is 3, and must be less than the vocabulary of 3",
        ),
        (20, 2u32.to_le_bytes(), ""),
    ];
    for (at, bytes, end) in cases {
        let mut damaged = whole.clone();
        damaged[at..at + 4].copy_from_slice(&bytes);
        match open(&damaged) {
            Ok(_) => assert_eq!(end, "", "byte {at}"),
            Err(error) => {
                let message = error.to_string();
                assert!(!end.is_empty() && message.ends_with(end), "byte {at}: {message}");
                assert!(message.contains("damaged.logits"), "{message}");
            }
        }
    }
    // The largest counts there can be neither overflow nor allocate.
    let mut largest = whole.clone();
    largest[8..20].copy_from_slice(&[[255, 255, 255, 127]; 3].concat());
    assert!(matches!(open(&largest), Err(LogitsFileError::Length { expected: u64::MAX, .. })));

    let rows_at = 60;
    for (at, value, field) in [
        (rows_at, f32::NAN, "the scale of a row at byte 60"),
        (rows_at, -1e-9, "the scale of a row at byte 60"),
        (rows_at, 1.0, "the greatest log-probability of a row at byte 60"),
        (rows_at + 4, f32::NEG_INFINITY, "the minimum of a row at byte 64"),
        (rows_at + 4, 0.5, "the greatest log-probability of a row at byte 60"),
    ] {
        let mut damaged = whole.clone();
        damaged[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let file = open(&damaged).unwrap();
        let message = file.row(0, 0).unwrap_err().to_string();
        assert!(message.contains(field), "{message}");
        assert!(file.row(0, 1).is_ok());
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = LogitsFile::open(folder.path()).unwrap_err();
    assert!(matches!(error, LogitsFileError::NotAFile { .. }), "{error}");
    let error = LogitsFile::open(&folder.path().join("absent\u{7}")).unwrap_err();
    assert!(error.to_string().ends_with("absent\\u{7}`"), "{error}");
    let LogitsFileError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
}

#[test]
fn files_of_other_runs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = LogitsFile::open(&write(&folder)).unwrap();
    let tokens = chunks().tokens().to_vec();
    let check = |tokens: &[u32], context, vocabulary| {
        let chunks = Chunks::of_whole(tokens.to_vec(), context, Some(1)).unwrap();
        file.check(&chunks, vocabulary).map_err(|error| error.to_string())
    };
    assert_eq!(check(&tokens, 5, 3), Ok(()));
    assert_eq!(check(&tokens[..5], 5, 3), Ok(()));
    let mut other = tokens.clone();
    other[6] = 0;
    let longer = [&tokens[..], &tokens[..5]].concat();
    for (result, end) in [
        (check(&tokens, 10, 3), "holds a context of 5, and this run has 10"),
        (check(&tokens, 5, 4), "holds a vocabulary of 3, and this run has 4"),
        (check(&longer, 5, 3), "holds a number of chunks of 2, and this run has 3"),
        (check(&other, 5, 3), "token 6, at byte 44, is 2, and this run's is 0"),
    ] {
        let message = result.unwrap_err();
        assert!(message.ends_with(end), "{message}");
    }
}

proptest! {
    #[test]
    fn log_probabilities_are_off_by_half_a_step(
        logits in prop::collection::vec(-25.0f32..25.0, 1..60),
        shift in -1e3f32..1e3,
    ) {
        let logits: Vec<f32> = logits.iter().map(|logit| logit + shift).collect();
        let softmax = LogSoftmax::new(&logits).unwrap();
        let row = StoredRow::encode(&softmax);
        prop_assert!(row.problem().is_none());
        prop_assert!(row.scale() <= 16.0 / 65535.0 * 1.000_01);
        let lowest = softmax.max() - StoredRow::RANGE;
        for (token, (stored, logit)) in row.log_probabilities().iter().zip(&logits).enumerate() {
            let exact = -softmax.nll(token) + f64::from((lowest - logit).max(0.0));
            let bound = f64::from(row.scale()) / 2.0 + 1e-5;
            prop_assert!((f64::from(*stored) - exact).abs() <= bound, "{stored} {exact}");
        }
        let mut bytes = Vec::new();
        row.append_to(&mut bytes);
        prop_assert_eq!(bytes.len() as u64, row_bytes(logits.len() as u64));
        prop_assert_eq!(StoredRow::from_bytes(&bytes, logits.len()), Some(row));
        prop_assert_eq!(StoredRow::from_bytes(&bytes[..7], logits.len()), None);
    }
}

#[test]
fn rows_without_a_usable_scale() {
    for logits in [vec![2.5f32; 3], vec![0.0, 1e-44, 0.0], vec![f32::MAX, -f32::MAX]] {
        let softmax = LogSoftmax::new(&logits).unwrap();
        let row = StoredRow::encode(&softmax);
        assert!(row.problem().is_none());
        let stored = row.log_probabilities()[softmax.top()];
        assert!((f64::from(stored) + softmax.nll(softmax.top())).abs() < 1e-5, "{logits:?}");
    }
}
