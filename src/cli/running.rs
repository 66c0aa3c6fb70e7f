//! Arguments of commands that run models.

use std::path::PathBuf;

use clap::Args;

use crate::models::Device;
use crate::options::Overrides;
use crate::size;

/// What commands that run models share.
#[derive(Args, Debug)]
pub struct RunningArguments {
    /// What executes linears [default: sim for packs and quantized models, reference for others]
    #[arg(long, value_enum)]
    pub device: Option<Device>,

    /// The vendor's library, for `--device rknn` [default: librknnrt.so of the system's folders]
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,

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
    /// and `bench` what the model takes]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory_budget: Option<u64>,
}
