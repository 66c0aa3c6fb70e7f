//! The decoder against llama.cpp: logits of small models with random weights, one for each form of
//! the graph. `golden/README.md` says how they were made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "how close each model is")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::SafeTensors;
use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::{Decoder, LayerCache, Observer, Sequence};
use tessera_runtime::linear::Activations;
use tessera_runtime::model::FeedForward;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Logits of `tokens`, in batches of the given lengths.
fn logits(decoder: &Decoder<'_>, tokens: &[u32], batches: &[usize]) -> Vec<f32> {
    let model = decoder.model();
    let mut caches: Vec<_> = (0..model.layers).map(|_| LayerCache::new()).collect();
    let layers: Vec<_> = (0..model.layers).map(|layer| decoder.layer(layer).unwrap()).collect();
    let head = decoder.head().unwrap();
    let mut logits = Vec::new();
    let mut first = 0;
    for &batch in batches {
        let mut hidden = decoder.embed(&tokens[first..first + batch]).unwrap();
        for (layer, cache) in layers.iter().zip(&mut caches) {
            let mut sequences = [Sequence { tokens: batch, cache }];
            layer.forward(&mut hidden, &mut sequences, None).unwrap();
        }
        logits.extend(head.forward(&hidden, None).unwrap());
        first += batch;
    }
    assert_eq!(first, tokens.len());
    logits
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// √(Σ (a − b)² / Σ b²).
fn relative_rms(found: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let errors = found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b));
    let energy = squares(&mut expected.iter().map(|&x| f64::from(x)));
    (squares(&mut { errors }) / energy).sqrt()
}

#[test]
fn logits_are_those_of_llama_cpp() {
    // Gemma's GELU is rounded to 16 bits by llama.cpp's CPU backend, and not in the second file.
    compare("logits.safetensors", 25, |name| if name.contains("gemma") { 1e-3 } else { 1e-5 });
    compare("logits-exact-gelu.safetensors", 4, |_| 1e-5);
}

/// Compares every model of a file of logits, of which there are `count`, within a relative error.
fn compare(file: &str, count: usize, tolerance: impl Fn(&str) -> f64) {
    let bytes = fs::read(golden().join(file)).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut models: Vec<_> =
        expected.names().into_iter().filter(|name| !name.ends_with(".tokens")).collect();
    models.sort_unstable();
    assert_eq!(models.len(), count);
    let mut failures = Vec::new();
    for name in models {
        let gguf = Gguf::open(&golden().join(format!("{name}.gguf"))).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let tokens = expected.tensor(&format!("{name}.tokens")).unwrap();
        let tokens: Vec<u32> =
            tokens.data().as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        let decoder = match Decoder::for_context(&checkpoint, 64) {
            Ok(decoder) => decoder,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let found = logits(&decoder, &tokens, &[tokens.len()]);
        let expected = floats(expected.tensor(name).unwrap().data());
        let error = relative_rms(&found, &expected);
        let vocabulary = decoder.model().vocabulary;
        let rows = found.chunks(vocabulary).zip(expected.chunks(vocabulary));
        let differ = rows.filter(|(found, expected)| argmax(found) != argmax(expected)).count();
        eprintln!("{name}: relative RMS {error:.2e}, {differ} other tokens");
        if error.is_nan() || error > tolerance(name) || differ > 0 {
            failures.push(format!("{name}: relative RMS {error:.2e}, {differ} other tokens"));
        }
        // One by one and in odd batches, from the cache, the result is the same but for rounding.
        let batches: Vec<usize> = [1, 1, 5, 30, 2].into_iter().chain([1; 25]).collect();
        let stepped = logits(&decoder, &tokens, &batches);
        let error = relative_rms(&stepped, &found);
        if error.is_nan() || error > 1e-5 {
            failures.push(format!("{name}: {error:.2e} between batches"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Rows that each linear was seen to read.
#[derive(Default)]
struct Rows(Mutex<BTreeMap<String, usize>>);

impl Observer for Rows {
    fn observe(
        &self,
        linears: &[&str],
        _: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        let count = rows.map_or(x.rows(), <[usize]>::len);
        assert!(rows.is_none_or(|rows| rows.is_sorted() && rows.iter().all(|&row| row < x.rows())));
        let mut seen = self.0.lock().unwrap();
        for linear in linears {
            *seen.entry((*linear).to_owned()).or_default() += count;
        }
    }
}

/// Every linear's input is seen, each row once; an expert's rows are those routed to it.
#[test]
fn observers_see_what_every_linear_reads() {
    let tokens: Vec<u32> = (0..20).map(|token| token * 5 % 100 + 3).collect();
    for name in ["llama", "phi3", "gemma3", "olmo2", "qwen2moe", "qwen3moe", "granitemoe"] {
        let gguf = Gguf::open(&golden().join(format!("{name}.gguf"))).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let decoder = Decoder::new(&checkpoint).unwrap();
        let rows = Rows::default();
        let mut hidden = decoder.embed(&tokens).unwrap();
        let mut expected = BTreeMap::new();
        for (index, shape) in decoder.model().shapes.iter().enumerate() {
            let mut cache = LayerCache::new();
            let mut sequences = [Sequence { tokens: tokens.len(), cache: &mut cache }];
            let layer = decoder.layer(index).unwrap();
            layer.forward(&mut hidden, &mut sequences, Some(&rows)).unwrap();
            for linear in decoder.layer_linears(index) {
                let uses = match &shape.feed_forward {
                    FeedForward::Experts(experts) if linear.contains("_exps") => experts.used,
                    _ => 1,
                };
                expected.insert(linear, uses * tokens.len());
            }
        }
        decoder.head().unwrap().forward(&hidden, Some(&rows)).unwrap();
        expected.insert(decoder.head_linear().to_owned(), tokens.len());
        assert_eq!(rows.0.into_inner().unwrap(), expected, "{name}");
    }
}
