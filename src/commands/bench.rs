//! `tessera bench`: how fast is a model here?

use anyhow::Context;

use crate::bench::{Request, bench};
use crate::cli::BenchArguments;
use crate::doctor::System;
use crate::exit::Verdict;
use crate::workers;
use tessera_formats::escape::escaped_path;

/// Measures and prints what was found.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<Verdict> {
    let root = &arguments.root;
    let system = System::below(root).with_context(|| format!("root `{}`", escaped_path(root)))?;
    let opening = super::opening(&arguments.running, 0)?;
    let report = workers::pool(opening.budget.threads)?.install(|| {
        bench(&Request {
            model: &arguments.model,
            prompts: &arguments.n_prompt,
            generated: &arguments.n_gen,
            batches: &arguments.batch,
            repetitions: arguments.repetitions,
            memory_budget: arguments.running.memory_budget,
            opening: &opening,
            system: &system,
        })
    })?;
    if arguments.json {
        super::print_json(&report.tests())?;
    } else {
        super::print(&report.text())?;
    }
    Ok(Verdict::Passed)
}
