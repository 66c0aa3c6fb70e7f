//! `tessera convert`: a GGUF file becomes a pack.

use crate::cli::ConvertArguments;
use crate::convert::budget::Budget;
use crate::convert::calibration::Calibration;
use crate::convert::{Request, convert};
use crate::exit::Verdict;
use crate::recipe::Recipe;

/// Converts and prints the summary.
pub fn run(arguments: &ConvertArguments) -> anyhow::Result<Verdict> {
    let recipe = match &arguments.recipe {
        Some(path) => Recipe::read(path, arguments.options)?,
        None => Recipe::uniform(arguments.options),
    };
    let calibration = arguments.calibration.as_deref().map(Calibration::open).transpose()?;
    let summary = convert(&Request {
        input: &arguments.input,
        output: &arguments.output,
        recipe: recipe.with_statistics(calibration.is_some()),
        calibration: calibration.as_ref(),
        target: super::target(&arguments.target)?,
        seed: arguments.seed,
        budget: Budget {
            bytes: arguments.memory_budget,
            threads: super::threads(arguments.threads)?,
        },
        shard_size: arguments.shard_size,
        dry_run: arguments.dry_run,
        force: arguments.force,
    })?;
    super::warn(&summary.warnings);
    if arguments.json {
        super::print_json(&summary)?;
    } else {
        super::print(&summary.text())?;
    }
    Ok(Verdict::Passed)
}
