//! Arguments of `inspect`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tessera inspect model.gguf                 what it holds, and what each scheme makes of it
  tessera inspect model.gguf --tensors       every tensor
  tessera inspect model.safetensors --json   a pack, for a program")]
pub struct InspectArguments {
    /// GGUF file (the first of a split), or pack
    pub file: PathBuf,

    /// List every tensor
    #[arg(long)]
    pub tensors: bool,

    /// Chip whose limits apply: rk3588, rk3588s, rk3576, or a board's `NAME.json`
    /// [default: rk3588]
    #[arg(long, value_name = "NAME", default_value = "rk3588", hide_default_value = true)]
    pub target: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
