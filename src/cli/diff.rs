//! Arguments of `diff`.

use std::path::PathBuf;

use clap::Args;

use crate::size;

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
