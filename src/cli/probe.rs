//! Arguments of `probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tessera_runtime::rknn::Kind;

/// Arguments of `probe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Small matmuls are run on every engine and core, safe ones first, for less than a minute. Nothing
else may use the NPU meanwhile. A question that fails is told with its error, and the next one is
asked. Exit code 0 means that what packs rely on is right, 1 that it is not.

Examples:
  tessera probe -o board.json       ask, and keep the answers for `--target board.json`
  tessera probe --json --no-memory  everything, for a program; no domain is filled with buffers")]
pub struct ProbeArguments {
    /// What to ask [default: rknn]
    #[arg(long, value_enum, default_value_t = ProbedDevice::Rknn, hide_default_value = true)]
    pub device: ProbedDevice,

    /// The vendor's library; without it, the first in the usual folders
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,

    /// Write the board's limits, rates and answers to this file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    pub force: bool,

    /// Smaller matmuls for shorter: rates are worth less
    #[arg(long)]
    pub quick: bool,

    /// Do not find out how many bytes a domain gives
    #[arg(long)]
    pub no_memory: bool,

    /// Folder that stands for `/`, for the board's name and its free memory [default: /]
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbedDevice {
    /// The board's NPU
    Rknn,
    /// The library of tests, which computes without an NPU
    StandIn,
}

impl From<ProbedDevice> for Kind {
    fn from(device: ProbedDevice) -> Self {
        match device {
            ProbedDevice::Rknn => Kind::Board,
            ProbedDevice::StandIn => Kind::StandIn,
        }
    }
}
