//! `tessera convert`: a GGUF file becomes a pack.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::calibrate::{self, calibrate};
use crate::cli::ConvertArguments;
use crate::convert::budget::Budget;
use crate::convert::{Request, check_output, convert};
use crate::exit::Verdict;
use crate::models::Opening;
use crate::options::Overrides;
use crate::recipe::Recipe;

/// What stands for the text that tessera carries.
const BUILT_IN: &str = "built-in";

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
        dataset => Some(observe(arguments, dataset, &request)?),
    };
    request.calibration = observed.as_ref().map(|(_, path)| path.as_path()).or(request.calibration);
    let summary = convert(&request)?;
    super::warn(&summary.warnings);
    if arguments.json {
        super::print_json(&summary)?;
    } else {
        super::print(&summary.text())?;
    }
    Ok(Verdict::Passed)
}

/// Observes the model behind layers quantized as the pack's will be: the statistics, in a folder that
/// goes when the conversion is done.
fn observe(
    arguments: &ConvertArguments,
    dataset: &[PathBuf],
    request: &Request<'_>,
) -> anyhow::Result<(TempDir, PathBuf)> {
    // Before hours went into it.
    check_output(request)?;
    let folder = match arguments.output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = tempfile::Builder::new()
        .prefix(".tessera-")
        .suffix(".part")
        .tempdir_in(folder)
        .with_context(|| format!("a folder for statistics in `{}`", folder.display()))?;
    let output = folder.path().join("statistics.safetensors");
    let opening = Opening {
        device: None,
        cpu_like: false,
        options: Overrides::default(),
        recipe: None,
        calibration: None,
        target: request.target.clone(),
        seed: request.seed,
        budget: request.budget,
    };
    let built_in = dataset.len() == 1 && dataset[0].as_os_str() == BUILT_IN;
    let observation = calibrate::Request {
        model: request.input,
        dataset: if built_in { &[] } else { dataset },
        field: arguments.field.as_deref(),
        output: Some(&output),
        tokens: arguments.tokens,
        context: arguments.ctx,
        seed: request.seed,
        hessians: true,
        memory_budget: request.budget.bytes,
        resume: false,
        force: false,
        prefix: Some(&request.recipe),
        opening: &opening,
    };
    let pool = super::worker_pool(request.budget.threads)?;
    let report = pool.install(|| calibrate(&observation))?;
    super::warn(report.warnings());
    Ok((folder, output))
}
