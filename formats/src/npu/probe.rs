//! What a board's NPU and the vendor's library answered when they were asked, as `board.json` holds it.
//!
//! `None` is what was not asked or could not be found out; `failures` says why.

use serde::{Deserialize, Serialize};

use super::Engine;

/// Answers of a board. It has no date and nothing that tells one board from another of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Version of the tessera that asked.
    pub tessera: String,
    /// What the library says of its version.
    pub library: String,
    /// What the library says of the driver's version.
    pub driver: String,
    /// Whether it was the stand-in of tests: then nothing here is of any NPU.
    pub stand_in: bool,
    /// Whether smaller matmuls were run for shorter.
    pub quick: bool,
    /// The board's name.
    pub machine: Option<String>,
    /// Its chip, as the device tree says it.
    pub soc: Option<String>,
    /// Version of its kernel.
    pub kernel: Option<String>,
    /// What is wrong with sums; empty if nothing is.
    pub self_test: Vec<SelfTestFinding>,
    /// Of the engine of 4 bits.
    pub int4: Int4,
    /// Results of numbers of rows that are neither 1 nor a multiple of 4.
    pub odd_rows: Vec<OddRows>,
    /// Results of f16 against the model, by core.
    pub halves: Vec<HalfResults>,
    /// Matmuls of more than 8192 columns.
    pub long_columns: Vec<LongColumns>,
    /// Masks of cores.
    pub core_masks: Vec<CoreMask>,
    /// IOMMU domains.
    pub domains: Option<Domains>,
    /// Rows laid out either way, side by side.
    pub layouts: Vec<LayoutTimes>,
    /// Times of few rows on the engine of 4 bits.
    pub few_rows: Vec<FewRows>,
    /// Multiplications, all cores at work.
    pub products: Vec<Products>,
    /// Weights read, all cores at work.
    pub reading: Vec<Reading>,
    /// Times of the smallest matmul.
    pub submit: Option<Submit>,
    /// Questions that were not answered, and why.
    pub failures: Vec<Failure>,
}

/// What is wrong with an engine on a core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTestFinding {
    /// Name of the likely cause, such as `nibble-order`.
    pub cause: String,
    /// The engine.
    pub engine: Engine,
    /// The core, from 0.
    pub core: u32,
    /// Whether packs give wrong results by it.
    pub fatal: bool,
    /// All of it, for people.
    pub text: String,
}

/// The engine of 4 bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int4 {
    /// What becomes of sums beyond 16 bits.
    pub overflow: Option<Overflow>,
    /// The sums that tell.
    pub sums: Vec<OverflowSum>,
    /// Whether a sum that fits in the end is right though it does not in between.
    pub fits_in_the_end: Option<bool>,
    /// Which half of a byte of weights has the even column, where that of activations has it in the low one.
    pub nibble_order: Option<NibbleOrder>,
    /// Whether −8 is taken for −8 in activations.
    pub least_in_activations: Option<bool>,
    /// Whether −8 is taken for −8 in weights.
    pub least_in_weights: Option<bool>,
}

/// What becomes of sums that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// They become the nearest number that fits.
    Saturate,
    /// Their lowest bits remain.
    Wrap,
    /// Neither.
    Other,
}

/// A sum of as many equal products.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverflowSum {
    /// Every activation.
    pub activation: i8,
    /// Every weight.
    pub weight: i8,
    /// Columns.
    pub k: u32,
    /// The sum.
    pub exact: i64,
    /// What the NPU gave.
    pub found: f64,
}

/// Order of the two columns in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NibbleOrder {
    /// The even column in the low half, as in packs.
    LowFirst,
    /// The even column in the high half.
    HighFirst,
    /// Neither.
    Other,
}

/// A matmul of rows that are neither 1 nor a multiple of 4, laid out natively.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OddRows {
    /// The engine.
    pub engine: Engine,
    /// Rows.
    pub m: u32,
    /// How they are laid out.
    pub rows: RowStride,
    /// Whether what stands behind the results is untouched.
    pub guard_intact: bool,
}

/// Rows that stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowStride {
    /// As many as there are: all results are right.
    Tight,
    /// As many as the next multiple of 4: results are right where operands were read so.
    Padded,
    /// Neither.
    Wrong,
}

/// Results of f16 on a core, against the model: 32 products summed exactly, sums added in f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalfResults {
    /// The core, from 0.
    pub core: u32,
    /// Results.
    pub results: u64,
    /// Those that differ in channels whose number is a multiple of 16.
    pub lane_zero: u64,
    /// Those that differ in other channels.
    pub elsewhere: u64,
    /// Those that differ as third parties say that channels of the first kind rarely do.
    pub explained: u64,
}

/// A matmul of more than 8192 columns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongColumns {
    /// The engine.
    pub engine: Engine,
    /// Columns.
    pub k: u32,
    /// Whether the library makes it.
    pub accepted: bool,
    /// How its weights are laid out.
    pub weights: Option<LongWeights>,
    /// Of 4 bits, whether sums of parts of K that do not fit 16 bits are added right where their sum fits.
    pub parts_added_right: Option<bool>,
}

/// How weights of more than 8192 columns are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongWeights {
    /// As those of fewer.
    OneBlock,
    /// 8192 columns at a time, each by itself.
    Segments,
    /// Neither.
    Neither,
}

/// A mask of cores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreMask {
    /// A bit for each core; 0 for any.
    pub mask: u32,
    /// Whether a matmul takes it.
    pub accepted: bool,
    /// The code if not.
    pub code: Option<i32>,
}

/// IOMMU domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domains {
    /// Domains, from 0 on, in which a matmul gives right results.
    pub working: u32,
    /// What was said of the first that does not, if any.
    pub refused: Option<String>,
    /// Bytes of one.
    pub capacity: Option<DomainCapacity>,
}

/// Bytes of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainCapacity {
    /// Bytes that it gave.
    pub bytes: u64,
    /// The least that was asked for on top of them.
    pub step: u64,
    /// Why it was asked for no more.
    pub ended_by: CapacityEnd,
}

/// Why a domain was asked for no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapacityEnd {
    /// It gave no more: this is its limit.
    Refused,
    /// The board has no more memory to spare.
    Memory,
    /// No domain has more addresses.
    Addresses,
}

/// The same matmul with rows laid out either way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayoutTimes {
    /// The engine.
    pub engine: Engine,
    /// Rows.
    pub m: u32,
    /// Columns.
    pub k: u32,
    /// Channels.
    pub n: u32,
    /// Median seconds row after row.
    pub normal_seconds: f64,
    /// Median seconds in the NPU's own layout.
    pub native_seconds: f64,
    /// Whether the results are the same.
    pub same_results: bool,
}

/// Few rows on the engine of 4 bits, on one core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewRows {
    /// Rows.
    pub m: u32,
    /// Columns.
    pub k: u32,
    /// Channels.
    pub n: u32,
    /// Median seconds.
    pub seconds: f64,
}

/// Multiplications of long matrices on all cores at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Products {
    /// The engine.
    pub engine: Engine,
    /// Rows.
    pub m: u32,
    /// Columns.
    pub k: u32,
    /// Channels of each core.
    pub n: u32,
    /// Cores.
    pub cores: u32,
    /// Multiplications, each with an addition, in a second.
    pub macs_per_second: f64,
}

/// Weights read for one row, on all cores at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The engine.
    pub engine: Engine,
    /// Columns.
    pub k: u32,
    /// Channels of each core.
    pub n: u32,
    /// Cores.
    pub cores: u32,
    /// Bytes of weights in a second, the time of the smallest matmul taken away.
    pub bytes_per_second: f64,
}

/// Median seconds of the smallest matmul.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// One core alone.
    pub one_core_seconds: f64,
    /// All cores at once.
    pub all_cores_seconds: f64,
}

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What was asked.
    pub question: String,
    /// What went wrong.
    pub error: String,
}
