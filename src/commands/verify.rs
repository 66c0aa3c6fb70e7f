//! `tessera verify`: is a pack what it says, and how near is it to its source?

use anyhow::ensure;

use crate::cli::VerifyArguments;
use crate::exit::Verdict;
use crate::inspect::is_gguf;
use crate::verify::{Request, verify};
use crate::workers;
use tessera_formats::escape::escaped_path;

/// Checks and prints what was found.
pub fn run(arguments: &VerifyArguments) -> anyhow::Result<Verdict> {
    ensure!(
        !is_gguf(&arguments.pack)?,
        "`{}` is a GGUF file, not a pack (`NAME.safetensors`)",
        escaped_path(&arguments.pack),
    );
    let pool = workers::pool(super::threads(arguments.threads)?)?;
    let report = pool.install(|| {
        verify(&Request {
            pack: &arguments.pack,
            source: arguments.source.as_deref(),
            any_source: arguments.any_source,
        })
    })?;
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(if report.ok { Verdict::Passed } else { Verdict::Failed })
}
