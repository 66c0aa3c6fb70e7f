//! `tessera convert`: a GGUF file becomes a pack.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::gguf::{Gguf, Value};

use crate::calibrate::transient::{Observation, Transient, observe};
use crate::choose;
use crate::choose::goal::{Goal, Phase};
use crate::choose::pin;
use crate::cli::ConvertArguments;
use crate::convert::budget::Budget;
use crate::convert::{Request, check_output, convert};
use crate::exit::Verdict;
use crate::inputs;
use crate::options::{Overrides, ScaleType};
use crate::recipe::Recipe;
use crate::workers;

/// Converts and prints the summary.
pub fn run(arguments: &ConvertArguments) -> anyhow::Result<Verdict> {
    let sidecars = [&arguments.recipe, &arguments.calibration, &arguments.sensitivity];
    let read = sidecars.into_iter().flatten().chain(&arguments.dataset).map(PathBuf::as_path);
    inputs::keep(&arguments.output, read.chain(super::board_file(&arguments.target)))?;
    let recipe = match &arguments.recipe {
        Some(path) => Recipe::read(path, arguments.options)?,
        None => Recipe::uniform(arguments.options),
    };
    let calibrated = arguments.calibration.is_some() || !arguments.dataset.is_empty();
    let mut request = Request {
        input: &arguments.input,
        output: &arguments.output,
        recipe: recipe.with_statistics(calibrated),
        calibration: arguments.calibration.as_deref(),
        target: super::target(&arguments.target)?,
        seed: arguments.seed,
        budget: Budget {
            bytes: arguments.memory_budget,
            threads: super::threads(arguments.threads)?,
        },
        shard_size: arguments.shard_size,
        dry_run: arguments.dry_run,
        force: arguments.force,
        resume: arguments.resume,
    };
    if let Some(goal) = goal(arguments)? {
        return choose_and_convert(arguments, request, goal);
    }
    let observed = match arguments.dataset.as_slice() {
        [] => None,
        _ if arguments.dry_run => None,
        dataset => Some(observe_behind(arguments, dataset, &request)?),
    };
    request.calibration =
        observed.as_ref().map(|observed| observed.path.as_path()).or(request.calibration);
    let summary = convert(&request)?;
    super::warn(&summary.warnings);
    if arguments.json {
        super::print_json(&summary)?;
    } else {
        super::print(&summary.text())?;
    }
    Ok(Verdict::Passed)
}

/// What is asked of the choice of schemes, if it is asked for.
fn goal(arguments: &ConvertArguments) -> anyhow::Result<Option<Goal>> {
    let positive = |name: &str, value: f64| {
        ensure!(value.is_finite() && value > 0.0, "`--{name} {value}` must be above zero");
        Ok(value)
    };
    let speed = |name: &str, phase: Phase, rate: f64| {
        Ok::<_, anyhow::Error>(Goal::Speed { phase, tokens_per_second: positive(name, rate)? })
    };
    if let Some(rate) = arguments.target_decode {
        return speed("target-decode", Phase::Decode, rate).map(Some);
    }
    if let Some(rate) = arguments.target_prefill {
        return speed("target-prefill", Phase::Prefill, rate).map(Some);
    }
    Ok(match (arguments.target_bpw, arguments.target_size, arguments.max_kld) {
        (Some(bits), ..) => Some(Goal::BitsPerWeight(positive("target-bpw", bits)?)),
        (_, Some(bytes), _) => Some(Goal::Size(bytes)),
        (.., Some(kld)) => Some(Goal::Divergence(positive("max-kld", kld)?)),
        _ => None,
    })
}

fn choose_and_convert(
    arguments: &ConvertArguments,
    conversion: Request<'_>,
    goal: Goal,
) -> anyhow::Result<Verdict> {
    ensure!(
        !arguments.dataset.is_empty(),
        "choosing bits needs a text to measure on: give `--dataset FILE`, or `--dataset built-in`",
    );
    ensure!(
        arguments.options.scheme.is_none() && !arguments.dry_run,
        "`--scheme` and `--dry-run` leave nothing to choose: a recipe's rules pin single linears",
    );
    // Scales of 16 bits, unless something else is said: what is spent on them is lost to weights.
    let short = Overrides { scale_type: Some(ScaleType::Bf16), ..Overrides::default() };
    let recipe = conversion.recipe.clone().or(short).with_statistics(true);
    let recipe = match arguments.pin.as_slice() {
        [] => recipe,
        pins => pin::pinned(recipe, pins, layers(conversion.input)?)?,
    };
    let threads = conversion.budget.threads;
    let request = choose::Request {
        conversion: Request { recipe, ..conversion },
        goal,
        rates: &super::board(&arguments.target)?.rates,
        dataset: &arguments.dataset,
        field: arguments.field.as_deref(),
        tokens: arguments.tokens,
        context: arguments.ctx,
        sensitivities: arguments.sensitivity.as_deref(),
        report: arguments.report.as_deref(),
    };
    let (summary, choice) = workers::pool(threads)?.install(|| choose::choose(&request))?;
    super::warn(&summary.warnings);
    if arguments.json {
        let mut printed = serde_json::to_value(&summary)?;
        printed["choice"] = serde_json::to_value(&choice)?;
        super::print_json(&printed)?;
    } else {
        super::print(&summary.text())?;
        super::print(&choice.text())?;
    }
    Ok(Verdict::Passed)
}

/// Layers of a model.
fn layers(model: &Path) -> anyhow::Result<u64> {
    let gguf = Gguf::open(model)?;
    let key = format!("{}.block_count", gguf.architecture()?);
    let found = gguf.metadata().get(&key).and_then(Value::as_u64);
    found.with_context(|| format!("`{}` does not say `{key}`", escaped_path(model)))
}

/// Observes the model behind layers quantized as the pack's will be.
fn observe_behind(
    arguments: &ConvertArguments,
    dataset: &[PathBuf],
    request: &Request<'_>,
) -> anyhow::Result<Transient> {
    // Before hours went into it.
    check_output(request)?;
    let observation = Observation {
        model: request.input,
        beside: request.output,
        dataset,
        field: arguments.field.as_deref(),
        tokens: arguments.tokens,
        context: arguments.ctx,
        seed: request.seed,
        budget: request.budget,
        target: &request.target,
        prefix: Some(&request.recipe),
    };
    let pool = workers::pool(request.budget.threads)?;
    let observed = pool.install(|| observe(&observation))?;
    super::warn(&observed.warnings);
    Ok(observed)
}
