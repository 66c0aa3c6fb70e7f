//! Second moments of a rotated input: what a rounding error of weights costs at the output.
//!
//! For rows x' = R·(v ⊙ x) the mean of x'·x'ᵀ is H' = R·diag(v)·H·diag(v)·Rᵀ with H that of x, and an
//! error e of a row of weights costs e·H'·eᵀ: the mean square of its contribution to the output.
//! (Half of a Hessian, properly; the literature's name is kept.)

use std::ops::Range;

use rayon::prelude::*;
use tessera_runtime::rotation::Rotation;

/// Block-diagonal second moments of a rotated input.
#[derive(Clone, Debug, PartialEq)]
pub struct RotatedHessian {
    /// The blocks, in the order of their columns, which follow one another from 0.
    pub blocks: Vec<HessianBlock>,
}

/// Second moments of some columns.
#[derive(Clone, Debug, PartialEq)]
pub struct HessianBlock {
    /// The columns of a rotated row.
    pub columns: Range<usize>,
    /// `[b, b]`, row-major and symmetric, b the number of columns: the mean of x'_i·x'_j.
    pub values: Vec<f64>,
}

impl HessianBlock {
    /// The diagonal: mean squares of the columns.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.values.iter().step_by(self.columns.len() + 1).copied()
    }
}

impl RotatedHessian {
    /// Length of a rotated row.
    pub fn k(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.columns.end)
    }

    /// Mean squares of all columns.
    pub fn diagonal(&self) -> Vec<f64> {
        self.blocks.iter().flat_map(HessianBlock::diagonal).collect()
    }
}

/// R·diag(v)·M·diag(v)·Rᵀ / weight of second moments M of rows, or of pairs of rows, `[k, k]`: those of
/// the rotated rows, `[size, size]`. Rotations are done in f32.
pub fn rotate_moments(
    moments: &[f32],
    weight: f64,
    vector: Option<&[f32]>,
    rotation: &Rotation,
) -> Vec<f64> {
    let half = rotate_rows(moments, vector, rotation);
    let whole = rotate_rows(&transposed(&half, rotation.size()), vector, rotation);
    let whole = transposed(&whole, rotation.size());
    whole.into_iter().map(|value| f64::from(value) / weight).collect()
}

/// Rows `[m, k]`, multiplied by the vector and rotated, `[m, size]`.
pub fn rotate_rows(rows: &[f32], vector: Option<&[f32]>, rotation: &Rotation) -> Vec<f32> {
    let (k, size) = (rotation.k(), rotation.size());
    let mut rotated = vec![0.0; rows.len() / k * size];
    rotated.par_chunks_exact_mut(size).zip(rows.par_chunks_exact(k)).for_each_init(
        || vec![0.0; rotation.scratch_len()],
        |scratch, (out, row)| {
            out[..k].copy_from_slice(row);
            match vector {
                Some(vector) => rotation.apply_scaled(out, vector, scratch),
                None => rotation.apply(out, scratch),
            }
        },
    );
    rotated
}

/// The transpose of a matrix with rows of that length.
fn transposed(matrix: &[f32], length: usize) -> Vec<f32> {
    let rows = matrix.len() / length;
    let mut out = vec![0.0; matrix.len()];
    for (row, values) in matrix.chunks_exact(length).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
    out
}
