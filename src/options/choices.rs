//! The values that options take, by the names users write.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tessera_calibration::clip::{Calibrator, CalibratorError};
use tessera_formats::escape::Escaped;
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::Granularity;

/// Weight and activation bits, or no conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum SchemeChoice {
    /// f16 weights and activations: 2 bytes a weight
    W16A16,
    /// 8-bit weights and activations: 1 byte a weight
    W8A8,
    /// 4-bit weights, 8-bit activations in two digits: half a byte a weight
    W4A8,
    /// 4-bit weights and activations: half a byte a weight
    W4A4,
    /// Do not convert: carry the tensor as it is
    Keep,
}

impl SchemeChoice {
    /// The name as users write it.
    pub fn name(self) -> &'static str {
        self.scheme().map_or("keep", Scheme::name)
    }

    /// The NPU scheme, if the tensor is converted.
    pub fn scheme(self) -> Option<Scheme> {
        match self {
            SchemeChoice::W16A16 => Some(Scheme::W16A16),
            SchemeChoice::W8A8 => Some(Scheme::W8A8),
            SchemeChoice::W4A8 => Some(Scheme::W4A8),
            SchemeChoice::W4A4 => Some(Scheme::W4A4),
            SchemeChoice::Keep => None,
        }
    }
}

impl From<Scheme> for SchemeChoice {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::W16A16 => SchemeChoice::W16A16,
            Scheme::W8A8 => SchemeChoice::W8A8,
            Scheme::W4A8 => SchemeChoice::W4A8,
            Scheme::W4A4 => SchemeChoice::W4A4,
        }
    }
}

/// The orthogonal matrix before quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationChoice {
    /// Randomized Hadamard over the whole of K (default for integer schemes)
    Hadamard,
    /// Randomized Hadamard in blocks of K's largest power-of-two divisor
    Block,
    /// No rotation (default for w16a16)
    None,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GranularityChoice {
    /// One scale per output channel
    Channel,
    /// One scale for the whole tensor
    Tensor,
}

impl From<GranularityChoice> for Granularity {
    fn from(choice: GranularityChoice) -> Self {
        match choice {
            GranularityChoice::Channel => Granularity::Channel,
            GranularityChoice::Tensor => Granularity::Tensor,
        }
    }
}

/// The diagonal before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Equalization {
    /// From the gains of the preceding norm and the norms of the weights' columns; not for the head
    Norm,
    /// From the activations that calibration observed and the norms of the weights' columns
    Observed,
    /// None
    None,
}

/// How weights become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Each to the nearest
    Nearest,
    /// GPTQ: rounding errors are made up for by the columns that follow; needs Hessians
    Gptq,
}

/// Type of the scales in the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// 32 bits
    F32,
    /// 16 bits: weights are rounded to the shortened scale, so that nothing is lost
    Bf16,
}

/// How a row of activations gets its scale. Written `dynamic`, `rms`, `rms:2.8`, `static:kl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ActivationScaling {
    /// The row's largest magnitude.
    Dynamic,
    /// The smaller of the row's largest magnitude and a multiple of its root mean square; the
    /// factor is found from the activations that calibration observed where none is given.
    Rms(Option<f32>),
    /// One threshold for all rows, found from the activations that calibration observed.
    Static(Calibrator),
}

impl fmt::Display for ActivationScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ActivationScaling::Dynamic => f.write_str("dynamic"),
            ActivationScaling::Rms(None) => f.write_str("rms"),
            ActivationScaling::Rms(Some(factor)) => write!(f, "rms:{factor}"),
            ActivationScaling::Static(calibrator) => write!(f, "static:{calibrator}"),
        }
    }
}

impl FromStr for ActivationScaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "dynamic" => Ok(ActivationScaling::Dynamic),
            None if text == "rms" => Ok(ActivationScaling::Rms(None)),
            Some(("rms", factor)) => match factor.parse() {
                Ok(factor) if (1.0..=1000.0).contains(&factor) => {
                    Ok(ActivationScaling::Rms(Some(factor)))
                }
                _ => Err(format!("factor `{}` is not a number from 1 to 1000", Escaped(factor))),
            },
            Some(("static", calibrator)) => calibrator
                .parse()
                .map(ActivationScaling::Static)
                .map_err(|error: CalibratorError| error.to_string()),
            _ => Err(format!(
                "`{}` is not known: expected dynamic, rms, rms:FACTOR or static:METHOD, such as \
                 static:kl",
                Escaped(text),
            )),
        }
    }
}

impl TryFrom<String> for ActivationScaling {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ActivationScaling> for String {
    fn from(scaling: ActivationScaling) -> String {
        scaling.to_string()
    }
}

/// How K is cut so that the 16-bit accumulator of the 4-bit engine cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certificate {
    /// Until no activation whatever can overflow it
    Static,
    /// Only at the target's limit; the norms in the pack bound each activation row at run time
    Dynamic,
}

/// Options chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Preset {
    /// The best of 4 bits: w4a8, by what calibration observed
    #[serde(rename = "w4")]
    #[value(name = "w4")]
    W4,
    /// The best of 8 bits: w8a8, by what calibration observed
    #[serde(rename = "w8")]
    #[value(name = "w8")]
    W8,
    /// Without data, whatever was observed
    #[serde(rename = "fast")]
    #[value(name = "fast")]
    Fast,
    /// rk-llama.cpp of March 2026, for comparison: a scale per block, 4 bits clipped by its entropy
    /// search
    #[serde(rename = "rk-llama-v2")]
    #[value(name = "rk-llama-v2")]
    RkLlamaV2,
    /// rk-llama.cpp of mid-2026, for comparison: a scale per channel by largest magnitude
    #[serde(rename = "rk-llama-v3")]
    #[value(name = "rk-llama-v3")]
    RkLlamaV3,
}

impl Preset {
    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::W4 => "w4",
            Preset::W8 => "w8",
            Preset::Fast => "fast",
            Preset::RkLlamaV2 => "rk-llama-v2",
            Preset::RkLlamaV3 => "rk-llama-v3",
        }
    }

    /// The other system whose quantization it reproduces, if it does.
    pub fn system(self) -> Option<System> {
        match self {
            Preset::RkLlamaV2 => Some(System::RkLlamaV2),
            Preset::RkLlamaV3 => Some(System::RkLlamaV3),
            Preset::W4 | Preset::W8 | Preset::Fast => None,
        }
    }
}

/// Another system, whose weight quantization is reproduced for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum System {
    /// rk-llama.cpp of March 2026.
    #[serde(rename = "rk-llama-v2")]
    RkLlamaV2,
    /// rk-llama.cpp of mid-2026.
    #[serde(rename = "rk-llama-v3")]
    RkLlamaV3,
}

impl System {
    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            System::RkLlamaV2 => "rk-llama-v2",
            System::RkLlamaV3 => "rk-llama-v3",
        }
    }
}
