//! Collection over a text: against what an observer sees, and the same bits however it is run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tessera_calibration::collect::{CollectError, Collection, Prefix, PrefixFailure};
use tessera_calibration::statistics::{
    InputStatistics, ObservationOptions, Provenance, Statistics, StatisticsError,
};
use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::{Decoder, Layer, LayerCache, Observer, Sequence};
use tessera_runtime::linear::Activations;

/// A budget that keeps states in memory, whatever the machine's threads.
const AMPLE: u64 = 8 << 30;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../runtime/tests/golden/{name}.gguf"))
}

/// Made-up chunks of 64 tokens, more than one call's.
fn chunks() -> Vec<Vec<u32>> {
    let token = |at: u32| (at * at * 7 + at * 5) % 90 + 3;
    (0..40).map(|chunk| (0..64).map(|at| token(chunk * 64 + at)).collect()).collect()
}

fn options() -> ObservationOptions {
    ObservationOptions { hessians: true, rows: 32, expected_tokens: 40 * 64, ..Default::default() }
}

fn collection<'a>(decoder: &'a Decoder<'a>, chunks: &'a [Vec<u32>]) -> Collection<'a> {
    Collection {
        decoder,
        chunks,
        options: options(),
        memory_budget_bytes: AMPLE,
        work: None,
        resume: false,
        provenance: Provenance { tokens: 40 * 64, context: 64, ..Provenance::default() },
        prefix: None,
    }
}

/// Sums of squares, and rows seen, of one linear's input.
struct Squares {
    linear: &'static str,
    found: Mutex<(Vec<f64>, u64, f32)>,
}

impl Observer for Squares {
    fn observe(
        &self,
        linears: &[&str],
        _: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        if !linears.contains(&self.linear) {
            return;
        }
        let mut found = self.found.lock().unwrap();
        let all: Vec<_> = (0..x.rows()).collect();
        for &row in rows.unwrap_or(&all) {
            found.0.resize(x.k(), 0.0);
            for (sum, value) in found.0.iter_mut().zip(x.row(row)) {
                *sum += f64::from(*value) * f64::from(*value);
            }
            found.1 += 1;
            found.2 = x.row(row).iter().fold(found.2, |amax, value| amax.max(value.abs()));
        }
    }
}

#[test]
fn statistics_are_those_of_what_linears_read() {
    for (model, linears) in [
        ("llama", &["blk.0.attn_v.weight", "blk.1.ffn_down.weight", "blk.1.ffn_up.weight"][..]),
        ("qwen2moe", &["blk.1.ffn_down_exps.weight", "blk.0.ffn_gate_shexp.weight"]),
    ] {
        let gguf = Gguf::open(&golden(model)).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let decoder = Decoder::new(&checkpoint).unwrap();
        let chunks = chunks();
        let statistics = collection(&decoder, &chunks).run(&mut |_| ()).unwrap();
        for &linear in linears {
            let observer = Squares { linear, found: Mutex::default() };
            for chunk in &chunks {
                let mut hidden = decoder.embed(chunk).unwrap();
                for index in 0..decoder.model().layers {
                    let mut cache = LayerCache::new();
                    let mut sequences = [Sequence { tokens: chunk.len(), cache: &mut cache }];
                    let layer = decoder.layer(index).unwrap();
                    layer.forward(&mut hidden, &mut sequences, Some(&observer)).unwrap();
                }
            }
            let (squares, tokens, amax) = observer.found.into_inner().unwrap();
            let input = statistics.input_of(linear).unwrap();
            assert_eq!((input.tokens, input.magnitudes.amax()), (tokens, amax), "{linear}");
            for (found, expected) in input.squares.iter().zip(&squares) {
                assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{linear}");
            }
            let hessian = input.hessian.as_ref().unwrap();
            let trace: f64 = (0..input.k).map(|k| f64::from(hessian[k * input.k + k])).sum();
            let robust: f64 = input.robust_squares.iter().sum();
            assert!((trace - robust).abs() < 1e-4 * robust, "{linear}: {trace} {robust}");
        }
        let names: Vec<_> = (0..decoder.model().layers)
            .flat_map(|layer| decoder.layer_inputs(layer))
            .chain([vec!["output.weight".to_owned()]])
            .collect();
        let found = statistics.inputs.iter().map(|input| input.linears.clone());
        assert_eq!(found.collect::<Vec<_>>(), names);
    }
}

#[test]
fn statistics_do_not_depend_on_how_they_are_collected() {
    let folder = tempfile::tempdir().unwrap();
    for model in ["llama", "gemma3", "qwen3moe"] {
        let gguf = Gguf::open(&golden(model)).unwrap();
        let checkpoint = GgufCheckpoint::new(&gguf);
        let decoder = Decoder::new(&checkpoint).unwrap();
        let chunks = chunks();
        let mut found = Vec::new();
        for (threads, budget, work) in
            [(1, AMPLE, false), (3, AMPLE, true), (2, u64::MAX, true), (2, 0, true)]
        {
            let path = folder.path().join(format!("{model}-{threads}-{budget}"));
            let part = path.with_extension("partial");
            let mut collection = Collection {
                memory_budget_bytes: budget,
                work: work.then_some(&*part),
                ..collection(&decoder, &chunks)
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                if budget == 0 {
                    // The least that suffices: states are in a file.
                    let refused = collection.write(&path, &mut |_| ()).unwrap_err();
                    let CollectError::Budget { needed, hessians, .. } = refused else { panic!() };
                    assert!(hessians > 0 && hessians < needed);
                    collection.memory_budget_bytes = needed;
                }
                let mut told = Vec::new();
                collection.write(&path, &mut |progress| told.push(progress.done)).unwrap();
                assert!(told.is_sorted() && told.len() > 2);
            });
            assert!(!part.exists());
            found.push(fs::read(&path).unwrap());
        }
        assert!(found.iter().all(|bytes| *bytes == found[0]), "{model}");
    }
}

/// Passes states on through the model's own layers, or one of another model, until it fails.
struct Passing<'a> {
    fails_at: usize,
    instead: Option<&'a Decoder<'a>>,
}

impl Prefix for Passing<'_> {
    fn layer(
        &self,
        index: usize,
        observed: &[InputStatistics],
    ) -> Result<Option<Layer>, PrefixFailure> {
        assert!(observed[0].linears[0].starts_with(&format!("blk.{index}.")));
        if index == self.fails_at {
            return Err("enough".into());
        }
        Ok(self.instead.map(|decoder| decoder.layer(index)).transpose()?)
    }
}

#[test]
fn an_unfinished_run_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (work, output) = (folder.path().join("work"), folder.path().join("statistics"));
    let gguf = Gguf::open(&golden("llama")).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let chunks = chunks();
    let passing = Passing { fails_at: usize::MAX, instead: None };
    let whole = Collection { prefix: Some(&passing), ..collection(&decoder, &chunks) };
    let mut all = 0;
    let whole = whole.run(&mut |progress| all = progress.total).unwrap();
    let layers = decoder.model().layers;
    for fails_at in 0..layers {
        for (in_file, run_anew) in [(false, false), (true, true)] {
            let failing = Passing { fails_at, instead: None };
            let mut first = Collection {
                work: Some(&work),
                prefix: Some(&failing),
                memory_budget_bytes: if in_file { 2 << 20 } else { AMPLE },
                ..collection(&decoder, &chunks)
            };
            let mut failed = first.write(&output, &mut |_| ());
            if let Err(CollectError::Budget { needed, .. }) = failed {
                first.memory_budget_bytes = needed;
                failed = first.write(&output, &mut |_| ());
            }
            assert!(matches!(failed, Err(CollectError::Prefix { layer, .. }) if layer == fails_at));
            assert!(!output.exists());
            // Not anew, and not with something else.
            let again = first.write(&output, &mut |_| ()).unwrap_err();
            assert!(matches!(again, CollectError::Exists { .. }), "{again}");
            let mut other = chunks.clone();
            other[7][3] += 1;
            let other = Collection {
                resume: true,
                work: Some(&work),
                provenance: Provenance { seed: 3, ..first.provenance.clone() },
                ..collection(&decoder, &other)
            };
            let said = other.write(&output, &mut |_| ()).unwrap_err().to_string();
            assert!(
                said.contains("`seed` is 0, not 3") && said.contains("tokens_sha256"),
                "{said}"
            );
            // Going on, whether states are in memory or in the file now.
            let second = Collection {
                work: Some(&work),
                resume: true,
                prefix: Some(&passing),
                memory_budget_bytes: if run_anew { AMPLE } else { first.memory_budget_bytes },
                ..collection(&decoder, &chunks)
            };
            let mut total = 0;
            second.write(&output, &mut |progress| total = progress.total).unwrap();
            assert_eq!(Statistics::read(&output).unwrap(), whole);
            assert!(!work.exists());
            fs::remove_file(&output).unwrap();
            assert!(fails_at == 0 || total < all);
        }
    }
}

#[test]
fn states_pass_on_through_what_replaces_layers() {
    let gguf = Gguf::open(&golden("llama")).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let like_ggml = GgufCheckpoint::like_ggml(&gguf);
    let other = Decoder::new(&like_ggml).unwrap();
    let chunks = chunks();
    let run = |prefix: Option<&dyn Prefix>| {
        Collection { prefix, ..collection(&decoder, &chunks) }.run(&mut |_| ()).unwrap()
    };
    let plain = run(None);
    // Behind the model's own layers its own rows are observed, and beside them the same.
    let behind = run(Some(&Passing { fails_at: usize::MAX, instead: None }));
    let mut without = behind.clone();
    for (input, plain) in without.inputs.iter_mut().zip(&plain.inputs) {
        assert_eq!(std::mem::take(&mut input.reference_sum), plain.sum);
        let (cross, hessian) = (input.cross.take().unwrap(), plain.hessian.as_ref().unwrap());
        let largest = hessian.iter().fold(0.0f32, |largest, h| largest.max(h.abs()));
        assert!(cross.iter().zip(hessian).all(|(c, h)| (c - h).abs() <= 1e-5 * largest));
    }
    assert_eq!(without, plain);
    let same = run(Some(&Passing { fails_at: usize::MAX, instead: Some(&decoder) }));
    assert_eq!(same, behind);
    let other = run(Some(&Passing { fails_at: usize::MAX, instead: Some(&other) }));
    let squares = |statistics: &Statistics, linear: &str| {
        statistics.input_of(linear).unwrap().squares.clone()
    };
    // The weights are F32, so that the activations of ggml's CPU backend are too.
    assert_eq!(squares(&other, "blk.0.attn_q.weight"), squares(&plain, "blk.0.attn_q.weight"));
}

#[test]
fn folders_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&golden("llama")).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let chunks = chunks();
    let output = folder.path().join("statistics");
    let write = |work: &Path, resume: bool| {
        let collection = Collection { work: Some(work), resume, ..collection(&decoder, &chunks) };
        collection.write(&output, &mut |_| ())
    };
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("thesis.txt"), "precious").unwrap();
    for resume in [false, true] {
        let refused = write(&work, resume).unwrap_err();
        assert!(matches!(refused, CollectError::NotAWorkFolder { .. }), "{refused}");
    }
    assert_eq!(fs::read_dir(&work).unwrap().count(), 1);
    fs::remove_file(work.join("thesis.txt")).unwrap();
    // A process works there.
    let lock = fs::File::create(work.join("lock")).unwrap();
    lock.lock().unwrap();
    let refused = write(&work, true).unwrap_err();
    assert!(matches!(refused, CollectError::InUse { .. }), "{refused}");
    drop(lock);
    // A state of no layer, and one that was cut.
    fs::write(work.join("states-00001.f32"), "cut").unwrap();
    let refused = write(&work, true).unwrap_err();
    assert!(matches!(refused, CollectError::Damaged { .. }), "{refused}");
    fs::write(work.join("inputs-00000.safetensors"), "no statistics").unwrap();
    let refused = write(&work, true).unwrap_err().to_string();
    assert!(refused.contains("states-00001.f32") && refused.contains("has 3 bytes"), "{refused}");
    fs::remove_file(work.join("states-00001.f32")).unwrap();
    write(&work, true).unwrap();
    assert!(!work.exists());
}

#[test]
fn what_cannot_be_observed_is_refused() {
    let gguf = Gguf::open(&golden("llama")).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let run = |chunks: &[Vec<u32>]| collection(&decoder, chunks).run(&mut |_| ()).unwrap_err();
    assert!(matches!(run(&[]), CollectError::NoChunks));
    assert!(matches!(run(&[vec![]]), CollectError::NoChunks));
    let uneven = run(&[vec![3, 4], vec![3]]);
    assert!(matches!(uneven, CollectError::ChunkLength { chunk: 1, expected: 2, found: 1 }));
    let unknown = run(&[vec![3, 1 << 30]]);
    assert!(matches!(unknown, CollectError::Model { layer: None, .. }), "{unknown}");
}

/// A model whose second layer's FFN overflows: the input of its last linear is named.
#[test]
fn activations_that_are_not_finite_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    let mut bytes = fs::read(golden("llama")).unwrap();
    let gguf = Gguf::open(&golden("llama")).unwrap();
    let tensor = gguf.tensor("blk.1.ffn_up.weight").unwrap();
    let mut values = vec![0; usize::try_from(tensor.bytes).unwrap()];
    gguf.read_at(tensor, 0, &mut values).unwrap();
    let at = bytes.windows(values.len()).position(|window| window == values).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let checkpoint = GgufCheckpoint::new(&gguf);
    let decoder = Decoder::new(&checkpoint).unwrap();
    let refused = collection(&decoder, &chunks()).run(&mut |_| ()).unwrap_err();
    let CollectError::Observation { layer: Some(1), source } = &refused else {
        panic!("{refused}")
    };
    let StatisticsError::NotFinite { input, .. } = &**source else { panic!("{source}") };
    assert_eq!(input, "blk.1.ffn_down.weight");
    assert!(refused.hint().is_some());
}
