//! `tessera doctor`: is this board ready to run packs?

use anyhow::Context;

use crate::cli::DoctorArguments;
use crate::doctor::{Severity, System, examine};
use crate::exit::Verdict;
use tessera_formats::escape::escaped_path;

/// Examines the machine and prints what it found.
pub fn run(arguments: &DoctorArguments) -> anyhow::Result<Verdict> {
    let root = &arguments.root;
    let system = System::below(root).with_context(|| format!("root `{}`", escaped_path(root)))?;
    let report = examine(&system);
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(if report.verdict < Severity::Warning { Verdict::Passed } else { Verdict::Failed })
}
