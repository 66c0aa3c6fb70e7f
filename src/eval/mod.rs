//! Perplexity and KL divergence of models on a text.

mod report;

use std::path::Path;

use anyhow::{Context, bail, ensure};
use tessera_calibration::corpus;
use tessera_formats::escape::escaped_path;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::perplexity::{Chunks, Evaluation, LogitsFile, Participant, Reference};
use tessera_runtime::tokenizer::Special;

use crate::models::{self, Model, ModelSpec, Opening};
use crate::progress::Progress;
use crate::text_file;
use report::ModelReport;
pub use report::Report;

/// What is to be measured.
pub struct Request<'a> {
    /// The models.
    pub models: &'a [ModelSpec],
    /// The text; not needed with a logits file, which holds the tokens.
    pub text: Option<&'a Path>,
    /// The model they are compared with.
    pub reference: Option<&'a ModelSpec>,
    /// A file of the log-probabilities they are compared with.
    pub from_logits: Option<&'a Path>,
    /// Where log-probabilities go: the reference's, or the only model's.
    pub save_logits: Option<&'a Path>,
    /// Tokens of a chunk; those of the logits file, or 512, where nothing is said.
    pub context: Option<usize>,
    /// Most chunks.
    pub chunks: Option<usize>,
    /// Memory for weights, hidden states and logits.
    pub memory_budget: u64,
    /// How models are opened.
    pub opening: &'a Opening,
}

/// Tokens of a chunk where nothing else is said, as llama-perplexity.
const CONTEXT: usize = 512;

/// Largest text that is read, in bytes.
const LARGEST_TEXT: u64 = corpus::LARGEST;

/// A model, ready to be run.
struct Ready<'a> {
    model: &'a Model,
    checkpoint: &'a dyn Checkpoint,
    decoder: Decoder<'a>,
}

impl Ready<'_> {
    fn participant(&self, save: Option<&Path>) -> Participant<'_> {
        Participant {
            name: self.model.name.clone(),
            model: &self.decoder,
            save: save.map(Path::to_owned),
        }
    }
}

/// Runs every model over the text.
pub fn evaluate(request: &Request<'_>) -> anyhow::Result<Report> {
    // Before the work, and before anything that is no logits file is lost.
    if let Some(path) = request.save_logits.filter(|path| path.exists()) {
        bail!(
            "`{}` already exists: remove it, or name another file with `--save-logits`",
            escaped_path(path),
        );
    }
    let reference = request.reference.map(|spec| Model::open(spec, &plain(request.opening)));
    let reference = reference.transpose()?;
    let models = request.models.iter().map(|spec| Model::open(spec, request.opening));
    let models = models.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        request.save_logits.is_none() || reference.is_some() || models.len() == 1,
        "`--save-logits` saves those of the reference, or of one model: of which of these?",
    );
    let all: Vec<&Model> = reference.iter().chain(&models).collect();
    let checkpoints = all.iter().map(|model| model.checkpoint(request.opening));
    let checkpoints = checkpoints.collect::<anyhow::Result<Vec<_>>>()?;
    let file = request.from_logits.map(LogitsFile::open).transpose()?;
    let context = request.context.or(file.as_ref().map(LogitsFile::context)).unwrap_or(CONTEXT);
    let ready = all.iter().zip(&checkpoints).map(|(model, checkpoint)| {
        let checkpoint = &**checkpoint;
        let decoder = Decoder::for_context(checkpoint, context)
            .with_context(|| format!("`{}`", model.name))?;
        Ok(Ready { model, checkpoint, decoder })
    });
    let ready = ready.collect::<anyhow::Result<Vec<_>>>()?;
    let chunks = chunks(request, &ready, file.as_ref(), context)?;
    let (reference, models) = ready.split_at(usize::from(request.reference.is_some()));
    let save = |saves: bool| request.save_logits.filter(|_| saves);
    let evaluation = Evaluation {
        chunks: &chunks,
        memory_budget_bytes: request.memory_budget,
        reference: match (reference.first(), &file) {
            (Some(reference), _) => Some(Reference::Model(reference.participant(save(true)))),
            (None, Some(file)) => Some(Reference::File(file)),
            (None, None) => None,
        },
        models: models.iter().map(|model| model.participant(save(reference.is_empty()))).collect(),
    };
    let progress = Progress::of_steps("evaluating");
    let outcome = evaluation.run(&mut |work| progress.set(work.done, work.total));
    progress.finish();
    let outcome = outcome?;
    let reports = models.iter().zip(outcome.models).map(|(ready, outcome)| {
        let bits = models::bits_per_weight(ready.checkpoint, &ready.decoder);
        ModelReport::new(ready.model, bits, &outcome)
    });
    Ok(Report {
        reference: reference.first().map(|ready| ready.model.name.clone()),
        from_logits: request.from_logits.map(|path| path.display().to_string()),
        context,
        chunks: chunks.len(),
        models: reports.collect(),
    })
}

/// How the reference is opened: in floats.
fn plain(opening: &Opening) -> Opening {
    let Opening { target, seed, budget, overflow, .. } = opening;
    Opening { overflow: *overflow, ..Opening::of_files(target.clone(), *seed, *budget) }
}

/// The text in chunks: of the logits file where no text is given.
fn chunks(
    request: &Request<'_>,
    ready: &[Ready<'_>],
    file: Option<&LogitsFile>,
    context: usize,
) -> anyhow::Result<Chunks> {
    let models = ready.iter().map(|ready| (ready.model, ready.checkpoint, &ready.decoder));
    let tokenizer = models::shared_tokenizer(&models.collect::<Vec<_>>())?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let Some(path) = request.text else {
        let file = file.context("give a text with `--text FILE`")?;
        let most = request.chunks.unwrap_or(usize::MAX).min(file.chunks());
        let tokens = file.tokens()[..most * file.context()].to_vec();
        ensure!(
            context == file.context(),
            "`{}` has chunks of {} tokens: leave `--ctx` out, or give the text",
            escaped_path(file.path()),
            file.context(),
        );
        return Ok(Chunks::of_whole(tokens, context, bos)?);
    };
    let named = || format!("text `{}`", escaped_path(path));
    let text = text_file::text(path, "text", LARGEST_TEXT)?;
    // As llama.cpp reads a prompt from a file.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let tokens = tokenizer.encode(text, Special { add: true, parse: false }).with_context(named)?;
    Chunks::new(&tokens, context, request.chunks, bos).with_context(named)
}
