//! Arguments of `sensitivity`.

use std::path::PathBuf;

use clap::Args;

use crate::options::{Overrides, SchemeChoice};
use crate::size;

/// Arguments of `sensitivity`.
#[derive(Args, Debug)]
#[command(after_help = "\
The result is what `tessera convert --target-bpw`, `--target-size` and `--max-kld` choose by.

Examples:
  tessera sensitivity model.gguf --dataset wiki.train.raw -o model.sensitivity.json
  tessera sensitivity model.gguf --dataset wiki.train.raw -o model.sensitivity.json --resume
  tessera sensitivity model.gguf --dataset wiki.train.raw -o estimate.json --estimate   one run a layer")]
pub struct SensitivityArguments {
    /// GGUF file (the first of a split)
    pub model: PathBuf,

    /// Text: `.txt`, `.md`, `.raw` and `.jsonl` files, and folders of them [default: a text that tessera
    /// carries]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub dataset: Vec<PathBuf>,

    /// Field of the lines of `.jsonl` files that holds the text [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,

    /// File to write, JSON
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Tokens that pass through the model for each linear and scheme [default: 4096]
    #[arg(long, value_name = "N", default_value_t = 4096, hide_default_value = true)]
    pub tokens: usize,

    /// Tokens of a chunk, which the model reads on its own [default: 512, or what the model was trained
    /// for]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,

    /// Statistics that `tessera calibrate --hessians` wrote [default: 32768 tokens of the text are
    /// observed]
    #[arg(long, value_name = "STATS")]
    pub calibration: Option<PathBuf>,

    /// Schemes to choose from
    #[arg(
        long,
        value_name = "SCHEMES",
        value_delimiter = ',',
        default_value = "w4a4,w4a8,w8a8,w16a16"
    )]
    pub schemes: Vec<SchemeChoice>,

    /// Demote whole layers only, and estimate linears by the errors of their outputs on sampled rows
    #[arg(long)]
    pub estimate: bool,

    /// Seed of the choice of chunks and of quantization [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub seed: u64,

    /// Options of quantization.
    #[command(flatten)]
    pub options: Overrides,

    /// Recipe: what its rules say of a scheme is not chosen
    #[arg(long, value_name = "FILE", help_heading = "Quantization")]
    pub recipe: Option<PathBuf>,

    /// Chip whose limits apply: rk3588, rk3588s, rk3576, or a board's `NAME.json`
    /// [default: rk3588]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "rk3588",
        hide_default_value = true,
        help_heading = "Quantization"
    )]
    pub target: String,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Memory for weights, hidden states and logits, such as `1G` [default: 2G]
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "2G",
        hide_default_value = true,
        value_parser = size::parse
    )]
    pub memory_budget: u64,

    /// Go on with a run that was interrupted, if there is one
    #[arg(long)]
    pub resume: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
}
