//! Manifest entries: of what was converted, and of the largest that could be.

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::TensorInfo;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::manifest::{
    Accumulator, Activation, Carried, Granularity, Input, Linear, Rounding, Segment,
};
use tessera_formats::pack::{Dtype, names};
use tessera_runtime::host::ActivationScale;

use super::linear::ConvertedLinear;
use super::plan::{InputEqualization, InputPlan, LinearPlan};
use crate::hash::hex;
use crate::options::{ActivationScaling, ScaleType};

/// A hexadecimal digest of zeros: as long as any.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A number that takes as many characters in JSON as any can.
const LONGEST_NUMBER: f64 = -1.234_567_890_123_456_7e-300;

/// A number that takes as many characters in JSON as any f32 above zero can.
const LONGEST_F32: f32 = 1.234_567_9e-30;

/// Entry of an input.
pub fn input(plan: &InputPlan, vector: bool) -> Input {
    Input {
        name: plan.name.clone(),
        rotation: plan.rotation.to_manifest(),
        vector: vector.then(|| names::vector(&plan.name)),
        equalization: match plan.equalization {
            InputEqualization::None => "none",
            InputEqualization::Norm(_) => "norm",
            InputEqualization::Observed => "observed",
        }
        .to_owned(),
        sign_trial: None,
    }
}

/// Entry of a linear.
pub fn linear(
    plan: &LinearPlan,
    source: &TensorInfo,
    input: &InputPlan,
    domain: u32,
    converted: &ConvertedLinear,
) -> Linear {
    let count = converted.segments.len();
    let segments = converted
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| Segment {
            tiles: names::tiles(&plan.name, index, count),
            start: number(segment.columns.start),
            length: number(segment.columns.len()),
            sha256: hex(&segment.sha256),
            accumulator: segment.bound.map(|bound| bound.certificate(plan.engine())),
            golden: segment.golden.map(|digest| hex(&digest)),
        })
        .collect();
    let described = without_results(plan, source, input, domain);
    Linear {
        relative_rms: converted.relative_rms,
        mean_clip: converted.mean_clip,
        activation: activation(&converted.activation),
        rounding: match converted.improvement {
            Some(_) => Rounding::Gptq,
            None => Rounding::Nearest,
        },
        correction: described.correction.filter(|_| converted.correction.is_some()),
        output_error: converted.output_error,
        segments,
        ..described
    }
}

/// How activations are scaled, as the manifest writes it.
fn activation(scale: &ActivationScale) -> Activation {
    match scale {
        &ActivationScale::Dynamic { rms_clip, asymmetric, fitted } => {
            Activation::Dynamic { rms_clip, asymmetric, fitted }
        }
        ActivationScale::Static(threshold) => Activation::Static { threshold: threshold.clone() },
    }
}

/// An entry at least as long as that of the linear can become.
pub fn longest_linear(plan: &LinearPlan, source: &TensorInfo, input: &InputPlan) -> Linear {
    let segments = (0..plan.most_segments)
        .map(|index| Segment {
            tiles: names::tiles(&plan.name, index, 2),
            start: u64::MAX,
            length: u64::MAX,
            sha256: NO_DIGEST.to_owned(),
            accumulator: Some(Accumulator {
                min: i64::MIN,
                max: i64::MAX,
                certified: false,
                norm: LONGEST_NUMBER,
            }),
            golden: Some(NO_DIGEST.to_owned()),
        })
        .collect();
    Linear {
        relative_rms: LONGEST_NUMBER,
        mean_clip: LONGEST_NUMBER,
        activation: match plan.options.activation_scale {
            ActivationScaling::Static(_) => {
                Activation::Static { threshold: vec![LONGEST_F32; plan.most_segments] }
            }
            _ => {
                Activation::Dynamic { rms_clip: Some(LONGEST_F32), asymmetric: true, fitted: true }
            }
        },
        rounding: Rounding::Gptq,
        output_error: Some(LONGEST_NUMBER),
        segments,
        ..without_results(plan, source, input, u32::MAX)
    }
}

fn without_results(
    plan: &LinearPlan,
    source: &TensorInfo,
    input: &InputPlan,
    domain: u32,
) -> Linear {
    let calibrator = match plan.options.system {
        Some(preset) => preset.name().to_owned(),
        None => plan.options.calibrator.to_string(),
    };
    Linear {
        name: plan.name.clone(),
        source: source.name.clone(),
        n: number(plan.n),
        k: number(plan.k),
        experts: plan.experts.map(number),
        n_padded: number(plan.n_padded),
        k_padded: number(plan.k_padded),
        scheme: plan.options.scheme,
        input: input.name.clone(),
        granularity: plan.options.granularity,
        calibrator,
        activation: Activation::default(),
        rounding: Rounding::default(),
        scale: names::scale(&plan.name),
        correction: plan.options.bias_correction.then(|| names::correction(&plan.name)),
        segments: Vec::new(),
        relative_rms: 0.0,
        mean_clip: 0.0,
        output_error: None,
        domain,
    }
}

/// Type of the tensor of a linear's scales.
pub fn scale_type(plan: &LinearPlan) -> Dtype {
    match plan.options.scale_type {
        ScaleType::F32 => Dtype::F32,
        ScaleType::Bf16 => Dtype::BF16,
    }
}

/// Shape of the tensor of a linear's corrections.
pub fn correction_shape(plan: &LinearPlan) -> Vec<u64> {
    plan.experts.into_iter().chain([plan.n]).map(number).collect()
}

/// Entry of a carried tensor.
pub fn carried(tensor: &TensorInfo, sha256: Option<&[u8; 32]>) -> Carried {
    Carried {
        name: tensor.name.clone(),
        ggml_type: tensor.ggml_type.name().to_owned(),
        shape: tensor.dims.iter().rev().copied().collect(),
        sha256: sha256.map_or_else(|| NO_DIGEST.to_owned(), |digest| hex(digest)),
    }
}

/// Type and shape of the tensor of a segment's tiles.
pub fn tiles_form(plan: &LinearPlan, layout: TileLayout) -> (Dtype, Vec<u64>) {
    let dtype = match plan.engine() {
        Engine::F16 => Dtype::F16,
        Engine::I8 => Dtype::I8,
        Engine::I4 => Dtype::U8,
    };
    (dtype, plan.experts.into_iter().chain(layout.shape()).map(number).collect())
}

/// Shape of the tensor of a linear's scales.
pub fn scale_shape(plan: &LinearPlan, segments: usize) -> Vec<u64> {
    let of_matrix = match plan.options.granularity {
        Granularity::Channel => vec![segments, plan.n],
        Granularity::Tensor => vec![1],
    };
    plan.experts.into_iter().chain(of_matrix).map(number).collect()
}

/// Type and shape under which a carried tensor stands: floats as they are, blocks as bytes.
pub fn carried_form(tensor: &TensorInfo) -> (Dtype, Vec<u64>) {
    let dtype = match tensor.ggml_type {
        GgmlType::F32 => Dtype::F32,
        GgmlType::F16 => Dtype::F16,
        GgmlType::Bf16 => Dtype::BF16,
        _ => Dtype::U8,
    };
    let mut shape: Vec<u64> = tensor.dims.iter().rev().copied().collect();
    if let (Dtype::U8, Some(last)) = (dtype, shape.last_mut()) {
        *last = tensor.row_bytes();
    }
    (dtype, shape)
}

/// A size as the manifest writes it.
fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
