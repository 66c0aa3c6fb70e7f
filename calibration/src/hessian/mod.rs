//! Second moments of a rotated input: what a rounding error of weights costs at the output.
//!
//! For rows x' = R·(v ⊙ x) the mean of x'·x'ᵀ is H' = R·diag(v)·H·diag(v)·Rᵀ with H that of x, and an
//! error e of a row of weights costs e·H'·eᵀ: the mean square of what it adds to the output. (That is
//! half a Hessian, properly; the literature's name is kept.)
//!
//! Rows and columns are rotated in f32, as the runtime rotates rows; sums over rows are f64. The
//! order of operations is fixed: results have the same bits on every machine.

use std::ops::Range;

use rayon::prelude::*;
use tessera_runtime::rotation::Rotation;

use crate::gptq::kernels::{self, Isa, LANES, TILE_COLUMNS_F64, TILE_ROWS};

/// Columns that are gathered, or rows that are summed, together.
const PANEL: usize = 16;

/// Rows of a matrix of sums that a thread makes.
const STRIPE: usize = 64;

/// Rows of data that a sum takes at a time.
const DEPTH: usize = 256;

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

    /// `e·H'·eᵀ` of each of `rows`, `[m, K]`. Products with H' are f32 sums, in the order of the
    /// columns; what they give is added in f64.
    ///
    /// # Panics
    ///
    /// If `rows` are not whole rows of [`k`](Self::k).
    pub fn forms(&self, rows: &[f32]) -> Vec<f64> {
        let k = self.k();
        assert!(rows.len().is_multiple_of(k.max(1)), "whole rows");
        let isa = Isa::detect();
        rows.par_chunks(LANES * k.max(1)).flat_map_iter(|rows| self.forms_of(isa, rows)).collect()
    }

    /// The forms of up to 64 rows.
    fn forms_of(&self, isa: Isa, rows: &[f32]) -> Vec<f64> {
        let k = self.k();
        let mut forms = vec![0.0; rows.len() / k];
        for block in &self.blocks {
            let b = block.columns.len();
            let mut errors = vec![[0.0; LANES]; b];
            for (lane, row) in rows.chunks_exact(k).enumerate() {
                for (error, &value) in errors.iter_mut().zip(&row[block.columns.clone()]) {
                    error[lane] = value;
                }
            }
            let mut factors = vec![[0.0; TILE_ROWS]; b];
            for first in (0..b).step_by(TILE_ROWS) {
                let columns = first..(first + TILE_ROWS).min(b);
                for (row, column) in columns.clone().enumerate() {
                    // Symmetric: a column is a row.
                    let values = &block.values[column * b..][..b];
                    for (factor, &value) in factors.iter_mut().zip(values) {
                        factor[row] = narrow(value);
                    }
                }
                let mut products = [[0.0; LANES]; TILE_ROWS];
                kernels::tiles(isa, &mut products, &factors, &errors);
                for (product, error) in products.iter().zip(&errors[columns]) {
                    for ((form, product), error) in forms.iter_mut().zip(product).zip(error) {
                        *form += f64::from(*product) * f64::from(*error);
                    }
                }
            }
        }
        forms
    }
}

/// H' = R·diag(`vector`)·H·diag(`vector`)·Rᵀ / `weight`, in one block, of sums of products of an
/// input as the model has it: `hessian` is Σ w·x·xᵀ, `[k, k]`, row-major and symmetric, and `weight`
/// is Σ w. Zeros where `weight` is not above 0.
///
/// # Panics
///
/// If `hessian` is not `[k, k]` for the k of the rotation, or `vector` not `[k]`.
pub fn rotate(
    hessian: &[f32],
    weight: f64,
    vector: Option<&[f32]>,
    rotation: &Rotation,
) -> RotatedHessian {
    let size = rotation.size();
    let both = both_sides(hessian, vector, rotation);
    // Symmetric but for rounding.
    let factor = if weight > 0.0 { 0.5 / weight } else { 0.0 };
    let mut values = vec![0.0; size * size];
    values.par_chunks_mut(PANEL * size).enumerate().for_each(|(panel, values)| {
        let first = panel * PANEL;
        let rows = values.len() / size;
        for (column, transposed) in both.chunks_exact(size).enumerate() {
            for row in 0..rows {
                let sum = f64::from(both[(first + row) * size + column])
                    + f64::from(transposed[first + row]);
                values[row * size + column] = sum * factor;
            }
        }
    });
    RotatedHessian { blocks: vec![HessianBlock { columns: 0..size, values }] }
}

/// R·diag(`vector`)·C·diag(`vector`)·Rᵀ / `weight` of sums of products of two inputs, `cross`, Σ w·x·x̃ᵀ,
/// `[k, k]`: those of the rotated inputs, `[size, size]`. Zeros where `weight` is not above 0.
///
/// # Panics
///
/// If `cross` is not `[k, k]` for the k of the rotation, or `vector` not `[k]`.
pub fn rotate_cross(
    cross: &[f32],
    weight: f64,
    vector: Option<&[f32]>,
    rotation: &Rotation,
) -> Vec<f64> {
    let size = rotation.size();
    let both = both_sides(cross, vector, rotation);
    let factor = if weight > 0.0 { 1.0 / weight } else { 0.0 };
    let mut values = vec![0.0; size * size];
    values.par_chunks_mut(size).enumerate().for_each(|(row, values)| {
        for (column, value) in values.iter_mut().enumerate() {
            *value = f64::from(both[column * size + row]) * factor;
        }
    });
    values
}

/// The transpose of R·diag(`vector`)·M·diag(`vector`)·Rᵀ, `[size, size]`.
fn both_sides(matrix: &[f32], vector: Option<&[f32]>, rotation: &Rotation) -> Vec<f32> {
    let (k, size) = (rotation.k(), rotation.size());
    assert_eq!(k.checked_mul(k), Some(matrix.len()), "products of {k} columns");
    // The rows, then the columns of what became of them.
    let rows = rotated(k, vector, rotation, |row, out| {
        out.copy_from_slice(&matrix[row * k..][..k]);
    });
    rotated(size, vector, rotation, |column, out| {
        for (value, row) in out.iter_mut().zip(rows.chunks_exact(size)) {
            *value = row[column];
        }
    })
}

/// Rows `[m, k]`, times `vector` and rotated, `[m, size]`.
///
/// # Panics
///
/// If the rows are not whole rows of the rotation's k, or `vector` is not `[k]`.
pub fn rotate_rows(rows: &[f32], vector: Option<&[f32]>, rotation: &Rotation) -> Vec<f32> {
    let k = rotation.k();
    assert!(rows.len().is_multiple_of(k), "whole rows of {k}");
    rotated(rows.len() / k, vector, rotation, |row, out| {
        out.copy_from_slice(&rows[row * k..][..k]);
    })
}

/// Rows of k elements, each made by `fill`, times `vector` and rotated: `[count, size]`.
fn rotated(
    count: usize,
    vector: Option<&[f32]>,
    rotation: &Rotation,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let (k, size) = (rotation.k(), rotation.size());
    let mut rows = vec![0.0; count * size];
    rows.par_chunks_mut(PANEL * size).enumerate().for_each_init(
        || vec![0.0; rotation.scratch_len()],
        |scratch, (panel, rows)| {
            for (index, row) in rows.chunks_exact_mut(size).enumerate() {
                fill(panel * PANEL + index, &mut row[..k]);
                match vector {
                    Some(vector) => rotation.apply_scaled(row, vector, scratch),
                    None => rotation.apply(row, scratch),
                }
            }
        },
    );
    rows
}

/// The second moments of `rows`, `[m, k]`, of an input as the model has it, each of the same weight,
/// in blocks of at most `block` columns (or 8): for inputs too long for a Hessian of their own. A rotation
/// makes far columns alike, so that what is lost between blocks is little.
///
/// Blocks are as many as are needed, their lengths within 8 of each other. Zeros where there are no
/// rows.
///
/// # Panics
///
/// If `rows` are not whole rows of the rotation's k, or `vector` is not `[k]`.
pub fn of_rows(
    rows: &[f32],
    vector: Option<&[f32]>,
    rotation: &Rotation,
    block: usize,
) -> RotatedHessian {
    let (k, size) = (rotation.k(), rotation.size());
    assert!(rows.len().is_multiple_of(k), "whole rows of {k}");
    let m = rows.len() / k;
    let rotated =
        rotated(m, vector, rotation, |row, out| out.copy_from_slice(&rows[row * k..][..k]));
    let groups = size.div_ceil(TILE_COLUMNS_F64);
    let most = (block / TILE_COLUMNS_F64).max(1);
    let count = if size <= block { 1 } else { groups.div_ceil(most) };
    let start = |index: usize| (index * groups / count * TILE_COLUMNS_F64).min(size);
    let blocks = (0..count)
        .map(|index| {
            let columns = start(index)..start(index + 1);
            HessianBlock { values: moments(&rotated, size, columns.clone()), columns }
        })
        .collect();
    RotatedHessian { blocks }
}

/// Means of the products of some columns of `rows`, `[m, size]`.
fn moments(rows: &[f32], size: usize, columns: Range<usize>) -> Vec<f64> {
    let isa = Isa::detect();
    let b = columns.len();
    let groups = b.div_ceil(TILE_COLUMNS_F64);
    let filled = groups * TILE_COLUMNS_F64;
    let mut sums = vec![0.0; filled * filled];
    let mut panel = vec![[0.0; TILE_COLUMNS_F64]; groups * DEPTH];
    for rows in rows.chunks(DEPTH * size) {
        let depth = rows.len() / size;
        panel.par_chunks_mut(DEPTH).enumerate().for_each(|(group, panel)| {
            let first = columns.start + group * TILE_COLUMNS_F64;
            let present = (columns.end - first).min(TILE_COLUMNS_F64);
            for (values, row) in panel.iter_mut().zip(rows.chunks_exact(size)) {
                for (value, &x) in values.iter_mut().zip(&row[first..][..present]) {
                    *value = f64::from(x);
                }
            }
        });
        let columns: Vec<_> = panel.chunks_exact(DEPTH).map(|group| &group[..depth]).collect();
        sums.par_chunks_mut(STRIPE * filled).enumerate().for_each(|(stripe, sums)| {
            for row in (0..sums.len() / filled).step_by(TILE_ROWS) {
                let group = (stripe * STRIPE + row) / TILE_COLUMNS_F64;
                // Up to the diagonal.
                for (index, column) in columns[..=group].iter().enumerate() {
                    let at = row * filled + index * TILE_COLUMNS_F64;
                    let part = row % TILE_COLUMNS_F64;
                    kernels::subtract(isa, &mut sums[at..], filled, columns[group], part, column);
                }
            }
        });
    }
    // What was summed is -Σ x·xᵀ.
    #[expect(clippy::cast_precision_loss, reason = "rows stay below 2^53")]
    let factor = -1.0 / (rows.len() / size).max(1) as f64;
    let mut values = vec![0.0; b * b];
    values.par_chunks_mut(b).enumerate().for_each(|(i, values)| {
        for (j, value) in values.iter_mut().enumerate() {
            *value = sums[i.max(j) * filled + i.min(j)] * factor;
        }
    });
    values
}

/// The sums of an expert that few tokens reach, filled up with those of all experts as if `strength`
/// more tokens of these had reached it: `(n·H_e + κ·H_pool) / (n + κ)`, as a sum and its weight n + κ.
///
/// `expert` and `pool` are Σ w·x·xᵀ, `[k, k]`, their weights Σ w. Where the pool has no weight, the
/// expert's own sums.
///
/// # Panics
///
/// If `expert` and `pool` are not equally long.
pub fn shrink(expert: (&[f32], f64), pool: (&[f32], f64), strength: f64) -> (Vec<f32>, f64) {
    let ((expert, own), (pool, all)) = (expert, pool);
    assert_eq!(expert.len(), pool.len(), "Hessians of one input");
    let strength = if all > 0.0 { strength.max(0.0) } else { 0.0 };
    let factor = if strength > 0.0 { strength / all } else { 0.0 };
    let sum = |(&expert, &pool): (&f32, &f32)| narrow(f64::from(expert) + factor * f64::from(pool));
    (expert.par_iter().zip(pool).map(sum).collect(), own + strength)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests;
