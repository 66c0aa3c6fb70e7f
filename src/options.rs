//! What can be chosen for a linear: on the command line, in a recipe, and as resolved.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tessera_calibration::clip::Calibrator;
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
    /// None
    None,
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

/// Another system's weight quantization, reproduced for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub enum Preset {
    /// rk-llama.cpp of March 2026: a scale per block, 4 bits clipped by its entropy search
    #[serde(rename = "rk-llama-v2")]
    #[value(name = "rk-llama-v2")]
    RkLlamaV2,
    /// rk-llama.cpp of mid-2026: a scale per channel by largest magnitude
    #[serde(rename = "rk-llama-v3")]
    #[value(name = "rk-llama-v3")]
    RkLlamaV3,
}

impl Preset {
    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::RkLlamaV2 => "rk-llama-v2",
            Preset::RkLlamaV3 => "rk-llama-v3",
        }
    }
}

/// Options as given: only what was said. One type for the command line and for recipes.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Weight and activation bits [default: w8a8]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<SchemeChoice>,

    /// Rotation before quantization [default: hadamard; none for w16a16]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationChoice>,

    /// Which weights share a scale [default: channel]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<GranularityChoice>,

    /// How scales are chosen: `mse`, `kl`, `amax`, `percentile` or `percentile:99.9`
    /// [default: mse for 4 bits, amax for 8]
    #[arg(long, value_name = "METHOD", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrator: Option<Calibrator>,

    /// Diagonal before the rotation that balances channels [default: norm; none for w16a16]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equalization: Option<Equalization>,

    /// How the 4-bit engine's accumulator is kept from overflowing [default: static]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,

    /// Reproduce another system's weight quantization, for comparison
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
}

impl Overrides {
    /// These options, with `other`'s where `other` says something.
    pub fn overridden_by(self, other: Overrides) -> Overrides {
        Overrides {
            scheme: other.scheme.or(self.scheme),
            rotation: other.rotation.or(self.rotation),
            granularity: other.granularity.or(self.granularity),
            calibrator: other.calibrator.or(self.calibrator),
            equalization: other.equalization.or(self.equalization),
            certificate: other.certificate.or(self.certificate),
            preset: other.preset.or(self.preset),
        }
    }

    /// Fills in the defaults. `None`: the tensor is carried. An error names a contradiction.
    pub fn resolve(self) -> Result<Option<LinearOptions>, String> {
        let Some(scheme) = self.scheme.unwrap_or(SchemeChoice::W8A8).scheme() else {
            return Ok(None);
        };
        let float = scheme.engine().qmax().is_none();
        if let Some(preset) = self.preset {
            return self.resolve_preset(scheme, preset).map(Some);
        }
        let rotation = self.rotation.unwrap_or(match scheme {
            Scheme::W16A16 => RotationChoice::None,
            _ => RotationChoice::Hadamard,
        });
        let equalization = self.equalization.unwrap_or(match (float, rotation) {
            (true, _) | (_, RotationChoice::None) => Equalization::None,
            _ => Equalization::Norm,
        });
        let calibrator = self.calibrator.unwrap_or(match scheme {
            Scheme::W4A4 | Scheme::W4A8 => Calibrator::Mse,
            Scheme::W8A8 | Scheme::W16A16 => Calibrator::Amax,
        });
        Ok(Some(LinearOptions {
            scheme,
            rotation,
            granularity: self.granularity.unwrap_or(GranularityChoice::Channel).into(),
            calibrator,
            equalization,
            certificate: self.certificate.unwrap_or(Certificate::Static),
            preset: None,
        }))
    }

    fn resolve_preset(self, scheme: Scheme, preset: Preset) -> Result<LinearOptions, String> {
        let contradiction = [
            ("granularity", self.granularity.is_some()),
            ("calibrator", self.calibrator.is_some()),
            ("equalization", self.equalization == Some(Equalization::Norm)),
            ("certificate", self.certificate == Some(Certificate::Static)),
            ("rotation", self.rotation == Some(RotationChoice::Block)),
        ]
        .into_iter()
        .find(|(_, given)| *given);
        if let Some((option, _)) = contradiction {
            return Err(format!(
                "a preset fixes `{option}`: leave it out, or leave out the preset"
            ));
        }
        if scheme == Scheme::W4A8 {
            return Err(
                "rk-llama.cpp has no w4a8: use w4a4, w8a8 or w16a16 with its presets".into()
            );
        }
        Ok(LinearOptions {
            scheme,
            rotation: self.rotation.unwrap_or(match scheme {
                Scheme::W16A16 => RotationChoice::None,
                _ => RotationChoice::Hadamard,
            }),
            granularity: Granularity::Channel,
            calibrator: Calibrator::Amax,
            equalization: Equalization::None,
            certificate: Certificate::Dynamic,
            preset: Some(preset),
        })
    }
}

/// Everything that decides how one linear is converted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinearOptions {
    /// Weight and activation bits.
    pub scheme: Scheme,
    /// Rotation of its input.
    pub rotation: RotationChoice,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// How scales are chosen.
    pub calibrator: Calibrator,
    /// Equalization of its input.
    pub equalization: Equalization,
    /// How K is segmented for the accumulator.
    pub certificate: Certificate,
    /// The system to reproduce, which then decides the scales.
    pub preset: Option<Preset>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_scheme() {
        let eight = Overrides::default().resolve().unwrap().unwrap();
        assert_eq!(eight.scheme, Scheme::W8A8);
        assert_eq!(eight.rotation, RotationChoice::Hadamard);
        assert_eq!(eight.calibrator, Calibrator::Amax);
        let four = Overrides { scheme: Some(SchemeChoice::W4A8), ..Default::default() };
        assert_eq!(four.resolve().unwrap().unwrap().calibrator, Calibrator::Mse);
        let float = Overrides { scheme: Some(SchemeChoice::W16A16), ..Default::default() };
        let float = float.resolve().unwrap().unwrap();
        assert_eq!(float.rotation, RotationChoice::None);
        assert_eq!(float.equalization, Equalization::None);
        let keep = Overrides { scheme: Some(SchemeChoice::Keep), ..Default::default() };
        assert_eq!(keep.resolve(), Ok(None));
    }

    #[test]
    fn a_preset_refuses_what_it_fixes() {
        let preset = Overrides { preset: Some(Preset::RkLlamaV3), ..Default::default() };
        assert!(preset.resolve().is_ok());
        let clash = Overrides { calibrator: Some(Calibrator::Mse), ..preset };
        assert!(clash.resolve().unwrap_err().contains("calibrator"));
        let clash = Overrides { scheme: Some(SchemeChoice::W4A8), ..preset };
        assert!(clash.resolve().unwrap_err().contains("w4a8"));
    }
}
