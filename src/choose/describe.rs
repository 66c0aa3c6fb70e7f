//! The report of a choice: what stands on its page.

use std::path::Path;

use anyhow::Context;
use tessera_calibration::statistics::StatisticsFile;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::{Gguf, Value};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Activation, Linear as PackLinear};

use super::goal::{Choices, Goal, Phase};
use super::{Request, Texts, Trial};
use crate::convert::roles;
use crate::report::data::{self, Report};
use crate::sensitivity::file::{self, Sensitivities};
use crate::weights::{Steps, TiledLinear};

/// Most points of the frontier that are drawn.
const POINTS: usize = 240;

/// What is known when a pack was made and measured.
pub struct Known<'a> {
    /// What was asked for.
    pub request: &'a Request<'a>,
    /// What the choice was made by.
    pub sensitivities: &'a Sensitivities,
    /// How estimates agree with them, where they were measured now.
    pub correlation: Option<data::SensitivityCorrelation>,
    /// All good choices.
    pub choices: &'a Choices<'a>,
    /// The text.
    pub texts: &'a Texts,
    /// The one that was made.
    pub trial: &'a Trial,
    /// The pack's first file.
    pub pack: &'a Path,
    /// Models that were measured beside it.
    pub ladder: Vec<data::LadderRow>,
}

/// Collects what is known.
pub fn describe(known: Known<'_>) -> anyhow::Result<Report> {
    let Known { request, sensitivities, correlation, choices, texts, trial, pack, ladder } = known;
    let conversion = &request.conversion;
    let gguf = Gguf::open(conversion.input)?;
    let pack = PackReader::open(pack)?;
    let statistics = StatisticsFile::open(&trial.observed.path)?;
    let mut tensors = Vec::with_capacity(sensitivities.linears.len());
    for (linear, &option) in sensitivities.linears.iter().zip(&trial.chosen.options) {
        let made = pack.linear(&linear.name).context("a linear is not in the pack")?;
        let source = gguf.tensor(&made.source).context("the source has no such tensor")?;
        let steps = Steps::of(&TiledLinear::open(&pack, made)?, &gguf, source)
            .with_context(|| format!("`{}`", Escaped(&linear.name)))?;
        tensors.push(tensor(sensitivities, (linear, option), (made, steps), &statistics)?);
    }
    let name = gguf.metadata().get("general.name").and_then(Value::as_str);
    let file_name = || conversion.input.file_name().unwrap_or_default().to_string_lossy();
    let setting = &sensitivities.setting;
    let hashed = |name: &str, sha256: &str| data::HashedFile {
        name: name.to_owned(),
        sha256: sha256.to_owned(),
    };
    let frontier = choices.sample(POINTS, &trial.chosen).into_iter().map(|(chosen, is_this)| {
        data::FrontierPoint {
            bits_per_weight: chosen.bytes as f64 * 8.0 / choices.weights() as f64,
            bytes: chosen.bytes,
            predicted_kld: chosen.predicted,
            chosen: is_this,
            measured_kld: is_this.then_some(trial.kld.mean),
        }
    });
    let predicted = trial.chosen.predicted;
    Ok(Report {
        format: data::FORMAT.to_owned(),
        version: data::VERSION,
        tessera: env!("CARGO_PKG_VERSION").to_owned(),
        model: data::Model {
            name: name.map_or_else(|| file_name().into_owned(), str::to_owned),
            architecture: gguf.architecture()?.to_owned(),
            parameters: gguf.tensors().iter().map(|tensor| tensor.elements()).sum(),
            files: setting.model.iter().map(|file| hashed(&file.name, &file.sha256)).collect(),
        },
        budget: vec![match request.goal {
            Goal::BitsPerWeight(bits) => data::Budget::TargetBpw(bits),
            Goal::Size(bytes) => data::Budget::TargetSize(bytes),
            Goal::Divergence(kld) => data::Budget::MaxKld(kld),
            Goal::Speed { phase: Phase::Decode, tokens_per_second } => {
                data::Budget::TargetDecode(tokens_per_second)
            }
            Goal::Speed { phase: Phase::Prefill, tokens_per_second } => {
                data::Budget::TargetPrefill(tokens_per_second)
            }
        }],
        pack: Some(data::Pack {
            bytes: trial.summary.bytes_out,
            bits_per_weight: trial.chosen.bits_per_weight,
            decode_tokens_per_second: Some(trial.chosen.speed.decode),
            prefill_tokens_per_second: Some(trial.chosen.speed.prefill),
        }),
        prediction: data::Prediction {
            predicted_kld: predicted,
            measured_kld: Some(trial.kld.mean),
            ratio: (predicted > 0.0).then_some(trial.kld.mean / predicted),
            text: Some("a part of the data set that was held out".to_owned()),
        },
        ladder,
        frontier: frontier.collect(),
        tensors,
        sensitivity: correlation,
        recipe: pack.manifest(0).context("a pack without a shard")?.recipe.clone(),
        provenance: data::Provenance {
            datasets: setting.data.iter().map(|data| hashed(&data.name, &data.sha256)).collect(),
            tokens: u64::try_from(texts.calibration_tokens)?,
            context: u64::try_from(texts.held_out.context())?,
            seed: conversion.seed,
            chunks: u64::try_from(texts.held_out.len())?,
            evaluation_text: None,
        },
    })
}

fn tensor(
    sensitivities: &Sensitivities,
    (linear, option): (&file::Linear, usize),
    (made, steps): (&PackLinear, Option<Steps>),
    statistics: &StatisticsFile,
) -> anyhow::Result<data::Tensor> {
    let option = linear.options.get(option).context("an option that is not there")?;
    let scheme_option = |option: &file::Demotion| data::SchemeOption {
        scheme: option.scheme.name().to_owned(),
        damage: sensitivities.damage(linear, option).unwrap_or(0.0),
        bytes: option.bytes(),
    };
    let observed = match statistics.index_of(&linear.name) {
        Some(index) => Some(statistics.load_sums(index)?),
        None => None,
    };
    let clip = |rms: f64| match &made.activation {
        Activation::Dynamic { rms_clip: Some(factor), .. } => Some(f64::from(*factor) * rms),
        Activation::Static { threshold } => threshold.first().map(|&clip| f64::from(clip)),
        Activation::Dynamic { .. } => None,
    };
    let histogram = observed.as_ref().and_then(|observed| {
        let (bins, width) = observed.rotated.histogram();
        let merged = bins.len().div_ceil(data::Histogram::MOST_BINS).max(1);
        let counts: Vec<u64> = bins.chunks(merged).map(|bins| bins.iter().sum()).collect();
        let elements: u64 = counts.iter().sum();
        // A rotation keeps the sum of squares.
        let rms = (observed.squares.iter().sum::<f64>() / elements.max(1) as f64).sqrt();
        (!counts.is_empty() && elements > 0).then(|| data::Histogram {
            of: data::HistogramOf::Inputs,
            bin_width: f64::from(width) * merged as f64,
            counts,
            clip: clip(rms),
        })
    });
    let activation_clip = histogram.as_ref().and_then(|histogram| histogram.clip);
    let weights = steps.map(|steps| data::Histogram {
        of: data::HistogramOf::Weights,
        bin_width: steps.bin_width,
        counts: steps.counts,
        clip: Some(steps.clip),
    });
    Ok(data::Tensor {
        name: linear.name.clone(),
        layer: linear.layer.map(u32::try_from).transpose()?,
        operator: roles::operator(&linear.name).unwrap_or(&linear.name).to_owned(),
        scheme: option.scheme.name().to_owned(),
        n: made.n,
        k: made.k,
        experts: made.experts.unwrap_or(1),
        weights: linear.weights,
        bytes: option.bytes(),
        bits_per_weight: option.bytes() as f64 * 8.0 / linear.weights as f64,
        relative_error: Some(made.relative_rms),
        damage: option.kld,
        pinned: linear.pinned,
        options: linear.options.iter().map(scheme_option).collect(),
        histograms: weights.into_iter().chain(histogram).collect(),
        activation_clip,
    })
}
