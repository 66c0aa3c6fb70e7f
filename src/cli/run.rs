//! Arguments of `run`.

use clap::Args;
use tessera_runtime::generate::Sampling;

use super::RunningArguments;
use crate::models::ModelSpec;

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
