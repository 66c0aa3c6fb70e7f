//! `tessera sensitivity`: what each scheme of each linear does to a model's logits.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::temporary;

use crate::calibrate::transient::{Observation, observe};
use crate::cli::SensitivityArguments;
use crate::convert::budget::Budget;
use crate::exit::Verdict;
use crate::inputs;
use crate::models::Opening;
use crate::recipe::Recipe;
use crate::sensitivity::{Report, Request, sensitivity};
use crate::workers;

/// Tokens that are observed where no statistics are given.
pub const OBSERVED_TOKENS: usize = 32768;

/// Measures and prints.
pub fn run(arguments: &SensitivityArguments) -> anyhow::Result<Verdict> {
    let threads = super::threads(arguments.threads)?;
    let report = workers::pool(threads)?.install(|| measure(arguments, threads))?;
    super::warn(report.warnings());
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(Verdict::Passed)
}

fn measure(arguments: &SensitivityArguments, threads: usize) -> anyhow::Result<Report> {
    let schemes: Vec<_> = arguments.schemes.iter().filter_map(|choice| choice.scheme()).collect();
    ensure!(
        schemes.len() == arguments.schemes.len(),
        "`--schemes keep`: a linear that is kept has no scheme to choose; a recipe's rule keeps it",
    );
    let repeated = (1..schemes.len()).any(|index| schemes[..index].contains(&schemes[index]));
    ensure!(!repeated, "`--schemes` names a scheme twice");
    let read = arguments.dataset.iter().chain(&arguments.recipe).chain(&arguments.calibration);
    let read = read.chain([&arguments.model]).map(PathBuf::as_path);
    inputs::keep(&arguments.output, read.chain(super::board_file(&arguments.target)))?;
    let folder = temporary::folder(&arguments.output);
    ensure!(folder.is_dir(), "the folder `{}` does not exist", escaped_path(folder));
    crate::calibrate::output::check_existing(&arguments.output, arguments.force)?;
    let recipe = match &arguments.recipe {
        Some(path) => Recipe::read(path, arguments.options)?,
        None => Recipe::uniform(arguments.options),
    };
    let target = super::target(&arguments.target)?;
    let budget = Budget { bytes: arguments.memory_budget, threads };
    let observed = match &arguments.calibration {
        Some(_) => None,
        None => Some(observe(&Observation {
            model: &arguments.model,
            beside: &arguments.output,
            dataset: &arguments.dataset,
            field: arguments.field.as_deref(),
            tokens: OBSERVED_TOKENS,
            context: arguments.ctx,
            seed: arguments.seed,
            budget,
            target: &target,
            prefix: None,
        })?),
    };
    let statistics = match (&observed, &arguments.calibration) {
        (Some(observed), _) => &observed.path,
        (None, given) => given.as_ref().context("no statistics")?,
    };
    let opening = Opening::of_files(target, arguments.seed, budget);
    sensitivity(&Request {
        model: &arguments.model,
        dataset: &arguments.dataset,
        field: arguments.field.as_deref(),
        statistics,
        output: &arguments.output,
        tokens: arguments.tokens,
        context: arguments.ctx,
        schemes: &schemes,
        recipe: &recipe.with_statistics(true),
        estimate: arguments.estimate,
        memory_budget: arguments.memory_budget,
        resume: arguments.resume,
        force: arguments.force,
        opening: &opening,
    })
}
