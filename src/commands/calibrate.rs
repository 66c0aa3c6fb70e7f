//! `tessera calibrate`: what a model's linears read on a text.

use std::path::PathBuf;

use anyhow::Context;

use crate::calibrate::{Report, Request, calibrate, merge};
use crate::cli::CalibrateArguments;
use crate::convert::budget::Budget;
use crate::exit::Verdict;
use crate::inputs;
use crate::models::Opening;
use crate::options::Overrides;
use crate::recipe::Recipe;
use crate::workers;

/// Observes or merges, and prints what was found.
pub fn run(arguments: &CalibrateArguments) -> anyhow::Result<Verdict> {
    if let Some(output) = &arguments.output {
        let read = arguments.merge.iter().chain(&arguments.recipe).map(PathBuf::as_path);
        inputs::keep(output, read.chain(super::board_file(&arguments.target)))?;
    }
    let threads = super::threads(arguments.threads)?;
    let report = workers::pool(threads)?.install(|| observe(arguments, threads))?;
    super::warn(report.warnings());
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(Verdict::Passed)
}

fn observe(arguments: &CalibrateArguments, threads: usize) -> anyhow::Result<Report> {
    if !arguments.merge.is_empty() {
        let output = arguments.output.as_deref().context("give the file to write with `-o`")?;
        return merge(&arguments.merge, output, arguments.force);
    }
    let opening = Opening::of_files(
        super::target(&arguments.target)?,
        arguments.seed,
        Budget { bytes: arguments.memory_budget, threads },
    );
    let recipe = match &arguments.recipe {
        Some(path) => Some(Recipe::read(path, arguments.options)?),
        None if arguments.options == Overrides::default() => None,
        None => Some(Recipe::uniform(arguments.options)),
    };
    let prefix = recipe.map(|recipe| recipe.with_statistics(true));
    calibrate(&Request {
        model: arguments.model.as_deref().context("name the GGUF file to calibrate")?,
        dataset: &arguments.dataset,
        field: arguments.field.as_deref(),
        output: arguments.output.as_deref(),
        tokens: arguments.tokens,
        context: arguments.ctx,
        seed: arguments.seed,
        hessians: arguments.hessians || prefix.is_some(),
        prefix: prefix.as_ref(),
        memory_budget: arguments.memory_budget,
        resume: arguments.resume,
        force: arguments.force,
        opening: &opening,
    })
}
