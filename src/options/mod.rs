//! What can be chosen for a linear: on the command line, in a recipe, and as resolved.

mod choices;

use clap::Args;
use serde::{Deserialize, Serialize};
use tessera_calibration::clip::Calibrator;
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::Granularity;

pub use choices::{
    ActivationScaling, Certificate, Equalization, GranularityChoice, Preset, RotationChoice,
    Rounding, ScaleType, SchemeChoice, System,
};

/// Damping of Hessians where nothing is said.
const DAMPING: f64 = 0.05;

/// Part of the way to the weights that serve quantized inputs best, where nothing is said.
const RETARGET: f64 = 0.5;

/// Most sign vectors that are tried for an input.
const MOST_SIGN_TRIALS: u32 = 1024;

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

    /// Diagonal before the rotation that balances channels [default: observed with statistics, norm
    /// without; none for w16a16]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equalization: Option<Equalization>,

    /// How weights become integers [default: gptq with statistics, nearest without]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,

    /// GPTQ: what is added to the Hessian's diagonal, as a part of its mean [default: 0.05]
    #[arg(long, value_name = "PART", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,

    /// GPTQ: columns in descending order of the Hessian's diagonal [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act_order: Option<bool>,

    /// How far weights go from the model's own towards those that serve the quantized inputs best, 0 to
    /// 1; where statistics were taken behind quantized layers [default: 0.5]
    #[arg(long, value_name = "PART", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retarget: Option<f64>,

    /// How rows of activations get their scales: `dynamic`, `rms`, `rms:FACTOR`, `static:METHOD`
    /// [default: rms for w4a4 with statistics, else dynamic]
    #[arg(long, value_name = "HOW", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_scale: Option<ActivationScaling>,

    /// Give rows of activations a zero point beside their scale [default: true for w8a8 and w4a4]
    #[arg(long, value_name = "BOOL", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_point: Option<bool>,

    /// With a zero point: choose for each row how far its integers reach, and what they stand for by
    /// least squares [default: true for w4a4 with a zero point]
    #[arg(long, value_name = "BOOL", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_fit: Option<bool>,

    /// Add what outputs lack on average [default: false]
    #[arg(long, value_name = "BOOL", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_correction: Option<bool>,

    /// Sign vectors to choose from for each input, by the error they give on observed activations
    /// [default: 1]
    #[arg(long, value_name = "N", help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_trials: Option<u32>,

    /// Type of the weights' scales [default: f32; bf16 with the preset w4]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_type: Option<ScaleType>,

    /// How the 4-bit engine's accumulator is kept from overflowing [default: static]
    #[arg(long, value_enum, help_heading = "Quantization")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,

    /// Options chosen together; others given beside them count for more
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
            rounding: other.rounding.or(self.rounding),
            damping: other.damping.or(self.damping),
            act_order: other.act_order.or(self.act_order),
            retarget: other.retarget.or(self.retarget),
            activation_scale: other.activation_scale.or(self.activation_scale),
            zero_point: other.zero_point.or(self.zero_point),
            activation_fit: other.activation_fit.or(self.activation_fit),
            bias_correction: other.bias_correction.or(self.bias_correction),
            sign_trials: other.sign_trials.or(self.sign_trials),
            scale_type: other.scale_type.or(self.scale_type),
            certificate: other.certificate.or(self.certificate),
            preset: other.preset.or(self.preset),
        }
    }

    /// Fills in the defaults; `statistics` tells whether a calibration's are at hand. `None`: the
    /// tensor is carried. An error names a contradiction, or what is missing.
    pub fn resolve(self, statistics: bool) -> Result<Option<LinearOptions>, String> {
        let scheme = self.scheme.unwrap_or(match self.preset {
            Some(Preset::W4) => SchemeChoice::W4A8,
            _ => SchemeChoice::W8A8,
        });
        let Some(scheme) = scheme.scheme() else { return Ok(None) };
        if let Some(system) = self.preset.and_then(Preset::system) {
            return self.resolve_system(scheme, system).map(Some);
        }
        if let Some(preset @ (Preset::W4 | Preset::W8)) = self.preset
            && !statistics
        {
            return Err(format!("the preset `{}` {MISSING}", preset.name()));
        }
        let options = self.resolve_ours(scheme, statistics && self.preset != Some(Preset::Fast));
        options.check(statistics)?;
        Ok(Some(options))
    }

    fn resolve_ours(self, scheme: Scheme, observed: bool) -> LinearOptions {
        let float = scheme.engine().qmax().is_none();
        let observed = observed && !float;
        let rotation = self.rotation.unwrap_or(match scheme {
            Scheme::W16A16 => RotationChoice::None,
            _ => RotationChoice::Hadamard,
        });
        let equalization = self.equalization.unwrap_or(match (float, rotation) {
            (true, _) | (_, RotationChoice::None) => Equalization::None,
            _ if observed => Equalization::Observed,
            _ => Equalization::Norm,
        });
        let calibrator = self.calibrator.unwrap_or(match scheme {
            Scheme::W4A4 | Scheme::W4A8 => Calibrator::Mse,
            Scheme::W8A8 | Scheme::W16A16 => Calibrator::Amax,
        });
        let is_static = matches!(self.activation_scale, Some(ActivationScaling::Static(_)));
        let zero_point =
            self.zero_point.unwrap_or(!is_static && matches!(scheme, Scheme::W8A8 | Scheme::W4A4));
        let if_observed = |with, without| if observed { with } else { without };
        LinearOptions {
            scheme,
            rotation,
            granularity: self.granularity.unwrap_or(GranularityChoice::Channel).into(),
            calibrator,
            equalization,
            rounding: self.rounding.unwrap_or(if_observed(Rounding::Gptq, Rounding::Nearest)),
            damping: self.damping.unwrap_or(DAMPING),
            act_order: self.act_order.unwrap_or(true),
            retarget: self.retarget.unwrap_or(RETARGET),
            activation_scale: self.activation_scale.unwrap_or(
                if observed && scheme == Scheme::W4A4 {
                    ActivationScaling::Rms(None)
                } else {
                    ActivationScaling::Dynamic
                },
            ),
            zero_point,
            activation_fit: self.activation_fit.unwrap_or(zero_point && scheme == Scheme::W4A4),
            bias_correction: self.bias_correction.unwrap_or(false),
            sign_trials: self.sign_trials.unwrap_or(1),
            scale_type: self.scale_type.unwrap_or(match self.preset {
                Some(Preset::W4) => ScaleType::Bf16,
                _ => ScaleType::F32,
            }),
            certificate: self.certificate.unwrap_or(Certificate::Static),
            system: None,
        }
    }

    fn resolve_system(self, scheme: Scheme, system: System) -> Result<LinearOptions, String> {
        let contradiction = [
            ("granularity", self.granularity.is_some()),
            ("calibrator", self.calibrator.is_some()),
            ("equalization", self.equalization.is_some_and(|given| given != Equalization::None)),
            ("certificate", self.certificate == Some(Certificate::Static)),
            ("rotation", self.rotation == Some(RotationChoice::Block)),
            ("rounding", self.rounding == Some(Rounding::Gptq)),
            ("zero_point", self.zero_point == Some(true)),
            ("activation_fit", self.activation_fit == Some(true)),
            ("bias_correction", self.bias_correction == Some(true)),
            ("sign_trials", self.sign_trials.is_some_and(|trials| trials != 1)),
            ("scale_type", self.scale_type == Some(ScaleType::Bf16)),
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
            rounding: Rounding::Nearest,
            damping: DAMPING,
            act_order: true,
            retarget: 0.0,
            activation_scale: self.activation_scale.unwrap_or(ActivationScaling::Dynamic),
            zero_point: false,
            activation_fit: false,
            bias_correction: false,
            sign_trials: 1,
            scale_type: ScaleType::F32,
            certificate: Certificate::Dynamic,
            system: Some(system),
        })
    }
}

/// What to do where statistics are missing.
const MISSING: &str = "needs statistics: give `--calibration STATS`, which `tessera calibrate` \
                       writes, or a text with `--dataset`";

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
    /// How weights become integers.
    pub rounding: Rounding,
    /// What GPTQ adds to the Hessian's diagonal, as a part of its mean.
    pub damping: f64,
    /// Whether GPTQ takes columns in descending order of the Hessian's diagonal.
    pub act_order: bool,
    /// How far weights go towards those that serve quantized inputs best, 0 to 1.
    pub retarget: f64,
    /// How rows of activations get their scales.
    pub activation_scale: ActivationScaling,
    /// Whether rows of activations have a zero point.
    pub zero_point: bool,
    /// Whether the range of a row's integers, and what they stand for, is fitted to it.
    pub activation_fit: bool,
    /// Whether the mean error of outputs is added to them.
    pub bias_correction: bool,
    /// Sign vectors that are tried for its input.
    pub sign_trials: u32,
    /// Type of the scales in the pack.
    pub scale_type: ScaleType,
    /// How K is segmented for the accumulator.
    pub certificate: Certificate,
    /// The system to reproduce, which then decides the scales.
    pub system: Option<System>,
}

impl LinearOptions {
    /// The first option that can be heeded only with what calibration observed.
    fn observed(&self) -> Option<&'static str> {
        let needs = [
            ("equalization observed", self.equalization == Equalization::Observed),
            ("rounding gptq", self.rounding == Rounding::Gptq),
            ("activation-scale rms", self.activation_scale == ActivationScaling::Rms(None)),
            (
                "activation-scale static",
                matches!(self.activation_scale, ActivationScaling::Static(_)),
            ),
            ("bias-correction true", self.bias_correction),
            ("sign-trials", self.sign_trials > 1),
        ];
        needs.into_iter().find(|(_, needed)| *needed).map(|(option, _)| option)
    }

    fn check(&self, statistics: bool) -> Result<(), String> {
        if let Some(option) = self.observed().filter(|_| !statistics) {
            return Err(format!("`--{option}` {MISSING}"));
        }
        if !(1e-6..=10.0).contains(&self.damping) {
            return Err(format!("a damping of {} is not from 0.000001 to 10", self.damping));
        }
        if !(0.0..=1.0).contains(&self.retarget) {
            return Err(format!("`retarget` is {}, and must be from 0 to 1", self.retarget));
        }
        if !(1..=MOST_SIGN_TRIALS).contains(&self.sign_trials) {
            return Err(format!("`sign-trials` must be from 1 to {MOST_SIGN_TRIALS}"));
        }
        if self.zero_point && matches!(self.activation_scale, ActivationScaling::Static(_)) {
            return Err("a static scale has no zero point: leave `zero-point` out".to_owned());
        }
        if self.activation_fit && !self.zero_point {
            return Err("`activation-fit` needs activations with a `zero-point`".to_owned());
        }
        if self.scheme != Scheme::W16A16 {
            return Ok(());
        }
        if self.zero_point {
            return Err("w16a16 has no integers for `zero-point`".to_owned());
        }
        if self.rounding == Rounding::Gptq {
            return Err("GPTQ rounds to integers, and w16a16 has none".to_owned());
        }
        if self.activation_scale != ActivationScaling::Dynamic {
            return Err("w16a16 has no integers for `activation-scale`".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_scheme() {
        let eight = Overrides::default().resolve(false).unwrap().unwrap();
        assert_eq!(eight.scheme, Scheme::W8A8);
        assert_eq!(eight.rotation, RotationChoice::Hadamard);
        assert_eq!(eight.calibrator, Calibrator::Amax);
        let four = Overrides { scheme: Some(SchemeChoice::W4A8), ..Default::default() };
        assert_eq!(four.resolve(false).unwrap().unwrap().calibrator, Calibrator::Mse);
        let float = Overrides { scheme: Some(SchemeChoice::W16A16), ..Default::default() };
        let float = float.resolve(false).unwrap().unwrap();
        assert_eq!(float.rotation, RotationChoice::None);
        assert_eq!(float.equalization, Equalization::None);
        let keep = Overrides { scheme: Some(SchemeChoice::Keep), ..Default::default() };
        assert_eq!(keep.resolve(false), Ok(None));
    }

    #[test]
    fn a_preset_refuses_what_it_fixes() {
        let preset = Overrides { preset: Some(Preset::RkLlamaV3), ..Default::default() };
        assert!(preset.resolve(false).is_ok());
        let clash = Overrides { calibrator: Some(Calibrator::Mse), ..preset };
        assert!(clash.resolve(false).unwrap_err().contains("calibrator"));
        let clash = Overrides { scheme: Some(SchemeChoice::W4A8), ..preset };
        assert!(clash.resolve(false).unwrap_err().contains("w4a8"));
    }
}
