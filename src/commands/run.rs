//! `tessera run`: a model continues a prompt.

use crate::cli::RunArguments;
use crate::completion::{Request, complete};
use crate::exit::Verdict;
use crate::workers;

/// Generates, printing as it goes.
pub fn run(arguments: &RunArguments) -> anyhow::Result<Verdict> {
    let opening = super::opening(&arguments.running, 0)?;
    let rates = workers::pool(opening.budget.threads)?.install(|| {
        complete(
            &Request {
                model: &arguments.model,
                prompt: &arguments.prompt,
                tokens: arguments.tokens,
                sampling: arguments.sampling(),
                memory_budget: arguments.running.memory_budget,
                opening: &opening,
            },
            super::print_piece,
        )
    })?;
    super::print("\n")?;
    crate::talk::say(format_args!("{}", rates.text()));
    Ok(Verdict::Passed)
}
