//! Arguments of `calibrate`.

use std::path::PathBuf;

use clap::Args;

use crate::options::Overrides;
use crate::size;

/// Arguments of `calibrate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tessera calibrate model.gguf                                 on the text that tessera carries
  tessera calibrate model.gguf --dataset wiki.train.raw chat/ -o model.stats.safetensors
  tessera calibrate model.gguf --dataset chat.jsonl --field content --hessians
  tessera calibrate model.gguf --dataset wiki.train.raw --resume           after an interruption
  tessera calibrate --merge wiki.stats.safetensors chat.stats.safetensors -o both.stats.safetensors")]
pub struct CalibrateArguments {
    /// GGUF file (the first of a split), which runs in floats
    #[arg(required_unless_present = "merge")]
    pub model: Option<PathBuf>,

    /// Text: `.txt`, `.md`, `.raw` and `.jsonl` files, and folders of them [default: a text that tessera
    /// carries]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub dataset: Vec<PathBuf>,

    /// Field of the lines of `.jsonl` files that holds the text [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,

    /// Statistics file to write, `NAME.safetensors` [default: the model's name with
    /// `.stats.safetensors`, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Tokens to observe [default: 32768]
    #[arg(long, value_name = "N", default_value_t = 32768, hide_default_value = true)]
    pub tokens: usize,

    /// Tokens of a chunk, which the model reads on its own [default: 512, or what the model was trained
    /// for]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,

    /// Seed of the choice of chunks and of sampled rows [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub seed: u64,

    /// Collect second moments of inputs, which GPTQ needs: a matrix of K x K for each
    #[arg(long)]
    pub hessians: bool,

    /// Observe each layer behind layers quantized with these options, and for the conversion with the
    /// same options and seed; with second moments.
    #[command(flatten)]
    pub options: Overrides,

    /// The same, quantized by the rules of a recipe
    #[arg(long, value_name = "FILE", help_heading = "Quantization")]
    pub recipe: Option<PathBuf>,

    /// Chip whose limits apply to it: rk3588, rk3588s, rk3576, or a board's `NAME.json`
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

    /// Memory for weights, hidden states and statistics, such as `1G` [default: 2G]
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

    /// Add statistics of several texts instead of observing one
    #[arg(
        long,
        value_name = "FILE",
        num_args = 2..,
        requires = "output",
        conflicts_with_all = [
            "model", "dataset", "field", "tokens", "ctx", "seed", "hessians", "memory_budget", "resume",
        ]
    )]
    pub merge: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Replace an existing statistics file
    #[arg(long)]
    pub force: bool,
}
