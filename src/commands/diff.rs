//! `tessera diff`: in what do two packs, or GGUF files, differ?

use crate::cli::DiffArguments;
use crate::convert::budget::Budget;
use crate::diff::{Request, diff};
use crate::exit::Verdict;
use crate::workers;

/// Compares and prints what differs.
pub fn run(arguments: &DiffArguments) -> anyhow::Result<Verdict> {
    let threads = super::threads(arguments.threads)?;
    let budget = Budget { bytes: arguments.memory_budget, threads };
    let report = workers::pool(threads)?.install(|| {
        diff(&Request { a: &arguments.a, b: &arguments.b, all: arguments.all, budget })
    })?;
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(if report.same { Verdict::Passed } else { Verdict::Failed })
}
