//! `tessera eval`: perplexity and KL divergence of models on a text.

use crate::cli::EvalArguments;
use crate::eval::{Request, evaluate};
use crate::exit::Verdict;
use crate::workers;

/// Measures and prints.
pub fn run(arguments: &EvalArguments) -> anyhow::Result<Verdict> {
    let opening = super::opening(&arguments.running, arguments.seed)?;
    let report = workers::pool(opening.budget.threads)?.install(|| {
        evaluate(&Request {
            models: &arguments.models,
            text: arguments.text.as_deref(),
            reference: arguments.reference.as_ref(),
            from_logits: arguments.from_logits.as_deref(),
            save_logits: arguments.save_logits.as_deref(),
            context: arguments.ctx,
            chunks: arguments.chunks,
            memory_budget: arguments.running.memory_budget.unwrap_or(super::RUNNING_MEMORY),
            opening: &opening,
        })
    })?;
    if arguments.json {
        super::print_text_of_json(&report.json()?)?;
    } else {
        super::print(&report.text()?)?;
    }
    Ok(Verdict::Passed)
}
