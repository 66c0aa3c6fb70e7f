//! Arguments of `rotate`.

use std::path::PathBuf;

use clap::Args;

use crate::rotate::MatrixType;
use crate::size;

/// Arguments of `rotate`.
#[derive(Args, Debug)]
#[command(after_help = "\
The result is an ordinary GGUF file that computes the same. Converting it, only the inputs of
`ffn_down` are rotated when the model runs, not those of every linear.

Examples:
  tessera rotate model.gguf -o rotated.gguf
  tessera rotate model.gguf -o rotated.gguf --type f16 --memory-budget 2G
  tessera eval rotated.gguf --reference model.gguf --text wiki.test.raw
  tessera convert rotated.gguf -o model.safetensors --scheme w4a8")]
pub struct RotateArguments {
    /// GGUF file (the first of a split)
    pub input: PathBuf,

    /// GGUF file to write, `NAME.gguf`
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Leave values and the inputs of the attention output as they are
    #[arg(long)]
    pub no_heads: bool,

    /// Type of the matrices written [default: f32]
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_enum,
        default_value = "f32",
        hide_default_value = true
    )]
    pub matrix_type: MatrixType,

    /// Seed of the random signs [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub seed: u64,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Memory that may be used, such as `256M` or `1.5G` [default: 512M]
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        hide_default_value = true,
        value_parser = size::parse
    )]
    pub memory_budget: u64,

    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,

    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
}
