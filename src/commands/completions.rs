//! `tessera completions`: shell completion scripts.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Arguments;
use crate::exit::Verdict;

/// Prints the completion script of a shell.
pub fn run(shell: Shell) -> anyhow::Result<Verdict> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tessera", &mut script);
    super::print(&String::from_utf8(script)?)?;
    Ok(Verdict::Passed)
}
