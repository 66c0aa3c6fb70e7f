//! `tessera inspect`: what a GGUF file or a pack holds.

use crate::cli::InspectArguments;
use crate::exit::Verdict;
use crate::inspect;

/// Reads the file's headers and prints what they say.
pub fn run(arguments: &InspectArguments) -> anyhow::Result<Verdict> {
    let target = super::target(&arguments.target)?;
    if inspect::is_for_gguf(&arguments.file)? {
        let report = inspect::GgufReport::read(&arguments.file, &target)?;
        match arguments.json {
            true => super::print_json(&report)?,
            false => super::print(&report.text(arguments.tensors))?,
        }
    } else {
        let report = inspect::PackReport::read(&arguments.file)?;
        match arguments.json {
            true => super::print_json(&report)?,
            false => super::print(&report.text(arguments.tensors))?,
        }
    }
    Ok(Verdict::Passed)
}
