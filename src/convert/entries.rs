//! Manifest entries: of what was converted, and of the largest that could be.

use tessera_formats::gguf::TensorInfo;
use tessera_formats::pack::manifest::{
    Accumulator, Carried, Input, Linear, Rotation, Segment,
};

use super::linear::ConvertedLinear;
use super::plan::{InputPlan, LinearPlan};
use crate::hash::hex;

/// A hexadecimal digest of zeros: as long as any.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A number that takes as many characters in JSON as any can.
const LONGEST_NUMBER: f64 = -1.234_567_890_123_456_7e-300;

/// Entry of an input.
pub fn input(plan: &InputPlan, vector: bool) -> Input {
    let rotation: Rotation = plan.rotation.to_manifest();
    Input {
        name: plan.name.clone(),
        rotation,
        vector: vector.then(|| vector_tensor(plan)),
        equalization: if plan.norm.is_some() { "norm" } else { "none" }.to_owned(),
    }
}

/// Name of the tensor of an input's vector.
pub fn vector_tensor(plan: &InputPlan) -> String {
    format!("{}.rotation", plan.name)
}

/// Name of the tensor of a linear's scales.
pub fn scale_tensor(plan: &LinearPlan) -> String {
    format!("{}.scale", plan.name)
}

/// Name of the tensor of a segment's tiles, of `count` segments.
pub fn tiles_tensor(plan: &LinearPlan, segment: usize, count: usize) -> String {
    if count == 1 {
        format!("{}.tiles", plan.name)
    } else {
        format!("{}.tiles.{segment}", plan.name)
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
            tiles: tiles_tensor(plan, index, count),
            start: number(segment.columns.start),
            length: number(segment.columns.len()),
            sha256: hex(&segment.sha256),
            accumulator: segment.accumulator.clone(),
        })
        .collect();
    Linear {
        relative_rms: converted.relative_rms,
        mean_clip: converted.mean_clip,
        segments,
        ..without_results(plan, source, input, domain)
    }
}

/// An entry at least as long as that of the linear can become.
pub fn longest_linear(plan: &LinearPlan, source: &TensorInfo, input: &InputPlan) -> Linear {
    let segments = (0..plan.most_segments)
        .map(|index| Segment {
            tiles: tiles_tensor(plan, index, 2),
            start: u64::MAX,
            length: u64::MAX,
            sha256: NO_DIGEST.to_owned(),
            accumulator: Some(Accumulator {
                min: i64::MIN,
                max: i64::MAX,
                certified: false,
                norm: LONGEST_NUMBER,
            }),
        })
        .collect();
    Linear {
        relative_rms: LONGEST_NUMBER,
        mean_clip: LONGEST_NUMBER,
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
    let calibrator = match plan.options.preset {
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
        scale: scale_tensor(plan),
        segments: Vec::new(),
        relative_rms: 0.0,
        mean_clip: 0.0,
        domain,
    }
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

/// A size as the manifest writes it.
fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
