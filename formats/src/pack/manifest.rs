//! The manifest: what a pack holds and how it came to be, one JSON document.

mod activation;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use activation::Activation;

use crate::npu::{Engine, Scheme, Target};

/// The `format` field of every manifest.
pub const FORMAT: &str = "tessera-pack";

/// Major version of the format: a reader refuses any other.
pub const VERSION_MAJOR: u32 = 1;

/// Minor version of the format: a reader refuses a newer one.
pub const VERSION_MINOR: u32 = 2;

/// Everything a reader needs beside the tensors. Each shard carries its own, with the linears,
/// inputs and carried tensors that stand in that shard; all other fields but [`Manifest::shard`]
/// are the same in every shard. A linear's input may stand in another shard than the linear, and
/// a rotation's factor in another than the input; every name occurs once in the pack.
///
/// A field that is not listed here is an error: a newer minor version, which may have more, is
/// refused before its manifest is parsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// Format version, `[major, minor]`.
    pub version: [u32; 2],
    /// The tool that wrote the pack.
    pub tool: Tool,
    /// The chip the pack was made for, with the limits that were in force.
    pub target: Target,
    /// The files that were converted, in shard order.
    pub sources: Vec<Source>,
    /// What the source says of its model.
    pub model: Model,
    /// The resolved recipe, as the tool wrote it; a record, not needed to read the pack.
    pub recipe: serde_json::Value,
    /// Seed of every random choice.
    pub seed: u64,
    /// What the scales and roundings were chosen on; absent where they were chosen from the weights
    /// alone. A record. Since 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Linears' inputs in this shard.
    pub inputs: Vec<Input>,
    /// Linears in this shard.
    pub linears: Vec<Linear>,
    /// Tensors in this shard that are stored as they were.
    pub carried: Vec<Carried>,
    /// SHA-256, hexadecimal, of every tensor in this shard that has none above: scales, vectors,
    /// factors, the GGUF key-value section.
    pub digests: BTreeMap<String, String>,
    /// Where the weights of the whole pack go in the NPU's address space.
    pub memory: MemoryPlan,
    /// This shard's place; absent in a pack of one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

impl Manifest {
    /// The same manifest with every figure that conversion finds out written as wide as JSON can
    /// make it. Its header is at least as long as that of any result with the same names,
    /// shapes, segments and optional fields, so [`super::header_bytes`] of it is a safe reserve.
    ///
    /// An optional figure is widened where it is present, whatever it is: a writer that will have
    /// one puts any value there. Thresholds become as many as there are segments.
    pub fn widest(&self) -> Self {
        /// The longest text that a finite f64 has.
        const LONGEST: f64 = -2.225_073_858_507_201_4e-308;
        /// As long a text as any f32 above zero has, and its sign.
        const LONGEST_F32: f32 = -1.000_000_1e-6;
        let hash = || "0".repeat(64);
        let mut manifest = self.clone();
        for source in &mut manifest.sources {
            source.sha256 = hash();
            source.bytes = u64::MAX;
        }
        for linear in &mut manifest.linears {
            linear.relative_rms = LONGEST;
            linear.mean_clip = LONGEST;
            linear.output_error = linear.output_error.map(|_| LONGEST);
            match &mut linear.activation {
                Activation::Dynamic { rms_clip, .. } => {
                    *rms_clip = rms_clip.map(|_| LONGEST_F32);
                }
                Activation::Static { threshold } => {
                    *threshold = vec![LONGEST_F32; linear.segments.len()];
                }
            }
            let integers = linear.scheme.engine() != Engine::F16;
            for segment in &mut linear.segments {
                segment.sha256 = hash();
                segment.golden = segment.golden.as_ref().map(|_| hash());
                segment.accumulator = integers.then_some(Accumulator {
                    min: i64::MIN,
                    max: i64::MIN,
                    certified: false,
                    norm: LONGEST,
                });
            }
        }
        for carried in &mut manifest.carried {
            carried.sha256 = hash();
        }
        manifest
    }
}

/// Name and version of the writing tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `tessera`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A converted file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// File name without its folders.
    pub file: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// The model as its GGUF describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `general.architecture`.
    pub architecture: String,
    /// Scalar keys of the architecture (`llama.block_count` …), with their values.
    pub hyperparameters: BTreeMap<String, serde_json::Value>,
}

/// What was observed to calibrate a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// SHA-256 of the statistics file, hexadecimal.
    pub statistics_sha256: String,
    /// The texts that the model was run over.
    pub data: Vec<CalibrationData>,
    /// Tokens of them that were run.
    pub tokens: u64,
    /// Tokens that the model saw at once.
    pub context: u64,
    /// Seed that chose them.
    pub seed: u64,
}

/// A text that a model was calibrated on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationData {
    /// What it is called, such as a file's name.
    pub name: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
}

/// One input that one or more linears read; it is rotated and quantized once for all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Name, such as `blk.0.attn_input`.
    pub name: String,
    /// What is done to a row before it is quantized.
    pub rotation: Rotation,
    /// Tensor (F32 `[k]`) that a row is multiplied by before the orthogonal matrix: sign over
    /// equalization diagonal. Absent when every factor is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<String>,
    /// How the equalization diagonal was chosen: `none`, `norm`, `observed`.
    pub equalization: String,
    /// Which of several vectors of signs was chosen, from 0 on; absent where there was one. A record.
    /// Since 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_trial: Option<u32>,
}

/// The orthogonal matrix of an input: block-diagonal with equal blocks, each the Kronecker product
/// of a small dense orthogonal factor and an orthonormal Sylvester-Hadamard matrix.
///
/// Index of the row within a block is `i * sylvester + j`, `i` of the factor, `j` of the Sylvester
/// matrix. `size` equals `k`, or is larger where the row is padded with zeros first (presets only).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Length of the row as the model has it.
    pub k: u64,
    /// Length of the rotated row; `size - k` zeros are appended before the transform.
    pub size: u64,
    /// Order of the Sylvester matrix, a power of two; 1 with no factor is the identity.
    pub sylvester: u64,
    /// The dense factor; absent when its order is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<Factor>,
}

/// A dense orthogonal matrix stored in the pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Its construction: `paley1`, `paley2` or `hartley`.
    pub kind: String,
    /// Its order.
    pub order: u64,
    /// Tensor that holds it, F32 `[order, order]`, row-major.
    pub tensor: String,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// One scale for the whole linear.
    Tensor,
    /// One scale per output channel and segment.
    Channel,
}

/// How a weight became an integer, given its scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// The nearest.
    #[default]
    Nearest,
    /// Column by column, each column's error made up for by those after it.
    Gptq,
}

impl Rounding {
    /// Whether it is the nearest, which an absent field means.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A weight matrix in NPU tiles, or E of them in one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Name of the linear, the GGUF's tensor name (`output.weight` for a tied head).
    pub name: String,
    /// Tensor of the source it was made from.
    pub source: String,
    /// Output channels.
    pub n: u64,
    /// Input channels.
    pub k: u64,
    /// Number of experts; absent for a plain linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<u64>,
    /// Rows of the tiles: `n` and zero rows up to the engine's alignment.
    pub n_padded: u64,
    /// Columns of the tiles over all segments: the rotated row and zeros up to the alignment.
    pub k_padded: u64,
    /// Weight and activation bits.
    pub scheme: Scheme,
    /// Name of its input in [`Manifest::inputs`].
    pub input: String,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// How the scales were chosen: `amax`, `mse`, `kl`, `percentile`, …
    pub calibrator: String,
    /// How activations are scaled. Since 1.1.
    #[serde(default, skip_serializing_if = "Activation::is_default")]
    pub activation: Activation,
    /// How weights were rounded. A record. Since 1.1.
    #[serde(default, skip_serializing_if = "Rounding::is_default")]
    pub rounding: Rounding,
    /// Tensor of the scales, F32 or, since 1.1, BF16: `[segments, n]` per channel or `[1]` per
    /// tensor, with the number of experts before it where there are experts:
    /// `[experts, segments, n]` or `[experts, 1]`. For w16a16 they are powers of two.
    pub scale: String,
    /// Tensor that is added to every row of outputs, F32 `[n]` or `[experts, n]`. Since 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// Its ranges of K, ascending and contiguous from 0 to `k_padded`.
    pub segments: Vec<Segment>,
    /// Error of the integers against the rotated weights, over all rows:
    /// `sqrt(Σ (w' - s·q)² / Σ w'²)`.
    pub relative_rms: f64,
    /// Mean over scales of clip threshold over largest magnitude; 1 means nothing is clipped.
    pub mean_clip: f64,
    /// Error of the linear's outputs on calibration data, relative to their norm. Since 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
    /// IOMMU domain the tiles are meant for.
    pub domain: u32,
}

impl Linear {
    /// Smallest and largest integer of an activation operand: what the certificates of its segments
    /// hold for. `None` for the float engine.
    pub const fn activation_range(&self) -> Option<(i8, i8)> {
        self.scheme.activation_range(self.activation.is_asymmetric())
    }
}

/// A range of K that one NPU matmul executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Tensor of its tiles, in the shape of [`crate::npu::tiles::TileLayout::shape`] of `n_padded`
    /// rows and `length` columns, with the number of experts before it where there are experts.
    pub tiles: String,
    /// First rotated column.
    pub start: u64,
    /// Number of columns, a multiple of the target's alignment.
    pub length: u64,
    /// SHA-256 of the tiles' bytes, hexadecimal.
    pub sha256: String,
    /// Certificate of the accumulator; absent for the float engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulator: Option<Accumulator>,
    /// SHA-256, hexadecimal, of the engine's results for the rows of [`super::names::GOLDEN_INPUTS`].
    /// All segments of a pack have one, or none has. Since 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<String>,
}

/// What one output element can reach before it is converted, over all rows of a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accumulator {
    /// Least value for any activation in the linear's range.
    pub min: i64,
    /// Greatest value for any activation in the linear's range.
    pub max: i64,
    /// Whether `min` and `max` fit the engine's output type, so that no input can overflow it.
    pub certified: bool,
    /// Greatest Euclidean norm of a row's integers: `norm · ‖q_a‖₂` bounds the accumulator of one
    /// activation row.
    pub norm: f64,
}

/// A tensor stored losslessly, under its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// GGUF tensor name, also the name in the pack.
    pub name: String,
    /// ggml type name, such as `Q8_0`.
    pub ggml_type: String,
    /// Shape, slowest dimension first (GGUF's `ne` reversed).
    pub shape: Vec<u64>,
    /// SHA-256 of the stored bytes, hexadecimal.
    pub sha256: String,
}

/// Placement of the tiles in IOMMU domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryPlan {
    /// Bytes of tiles in each domain, domain 0 first.
    pub domain_bytes: Vec<u64>,
    /// Bytes of all tiles.
    pub tile_bytes: u64,
}

/// Place of a shard in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// 1-based index.
    pub index: u32,
    /// Number of shards.
    pub count: u32,
}
