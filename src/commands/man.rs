//! `tessera man`: manual pages.

use std::path::Path;

use anyhow::{Context, ensure};
use clap::CommandFactory;

use crate::cli::Arguments;
use crate::exit::Verdict;
use tessera_formats::escape::escaped_path;

/// Writes a page for the program and one for each command into `directory`.
pub fn run(directory: &Path) -> anyhow::Result<Verdict> {
    ensure!(directory.is_dir(), "the folder `{}` does not exist", escaped_path(directory));
    clap_mangen::generate_to(Arguments::command(), directory)
        .with_context(|| format!("`{}`", escaped_path(directory)))?;
    Ok(Verdict::Passed)
}
