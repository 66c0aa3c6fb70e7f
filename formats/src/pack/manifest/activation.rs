//! How a linear's activations are scaled.

use serde::{Deserialize, Serialize};

/// How a row of activations, rotated, gets the scale of its integers, in each segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ActivationFields", into = "ActivationFields")]
pub enum Activation {
    /// From the row: `amax / qmax`, or `min(amax, rms_clip · rms) / qmax`.
    Dynamic {
        /// Largest magnitude that keeps its value, in units of the row's root mean square over the
        /// segment's columns, padding excluded; absent where nothing is clipped.
        rms_clip: Option<f32>,
        /// Whether the integers have a zero point too, so that they reach from the row's least to
        /// its greatest value: a value is `scale · q + zero`.
        asymmetric: bool,
    },
    /// The same for every row: `threshold / qmax`. Larger magnitudes saturate.
    Static {
        /// One for each segment.
        threshold: Vec<f32>,
    },
}

impl Activation {
    /// Whether a row's largest magnitude alone decides: what the format's first version meant, and
    /// what an absent field means.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the integers have a zero point.
    pub const fn is_asymmetric(&self) -> bool {
        matches!(self, Activation::Dynamic { asymmetric: true, .. })
    }
}

impl Default for Activation {
    fn default() -> Self {
        Activation::Dynamic { rms_clip: None, asymmetric: false }
    }
}

/// [`Activation`] as JSON has it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivationFields {
    kind: ActivationKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rms_clip: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asymmetric: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<Vec<f32>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActivationKind {
    Dynamic,
    Static,
}

impl From<Activation> for ActivationFields {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Dynamic { rms_clip, asymmetric } => ActivationFields {
                kind: ActivationKind::Dynamic,
                rms_clip,
                asymmetric: asymmetric.then_some(true),
                threshold: None,
            },
            Activation::Static { threshold } => ActivationFields {
                kind: ActivationKind::Static,
                rms_clip: None,
                asymmetric: None,
                threshold: Some(threshold),
            },
        }
    }
}

impl TryFrom<ActivationFields> for Activation {
    type Error = &'static str;

    fn try_from(fields: ActivationFields) -> Result<Self, Self::Error> {
        let ActivationFields { kind, rms_clip, asymmetric, threshold } = fields;
        match (kind, rms_clip, asymmetric, threshold) {
            (ActivationKind::Dynamic, rms_clip, asymmetric, None) => {
                Ok(Activation::Dynamic { rms_clip, asymmetric: asymmetric.unwrap_or(false) })
            }
            (ActivationKind::Static, None, None, Some(threshold)) => {
                Ok(Activation::Static { threshold })
            }
            (ActivationKind::Dynamic, _, _, Some(_)) => {
                Err("a dynamic activation has no threshold")
            }
            (ActivationKind::Static, ..) => {
                Err("a static activation has a threshold, no rms_clip and no zero point")
            }
        }
    }
}
