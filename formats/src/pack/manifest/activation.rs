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
        /// With a zero point: whether how far the integers reach is chosen for the row from five
        /// ranges, and their scale and zero point are those of least squares.
        fitted: bool,
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
        Activation::Dynamic { rms_clip: None, asymmetric: false, fitted: false }
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
    fitted: Option<bool>,
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
            Activation::Dynamic { rms_clip, asymmetric, fitted } => ActivationFields {
                kind: ActivationKind::Dynamic,
                rms_clip,
                asymmetric: asymmetric.then_some(true),
                fitted: fitted.then_some(true),
                threshold: None,
            },
            Activation::Static { threshold } => ActivationFields {
                kind: ActivationKind::Static,
                rms_clip: None,
                asymmetric: None,
                fitted: None,
                threshold: Some(threshold),
            },
        }
    }
}

impl TryFrom<ActivationFields> for Activation {
    type Error = &'static str;

    fn try_from(fields: ActivationFields) -> Result<Self, Self::Error> {
        let ActivationFields { kind, rms_clip, asymmetric, fitted, threshold } = fields;
        match (kind, rms_clip, asymmetric, fitted, threshold) {
            (ActivationKind::Dynamic, .., Some(false), None) => Err("`fitted` is true, or absent"),
            (ActivationKind::Dynamic, _, None | Some(false), Some(true), None) => {
                Err("a fitted activation has a zero point")
            }
            (ActivationKind::Dynamic, rms_clip, asymmetric, fitted, None) => {
                let [asymmetric, fitted] = [asymmetric, fitted].map(|flag| flag.unwrap_or(false));
                Ok(Activation::Dynamic { rms_clip, asymmetric, fitted })
            }
            (ActivationKind::Static, None, None, None, Some(threshold)) => {
                Ok(Activation::Static { threshold })
            }
            (ActivationKind::Dynamic, .., Some(_)) => Err("a dynamic activation has no threshold"),
            (ActivationKind::Static, ..) => {
                Err("a static activation has a threshold, and neither rms_clip nor zero point")
            }
        }
    }
}
