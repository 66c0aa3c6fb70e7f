//! `tessera report`: the page of a report, from its JSON.

use tessera_formats::escape::escaped_path;

use crate::cli::ReportArguments;
use crate::exit::Verdict;
use crate::inputs;
use crate::report;

/// Reads the JSON and writes it with its page.
pub fn run(arguments: &ReportArguments) -> anyhow::Result<Verdict> {
    let read = report::read(&arguments.report)?;
    let page = arguments.output.join(report::PAGE_FILE);
    // The JSON may stand where it is written to: it says the same again.
    inputs::keep(&page, [arguments.report.as_path()])?;
    report::write(&arguments.output, &read, arguments.force)?;
    super::print(&format!("{}\n", escaped_path(&page)))?;
    Ok(Verdict::Passed)
}
