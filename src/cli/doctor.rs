//! Arguments of `doctor`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 means that nothing is wrong, 1 that there is a warning or an error. Nothing is changed.
Some files are for root only: what could not be checked without them is told.

Examples:
  tessera doctor                  what is wrong, why it matters, and the command that fixes it
  sudo tessera doctor --json      everything, for a program
  tessera doctor --root /host     in a container, where the board's files are in this folder")]
pub struct DoctorArguments {
    /// Folder that stands for `/` [default: /]
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
