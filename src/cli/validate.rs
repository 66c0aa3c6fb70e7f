//! Arguments of `validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What executes linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ValidateDevice {
    /// The NPU of this board
    Rknn,
    /// The NPU's arithmetic on the processor
    Sim,
    /// A library that stands in for the vendor's, for tests of tessera itself
    StandIn,
}

/// Arguments of `validate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tessera validate model.safetensors                   on the NPU of this board
  tessera validate model.safetensors --full            with every channel on every core
  tessera validate model.safetensors --device sim      on the simulator, on any machine
  tessera validate model.safetensors --reference base.logits
                                       and beside what `eval --save-logits` wrote")]
pub struct ValidateArguments {
    /// Pack: its file, its index, any of its shards, or its folder
    pub pack: PathBuf,

    /// What executes linears [default: rknn]
    #[arg(long, value_enum, default_value = "rknn", hide_default_value = true)]
    pub device: ValidateDevice,

    /// The vendor's library [default: librknnrt.so of the system's folders]
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,

    /// Only matmuls of four rows: no forward pass, tiles not hashed
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,

    /// Every channel on every core
    #[arg(long)]
    pub full: bool,

    /// Text that the forward pass begins with
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "Once upon a time, there was a little"
    )]
    pub prompt: String,

    /// Log-probabilities that `eval --save-logits` wrote, for a comparison over their first chunk
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
