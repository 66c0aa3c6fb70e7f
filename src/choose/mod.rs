//! Choosing a scheme for every linear by what they do to the logits, converting, and measuring what
//! came of it.

mod describe;
pub mod goal;
pub mod pin;
mod search;
mod texts;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;
use tessera_formats::escape::escaped_path;
use tessera_formats::gguf::Gguf;
use tessera_formats::npu::Rates;
use tessera_formats::temporary::{self, TemporaryFolder};
use tessera_runtime::decoder::Decoder;
use tessera_runtime::perplexity::{self, Chunks, Evaluation, Participant, Reference};

use self::describe::Known;
use self::goal::{Choices, Chosen, Goal, Phase};
use self::search::Search;
use self::texts::Texts;
use crate::calibrate::transient::{Observation, Transient, observe};
use crate::convert::calibration::digests;
use crate::convert::summary::Summary;
use crate::convert::{self, convert};
use crate::models::{self, How, Model, ModelSpec, Opening};
use crate::options::{Overrides, Preset, SchemeChoice};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::report;
use crate::report::data::{LadderRow, SensitivityCorrelation};
use crate::sensitivity::file::Sensitivities;
use crate::sensitivity::{self, sensitivity};
use crate::size;

/// Conversions that are made at most to find one that meets the goal.
const MOST_TRIALS: usize = 8;

/// Tokens that pass through the model for each demotion.
const DEMOTION_TOKENS: usize = 4096;

/// What is to be chosen, and from what.
pub struct Request<'a> {
    /// The conversion, with the recipe that the chosen schemes are added to.
    pub conversion: convert::Request<'a>,
    /// What is asked for.
    pub goal: Goal,
    /// How fast the board is.
    pub rates: &'a Rates,
    /// Texts, or `built-in`.
    pub dataset: &'a [PathBuf],
    /// Field of the lines of `.jsonl` files.
    pub field: Option<&'a str>,
    /// Tokens to calibrate on.
    pub tokens: usize,
    /// Tokens of a chunk, where the user said so.
    pub context: Option<usize>,
    /// Sensitivities that were measured before.
    pub sensitivities: Option<&'a Path>,
    /// Folder of the report, if there is to be one.
    pub report: Option<&'a Path>,
}

/// What was chosen, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// What was asked for: `target_bpw`, `target_size`, `max_kld`, `target_decode` or `target_prefill`.
    pub goal: &'static str,
    /// How much of it.
    pub asked: f64,
    /// Bits per weight of all linears, scales counted and the padding of tiles not.
    pub bits_per_weight: f64,
    /// Bytes of tiles, scales and corrections.
    pub linear_bytes: u64,
    /// Sum of the measured damages: the divergence that was to be expected.
    pub predicted_kld: f64,
    /// Mean KL divergence of the pack from the model in floats, on text that nothing was chosen by.
    pub measured_kld: f64,
    /// Standard error of that.
    pub measured_kld_error: f64,
    /// Tokens that were scored for it.
    pub scored_tokens: usize,
    /// Tokens a second that the linears leave room for, one after another, by the board's rates.
    pub decode_tokens_per_second: f64,
    /// The same of a prompt of 512 tokens.
    pub prefill_tokens_per_second: f64,
    /// Conversions that were made.
    pub trials: usize,
    /// Whether no choice of these damages is better.
    pub exact: bool,
}

impl Choice {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{:.3} bits per weight without padding; KL divergence predicted {:.6}, measured {:.6} ± {:.6} on \
             {} tokens held out ({} conversion{})\nlinears leave room for {:.1} tokens/s of decoding and {:.1} of prompts, by \
             the board's rates\n",
            self.bits_per_weight,
            self.predicted_kld,
            self.measured_kld,
            self.measured_kld_error,
            self.scored_tokens,
            self.trials,
            if self.trials == 1 { "" } else { "s" },
            self.decode_tokens_per_second,
            self.prefill_tokens_per_second,
        )
    }
}

/// A pack that was made and measured, in a folder beside its place.
struct Trial {
    folder: TemporaryFolder,
    observed: Transient,
    summary: Summary,
    chosen: Chosen,
    kld: Measured,
}

/// A mean KL divergence.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    mean: f64,
    error: f64,
    tokens: usize,
}

/// Chooses, converts and measures; on an error nothing stands under the pack's name.
pub fn choose(request: &Request<'_>) -> anyhow::Result<(Summary, Choice)> {
    convert::check_output(&request.conversion)?;
    if let Some(folder) = request.report {
        let page = folder.join(report::PAGE_FILE);
        ensure!(
            request.conversion.force || !page.exists(),
            "`{}` exists: choose another folder, or `--force` to replace it",
            escaped_path(page),
        );
    }
    let opening = opening(request);
    let texts = Texts::read(request, &opening)?;
    let (sensitivities, correlation) = sensitivities(request, &opening, &texts)?;
    let choices = Choices::new(&sensitivities, request.rates, request.goal)?;
    let (trial, trials) = meet(request, &opening, &texts, &choices)?;
    let (goal, asked) = match request.goal {
        Goal::BitsPerWeight(bits) => ("target_bpw", bits),
        Goal::Size(bytes) => ("target_size", bytes as f64),
        Goal::Divergence(kld) => ("max_kld", kld),
        Goal::Speed { phase: Phase::Decode, tokens_per_second } => {
            ("target_decode", tokens_per_second)
        }
        Goal::Speed { phase: Phase::Prefill, tokens_per_second } => {
            ("target_prefill", tokens_per_second)
        }
    };
    let choice = Choice {
        goal,
        asked,
        bits_per_weight: trial.chosen.bits_per_weight,
        linear_bytes: trial.chosen.bytes,
        predicted_kld: trial.chosen.predicted,
        measured_kld: trial.kld.mean,
        measured_kld_error: trial.kld.error,
        scored_tokens: trial.kld.tokens,
        decode_tokens_per_second: trial.chosen.speed.decode,
        prefill_tokens_per_second: trial.chosen.speed.prefill,
        trials,
        exact: choices.are_exact(),
    };
    let described = match request.report {
        None => None,
        Some(folder) => {
            let pack = trial.summary.output.first().map(PathBuf::from);
            let pack = pack.context("no pack was written")?;
            let known = Known {
                request,
                sensitivities: &sensitivities,
                correlation,
                choices: &choices,
                texts: &texts,
                trial: &trial,
                pack: &pack,
                ladder: ladder(request, &pack, &opening, &texts)?,
            };
            Some((folder, describe::describe(known)?))
        }
    };
    // The pack first: it has cost more than a page that cannot be written.
    let summary = put_in_place(request, trial)?;
    if let Some((folder, described)) = described {
        report::write(folder, &described, request.conversion.force)?;
    }
    Ok((summary, choice))
}

/// Converts until the goal is met: the pack that does best, and how many were made.
fn meet(
    request: &Request<'_>,
    opening: &Opening,
    texts: &Texts,
    choices: &Choices<'_>,
) -> anyhow::Result<(Trial, usize)> {
    let attempt = |chosen: Chosen| attempt(request, opening, texts, chosen);
    match request.goal {
        Goal::BitsPerWeight(bits) => Ok((attempt(choices.of_bits(bits)?)?, 1)),
        Goal::Speed { phase, tokens_per_second } => {
            Ok((attempt(choices.of_speed(phase, tokens_per_second)?)?, 1))
        }
        Goal::Size(target) => {
            let mut beside = 0;
            for trials in 1..=MOST_TRIALS {
                let trial = attempt(choices.of_bytes(target, beside)?)?;
                let bytes = trial.summary.bytes_out;
                if bytes <= target {
                    return Ok((trial, trials));
                }
                // What stands beside the linears is known now, but for a header that changes a little.
                beside = (bytes - trial.chosen.bytes).max(beside + 1);
            }
            anyhow::bail!("no pack of {} was found in {MOST_TRIALS} trials", size::show(target))
        }
        Goal::Divergence(most) => {
            let mut search = Search::new(most);
            let mut best: Option<Trial> = None;
            let mut seen: Vec<Vec<usize>> = Vec::new();
            while seen.len() < MOST_TRIALS {
                let Some(predicted) = search.next() else { break };
                let chosen = choices.of_damage(predicted);
                if seen.contains(&chosen.options) {
                    break;
                }
                seen.push(chosen.options.clone());
                let trial = attempt(chosen)?;
                let met = search.record(trial.chosen.predicted, trial.kld.mean, trial.kld.error);
                let smaller = |best: &Trial| trial.summary.bytes_out < best.summary.bytes_out;
                if met && best.as_ref().is_none_or(smaller) {
                    best = Some(trial);
                }
            }
            let least = search.least();
            let found = best.with_context(|| {
                format!(
                    "no choice reaches a KL divergence of {most}: the least that was measured is {least:.6}"
                )
            })?;
            Ok((found, seen.len()))
        }
    }
}

/// Calibrates behind a choice, converts by it into a folder of its own, and measures.
fn attempt(
    request: &Request<'_>,
    opening: &Opening,
    texts: &Texts,
    chosen: Chosen,
) -> anyhow::Result<Trial> {
    let conversion = &request.conversion;
    let recipe = conversion.recipe.clone().with_schemes(&chosen.schemes)?.with_statistics(true);
    let observed = observe(&observation(request, texts, Some(&recipe)))?;
    let folder = TemporaryFolder::beside(conversion.output)
        .with_context(|| format!("a folder beside `{}`", escaped_path(conversion.output)))?;
    let name = conversion.output.file_name().context("the output has no name")?;
    let pack = folder.path().join(name);
    let summary = convert(&convert::Request {
        input: conversion.input,
        output: &pack,
        recipe,
        calibration: Some(&observed.path),
        target: conversion.target.clone(),
        seed: conversion.seed,
        budget: conversion.budget,
        shard_size: conversion.shard_size,
        dry_run: false,
        force: false,
        resume: false,
    })?;
    let written = summary.output.first().map_or(pack.as_path(), Path::new);
    let specs = [spec(written, None)];
    let measured = measure(conversion.input, &specs, opening, &texts.held_out)?;
    let kld = measured.first().and_then(|row| row.1.comparison.as_ref());
    let kld = &kld.context("nothing was compared")?.kld.mean;
    let tokens = measured.first().map_or(0, |row| row.1.tokens);
    let kld = Measured { mean: kld.value, error: kld.error, tokens };
    Ok(Trial { folder, observed, summary, chosen, kld })
}

/// A model by its file, and what is made of it.
fn spec(path: &Path, how: Option<How>) -> ModelSpec {
    ModelSpec { text: path.display().to_string(), path: path.to_owned(), how }
}

/// Names, summaries, and bytes and weights of the linears of models, compared with the GGUF file in floats, which comes
/// last.
fn measure(
    own: &Path,
    specs: &[ModelSpec],
    opening: &Opening,
    chunks: &Chunks,
) -> anyhow::Result<Vec<(String, perplexity::Summary, u64, u64)>> {
    let own = spec(own, Some(How::Float));
    let models = specs.iter().chain([&own]).map(|spec| Model::open(spec, opening));
    let models = models.collect::<anyhow::Result<Vec<_>>>()?;
    let checkpoints = models.iter().map(|model| model.checkpoint(opening));
    let checkpoints = checkpoints.collect::<anyhow::Result<Vec<_>>>()?;
    let decoders = checkpoints.iter().map(|own| Decoder::for_context(&**own, chunks.context()));
    let decoders = decoders.collect::<Result<Vec<_>, _>>()?;
    let participants = models.iter().zip(&decoders).map(|(model, decoder)| Participant {
        name: model.form.clone(),
        model: decoder,
        save: None,
    });
    let mut participants: Vec<_> = participants.collect();
    let reference = participants.pop().map(Reference::Model);
    let evaluation = Evaluation {
        chunks,
        memory_budget_bytes: opening.budget.bytes,
        reference,
        models: participants,
    };
    let progress = Progress::of_steps("measuring");
    let outcome = evaluation.run(&mut |work| progress.set(work.done, work.total));
    progress.finish();
    let outcome = outcome?;
    let outcomes = outcome.models.into_iter().chain(outcome.reference);
    let rows = outcomes.zip(checkpoints.iter().zip(&decoders)).map(|(outcome, (own, decoder))| {
        let (bytes, weights) = models::bytes_and_weights(&**own, decoder);
        (outcome.name, outcome.summary, bytes, weights)
    });
    Ok(rows.collect())
}

/// What stands beside the pack in the report: its own row, the schemes without data, another system's,
/// and the model in floats.
fn ladder(
    request: &Request<'_>,
    pack: &Path,
    opening: &Opening,
    texts: &Texts,
) -> anyhow::Result<Vec<LadderRow>> {
    let of_scheme = |scheme, preset| {
        let how = Overrides { scheme: Some(scheme), preset, ..Overrides::default() };
        spec(request.conversion.input, Some(How::Quantized(how)))
    };
    let specs = [
        spec(pack, None),
        of_scheme(SchemeChoice::W8A8, None),
        of_scheme(SchemeChoice::W4A8, None),
        of_scheme(SchemeChoice::W4A4, None),
        of_scheme(SchemeChoice::W4A4, Some(Preset::RkLlamaV3)),
    ];
    let measured = measure(request.conversion.input, &specs, opening, &texts.held_out)?;
    let shown = |name: &str, index: usize| match index {
        0 => "this pack".to_owned(),
        1..=3 => format!("{name}, without data"),
        _ => name.to_owned(),
    };
    let rows = measured.into_iter().enumerate().map(|(index, (name, summary, bytes, weights))| {
        let comparison = summary.comparison.as_ref();
        LadderRow {
            name: shown(&name, index),
            bits_per_weight: bytes as f64 * 8.0 / weights.max(1) as f64,
            bytes,
            ppl: summary.ppl.value,
            ppl_error: summary.ppl.error,
            mean_kld: comparison.map(|comparison| comparison.kld.mean.value),
            mean_kld_error: comparison.map(|comparison| comparison.kld.mean.error),
            same_top: comparison.map(|comparison| comparison.same_top.value * 100.0),
        }
    });
    Ok(rows.collect())
}

/// Sensitivities: those of the file, if they are of this model, or measured now.
fn sensitivities(
    request: &Request<'_>,
    opening: &Opening,
    texts: &Texts,
) -> anyhow::Result<(Sensitivities, Option<SensitivityCorrelation>)> {
    let conversion = &request.conversion;
    if let Some(path) = request.sensitivities {
        let mut found = Sensitivities::read(path)?;
        let model = digests(&Gguf::open(conversion.input)?)?;
        ensure!(
            found.setting.model.iter().map(|file| &file.sha256).eq(model.iter().map(|f| &f.sha256)),
            "the sensitivities `{}` are of another model than `{}`",
            escaped_path(path),
            escaped_path(conversion.input),
        );
        let pinned = |name: &str| conversion.recipe.pinned(name);
        found.pin(pinned).with_context(|| format!("sensitivity file `{}`", escaped_path(path)))?;
        return Ok((found, None));
    }
    let observed = observe(&observation(request, texts, None))?;
    let output = observed.path.with_file_name("sensitivities.json");
    let schemes = tessera_formats::npu::Scheme::ALL;
    let report = sensitivity(&sensitivity::Request {
        model: conversion.input,
        dataset: crate::calibrate::transient::texts(request.dataset),
        field: request.field,
        statistics: &observed.path,
        output: &output,
        tokens: DEMOTION_TOKENS.min(texts.calibration_tokens),
        context: request.context,
        schemes: &schemes,
        recipe: &conversion.recipe,
        estimate: false,
        memory_budget: conversion.budget.bytes,
        resume: false,
        force: false,
        opening,
    })?;
    Ok((Sensitivities::read(&output)?, report.correlation()))
}

/// Moves the files of a pack from the folder where they were made to where they belong.
fn put_in_place(request: &Request<'_>, trial: Trial) -> anyhow::Result<Summary> {
    let Trial { folder, mut summary, .. } = trial;
    let place = temporary::folder(request.conversion.output);
    // The index, where there is one, is the last.
    for output in &mut summary.output {
        let from = folder.path().join(Path::new(&*output).file_name().unwrap_or_default());
        let to = place.join(from.file_name().unwrap_or_default());
        temporary::relocate(&from, &to, request.conversion.force)?;
        *output = to.display().to_string();
    }
    if request.conversion.force {
        let written: Vec<_> = summary.output.iter().map(PathBuf::from).collect();
        convert::remove_replaced(request.conversion.output, &written)?;
    }
    Ok(summary)
}

/// Calibration on the text's first part.
fn observation<'a>(
    request: &'a Request<'_>,
    texts: &Texts,
    prefix: Option<&'a Recipe>,
) -> Observation<'a> {
    Observation {
        model: request.conversion.input,
        beside: request.conversion.output,
        dataset: request.dataset,
        field: request.field,
        tokens: texts.calibration_tokens,
        context: request.context,
        seed: request.conversion.seed,
        budget: request.conversion.budget,
        target: &request.conversion.target,
        prefix,
    }
}

fn opening(request: &Request<'_>) -> Opening {
    Opening::of_files(
        request.conversion.target.clone(),
        request.conversion.seed,
        request.conversion.budget,
    )
}
