//! Arguments of `bench`.

use std::path::PathBuf;

use clap::Args;

use super::RunningArguments;
use crate::models::ModelSpec;

/// Arguments of `bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each test is done once to warm up, and then `-r` times, with random tokens that are always the same.
Figures are steady if clocks are fixed, the chip is cool, and nothing else runs: `tessera doctor`
tells. Some sensors are for root only.

Examples:
  tessera bench model.safetensors --device rknn            on the NPU of this board
  sudo tessera bench model.safetensors --device rknn -p 128,512 -b 32,128,512 -n 64 --json
  tessera bench model.safetensors -p 32 -n 8               on the simulator, on any machine
  tessera bench model.gguf --cpu-like                      the GGUF file, as llama.cpp computes")]
pub struct BenchArguments {
    /// Pack or GGUF file, `FILE` or `FILE@HOW` as for `eval`
    #[arg(value_parser = crate::models::parse, value_name = "PACK")]
    pub model: ModelSpec,

    /// Tokens of a prompt, one or more numbers; 0 for no prompt [default: 512]
    #[arg(
        short = 'p',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512",
        hide_default_value = true
    )]
    pub n_prompt: Vec<usize>,

    /// Tokens to generate, one or more numbers; 0 for none [default: 128]
    #[arg(
        short = 'n',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "128",
        hide_default_value = true
    )]
    pub n_gen: Vec<usize>,

    /// Tokens of a prompt that go through the model at once, one or more numbers [default: 512]
    #[arg(
        short = 'b',
        long,
        visible_alias = "batch-size",
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512",
        hide_default_value = true,
        value_parser = positive
    )]
    pub batch: Vec<usize>,

    /// How often each test is done [default: 3]
    #[arg(
        short = 'r',
        long,
        value_name = "N",
        default_value = "3",
        hide_default_value = true,
        value_parser = positive
    )]
    pub repetitions: usize,

    /// How the model is run.
    #[command(flatten)]
    pub running: RunningArguments,

    /// Folder that stands for `/` where sensors are read [default: /]
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("`{text}` is no number")),
    }
}
