//! Arguments of `verify`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tessera verify model.safetensors                         hashes, shapes, limits, certificates
  tessera verify model.safetensors --source model.gguf     and the error of every tensor")]
pub struct VerifyArguments {
    /// Pack: its file, its index, any of its shards, or its folder
    pub pack: PathBuf,

    /// GGUF file the pack was made from
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,

    /// Accept a source other than the recorded one, such as the F16 original of a Q8_0 file
    #[arg(long, requires = "source")]
    pub any_source: bool,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
