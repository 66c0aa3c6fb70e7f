//! Arguments of `convert`.

use std::path::PathBuf;

use clap::Args;

use crate::choose::pin::Pin;
use crate::options::Overrides;
use crate::size;

/// Arguments of `convert`.
#[derive(Args, Debug)]
#[command(after_help = "\
A recipe is a TOML file. A later rule overrides an earlier one; the command line overrides the
defaults, not the rules:

  [defaults]
  scheme = \"w4a8\"

  [[rule]]
  match = 'ffn_down|attn_v'   # regular expression, found anywhere in the tensor's name
  scheme = \"w8a8\"             # or another option, by the name it has above

  [[rule]]
  match = 'my_projection'     # a matrix that tessera does not know by its name
  linear = true

Examples:
  tessera convert model.gguf -o model.safetensors
  tessera convert model.gguf -o model.safetensors --scheme w4a8 --memory-budget 1G
  tessera convert model.gguf -o model.safetensors --recipe mixed.toml --shard-size 2G
  tessera convert model.gguf -o model.safetensors --shard-size 2G --resume     after an interruption
  tessera convert model.gguf -o model.safetensors --scheme w4a4 --dry-run --json")]
pub struct ConvertArguments {
    /// GGUF file (the first of a split)
    pub input: PathBuf,

    /// Pack to write, `NAME.safetensors`
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Options of every linear.
    #[command(flatten)]
    pub options: Overrides,

    /// Recipe: rules that choose options per tensor
    #[arg(long, value_name = "FILE", help_heading = "Quantization")]
    pub recipe: Option<PathBuf>,

    /// Statistics that `tessera calibrate` wrote, or an importance matrix of llama.cpp
    #[arg(long, value_name = "STATS", help_heading = "Calibration", conflicts_with = "dataset")]
    pub calibration: Option<PathBuf>,

    /// Texts to calibrate on before converting, behind quantized layers, as `tessera calibrate` with
    /// the same options does; `built-in` for the text that tessera carries
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Calibration")]
    pub dataset: Vec<PathBuf>,

    /// Field of the lines of `.jsonl` files that holds the text [default: text]
    #[arg(long, value_name = "NAME", requires = "dataset", help_heading = "Calibration")]
    pub field: Option<String>,

    /// Tokens to calibrate on [default: 32768]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32768,
        hide_default_value = true,
        requires = "dataset",
        help_heading = "Calibration"
    )]
    pub tokens: usize,

    /// Tokens of a chunk to calibrate on [default: 512, or what the model was trained for]
    #[arg(long, value_name = "N", requires = "dataset", help_heading = "Calibration")]
    pub ctx: Option<usize>,

    /// Choose a scheme for each linear: at most so many bits per weight, scales counted, for the least KL
    /// divergence
    #[arg(long, value_name = "BITS", group = "goal", help_heading = "Choice of bits")]
    pub target_bpw: Option<f64>,

    /// At most so many bytes of all files of the pack, such as `9G`
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size::parse,
        group = "goal",
        help_heading = "Choice of bits"
    )]
    pub target_size: Option<u64>,

    /// The smallest pack of at most this mean KL divergence, on a part of the text that is held out
    #[arg(long, value_name = "KLD", group = "goal", help_heading = "Choice of bits")]
    pub max_kld: Option<f64>,

    /// The best pack whose linears leave room for so many tokens a second, one after another, by the rates of the
    /// board that `--target` says
    #[arg(long, value_name = "TOKENS/S", group = "goal", help_heading = "Choice of bits")]
    pub target_decode: Option<f64>,

    /// The same of prompts, 512 tokens at once
    #[arg(long, value_name = "TOKENS/S", group = "goal", help_heading = "Choice of bits")]
    pub target_prefill: Option<f64>,

    /// Parts that keep a scheme whatever is chosen for the rest: the `first` or `last` layer or the `head`, such as
    /// `head=w8a8`; a recipe's rules count for more
    #[arg(
        long,
        value_name = "PART=SCHEME",
        value_delimiter = ',',
        requires = "goal",
        help_heading = "Choice of bits"
    )]
    pub pin: Vec<Pin>,

    /// Sensitivities that `tessera sensitivity` measured [default: they are measured]
    #[arg(long, value_name = "FILE", requires = "goal", help_heading = "Choice of bits")]
    pub sensitivity: Option<PathBuf>,

    /// Write a page that shows the choice, and the same as JSON, into this folder
    #[arg(long, value_name = "DIR", requires = "goal", help_heading = "Choice of bits")]
    pub report: Option<PathBuf>,

    /// Seed of every random choice [default: 0]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Quantization"
    )]
    pub seed: u64,

    /// Chip whose limits apply: rk3588, rk3588s, rk3576, or a board's `NAME.json`
    /// [default: rk3588]
    #[arg(long, value_name = "NAME", default_value = "rk3588", hide_default_value = true)]
    pub target: String,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Memory that the conversion may use, such as `256M` or `1.5G` [default: 512M]
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        hide_default_value = true,
        value_parser = size::parse
    )]
    pub memory_budget: u64,

    /// Largest file to write, unless one tensor is larger; several make a sharded pack
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub shard_size: Option<u64>,

    /// Say what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,

    /// Replace an existing pack
    #[arg(long)]
    pub force: bool,

    /// Go on with the files that an interrupted conversion finished, if there are any; a pack of one file
    /// is begun anew
    #[arg(long, conflicts_with = "goal")]
    pub resume: bool,
}
