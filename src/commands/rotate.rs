//! `tessera rotate`: a GGUF file whose weights have taken rotations in.

use crate::cli::RotateArguments;
use crate::convert::budget::Budget;
use crate::exit::Verdict;
use crate::rotate::{Request, rotate};

/// Rotates and prints the summary.
pub fn run(arguments: &RotateArguments) -> anyhow::Result<Verdict> {
    let summary = rotate(&Request {
        input: &arguments.input,
        output: &arguments.output,
        seed: arguments.seed,
        heads: !arguments.no_heads,
        matrix_type: arguments.matrix_type,
        budget: Budget {
            bytes: arguments.memory_budget,
            threads: super::threads(arguments.threads)?,
        },
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
