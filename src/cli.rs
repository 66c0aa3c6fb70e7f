//! Arguments of every command.

mod doctor;
mod sensitivity;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use tessera_runtime::generate::Sampling;

use crate::choose::pin::Pin;
use crate::models::{Device, ModelSpec};
use crate::options::Overrides;
use crate::rotate::MatrixType;
use crate::size;
pub use doctor::DoctorArguments;
pub use sensitivity::SensitivityArguments;

/// Offline model conversion and quantization for the Rockchip RK3588 NPU
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes:
  0  everything is in order
  1  the command worked, and what it checked is not in order, or what it compared differs
  2  wrong usage or bad input
  3  the environment lacks something (space, permission, a device)")]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a GGUF file or a pack holds, and what converting it would give
    Inspect(InspectArguments),
    /// Convert a GGUF file into a pack
    Convert(ConvertArguments),
    /// Observe what a GGUF file's linears read on a text, for better conversions
    Calibrate(CalibrateArguments),
    /// Measure what each scheme of each linear does to the logits
    Sensitivity(SensitivityArguments),
    /// Take rotations into the weights of a GGUF file, which computes what it computed
    Rotate(RotateArguments),
    /// Check a pack, and measure it against the GGUF file it was made from
    Verify(VerifyArguments),
    /// Compare two packs, or GGUF files, tensor by tensor
    Diff(DiffArguments),
    /// Measure perplexity and KL divergence of models on a text
    Eval(EvalArguments),
    /// Make the page of a report again, from its JSON
    Report(ReportArguments),
    /// Let a model continue a prompt
    Run(RunArguments),
    /// Check that a board is ready to run packs, and say how to fix what is not
    Doctor(DoctorArguments),
    /// Print a shell completion script
    Completions {
        /// Shell to complete for
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a folder
    Man {
        /// Folder, which must exist
        directory: PathBuf,
    },
}

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
}

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

/// Arguments of `diff`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code 0 means that nothing differs, 1 that something does. Digests that packs record are
believed: `tessera verify` checks them.

Examples:
  tessera diff w8a8.safetensors w4a8.safetensors      what another recipe changed
  tessera diff model.gguf model.safetensors           what quantization cost each tensor
  tessera diff model-Q8_0.gguf model-Q4_K_M.gguf      two quantizations of llama.cpp
  tessera diff old.safetensors new.safetensors --all --json")]
pub struct DiffArguments {
    /// Pack, or GGUF file (the first of a split); errors are relative to its weights
    pub a: PathBuf,

    /// Pack, or GGUF file, to hold against it
    pub b: PathBuf,

    /// List the tensors that are equal, too
    #[arg(long)]
    pub all: bool,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Memory that the comparison may use, such as `256M` or `1.5G` [default: 512M]
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        hide_default_value = true,
        value_parser = size::parse
    )]
    pub memory_budget: u64,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What commands that run models share.
#[derive(Args, Debug)]
pub struct RunningArguments {
    /// What executes linears [default: sim for packs and quantized models, reference for others]
    #[arg(long, value_enum)]
    pub device: Option<Device>,

    /// Round activations as llama.cpp's CPU backend rounds them for the types of a GGUF file's weights
    #[arg(long)]
    pub cpu_like: bool,

    /// Quantize GGUF files in memory, with these options.
    #[command(flatten)]
    pub options: Overrides,

    /// Quantize GGUF files in memory by the rules of a recipe
    #[arg(long, value_name = "FILE", help_heading = "Quantization")]
    pub recipe: Option<PathBuf>,

    /// Statistics that `tessera calibrate` wrote, for the GGUF files that are quantized in memory
    #[arg(long, value_name = "STATS", help_heading = "Quantization")]
    pub calibration: Option<PathBuf>,

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

    /// Memory for weights, hidden states and logits, such as `1G` [default: 2G for `eval`; for `run`
    /// what the model takes]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory_budget: Option<u64>,
}

/// Arguments of `eval`.
#[derive(Args, Debug)]
#[command(after_help = "\
A model is a pack, or a GGUF file. A GGUF file runs in floats, unless its name says
what is to be made of it, or an option does for all:

  model.gguf@float               dequantized weights, f32 activations
  model.gguf@cpu                 as llama.cpp computes it on a CPU (--cpu-like)
  model.gguf@w4a8                quantized in memory to this scheme (--scheme)
  model.gguf@rk-llama-v3:w4a4    or by another system's method (--preset)

Examples:
  tessera eval model.gguf --text wiki.test.raw
  tessera eval model.safetensors --text wiki.test.raw --reference model-F16.gguf
  tessera eval f16.gguf@w8a8 f16.gguf@w4a8 q4_0.gguf@cpu --text wiki.test.raw --reference f16.gguf
  tessera eval model-F16.gguf --text wiki.test.raw --save-logits base.logits
  tessera eval model.safetensors --from-logits base.logits")]
pub struct EvalArguments {
    /// Packs and GGUF files, `FILE` or `FILE@HOW`
    #[arg(required = true, value_name = "MODEL", value_parser = crate::models::parse)]
    pub models: Vec<ModelSpec>,

    /// Text to predict, UTF-8
    #[arg(long, value_name = "FILE", required_unless_present = "from_logits")]
    pub text: Option<PathBuf>,

    /// Model to compare with; a GGUF file runs in floats, unless its name says otherwise
    #[arg(long, value_name = "MODEL", value_parser = crate::models::parse)]
    pub reference: Option<ModelSpec>,

    /// Compare with the log-probabilities in a file of llama-perplexity's format
    #[arg(long, value_name = "FILE", conflicts_with = "reference")]
    pub from_logits: Option<PathBuf>,

    /// Save the log-probabilities of the reference, or of the only model, in that format
    #[arg(long, value_name = "FILE", conflicts_with = "from_logits")]
    pub save_logits: Option<PathBuf>,

    /// Tokens of a chunk, of which the second half is scored [default: 512]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,

    /// Most chunks to evaluate [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,

    /// How models are run.
    #[command(flatten)]
    pub running: RunningArguments,

    /// Seed of every random choice of quantization [default: 0]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Quantization"
    )]
    pub seed: u64,

    /// Print JSON, a line for each model
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(after_help = "\
The page, `index.html`, is one file that loads nothing else; `report.json` is put beside it.

Examples:
  tessera report report/report.json -o report
  tessera report report/report.json -o report --force    in place of what another version wrote")]
pub struct ReportArguments {
    /// JSON of a report, `report.json`
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,

    /// Folder of the page, which is made where it is missing
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,

    /// Replace existing files
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tessera run model.gguf -p \"Once upon a time\" --temp 0
  tessera run model.safetensors -p \"Once upon a time\" -n 200 --temp 0.8 --top-k 40 --seed 1
  tessera run model.gguf@w4a8 -p \"Once upon a time\"    quantized in memory, on the simulator")]
pub struct RunArguments {
    /// Pack or GGUF file, `FILE` or `FILE@HOW` as for `eval`
    #[arg(value_parser = crate::models::parse)]
    pub model: ModelSpec,

    /// Text to continue
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: String,

    /// Most tokens to generate [default: 128]
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, hide_default_value = true)]
    pub tokens: usize,

    /// Temperature; 0 takes the likeliest token [default: 0]
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        hide_default_value = true,
        value_parser = non_negative,
        help_heading = "Sampling"
    )]
    pub temp: f32,

    /// Only the N likeliest tokens; 0 for all [default: 40]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 40,
        hide_default_value = true,
        help_heading = "Sampling"
    )]
    pub top_k: usize,

    /// Only the likeliest tokens that have this probability together; 1 for all [default: 0.95]
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.95,
        hide_default_value = true,
        value_parser = non_negative,
        help_heading = "Sampling"
    )]
    pub top_p: f32,

    /// Seed of the draws [default: 0]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Sampling"
    )]
    pub seed: u64,

    /// How the model is run.
    #[command(flatten)]
    pub running: RunningArguments,
}

impl RunArguments {
    /// How tokens are chosen.
    pub fn sampling(&self) -> Sampling {
        let RunArguments { temp, top_k, top_p, seed, .. } = *self;
        Sampling { temperature: temp, top_k, top_p, seed }
    }
}

fn non_negative(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("must be 0 or more".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// Defaults stand in the text of the help, because clap puts them after a line of blanks.
    #[test]
    fn help_tells_the_defaults_that_apply() {
        for command in Arguments::command().get_subcommands() {
            for argument in command.get_arguments().filter(|a| a.is_hide_default_value_set()) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                for value in argument.get_default_values() {
                    let expected = format!("[default: {}]", value.to_string_lossy());
                    assert!(help.ends_with(&expected), "{}: {help}", argument.get_id());
                }
            }
        }
    }
}
