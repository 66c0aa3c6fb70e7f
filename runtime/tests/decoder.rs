//! The decoder against llama.cpp: logits of small models with random weights, one for each form of
//! the graph. `golden/README.md` says how they were made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "how close each model is")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::SafeTensors;
use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::{Decoder, LayerCache, Observer, Sequence};
use tessera_runtime::linear::Activations;
#[cfg(feature = "candle")]
use tessera_runtime::linear::candle::CandleDevice;
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

/// What applies linears, by name.
type Device = (&'static str, fn(&Gguf) -> GgufCheckpoint<'_>);

const DEVICES: &[Device] = &[
    ("float", |gguf| GgufCheckpoint::new(gguf)),
    #[cfg(feature = "candle")]
    ("candle", |gguf| GgufCheckpoint::on_candle(gguf, CandleDevice::cpu())),
];

/// A model with its tokens, and llama.cpp's logits after each of them.
struct Golden {
    name: String,
    gguf: Gguf,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

/// Every model of a file of logits.
fn models(file: &str) -> Vec<Golden> {
    let bytes = fs::read(golden().join(file)).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = expected.names();
    names.retain(|name| !name.ends_with(".tokens"));
    names.sort_unstable();
    let model = |name: &str| {
        let tokens = expected.tensor(&format!("{name}.tokens")).unwrap();
        let tokens = tokens.data().as_chunks().0.iter();
        Golden {
            name: name.to_owned(),
            gguf: Gguf::open(&golden().join(format!("{name}.gguf"))).unwrap(),
            tokens: tokens.map(|&bytes| u32::from_le_bytes(bytes)).collect(),
            logits: floats(expected.tensor(name).unwrap().data()),
        }
    };
    names.into_iter().map(model).collect()
}

#[test]
fn logits_are_those_of_llama_cpp() {
    // Gemma's GELU is rounded to 16 bits by llama.cpp's CPU backend, and not in the second file.
    compare("logits.safetensors", 25, |name| if name.contains("gemma") { 1e-3 } else { 1e-5 });
    compare("logits-exact-gelu.safetensors", 4, |_| 1e-5);
}

/// Compares every model of a file of logits, of which there are `count`, within a relative error,
/// on every device.
fn compare(file: &str, count: usize, tolerance: impl Fn(&str) -> f64) {
    let models = models(file);
    assert_eq!(models.len(), count);
    let mut failures = Vec::new();
    let on_devices = |model| DEVICES.iter().map(move |device| (model, device));
    for (model, (device, checkpoint)) in models.iter().flat_map(on_devices) {
        let Golden { name, gguf, tokens, logits: expected } = model;
        let checkpoint = checkpoint(gguf);
        let decoder = match Decoder::for_context(&checkpoint, 64) {
            Ok(decoder) => decoder,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let found = logits(&decoder, tokens, &[tokens.len()]);
        let error = relative_rms(&found, expected);
        let vocabulary = decoder.model().vocabulary;
        let rows = found.chunks(vocabulary).zip(expected.chunks(vocabulary));
        let differ = rows.filter(|(found, expected)| argmax(found) != argmax(expected)).count();
        let result = format!("{name} on {device}: relative RMS {error:.2e}, {differ} other tokens");
        eprintln!("{result}");
        if error.is_nan() || error > tolerance(name) || differ > 0 {
            failures.push(result);
        }
        // One by one and in odd batches, from the cache, the result is the same but for rounding.
        let batches: Vec<usize> = [1, 1, 5, 30, 2].into_iter().chain([1; 25]).collect();
        let stepped = logits(&decoder, tokens, &batches);
        let error = relative_rms(&stepped, &found);
        if error.is_nan() || error > 1e-5 {
            failures.push(format!("{name} on {device}: {error:.2e} between batches"));
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

/// Every call: linears, expert, rows seen.
#[derive(Default)]
struct Calls(Mutex<Vec<Call>>);

/// Linears, their expert, and the rows.
type Call = (Vec<String>, Option<usize>, Vec<f32>);

impl Observer for Calls {
    fn observe(
        &self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        let all: Vec<_> = (0..x.rows()).collect();
        let values = rows.unwrap_or(&all).iter().flat_map(|&row| x.row(row)).copied().collect();
        let linears = linears.iter().map(|&linear| linear.to_owned()).collect();
        self.0.lock().unwrap().push((linears, expert, values));
    }
}

/// Of each input the calls come in one order, whatever the number of threads, and so do their bits.
#[test]
fn observers_are_called_in_one_order() {
    let tokens: Vec<u32> = (0..40).map(|token| token * 7 % 100 + 3).collect();
    for name in ["llama", "phi3", "qwen2moe", "qwen3moe", "granitemoe"] {
        let gguf = Gguf::open(&golden().join(format!("{name}.gguf"))).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let decoder = Decoder::new(&checkpoint).unwrap();
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut hidden = decoder.embed(&tokens).unwrap();
                let mut by_input: BTreeMap<_, Vec<_>> = BTreeMap::new();
                for index in 0..decoder.model().layers {
                    let calls = Calls::default();
                    let mut cache = LayerCache::new();
                    let mut sequences = [Sequence { tokens: tokens.len(), cache: &mut cache }];
                    let layer = decoder.layer(index).unwrap();
                    layer.forward(&mut hidden, &mut sequences, Some(&calls)).unwrap();
                    let calls = calls.0.into_inner().unwrap();
                    let mut seen: Vec<_> = calls.iter().map(|call| call.0.clone()).collect();
                    let mut known = HashSet::new();
                    seen.retain(|linears| known.insert(linears.clone()));
                    assert_eq!(seen, decoder.layer_inputs(index), "{name}");
                    for (linears, expert, rows) in calls {
                        let bits: Vec<_> = rows.iter().map(|value| value.to_bits()).collect();
                        by_input.entry(linears).or_default().push((expert, bits));
                    }
                }
                (by_input, hidden)
            })
        };
        let (one, hidden) = on_threads(1);
        assert_eq!(on_threads(3).0, one, "{name}");
        for calls in one.values() {
            assert!(calls.is_sorted_by_key(|(expert, _)| *expert), "{name}");
        }
        // What the head reads is known without the head.
        let calls = Calls::default();
        decoder.head().unwrap().forward(&hidden, Some(&calls)).unwrap();
        let calls = calls.0.into_inner().unwrap();
        assert_eq!(calls[0].2, decoder.head_input(&hidden).unwrap(), "{name}");
    }
}

#[cfg(feature = "candle")]
#[test]
fn candle_computes_what_the_default_device_computes() {
    let on = |device: usize, gguf: &Gguf, tokens: &[u32]| {
        let checkpoint = DEVICES[device].1(gguf);
        let decoder = Decoder::for_context(&checkpoint, 64).unwrap();
        (logits(&decoder, tokens, &[tokens.len()]), decoder.layer_bytes(0))
    };
    let agree = |name: &str, gguf: &Gguf, tokens: &[u32]| {
        let [(float, _), (candle, bytes)] = [0, 1].map(|device| on(device, gguf, tokens));
        let error = relative_rms(&candle, &float);
        eprintln!("{name}: relative RMS {error:.2e} between devices");
        assert!(error <= 1e-5, "{name}: {error:.2e}");
        bytes
    };
    for Golden { name, gguf, tokens, .. } in models("logits.safetensors") {
        agree(&name, &gguf, &tokens);
    }
    let quantized = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let quantized = Gguf::open(&quantized.join("stories260K-Q8_0.gguf")).unwrap();
    let bytes = agree("stories260K-Q8_0", &quantized, &(1..65).collect::<Vec<_>>());
    // Four bytes a weight: q and output, k and v, gate, up and down.
    assert_eq!(bytes, 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64));
}

/// Keeps the linears of each call, and wants no more after those of `last`.
struct Until {
    last: String,
    seen: Mutex<Vec<String>>,
}

impl Observer for Until {
    fn observe(
        &self,
        linears: &[&str],
        _: Option<usize>,
        _: &Activations<'_>,
        _: Option<&[usize]>,
    ) {
        self.seen.lock().unwrap().extend(linears.iter().map(|&linear| linear.to_owned()));
    }

    fn is_satisfied(&self) -> bool {
        self.seen.lock().unwrap().contains(&self.last)
    }
}

/// Rows come no further than an input after which their observer wants no more.
#[test]
fn satisfied_observers_see_nothing_more() {
    for name in ["llama", "phi3", "qwen2moe"] {
        let gguf = Gguf::open(&golden().join(format!("{name}.gguf"))).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let decoder = Decoder::new(&checkpoint).unwrap();
        let layer = decoder.layer(0).unwrap();
        let inputs = decoder.layer_inputs(0);
        for (position, input) in inputs.iter().enumerate() {
            let until = Until { last: input[0].clone(), seen: Mutex::default() };
            let mut hidden = decoder.embed(&[1, 5, 7]).unwrap();
            let mut cache = LayerCache::new();
            let mut sequences = [Sequence { tokens: 3, cache: &mut cache }];
            layer.forward(&mut hidden, &mut sequences, Some(&until)).unwrap();
            let mut seen = until.seen.into_inner().unwrap();
            // Experts' inputs are shown once for each expert.
            let mut known = HashSet::new();
            seen.retain(|linear| known.insert(linear.clone()));
            assert_eq!(seen, inputs[..=position].concat(), "{name}: {input:?}");
        }
    }
}
