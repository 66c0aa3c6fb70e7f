//! Second moments of a rotated input: what a rounding error of weights costs at the output.
//!
//! For rows x' = R·(v ⊙ x) the mean of x'·x'ᵀ is H' = R·diag(v)·H·diag(v)·Rᵀ with H that of x, and an
//! error e of a row of weights costs e·H'·eᵀ: the mean square of its contribution to the output.
//! (Half of a Hessian, properly; the literature's name is kept.)

use std::ops::Range;

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
