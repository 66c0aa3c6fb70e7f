//! Statistics and logits files against llama-perplexity and against the definitions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::perplexity::{
    Chunks, Comparison, Evaluation, EvaluationError, LogSoftmax, LogitsFile, LogitsFileWriter,
    Participant, Reference, ReferenceRow, StoredRow, Summary, TokenStatistics,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/perplexity").join(name)
}

fn f32s(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Statistics of rows of logits against a file's rows.
fn against_file(base: &LogitsFile, logits: impl Fn(usize, usize) -> Vec<f32>) -> Summary {
    let chunks = Chunks::of_whole(base.tokens().to_vec(), base.context(), None).unwrap();
    let mut tokens = Vec::new();
    for chunk in 0..chunks.len() {
        for (position, &label) in chunks.labels(chunk).iter().enumerate() {
            let logits = logits(chunk, position);
            let row = LogSoftmax::new(&logits).unwrap();
            let stored = base.row(chunk, position).unwrap();
            let reference = Some(ReferenceRow::Stored(&stored));
            tokens.push(TokenStatistics::new(&row, label as usize, reference));
        }
    }
    Summary::new(&tokens).unwrap()
}

/// What llama-perplexity prints: the numbers of each line.
fn printed(text: &str) -> BTreeMap<String, Vec<f64>> {
    text.lines()
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(name, numbers)| {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            let plain = numbers.replace(['±', '%'], " ");
            (name, plain.split_whitespace().map(|number| number.parse().unwrap()).collect())
        })
        .collect()
}

/// The same names and numbers, percentages in percent, from a summary.
fn named(summary: &Summary) -> Vec<(&'static str, Vec<f64>)> {
    let comparison = summary.comparison.as_ref().unwrap();
    let Comparison { ppl_ref, correlation, ln_ratio, ratio, difference, .. } = *comparison;
    let Comparison { kld, delta_p, rms_delta_p, same_top, .. } = *comparison;
    let percent = |x: f64| 100.0 * x;
    vec![
        ("Mean PPL(Q)", vec![summary.ppl.value, summary.ppl.error]),
        ("Mean PPL(base)", vec![ppl_ref.value, ppl_ref.error]),
        ("Cor(ln(PPL(Q)), ln(PPL(base)))", vec![percent(correlation)]),
        ("Mean ln(PPL(Q)/PPL(base))", vec![ln_ratio.value, ln_ratio.error]),
        ("Mean PPL(Q)/PPL(base)", vec![ratio.value, ratio.error]),
        ("Mean PPL(Q)-PPL(base)", vec![difference.value, difference.error]),
        ("Mean KLD", vec![kld.mean.value, kld.mean.error]),
        ("Maximum KLD", vec![kld.maximum]),
        ("99.9% KLD", vec![kld.p99_9]),
        ("99.0% KLD", vec![kld.p99]),
        ("95.0% KLD", vec![kld.p95]),
        ("90.0% KLD", vec![kld.p90]),
        ("Median KLD", vec![kld.median]),
        ("10.0% KLD", vec![kld.p10]),
        ("5.0% KLD", vec![kld.p5]),
        ("1.0% KLD", vec![kld.p1]),
        ("0.1% KLD", vec![kld.p0_1]),
        ("Minimum KLD", vec![kld.minimum]),
        ("Mean Δp", vec![percent(delta_p.mean.value), percent(delta_p.mean.error)]),
        ("Maximum Δp", vec![percent(delta_p.maximum)]),
        ("99.9% Δp", vec![percent(delta_p.p99_9)]),
        ("99.0% Δp", vec![percent(delta_p.p99)]),
        ("95.0% Δp", vec![percent(delta_p.p95)]),
        ("90.0% Δp", vec![percent(delta_p.p90)]),
        ("75.0% Δp", vec![percent(delta_p.p75)]),
        ("Median Δp", vec![percent(delta_p.median)]),
        ("25.0% Δp", vec![percent(delta_p.p25)]),
        ("10.0% Δp", vec![percent(delta_p.p10)]),
        ("5.0% Δp", vec![percent(delta_p.p5)]),
        ("1.0% Δp", vec![percent(delta_p.p1)]),
        ("0.1% Δp", vec![percent(delta_p.p0_1)]),
        ("Minimum Δp", vec![percent(delta_p.minimum)]),
        ("RMS Δp", vec![percent(rms_delta_p.value), percent(rms_delta_p.error)]),
        ("Same top p", vec![percent(same_top.value), percent(same_top.error)]),
    ]
}

#[test]
fn statistics_are_those_that_llama_perplexity_prints() {
    let base = LogitsFile::open(&golden("stories260K-F32.logits")).unwrap();
    let model = LogitsFile::open(&golden("stories260K-Q4_0.logits")).unwrap();
    let summary = against_file(&base, |chunk, position| {
        model.row(chunk, position).unwrap().log_probabilities()
    });
    let printed = printed(&std::fs::read_to_string(golden("stories260K-Q4_0.txt")).unwrap());
    let ours = named(&summary);
    assert_eq!(ours.len(), printed.len());
    for (name, numbers) in ours {
        let expected = &printed[name];
        assert_eq!(numbers.len(), expected.len(), "{name}");
        for (found, expected) in numbers.iter().zip(expected) {
            // The model's logits come from 16 bits too here, in steps of 2.4e-4; percentages, four
            // orders of magnitude larger, are printed to three decimals.
            let tolerance =
                if name.ends_with("KLD") { 2e-4 } else { 0.003 * expected.abs().max(1.0) };
            assert!((found - expected).abs() <= tolerance, "{name}: {found}, printed {expected}");
        }
    }
}

#[test]
fn rows_are_rounded_as_llama_perplexity_rounds_them() {
    let file = LogitsFile::open(&golden("stories260K-F32.logits")).unwrap();
    let logits = f32s(&golden("stories260K-F32.f32"));
    for (position, logits) in logits.chunks(file.vocabulary()).enumerate() {
        let row = LogSoftmax::new(logits).unwrap();
        assert_eq!(StoredRow::encode(&row), file.row(0, position).unwrap());
    }
}

#[test]
fn a_file_of_llama_perplexity_is_written_again_byte_for_byte() {
    let path = golden("stories260K-F32.logits");
    let file = LogitsFile::open(&path).unwrap();
    assert_eq!((file.context(), file.vocabulary(), file.chunks()), (32, 512, 7));
    let chunks = Chunks::of_whole(file.tokens().to_vec(), file.context(), Some(1)).unwrap();
    file.check(&chunks, 512).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.logits");
    let mut writer = LogitsFileWriter::create(&copy, &chunks, file.vocabulary()).unwrap();
    for chunk in 0..chunks.len() {
        for position in 0..chunks.scored().len() {
            writer.write_row(&file.row(chunk, position).unwrap()).unwrap();
        }
    }
    assert!(!copy.exists());
    writer.finish(false).unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(path).unwrap());
}

#[test]
fn statistics_are_those_of_the_definitions() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden("statistics.json")).unwrap()).unwrap();
    let logits = |row: &Value| serde_json::from_value::<Vec<f32>>(row.clone()).unwrap();
    let rows = golden["rows"].as_array().unwrap();
    let tokens: Vec<_> = rows
        .iter()
        .map(|row| {
            let (model, reference) = (logits(&row["model"]), logits(&row["reference"]));
            let label = usize::try_from(row["label"].as_u64().unwrap()).unwrap();
            let reference = LogSoftmax::new(&reference).unwrap();
            let reference = Some(ReferenceRow::Logits(&reference));
            TokenStatistics::new(&LogSoftmax::new(&model).unwrap(), label, reference)
        })
        .collect();
    let summary = serde_json::to_value(Summary::new(&tokens)).unwrap();
    let mut compared = 0;
    compare("summary", &summary, &golden["summary"], &mut compared);
    assert_eq!(compared, 46);
}

/// Compares the numbers of two JSON trees of the same names.
fn compare(name: &str, found: &Value, expected: &Value, compared: &mut usize) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert!(found.keys().eq(expected.keys()), "{name}");
            for (key, expected) in expected {
                compare(&format!("{name}.{key}"), &found[key], expected, compared);
            }
        }
        _ => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            let tolerance = 1e-11 * expected.abs().max(0.01);
            assert!((found - expected).abs() < tolerance, "{name}: {found}, expected {expected}");
            *compared += 1;
        }
    }
}

#[test]
fn a_decoder_gives_the_same_within_any_budget() {
    let gguf = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        Gguf::open(&path).unwrap()
    };
    let (base, model) = (gguf("gemma3.gguf"), gguf("olmoe.gguf"));
    let (base, model) = (GgufCheckpoint::new(&base), GgufCheckpoint::new(&model));
    let (base, model) = (Decoder::new(&base).unwrap(), Decoder::new(&model).unwrap());
    let vocabulary = u32::try_from(base.model().vocabulary).unwrap();
    let tokens: Vec<u32> = (0u32..9 * 25).map(|i| (i * i + 7 * i) % vocabulary).collect();
    // A few rows alone go through a device another way than many.
    for context in [3, 4, 5, 25] {
        let chunks = Chunks::new(&tokens, context, Some(9), Some(1)).unwrap();
        let run = |memory_budget_bytes| {
            let participant =
                |name: &str, model| Participant { name: name.to_owned(), model, save: None };
            let reference = Some(Reference::Model(participant("base", &base)));
            let models = vec![participant("model", &model), participant("base again", &base)];
            let evaluation = Evaluation { chunks: &chunks, memory_budget_bytes, reference, models };
            evaluation.run(&mut |_| ())
        };
        let needed = match run(0).unwrap_err() {
            EvaluationError::Budget { needed, .. } => needed,
            other => panic!("{other}"),
        };
        let all = run(u64::MAX).unwrap();
        assert_eq!(all.models[0].tokens.len(), 9 * chunks.scored().len());
        let itself = all.models[1].summary.comparison.as_ref().unwrap();
        let equal = (itself.kld.maximum, itself.kld.minimum, itself.same_top.value);
        assert_eq!(equal, (0.0, 0.0, 1.0));
        assert!(all.models[0].summary.comparison.as_ref().unwrap().kld.minimum > 0.0);
        for budget in [needed, needed + 50_000, 2 * needed] {
            let report = run(budget).unwrap();
            for (found, expected) in report.models.iter().zip(&all.models) {
                for (at, pair) in found.tokens.iter().zip(&expected.tokens).enumerate() {
                    assert_eq!(pair.0, pair.1, "{context}: {} at {at} within {budget}", found.name);
                }
            }
        }
    }
}

#[test]
fn a_decoder_is_judged_as_llama_perplexity_judges_it() {
    let file = LogitsFile::open(&golden("stories260K-F32.logits")).unwrap();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/stories260K");
    let open = |name: &str| Gguf::open(&shared.join(name));
    let (Ok(base), Ok(model)) = (open("stories260K-F32.gguf"), open("stories260K-Q4_0.gguf"))
    else {
        eprintln!("skipped: no {}", shared.display());
        return;
    };
    let (base, model) = (GgufCheckpoint::new(&base), GgufCheckpoint::like_ggml(&model));
    let (base, model) = (Decoder::new(&base).unwrap(), Decoder::new(&model).unwrap());
    let chunks = Chunks::of_whole(file.tokens().to_vec(), file.context(), Some(1)).unwrap();
    let participant = |name: &str, model| Participant { name: name.to_owned(), model, save: None };
    let evaluation = Evaluation {
        chunks: &chunks,
        memory_budget_bytes: 1 << 24,
        reference: Some(Reference::File(&file)),
        models: vec![participant("base", &base), participant("model", &model)],
    };
    let report = evaluation.run(&mut |_| ()).unwrap();
    let own = report.models[0].summary.comparison.as_ref().unwrap();
    assert!(own.kld.maximum.abs() < 1e-4 && own.same_top.value == 1.0, "{own:?}");
    assert!((own.ratio.value - 1.0).abs() < 1e-5);
    let printed = printed(&std::fs::read_to_string(golden("stories260K-Q4_0.txt")).unwrap());
    // ggml adds the products of 8-bit integers in another order.
    for (name, numbers) in named(&report.models[1].summary) {
        if ["Mean PPL(Q)", "Mean KLD", "Median KLD", "RMS Δp"].contains(&name) {
            let (found, expected) = (numbers[0], printed[name][0]);
            assert!((found / expected - 1.0).abs() < 0.03, "{name}: {found}, printed {expected}");
        }
    }
}
