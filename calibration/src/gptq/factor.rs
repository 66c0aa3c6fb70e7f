//! The factor of a Hessian that rows are quantized with.
//!
//! With the columns of a block in the order in which they are quantized, and H + λ the damped
//! Hessian, let H + λ = V·Vᵀ, V upper triangular. Then e·(H + λ)·eᵀ is the sum over columns j of
//!
//! ```text
//! V_jj² · (e_j + Σ_{i<j} e_i · V_ij/V_jj)²
//! ```
//!
//! so that the best that column j can do for its term is to take the integer nearest to
//! `w_j + Σ_{i<j} e_i·V_ij/V_jj`. This is Algorithm 1 of GPTQ: its U, upper triangular with
//! Uᵀ·U = (H + λ)⁻¹, is V⁻¹; the weights that it updates are these sums, and its squared errors
//! ((w_j - q_j)/U_jj)² are these terms. (Chee et al. 2023, *QuIP*, arXiv 2307.13304, show that the
//! two are one algorithm.) No inverse is made, and a quarter of the arithmetic of the factor is left.
//!
//! Columns are stored in the reverse of the order in which they are quantized, for V reversed in both
//! directions is the ordinary lower Cholesky factor.

use rayon::prelude::*;

use super::cholesky::LowerTriangle;
use super::kernels::{Column, TILE_ROWS};
use super::{GptqError, Options};
use crate::hessian::{HessianBlock, RotatedHessian};

/// Columns that are quantized before their errors reach the columns behind them.
pub(super) const STEP: usize = 64;

/// Damping is raised tenfold at most so often.
const RETRIES: u32 = 6;

/// Where no damping was asked for and some is needed, the first.
const FIRST_DAMPING: f64 = 1e-4;

/// A pivot at most this part of the mean of the diagonal is none: rounding may have made it.
const LEAST_PIVOT: f64 = 1e-12;

/// What rows of one input are quantized with; shared by all linears of that input.
#[derive(Clone, Debug)]
pub struct Factor {
    pub(super) blocks: Vec<FactorBlock>,
}

/// The factor of a block of columns. Positions count columns in reverse order of their quantization.
#[derive(Clone, Debug)]
pub(super) struct FactorBlock {
    /// Column of a row at each position.
    pub(super) order: Vec<usize>,
    /// Of each position.
    pub(super) columns: Vec<Column>,
    /// Steps of positions, ascending.
    pub(super) steps: Vec<Step>,
    damping: f64,
}

/// Factors V_ij/V_jj of up to 64 successive positions i.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Its first position.
    pub(super) start: usize,
    /// For each i those of the positions j < i of the step.
    pub(super) own: Vec<Vec<f32>>,
    /// For each group of four positions j before the step: for each i of the step, its four.
    pub(super) before: Vec<Vec<[f32; TILE_ROWS]>>,
}

impl Factor {
    /// Factors every block of `hessian`, damped by `options.damping` times the mean of its diagonal,
    /// or by ten times that, and so on, where the block is not positive definite.
    ///
    /// A column without any energy (a *dead* one) is taken out of the block: it has no part in the
    /// mean, and its weights are rounded to nearest.
    ///
    /// # Errors
    ///
    /// [`GptqError::NotFinite`] where an element of the Hessian is not finite, or a block's diagonal
    /// is negative; [`GptqError::NotPositiveDefinite`] where no damping of up to a million times the
    /// one asked for helps: such a matrix is no sum of squares; [`GptqError::Shape`] where a block
    /// has not as many elements as its columns need, or does not begin where the last one ended.
    pub fn new(hessian: &RotatedHessian, options: &Options) -> Result<Self, GptqError> {
        let mut end = 0;
        let mut blocks = Vec::with_capacity(hessian.blocks.len());
        for (index, block) in hessian.blocks.iter().enumerate() {
            let count = block.columns.len();
            if block.columns.start != end || count.checked_mul(count) != Some(block.values.len()) {
                return Err(GptqError::Shape {
                    block: index,
                    columns: block.columns.clone(),
                    elements: block.values.len(),
                });
            }
            end = block.columns.end;
            blocks.push(FactorBlock::new(index, block, options)?);
        }
        Ok(Factor { blocks })
    }

    /// Length of a row.
    pub fn k(&self) -> usize {
        self.blocks.iter().map(|block| block.order.len()).sum()
    }

    /// The damping of each block, as a part of the mean of its diagonal: what was asked for, or more.
    pub fn damping(&self) -> impl Iterator<Item = f64> {
        self.blocks.iter().map(|block| block.damping)
    }
}

impl FactorBlock {
    fn new(index: usize, block: &HessianBlock, options: &Options) -> Result<Self, GptqError> {
        let count = block.columns.len();
        let bad = block.values.par_iter().position_first(|value| !value.is_finite());
        let bad = bad.or_else(|| block.diagonal().position(|v| v < 0.0).map(|i| i * (count + 1)));
        if let Some(at) = bad {
            let (row, column) = (at / count, at % count);
            return Err(GptqError::NotFinite {
                block: index,
                row,
                column,
                value: block.values[at],
            });
        }
        let diagonal: Vec<f64> = block.diagonal().collect();
        let (sum, alive) = diagonal
            .iter()
            .filter(|&&value| value > 0.0)
            .fold((0.0, 0.0), |(sum, alive), value| (sum + value, alive + 1.0));
        // Of a block without energy: the identity.
        let mean = if sum > 0.0 { sum / alive } else { 1.0 };
        // In the order of quantization, then reversed.
        let mut order: Vec<usize> = (0..count).collect();
        if options.act_order {
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        }
        order.reverse();

        let mut damping = options.damping.max(0.0);
        for _ in 0..=RETRIES {
            let added = |position: usize| {
                if diagonal[order[position]] > 0.0 { damping * mean } else { mean }
            };
            let mut matrix = LowerTriangle::new(count, |row, column| {
                let (i, j) = (order[row], order[column]);
                if row == column {
                    diagonal[i] + added(row)
                } else if diagonal[i] > 0.0 && diagonal[j] > 0.0 {
                    block.values[i * count + j]
                } else {
                    0.0
                }
            });
            if matrix.factor(LEAST_PIVOT * mean).is_ok() {
                let columns = (0..count)
                    .map(|position| {
                        let pivot = matrix.row(position)[position];
                        Column { weight: pivot * pivot, added: added(position) }
                    })
                    .collect();
                let steps = steps(&matrix, count);
                let first = block.columns.start;
                order.iter_mut().for_each(|column| *column += first);
                return Ok(FactorBlock { order, columns, steps, damping });
            }
            damping = (damping * 10.0).max(FIRST_DAMPING);
        }
        Err(GptqError::NotPositiveDefinite { block: index, damping: damping / 10.0 })
    }
}

/// Divides the columns of L by their diagonal elements, and packs them by steps.
fn steps(matrix: &LowerTriangle, count: usize) -> Vec<Step> {
    let inverse: Vec<f64> = (0..count).map(|j| 1.0 / matrix.row(j)[j]).collect();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
    let factor = |row: &[f64], j: usize| (row[j] * inverse[j]) as f32;
    (0..count)
        .step_by(STEP)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|start| {
            let rows: Vec<&[f64]> =
                (start..(start + STEP).min(count)).map(|row| matrix.row(row)).collect();
            let own = rows
                .iter()
                .enumerate()
                .map(|(i, row)| (start..start + i).map(|j| factor(row, j)).collect())
                .collect();
            let before = (0..start)
                .step_by(TILE_ROWS)
                .map(|first| {
                    let four = |row: &&[f64]| std::array::from_fn(|t| factor(row, first + t));
                    rows.iter().map(four).collect()
                })
                .collect();
            Step { start, own, before }
        })
        .collect()
}
