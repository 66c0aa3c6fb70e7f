//! A linear's rows as the quantizer sees them: dequantized, equalized, rotated, padded.

use std::ops::{Range, RangeInclusive};

use anyhow::bail;
use rayon::prelude::*;
use tessera_formats::escape::Escaped;
use tessera_formats::ggml;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_runtime::quantize;

use super::budget::Budget;
use super::plan::LinearPlan;
use super::stream::{Panels, for_each_chunk};
use super::transform::RowTransform;

/// Largest magnitude of a prepared row, 2^100: sums of a million of them stay far within f32.
const LARGEST: f32 = (1u128 << 100) as f32;

/// Largest magnitudes of the rows whose squares, and whose rounding errors' squares, sum to what f32
/// holds: 2^-40 to 2^50.
const ORDINARY: RangeInclusive<f32> = 1.0 / (1u64 << 40) as f32..=(1u64 << 50) as f32;

/// The rows of one linear.
#[derive(Clone, Copy)]
pub struct RowSource<'a> {
    /// The source.
    pub gguf: &'a Gguf,
    /// The weights.
    pub tensor: &'a TensorInfo,
    /// What was decided.
    pub plan: &'a LinearPlan,
    /// What is done to a row.
    pub transform: &'a RowTransform,
    /// Memory and threads.
    pub budget: Budget,
}

/// Buffers for one row.
pub struct RowBuffer {
    /// The prepared row, `k_padded` values.
    pub row: Vec<f32>,
    /// Whether f32 holds the sums of the row's squares and of its rounding errors' squares.
    pub ordinary: bool,
    rotation: Vec<f32>,
}

/// Bytes of one worker's buffers.
pub fn buffer_bytes(plan: &LinearPlan, scratch_len: usize) -> usize {
    (plan.k_padded + scratch_len) * size_of::<f32>()
}

impl RowBuffer {
    /// Sum of the prepared row's squares.
    pub fn energy(&self) -> f64 {
        if self.ordinary {
            return quantize::squared_norm(&self.row);
        }
        self.row.iter().map(|&w| f64::from(w)).map(|w| w * w).sum()
    }
}

impl RowSource<'_> {
    /// Buffers for rows of this linear.
    pub fn buffer(&self) -> RowBuffer {
        RowBuffer {
            row: vec![0.0; self.plan.k_padded],
            ordinary: true,
            rotation: vec![0.0; self.transform.scratch_len()],
        }
    }

    /// Panels of the tensor, each the rows of one row of tiles.
    pub fn panels(&self) -> Panels {
        Panels { matrices: self.plan.matrices(), n: self.plan.n, rows: self.plan.engine().tile_n() }
    }

    /// Prepares row number `row` of the tensor from its bytes.
    pub fn prepare(&self, row: usize, bytes: &[u8], buffer: &mut RowBuffer) -> anyhow::Result<()> {
        let weights = &mut buffer.row[..self.plan.k];
        ggml::dequantize(self.tensor.ggml_type, bytes, weights)?;
        if let Some(column) = quantize::first_non_finite(weights) {
            bail!(
                "`{}` has a weight that is not finite ({}) in row {row}, column {column}: the model \
                 is damaged, or was made from one that is",
                Escaped(&self.tensor.name),
                weights[column],
            );
        }
        buffer.row[self.plan.k..].fill(0.0);
        self.transform.apply(&mut buffer.row, &mut buffer.rotation);
        let amax = quantize::amax(&buffer.row);
        if amax.is_nan() || amax > LARGEST {
            bail!(
                "`{}` has weights in row {row} that are so large that f32 cannot hold what is \
                 computed from them: no model is trained to such values",
                Escaped(&self.tensor.name),
            );
        }
        buffer.ordinary = amax == 0.0 || ORDINARY.contains(&amax);
        Ok(())
    }

    /// Prepares every row of a panel and gives each to `observe`.
    fn observe_panel(
        &self,
        (rows, bytes): (Range<usize>, &[u8]),
        buffer: &mut RowBuffer,
        mut observe: impl FnMut(usize, &[f32]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let row_bytes = bytes.len() / rows.len();
        for (row, bytes) in rows.zip(bytes.chunks_exact(row_bytes)) {
            self.prepare(row, bytes, buffer)?;
            observe(row, &buffer.row)?;
        }
        Ok(())
    }

    /// Passes over all rows of a matrix: each panel fills a `new` accumulator, which takes `bytes`,
    /// and `merge` takes them in order.
    pub fn fold<A: Send>(
        &self,
        matrix: usize,
        bytes: usize,
        new: impl Fn() -> A + Sync,
        observe: impl Fn(&mut A, usize, &[f32]) -> anyhow::Result<()> + Sync,
        mut merge: impl FnMut(A) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let geometry = self.panels();
        let row_bytes = usize::try_from(self.tensor.row_bytes())?;
        let in_flight = 2 * geometry.rows * row_bytes + bytes;
        let buffer_bytes = buffer_bytes(self.plan, self.transform.scratch_len());
        let per_chunk = self.budget.panels(&self.plan.name, in_flight, buffer_bytes)?;
        let panels = geometry.of_matrix(matrix);
        for_each_chunk(self.gguf, self.tensor, geometry, panels, per_chunk, |chunk| {
            let accumulators = chunk
                .panels
                .clone()
                .into_par_iter()
                .map_init(
                    || self.buffer(),
                    |buffer, index| {
                        let mut accumulator = new();
                        self.observe_panel(chunk.panel(index), buffer, |row, weights| {
                            observe(&mut accumulator, row, weights)
                        })?;
                        Ok(accumulator)
                    },
                )
                .collect::<anyhow::Result<Vec<_>>>()?;
            accumulators.into_iter().try_for_each(&mut merge)?;
            Ok(true)
        })
    }
}
