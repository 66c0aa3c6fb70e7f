//! What a simulated linear is besides its tiles, and what is demanded of it.

use std::ops::Range;

use tessera_formats::npu::Scheme;
use tessera_formats::npu::tiles::TILE_K;
use tessera_formats::pack::manifest::Granularity;

use super::SimulatorError;
use super::activation::{ActivationScale, SimulatedInput};
use super::gemm::GROUP;
use super::weights::{LONGEST_SEGMENT, Shape};

/// Shape and scales of a linear, as the manifest of a pack describes them.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Name, for errors.
    pub name: String,
    /// Bits of weights and activations.
    pub scheme: Scheme,
    /// Output channels of a matrix.
    pub n: usize,
    /// Input channels of a matrix.
    pub k: usize,
    /// Number of matrices; `None` for a plain linear.
    pub experts: Option<usize>,
    /// Columns of each segment: contiguous from 0, whole tiles.
    pub segments: Vec<Range<usize>>,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// `[experts, segments, n]` per channel, `[experts, 1]` per tensor.
    pub scales: Vec<f32>,
    /// How rows of activations are scaled; dynamic for w16a16, whose activations are no integers.
    pub activation: ActivationScale,
    /// What is added to every row of outputs, `[experts, n]`.
    pub correction: Option<Vec<f32>>,
}

impl Weights {
    pub(super) fn shape(&self) -> Shape {
        let matrices = self.experts.unwrap_or(1);
        Shape { engine: self.scheme.engine(), matrices, n: self.n }
    }

    /// Checks shape and scales, before anything is read.
    pub(super) fn check(&self, input: &SimulatedInput) -> Result<(), SimulatorError> {
        let rotation = input.rotation();
        let vector = input.vector().map_or(rotation.k(), <[f32]>::len);
        for (what, found) in [("rows", rotation.k()), ("a vector", vector)] {
            if found != self.k {
                return Err(SimulatorError::Input { what, expected: self.k, found });
            }
        }
        let mut expected = 0;
        for &Range { start, end } in &self.segments {
            let length = end.saturating_sub(start);
            if start != expected
                || length == 0
                || length > LONGEST_SEGMENT
                || !length.is_multiple_of(TILE_K)
            {
                return Err(SimulatorError::Segment { start, end, expected });
            }
            self.shape().layout(length)?;
            expected = end;
        }
        if expected < rotation.size() {
            let (found, expected) = (expected, rotation.size());
            return Err(SimulatorError::Columns { expected, found });
        }
        if self.experts == Some(0) {
            return Err(SimulatorError::Size { experts: 0, n: self.n, k: self.k });
        }
        self.check_scales()?;
        self.check_activation()?;
        self.check_correction()
    }

    fn check_scales(&self) -> Result<(), SimulatorError> {
        let Shape { matrices, n, .. } = self.shape();
        let expected = match self.granularity {
            Granularity::Tensor => matrices,
            // Fewer than the weights, whose number was checked.
            Granularity::Channel => matrices.saturating_mul(self.segments.len()).saturating_mul(n),
        };
        let found = self.scales.len();
        if found != expected {
            return Err(SimulatorError::Scales { expected, found });
        }
        let wrong = |scale: &f32| !(scale.is_finite() && *scale != 0.0);
        match self.scales.iter().position(wrong) {
            Some(index) => Err(SimulatorError::Scale { index, scale: self.scales[index] }),
            None => Ok(()),
        }
    }

    fn check_activation(&self) -> Result<(), SimulatorError> {
        if self.scheme == Scheme::W16A16 && self.activation != ActivationScale::default() {
            return Err(SimulatorError::FloatActivations);
        }
        let positive = |what, value: f32| {
            let wrong = !(value.is_finite() && value > 0.0);
            if wrong { Err(SimulatorError::Activation { what, value }) } else { Ok(()) }
        };
        match &self.activation {
            ActivationScale::Dynamic { rms_clip, .. } => {
                rms_clip.map_or(Ok(()), |factor| positive("clip", factor))
            }
            ActivationScale::Static(thresholds) => {
                let (found, expected) = (thresholds.len(), self.segments.len());
                if found != expected {
                    return Err(SimulatorError::Thresholds { expected, found });
                }
                thresholds.iter().try_for_each(|&threshold| positive("threshold", threshold))
            }
        }
    }

    fn check_correction(&self) -> Result<(), SimulatorError> {
        let Some(correction) = &self.correction else { return Ok(()) };
        let Shape { matrices, n, .. } = self.shape();
        let (expected, found) = (matrices.saturating_mul(n), correction.len());
        if found != expected {
            return Err(SimulatorError::Corrections { expected, found });
        }
        match correction.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(SimulatorError::Correction { index, value: correction[index] }),
            None => Ok(()),
        }
    }

    /// Scales of every group, `[experts, segments, groups]`, whatever the granularity.
    pub(super) fn group_scales(&self) -> Vec<[f32; GROUP]> {
        let shape = self.shape();
        let rows = shape.matrices * self.segments.len();
        let mut scales = Vec::with_capacity(rows * shape.groups());
        for row in 0..rows {
            for group in 0..shape.groups() {
                let matrix = row / self.segments.len();
                scales.push(std::array::from_fn(|lane| match self.granularity {
                    Granularity::Tensor => self.scales[matrix],
                    Granularity::Channel => {
                        // Channels of padding have no scale, and no result.
                        let n = (group * GROUP + lane).min(self.n - 1);
                        self.scales[row * self.n + n]
                    }
                }));
            }
        }
        scales
    }
}
