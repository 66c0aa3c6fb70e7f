//! Where the scales of a linear come from: each row, the whole matrix, or a preset.

use half::f16;
use tessera_calibration::clip::{self, Calibrator, TensorStatistics};
use tessera_calibration::rk_llama;
use tessera_formats::pack::manifest::Granularity;
use tessera_runtime::quantize;

use super::plan::LinearPlan;
use super::rows::{self, RowSource};
use super::transform::RowTransform;
use crate::options::System;

/// NPU cores among which rk-llama.cpp divides N by default.
const RK_LLAMA_CORES: usize = 3;

/// Bytes of the statistics that one scale for a matrix is chosen from.
const STATISTICS_BYTES: usize = 2048 * size_of::<u64>();

/// Bytes that rk-llama.cpp's entropy search counts in for one block.
const BLOCK_BYTES: usize = ((1 << 16) + rk_llama::BINS) * size_of::<u64>();

/// Bytes that a panel in flight takes where statistics are gathered, and that one worker's buffers do.
pub fn memory(plan: &LinearPlan, row_bytes: usize, scratch_len: usize) -> (usize, usize) {
    let statistics = match (plan.options.system, plan.options.granularity) {
        (Some(System::RkLlamaV2), _) => blocks(plan, plan.k_padded).len() * BLOCK_BYTES,
        (None, Granularity::Tensor) => STATISTICS_BYTES,
        _ => return (0, 0),
    };
    let panel = 2 * plan.engine().tile_n() * row_bytes + statistics;
    (panel, rows::buffer_bytes(plan, scratch_len))
}

/// rk-llama.cpp's blocks of a matrix whose rows have `size` columns.
fn blocks(plan: &LinearPlan, size: usize) -> rk_llama::Blocks {
    rk_llama::Blocks::new(plan.n, size, RK_LLAMA_CORES, plan.engine().tile_n())
}

/// How the scale of a row's segment is found, and how the row is rounded to it.
pub enum Scales {
    /// From the row's segment itself.
    Channel(Calibrator),
    /// One per matrix, found beforehand; `n` rows each.
    Matrix {
        /// Scales, one per matrix.
        scales: Vec<f32>,
        /// Rows of a matrix.
        n: usize,
    },
    /// rk-llama.cpp's third generation: largest magnitude of the row's segment.
    RkLlamaV3,
    /// rk-llama.cpp's second generation: one per block of a matrix, found beforehand.
    RkLlamaV2 {
        /// Blocks of a matrix.
        blocks: rk_llama::Blocks,
        /// Scales, `[matrix][block]`.
        scales: Vec<Vec<f32>>,
        /// Rows of a matrix.
        n: usize,
    },
}

impl Scales {
    /// Decides, with passes over the weights where a scale needs them all.
    pub fn find(source: &RowSource<'_>) -> anyhow::Result<Scales> {
        let options = &source.plan.options;
        match (options.system, options.granularity) {
            (Some(System::RkLlamaV3), _) => Ok(Scales::RkLlamaV3),
            (Some(System::RkLlamaV2), _) => Self::of_blocks(source),
            (None, Granularity::Channel) => Ok(Scales::Channel(options.calibrator)),
            (None, Granularity::Tensor) => Self::of_matrices(source, options.calibrator),
        }
    }

    fn of_matrices(source: &RowSource<'_>, calibrator: Calibrator) -> anyhow::Result<Scales> {
        let size = source.transform.size();
        let mut scales = Vec::new();
        for matrix in 0..source.plan.matrices() {
            let mut statistics = TensorStatistics::new();
            source.fold(
                matrix,
                STATISTICS_BYTES,
                TensorStatistics::new,
                |panel, _, weights| {
                    panel.add(&weights[..size]);
                    Ok(())
                },
                |panel| {
                    statistics.merge(panel);
                    Ok(())
                },
            )?;
            scales.push(match source.plan.engine().qmax() {
                Some(qmax) => statistics.scale(qmax, calibrator),
                None => quantize::f16_scale(statistics.amax()),
            });
        }
        Ok(Scales::Matrix { scales, n: source.plan.n })
    }

    fn of_blocks(source: &RowSource<'_>) -> anyhow::Result<Scales> {
        let plan = source.plan;
        let n = plan.n;
        let size = source.transform.size();
        let blocks = blocks(plan, size);
        let Some(qmax) = plan.engine().qmax() else { return Ok(Scales::RkLlamaV3) };
        let bytes = blocks.len() * BLOCK_BYTES;
        let mut scales = Vec::new();
        for matrix in 0..plan.matrices() {
            let first = rk_llama::BlockScales::new(blocks.clone(), qmax);
            let mut stage = rk_llama::Scales::Again(first);
            scales.push(loop {
                let pass = match stage {
                    rk_llama::Scales::Done(scales) => break scales,
                    rk_llama::Scales::Again(pass) => pass,
                };
                let mut total = pass.fork();
                source.fold(
                    matrix,
                    bytes,
                    || pass.fork(),
                    |panel, row, weights| Ok(panel.observe(row % n, &weights[..size])?),
                    |panel| Ok(total.merge(&panel)?),
                )?;
                stage = total.next()?;
            });
        }
        Ok(Scales::RkLlamaV2 { blocks, scales, n })
    }

    /// Quantizes a row to f16; its scale, and the sum of squared errors.
    pub fn quantize_float(&self, weights: &[f32], row: usize, out: &mut [f16]) -> (f32, f64) {
        let scale = match self {
            Scales::Channel(_) => quantize::f16_scale(quantize::amax(weights)),
            Scales::Matrix { scales, n } => scales[row / n],
            Scales::RkLlamaV3 | Scales::RkLlamaV2 { .. } => 1.0,
        };
        (scale, quantize::to_f16_row(weights, scale, out))
    }

    /// Scale for integers of the `range` of the segment of a row that begins in column `start`: `weights`
    /// is the segment without padding, which would shift a percentile. rk-llama.cpp's are for ±`range.1`.
    pub fn integer_scale(
        &self,
        weights: &[f32],
        range: (i8, i8),
        (row, start): (usize, usize),
        scratch: &mut clip::Scratch,
    ) -> f32 {
        match self {
            Scales::Channel(calibrator) => {
                clip::channel_scale(weights, range, *calibrator, scratch)
            }
            Scales::Matrix { scales, n } => scales[row / n],
            Scales::RkLlamaV3 => rk_llama::channel_scale(weights, range.1),
            Scales::RkLlamaV2 { blocks, scales, n } => {
                // A chip's segments may be shorter than rk-llama.cpp's, never across two of them.
                let segment = blocks.segments().partition_point(|block| block.end <= start);
                let slice = blocks.slice_of(row % n).unwrap_or_default();
                scales[row / n][blocks.index(segment, slice)]
            }
        }
    }

    /// Rounds weights to integers of the `range`, in ±`range.1` as rk-llama.cpp does; the sum of squared
    /// errors.
    pub fn quantize_integer(
        &self,
        weights: &[f32],
        scale: f32,
        range: (i8, i8),
        out: &mut [i8],
    ) -> f64 {
        match self {
            Scales::Channel(_) | Scales::Matrix { .. } => {
                quantize::quantize_row_within(weights, scale, range, out)
            }
            Scales::RkLlamaV3 | Scales::RkLlamaV2 { .. } => {
                rk_llama::quantize_row(weights, scale, range.1, out)
            }
        }
    }

    /// The scales as the pack stores them, from those of every row, `[matrix][segment][n]`.
    pub fn stored(&self, mut rows: Vec<f32>, transform: &RowTransform) -> Vec<f32> {
        if let Scales::Matrix { scales, .. } = self {
            return scales.clone();
        }
        for scale in &mut rows {
            // A preset's scale of weights near the least of f32 can vanish.
            let stored = transform.pack_scale(*scale);
            *scale = stored.abs().max(f32::from_bits(1)).copysign(*scale);
        }
        rows
    }
}
