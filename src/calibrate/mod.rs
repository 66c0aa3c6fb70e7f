//! Observation of a model over a text, for `tessera calibrate`.

pub mod output;
mod prefix;
mod report;
pub mod text;
pub mod transient;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tessera_calibration::collect::{Collection, Prefix};
use tessera_calibration::statistics::{self, CollectionOptions, ObservationOptions};
use tessera_calibration::statistics::{Provenance, StatisticsFile};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_runtime::decoder::Decoder;

use crate::convert::calibration::digests;
use crate::inspect::is_for_gguf;
use crate::models::{self, How, Model, ModelSpec, Opening};
use crate::progress::Progress;
use crate::recipe::Recipe;
use prefix::QuantizedPrefix;
pub use report::Report;
use report::Run;

/// What is to be observed.
pub struct Request<'a> {
    /// GGUF file.
    pub model: &'a Path,
    /// Texts; the one that is carried if there are none.
    pub dataset: &'a [PathBuf],
    /// Field of the lines of `.jsonl` files.
    pub field: Option<&'a str>,
    /// Statistics file to write, where the user named one.
    pub output: Option<&'a Path>,
    /// Tokens to observe.
    pub tokens: usize,
    /// Tokens of a chunk, where the user said so.
    pub context: Option<usize>,
    /// Seed of the choice of chunks and of sampled rows.
    pub seed: u64,
    /// Whether second moments are collected.
    pub hessians: bool,
    /// Memory for weights, hidden states and statistics.
    pub memory_budget: u64,
    /// Whether to go on with a run that was interrupted.
    pub resume: bool,
    /// Whether an existing file is replaced.
    pub force: bool,
    /// How the layers before an input are quantized; they are not where there is none.
    pub prefix: Option<&'a Recipe>,
    /// How the model is opened.
    pub opening: &'a Opening,
}

/// Tokens of a chunk where nothing is said, if the model was trained for as many.
const CONTEXT: usize = 512;

/// What states pass through before an input that is observed: the model's own layers.
pub const FLOAT: &str = "float";

/// Observes a model; on an error nothing stands under the file's name.
pub fn calibrate(request: &Request<'_>) -> anyhow::Result<Report> {
    let started = Instant::now();
    ensure!(
        is_for_gguf(request.model)?,
        "`{}` is no GGUF file: calibrate the one that a pack is to be made from",
        escaped_path(request.model),
    );
    let output = output::resolve(request)?;
    let text = request.model.display().to_string();
    let spec = ModelSpec { text, path: request.model.to_owned(), how: Some(How::Float) };
    let model = Model::open(&spec, request.opening)?;
    let gguf = model.gguf().context("no GGUF file")?;
    output::check(request, gguf, &output)?;
    let checkpoint = model.checkpoint(request.opening)?;
    let named = || format!("`{}`", Escaped(&model.name));
    let decoder = Decoder::new(&*checkpoint).with_context(named)?;
    let context = context(request.model, request.context, &decoder)?;
    let decoder = Decoder::for_context(&*checkpoint, context).with_context(named)?;
    let tokenizer = models::shared_tokenizer(&[(&model, &*checkpoint, &decoder)])?;
    let selection = text::Selection {
        dataset: request.dataset,
        field: request.field,
        tokens: request.tokens,
        seed: request.seed,
    };
    let text = text::read(selection, &tokenizer, context)?;
    let tokens = u64::try_from(text.chunks.len() * context)?;
    let options = ObservationOptions {
        hessians: request.hessians,
        expected_tokens: tokens,
        seed: request.seed,
        ..ObservationOptions::default()
    };
    let provenance = Provenance {
        model: digests(gguf)?,
        architecture: decoder.model().architecture.clone(),
        data: text.sources,
        tokens,
        context: u64::try_from(context)?,
        seed: request.seed,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        options: CollectionOptions {
            hessians: options.hessians,
            hessian_limit: u64::try_from(options.hessian_limit)?,
            expert_hessian_bytes: options.expert_hessian_bytes,
            rows: u64::try_from(options.rows)?,
            rows_large: u64::try_from(options.rows_large)?,
            prefix: match request.prefix {
                Some(recipe) => recipe.fingerprint(),
                None => FLOAT.to_owned(),
            },
        },
    };
    let work = output::work_folder(&output);
    let prefix =
        request.prefix.map(|recipe| QuantizedPrefix::new(gguf, recipe, request.opening, context));
    let collection = Collection {
        decoder: &decoder,
        chunks: &text.chunks,
        options,
        memory_budget_bytes: request.memory_budget,
        work: Some(&work),
        resume: request.resume,
        provenance,
        prefix: prefix.as_ref().map(|prefix| prefix as &dyn Prefix),
    };
    let progress = Progress::of_steps("calibrating");
    let observing = Instant::now();
    let collected = collection.write(&output, &mut |work| progress.set(work.done, work.total));
    progress.finish();
    collected.with_context(named)?;
    if let Err(changed) = gguf.check_unchanged() {
        // What was observed is of neither the file that was hashed nor the one that is there.
        std::fs::remove_file(&output).with_context(|| format!("`{}`", escaped_path(output)))?;
        return Err(changed.into());
    }
    // Of a run that goes on, only a part of the tokens was observed now.
    let observing = (!request.resume).then(|| observing.elapsed());
    Report::read(&output, Some(Run { whole: started.elapsed(), observing }), text.warnings)
}

/// Adds statistics of several texts.
pub fn merge(parts: &[PathBuf], output: &Path, force: bool) -> anyhow::Result<Report> {
    output::check_name(output)?;
    output::check_existing(output, force)?;
    for part in parts {
        // Told before the first of them is read whole.
        StatisticsFile::open(part)?;
    }
    statistics::merge(parts, output)?;
    Report::read(output, None, Vec::new())
}

/// Tokens of a chunk.
pub fn context(model: &Path, asked: Option<usize>, decoder: &Decoder<'_>) -> anyhow::Result<usize> {
    let longest = decoder.model().context_length;
    let Some(context) = asked else { return Ok(CONTEXT.min(longest)) };
    if !(2..=longest).contains(&context) {
        bail!(
            "`--ctx {context}`: a chunk must have from 2 to {longest} tokens, for which `{}` was trained",
            escaped_path(model),
        );
    }
    Ok(context)
}
