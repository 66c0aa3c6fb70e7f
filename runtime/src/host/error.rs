//! What can be wrong with weights for the NPU.

use tessera_formats::npu::tiles::LayoutError;
use thiserror::Error;

/// Why weights cannot be used.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A length of the input's rotation or vector is not the linear's.
    #[error("its input has {what} of {found}, expected {expected}")]
    Input {
        /// What has the wrong length.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// Segments that do not follow each other from column 0 on, that are no whole tiles, that are
    /// longer than exact sums allow, or that end before the rotated row.
    #[error("columns {start}..{end} are no segment at column {expected}")]
    Segment {
        /// First column.
        start: usize,
        /// Column after the last.
        end: usize,
        /// Column where it must start.
        expected: usize,
    },
    /// Segments that leave out columns of the rotated row.
    #[error("its segments end at column {found}, its rotated input at {expected}")]
    Columns {
        /// Length of the rotated row.
        expected: usize,
        /// End of the last segment.
        found: usize,
    },
    /// The shape has no native layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No experts, or more bytes than this machine can count.
    #[error("{experts} experts of {n} × {k} weights cannot be held")]
    Size {
        /// Matrices.
        experts: usize,
        /// Output channels.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// Tiles of a segment that are not as long as its shape asks for.
    #[error("segment {segment} has {found} bytes of tiles, expected {expected}")]
    Tiles {
        /// The segment.
        segment: usize,
        /// Bytes of its shape.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// An f16 weight that is not finite.
    #[error("it has a weight that is not finite")]
    Weight,
    /// More or fewer scales than the granularity asks for.
    #[error("it has {found} scales, expected {expected}")]
    Scales {
        /// Scales of its shape.
        expected: usize,
        /// Scales given.
        found: usize,
    },
    /// A scale that is zero or not finite.
    #[error("its scale {index} is {scale}, which is zero or not finite")]
    Scale {
        /// Index in the tensor of scales.
        index: usize,
        /// The scale.
        scale: f32,
    },
    /// Activation scales for a scheme whose activations are no integers.
    #[error("its activations are floats, and have no scale to choose")]
    FloatActivations,
    /// Activation thresholds that are not as many as segments.
    #[error("it has {found} activation thresholds, expected one for each of {expected} segments")]
    Thresholds {
        /// Segments.
        expected: usize,
        /// Thresholds given.
        found: usize,
    },
    /// A clip or a threshold of activations that is no positive number.
    #[error("its activation {what} is {value}, which is not finite and above zero")]
    Activation {
        /// `clip` or `threshold`.
        what: &'static str,
        /// The number.
        value: f32,
    },
    /// More or fewer corrections than outputs.
    #[error("it has {found} corrections, expected {expected}")]
    Corrections {
        /// Outputs of all matrices.
        expected: usize,
        /// Corrections given.
        found: usize,
    },
    /// A correction that is no number.
    #[error("its correction {index} is {value}, which is not finite")]
    Correction {
        /// Index in the tensor of corrections.
        index: usize,
        /// The correction.
        value: f32,
    },
}
