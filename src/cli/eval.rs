//! Arguments of `eval`.

use std::path::PathBuf;

use clap::Args;

use super::RunningArguments;
use crate::models::ModelSpec;

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
