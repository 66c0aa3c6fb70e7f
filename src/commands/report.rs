//! `tessera report`: the page of a report, from its JSON.

use crate::cli::ReportArguments;
use crate::exit::Verdict;
use crate::report;

/// Reads the JSON and writes it with its page.
pub fn run(arguments: &ReportArguments) -> anyhow::Result<Verdict> {
    let read = report::read(&arguments.report)?;
    report::write(&arguments.output, &read, arguments.force)?;
    let page = arguments.output.join(report::PAGE_FILE);
    super::print(&format!("{}\n", tessera_formats::escape::escaped(&page.to_string_lossy())))?;
    Ok(Verdict::Passed)
}
