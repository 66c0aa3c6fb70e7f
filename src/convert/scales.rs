//! Where the scales of a linear come from: each row, the whole matrix, or a preset.

use tessera_calibration::clip::{self, Calibrator, TensorStatistics};
use tessera_formats::pack::manifest::Granularity;
use tessera_runtime::quantize;

use super::plan::LinearPlan;
use super::rows::RowSource;

/// How the scale of a row's segment is found.
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
}

impl Scales {
    /// Decides, with a pass over the weights where the scale needs them all.
    pub fn find(source: &RowSource<'_>) -> anyhow::Result<Scales> {
        let options = &source.plan.options;
        match options.granularity {
            Granularity::Channel => Ok(Scales::Channel(options.calibrator)),
            Granularity::Tensor => Self::of_matrices(source, options.calibrator),
        }
    }

    fn of_matrices(source: &RowSource<'_>, calibrator: Calibrator) -> anyhow::Result<Scales> {
        let n = source.plan.n;
        let mut statistics = vec![TensorStatistics::default(); source.plan.matrices()];
        source.fold(
            || (0, TensorStatistics::default()),
            |(matrix, statistics), row, weights| {
                *matrix = row / n;
                statistics.observe(weights);
            },
            |(matrix, panel)| statistics[matrix].merge(&panel),
        )?;
        let scale = |statistics: &TensorStatistics| match source.plan.engine().qmax() {
            Some(qmax) => statistics.scale(qmax, calibrator),
            None => quantize::f16_scale(statistics.amax()),
        };
        Ok(Scales::Matrix { scales: statistics.iter().map(scale).collect(), n })
    }

    /// Scale of a row for the float engine.
    pub fn float(&self, weights: &[f32], row: usize) -> f32 {
        match self {
            Scales::Channel(_) => quantize::f16_scale(quantize::amax(weights)),
            Scales::Matrix { scales, n } => scales[row / n],
        }
    }

    /// Scale of a row's segment for an integer engine.
    pub fn integer(&self, weights: &[f32], qmax: i8, row: usize, scratch: &mut clip::Scratch) -> f32 {
        match self {
            Scales::Channel(calibrator) => clip::channel_scale(weights, qmax, *calibrator, scratch),
            Scales::Matrix { scales, n } => scales[row / n],
        }
    }

    /// The scales as the pack stores them, from those of every row, `[matrix][segment][n]`.
    pub fn stored(&self, rows: Vec<f32>, _plan: &LinearPlan) -> Vec<f32> {
        match self {
            Scales::Channel(_) => rows,
            Scales::Matrix { scales, .. } => scales.clone(),
        }
    }
}
