//! A forward pass: the device's hidden states and logits beside the simulator's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tessera_formats::escape::escaped_path;
use tessera_formats::pack::PackReader;
use tessera_runtime::checkpoint::{Checkpoint, PackCheckpoint};
use tessera_runtime::decoder::{Decoder, LayerCache, Sequence};
use tessera_runtime::perplexity::{Chunks, Evaluation, LogitsFile, Participant, Reference};
use tessera_runtime::rknn::LoadedWeights;
use tessera_runtime::simulator::Simulation;
use tessera_runtime::tokenizer::{Special, Tokenizer};

use super::report::{ModelReport, ReferenceReport};

/// Most tokens of a prompt.
const MOST_TOKENS: usize = 64;

/// Most that log-probabilities may be off: a file has 16 bits of each, and the host's sums of floats depend a
/// little on its instructions.
const LARGEST_KLD: f64 = 1e-4;

/// Memory for weights and logits of a comparison with a file.
const MEMORY: u64 = 2 << 30;

/// A pack's checkpoint on the simulator, or on the NPU.
fn checkpoint(path: &Path, loaded: Option<&Arc<LoadedWeights>>) -> anyhow::Result<PackCheckpoint> {
    let checkpoint = PackCheckpoint::open(PackReader::open(path)?, Simulation::default())?;
    Ok(match loaded {
        Some(loaded) => checkpoint.on_npu(Arc::clone(loaded)),
        None => checkpoint,
    })
}

/// Passes a prompt through the model on the device and on the simulator, and compares what each layer gives, bit
/// for bit.
pub fn check(
    path: &Path,
    loaded: Option<&Arc<LoadedWeights>>,
    prompt: &str,
) -> anyhow::Result<ModelReport> {
    let skipped = |why: String| Ok(ModelReport { skipped: Some(why), ..ModelReport::default() });
    if loaded.is_none() {
        return skipped("the device is the simulator".to_owned());
    }
    let (device, simulated) = (checkpoint(path, loaded)?, checkpoint(path, None)?);
    let (device, simulated) = match (Decoder::new(&device), Decoder::new(&simulated)) {
        (Ok(device), Ok(simulated)) => (device, simulated),
        (Err(error), _) | (_, Err(error)) => return skipped(error.to_string()),
    };
    let tokens = match tokens(path, prompt) {
        Ok(tokens) => tokens,
        Err(error) => return skipped(format!("{error:#}")),
    };
    let mut report = ModelReport { tokens: tokens.len(), ..ModelReport::default() };
    if let Err(error) = pass(&device, &simulated, &tokens, &mut report) {
        report.error = Some(format!("{error:#}"));
    }
    Ok(report)
}

/// Tokens of a prompt, at most so many.
fn tokens(path: &Path, prompt: &str) -> anyhow::Result<Vec<u32>> {
    let checkpoint = checkpoint(path, None)?;
    let tokenizer = Tokenizer::new(checkpoint.metadata())?;
    let mut tokens = tokenizer.encode(prompt, Special { add: true, parse: false })?;
    tokens.truncate(MOST_TOKENS);
    if tokens.is_empty() {
        bail!("the prompt has no tokens");
    }
    Ok(tokens)
}

fn pass(
    device: &Decoder<'_>,
    simulated: &Decoder<'_>,
    tokens: &[u32],
    report: &mut ModelReport,
) -> anyhow::Result<()> {
    let mut expected = simulated.embed(tokens)?;
    let mut found = expected.clone();
    for index in 0..simulated.model().layers {
        for (decoder, hidden) in [(device, &mut found), (simulated, &mut expected)] {
            let mut cache = LayerCache::new();
            let mut sequences = [Sequence { tokens: tokens.len(), cache: &mut cache }];
            decoder.layer(index)?.forward(hidden, &mut sequences, None)?;
        }
        if differ(&found, &expected, index, report) {
            return Ok(());
        }
        report.layers = index + 1;
    }
    let found = device.head()?.forward(&found, None)?;
    let expected = simulated.head()?.forward(&expected, None)?;
    differ(&found, &expected, report.layers, report);
    Ok(())
}

/// Whether two passes differ after a layer.
fn differ(found: &[f32], expected: &[f32], index: usize, report: &mut ModelReport) -> bool {
    let same =
        found.iter().zip(expected).all(|(found, expected)| found.to_bits() == expected.to_bits());
    if same {
        return false;
    }
    let largest = found.iter().zip(expected).fold(0.0f32, |most, (f, e)| most.max((f - e).abs()));
    report.first_difference = Some(index);
    report.difference = Some(largest);
    true
}

/// The device's log-probabilities beside those of a file that `eval --save-logits` wrote, over its first chunk.
pub fn compare(
    path: &Path,
    loaded: Option<&Arc<LoadedWeights>>,
    file: &Path,
) -> anyhow::Result<ReferenceReport> {
    let checkpoint = checkpoint(path, loaded)?;
    let logits = LogitsFile::open(file)?;
    let decoder = Decoder::for_context(&checkpoint, logits.context())?;
    let tokenizer = Tokenizer::new(checkpoint.metadata())?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let chunk = logits.tokens().get(..logits.context());
    let tokens = chunk.with_context(|| format!("`{}` has no chunk", escaped_path(file)))?.to_vec();
    let chunks = Chunks::of_whole(tokens, logits.context(), bos)?;
    let name = path.display().to_string();
    let evaluation = Evaluation {
        chunks: &chunks,
        memory_budget_bytes: MEMORY,
        reference: Some(Reference::File(&logits)),
        models: vec![Participant { name, model: &decoder, save: None }],
    };
    let report = evaluation.run(&mut |_| {})?;
    let outcome = report.models.first().context("no model was run")?;
    let comparison = outcome.summary.comparison.as_ref().context("nothing was compared")?;
    Ok(ReferenceReport {
        file: file.display().to_string(),
        tokens: outcome.tokens.len(),
        mean_kld: comparison.kld.mean.value,
        limit: LARGEST_KLD,
    })
}
