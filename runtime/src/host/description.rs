//! What a linear on the NPU is besides its tiles, and what is demanded of it.

use std::ops::Range;

use tessera_formats::npu::tiles::{TILE_K, TileLayout};
use tessera_formats::npu::{Engine, Scheme};
use tessera_formats::pack::manifest::Granularity;

use super::GROUP;
use super::WeightsError;
use super::activation::{ActivationScale, LinearInput};

/// Longest segment: at most this many products of two bytes fit an i32.
const LONGEST_SEGMENT: usize = 65_536;

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
    pub(crate) fn shape(&self) -> Shape {
        let matrices = self.experts.unwrap_or(1);
        Shape { engine: self.scheme.engine(), matrices, n: self.n }
    }

    /// Checks shape and scales, before anything is read.
    pub(crate) fn check(&self, input: &LinearInput) -> Result<(), WeightsError> {
        let rotation = input.rotation();
        let vector = input.vector().map_or(rotation.k(), <[f32]>::len);
        for (what, found) in [("rows", rotation.k()), ("a vector", vector)] {
            if found != self.k {
                return Err(WeightsError::Input { what, expected: self.k, found });
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
                return Err(WeightsError::Segment { start, end, expected });
            }
            self.shape().layout(length)?;
            expected = end;
        }
        if expected < rotation.size() {
            let (found, expected) = (expected, rotation.size());
            return Err(WeightsError::Columns { expected, found });
        }
        if self.experts == Some(0) {
            return Err(WeightsError::Size { experts: 0, n: self.n, k: self.k });
        }
        self.check_scales()?;
        self.check_activation()?;
        self.check_correction()
    }

    fn check_scales(&self) -> Result<(), WeightsError> {
        let Shape { matrices, n, .. } = self.shape();
        let expected = match self.granularity {
            Granularity::Tensor => matrices,
            // Fewer than the weights, whose number was checked.
            Granularity::Channel => matrices.saturating_mul(self.segments.len()).saturating_mul(n),
        };
        let found = self.scales.len();
        if found != expected {
            return Err(WeightsError::Scales { expected, found });
        }
        let wrong = |scale: &f32| !(scale.is_finite() && *scale != 0.0);
        match self.scales.iter().position(wrong) {
            Some(index) => Err(WeightsError::Scale { index, scale: self.scales[index] }),
            None => Ok(()),
        }
    }

    fn check_activation(&self) -> Result<(), WeightsError> {
        if self.scheme == Scheme::W16A16 && self.activation != ActivationScale::default() {
            return Err(WeightsError::FloatActivations);
        }
        let positive = |what, value: f32| {
            let wrong = !(value.is_finite() && value > 0.0);
            if wrong { Err(WeightsError::Activation { what, value }) } else { Ok(()) }
        };
        match &self.activation {
            ActivationScale::Dynamic { rms_clip, .. } => {
                rms_clip.map_or(Ok(()), |factor| positive("clip", factor))
            }
            ActivationScale::Static(thresholds) => {
                let (found, expected) = (thresholds.len(), self.segments.len());
                if found != expected {
                    return Err(WeightsError::Thresholds { expected, found });
                }
                thresholds.iter().try_for_each(|&threshold| positive("threshold", threshold))
            }
        }
    }

    fn check_correction(&self) -> Result<(), WeightsError> {
        let Some(correction) = &self.correction else { return Ok(()) };
        let Shape { matrices, n, .. } = self.shape();
        let (expected, found) = (matrices.saturating_mul(n), correction.len());
        if found != expected {
            return Err(WeightsError::Corrections { expected, found });
        }
        match correction.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(WeightsError::Correction { index, value: correction[index] }),
            None => Ok(()),
        }
    }

    /// Scales of every group, `[experts, segments, groups]`, whatever the granularity.
    pub(crate) fn group_scales(&self) -> Vec<[f32; GROUP]> {
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

/// Shape of a linear's weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) engine: Engine,
    pub(crate) matrices: usize,
    pub(crate) n: usize,
}

impl Shape {
    /// Groups of a matrix.
    pub(crate) fn groups(&self) -> usize {
        self.n.div_ceil(GROUP)
    }

    /// The tiles of one matrix over a segment of `k` columns.
    pub(crate) fn layout(&self, k: usize) -> Result<TileLayout, WeightsError> {
        let size = WeightsError::Size { experts: self.matrices, n: self.n, k };
        let tile_n = self.engine.tile_n();
        let n_padded = self.n.checked_next_multiple_of(tile_n).ok_or(size.clone())?;
        let layout = TileLayout::new(self.engine, n_padded, k)?;
        // Four times: a group of 64 channels may have as few as 16.
        let bytes = layout.n().checked_mul(4 * 2).and_then(|bytes| bytes.checked_mul(k));
        bytes.and_then(|bytes| bytes.checked_mul(self.matrices)).ok_or(size)?;
        Ok(layout)
    }
}
