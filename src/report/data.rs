//! What a report holds: the one structure behind `report.json` and the page.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the field `format` says.
pub const FORMAT: &str = "tessera-report";

/// Version of the fields, major and minor.
pub const VERSION: [u32; 2] = [1, 0];

/// How the bits of a model were chosen, and what that cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: [u32; 2],
    /// Version of the tessera that made the choice.
    pub tessera: String,
    /// The model that was converted.
    pub model: Model,
    /// What was asked for; empty where nothing was.
    pub budget: Vec<Budget>,
    /// What was written; absent where nothing was.
    pub pack: Option<Pack>,
    /// What the choice was expected to cost, and what it does cost.
    pub prediction: Prediction,
    /// Models that were measured on the evaluation text, a row each.
    pub ladder: Vec<LadderRow>,
    /// The best choices that were found, by rising bits per weight.
    pub frontier: Vec<FrontierPoint>,
    /// Every linear, in the model's order.
    pub tensors: Vec<Tensor>,
    /// How well cheap estimates of the damage agree with measured ones, where both are there.
    pub sensitivity: Option<SensitivityCorrelation>,
    /// The recipe that converts the model the same way again.
    pub recipe: Value,
    /// What all of this was made from.
    pub provenance: Provenance,
}

/// A model and the files it stands in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name, as it says itself or else as its file is called.
    pub name: String,
    /// Architecture, as in `general.architecture`.
    pub architecture: String,
    /// Weights of all tensors.
    pub parameters: u64,
    /// Its files, in order.
    pub files: Vec<HashedFile>,
}

/// A file by name and content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedFile {
    /// Name, without its folders.
    pub name: String,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A bound that the user set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case", deny_unknown_fields)]
pub enum Budget {
    /// Most bits per weight of the linears, without the padding of tiles.
    TargetBpw(f64),
    /// Most bytes of the pack.
    TargetSize(u64),
    /// Largest mean KL divergence from the unquantized model, in nats.
    MaxKld(f64),
    /// Least tokens a second, one after another, that the linears leave room for by the board's rates.
    TargetDecode(f64),
    /// The same of a prompt of 512 tokens.
    TargetPrefill(f64),
}

/// A pack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bits per weight of its linears, scales counted and the padding of tiles not: what a target of
    /// bits per weight is about.
    pub bits_per_weight: f64,
    /// Tokens a second that the linears leave room for, one after another, by the board's rates.
    pub decode_tokens_per_second: Option<f64>,
    /// The same of a prompt of 512 tokens.
    pub prefill_tokens_per_second: Option<f64>,
}

/// What the choice was expected to cost, and what it does cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Mean KL divergence that was predicted for the choice, in nats.
    pub predicted_kld: f64,
    /// The same, measured; absent where it was not.
    pub measured_kld: Option<f64>,
    /// Measured over predicted.
    pub ratio: Option<f64>,
    /// Name of the text that it was measured on.
    pub text: Option<String>,
}

/// A model as it was measured on the evaluation text. Figures of a comparison are absent where there
/// is nothing to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderRow {
    /// A scheme or preset, or the name of another model.
    pub name: String,
    /// Bits per weight of its linears, scales and padding included.
    pub bits_per_weight: f64,
    /// Bytes of its linears.
    pub bytes: u64,
    /// Perplexity.
    pub ppl: f64,
    /// Standard error of it.
    pub ppl_error: f64,
    /// Mean KL divergence from the reference, in nats.
    pub mean_kld: Option<f64>,
    /// Standard error of it.
    pub mean_kld_error: Option<f64>,
    /// Tokens for which the likeliest is the reference's, in percent.
    pub same_top: Option<f64>,
}

/// A choice of schemes that no other found choice beats in both bytes and predicted KL divergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierPoint {
    /// Bits per weight of the linears, scales and padding included.
    pub bits_per_weight: f64,
    /// Bytes of the linears.
    pub bytes: u64,
    /// Mean KL divergence predicted for it, in nats.
    pub predicted_kld: f64,
    /// Whether it is the choice that the pack was made with; true of one point at most.
    pub chosen: bool,
    /// The same, measured, where it was.
    pub measured_kld: Option<f64>,
}

/// A linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name in the model.
    pub name: String,
    /// The layer it is in, from 0; absent outside the layers.
    pub layer: Option<u32>,
    /// What it does there: `attn_q`, `ffn_down`, `output`.
    pub operator: String,
    /// The scheme that was chosen.
    pub scheme: String,
    /// Output channels.
    pub n: u64,
    /// Input channels.
    pub k: u64,
    /// Matrices in the tensor: 1, or the number of experts.
    pub experts: u64,
    /// Weights, without padding.
    pub weights: u64,
    /// Bytes in the pack at the chosen scheme.
    pub bytes: u64,
    /// Bits per weight of it, scales and padding included.
    pub bits_per_weight: f64,
    /// `sqrt(Σ (w − r)² / Σ w²)` of source weights w and rebuilt weights r, where it was computed.
    pub relative_error: Option<f64>,
    /// Mean KL divergence of the model where only this linear is at its chosen scheme, in nats; absent
    /// where it was not measured.
    pub damage: Option<f64>,
    /// Whether a recipe or the command line fixed its scheme.
    pub pinned: bool,
    /// The schemes that it could have, each once, at most [`Tensor::MOST_OPTIONS`].
    pub options: Vec<SchemeOption>,
    /// Distributions of its weights and of its inputs, each at most once.
    pub histograms: Vec<Histogram>,
    /// Magnitude at which its rotated inputs are clipped, where that is fixed.
    pub activation_clip: Option<f64>,
}

impl Tensor {
    /// Schemes that a linear may be given a choice of, and different ones in all linears together.
    pub const MOST_OPTIONS: usize = 16;

    /// Histograms of a linear: of its weights and of its inputs.
    pub const MOST_HISTOGRAMS: usize = 2;
}

/// What a linear would cost at a scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeOption {
    /// The scheme.
    pub scheme: String,
    /// Mean KL divergence of the model where only this linear is at this scheme, in nats.
    pub damage: f64,
    /// Bytes of the linear at this scheme.
    pub bytes: u64,
}

/// How often magnitudes were seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Whose magnitudes.
    pub of: HistogramOf,
    /// Width of a bin; the first begins at 0.
    pub bin_width: f64,
    /// Values in each bin, from 1 to [`Histogram::MOST_BINS`] bins.
    pub counts: Vec<u64>,
    /// Magnitude beyond which values are clipped.
    pub clip: Option<f64>,
}

impl Histogram {
    /// Bins that a histogram may have.
    pub const MOST_BINS: usize = 256;
}

/// What a histogram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistogramOf {
    /// The weights, equalized and rotated, in steps of their scales.
    Weights,
    /// The inputs, rotated.
    Inputs,
}

/// Agreement of two ways to say which linears matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensitivityCorrelation {
    /// Spearman's rank correlation of estimated and measured damage, over linears.
    pub spearman: f64,
    /// Seconds that measuring took.
    pub seconds_measured: f64,
    /// Seconds that estimating took.
    pub seconds_proxy: f64,
}

/// What a report was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Texts that were calibrated on.
    pub datasets: Vec<HashedFile>,
    /// Tokens that were calibrated on.
    pub tokens: u64,
    /// Tokens of a chunk.
    pub context: u64,
    /// Seed of every random choice.
    pub seed: u64,
    /// Chunks that were evaluated.
    pub chunks: u64,
    /// The text that was evaluated on, where one was.
    pub evaluation_text: Option<HashedFile>,
}
