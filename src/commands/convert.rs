//! `tessera convert`: a GGUF file becomes a pack.

use std::path::PathBuf;

use crate::calibrate::transient::{Observation, Transient, observe};
use crate::cli::ConvertArguments;
use crate::convert::budget::Budget;
use crate::convert::{Request, check_output, convert};
use crate::exit::Verdict;
use crate::recipe::Recipe;

/// Converts and prints the summary.
pub fn run(arguments: &ConvertArguments) -> anyhow::Result<Verdict> {
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
    };
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
    let pool = super::worker_pool(request.budget.threads)?;
    let observed = pool.install(|| observe(&observation))?;
    super::warn(&observed.warnings);
    Ok(observed)
}
