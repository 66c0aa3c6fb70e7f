//! The Cholesky factor of a symmetric positive definite matrix, in f64, by blocks.
//!
//! Right-looking: a diagonal block is factored, the blocks below it are solved against it, and the
//! products of what results are taken from the rest of the matrix. An element is reached by the
//! columns before its own in ascending order, one multiplication and one subtraction each, so the
//! factor has the same bits on every machine and with any number of threads.

use rayon::prelude::*;

use super::kernels::{self, Isa, TILE_COLUMNS_F64, TILE_ROWS};

/// Rows of a block.
const BLOCK: usize = 128;

/// The lower triangle of a matrix, by blocks of rows: block `b` holds rows from `128·b` on, each of as
/// many elements as reach the end of the block's diagonal.
///
/// Both dimensions are a multiple of 8; whoever needs fewer fills up with those of the identity.
#[derive(Clone, Debug)]
pub(crate) struct LowerTriangle {
    size: usize,
    blocks: Vec<Vec<f64>>,
}

/// Eight columns of a panel for each of its rows.
type Group = [[f64; TILE_COLUMNS_F64]; BLOCK];

impl LowerTriangle {
    /// The matrix whose element in row i and column j ≤ i, of the first `size`, is `element(i, j)`.
    pub(crate) fn new(size: usize, element: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let filled = size.next_multiple_of(TILE_COLUMNS_F64);
        let blocks = (0..filled)
            .step_by(BLOCK)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|start| {
                let end = (start + BLOCK).min(filled);
                let mut values = vec![0.0; (end - start) * end];
                for (row, values) in (start..end).zip(values.chunks_exact_mut(end)) {
                    for (column, value) in values[..=row].iter_mut().enumerate() {
                        *value = match row {
                            _ if row < size => element(row, column),
                            _ if row == column => 1.0,
                            _ => 0.0,
                        };
                    }
                }
                values
            })
            .collect();
        LowerTriangle { size: filled, blocks }
    }

    /// Row `row` up to and including its diagonal element.
    pub(crate) fn row(&self, row: usize) -> &[f64] {
        let width = self.width(row / BLOCK);
        &self.blocks[row / BLOCK][row % BLOCK * width..][..=row]
    }

    /// Elements of a row of block `block`.
    fn width(&self, block: usize) -> usize {
        ((block + 1) * BLOCK).min(self.size)
    }

    /// Replaces the matrix by its lower factor L, L·Lᵀ, or returns the first row whose pivot, the
    /// square of the diagonal element, is not finite or at most `least`.
    pub(crate) fn factor(&mut self, least: f64) -> Result<(), usize> {
        self.factor_on(Isa::detect(), least)
    }

    fn factor_on(&mut self, isa: Isa, least: f64) -> Result<(), usize> {
        for block in 0..self.blocks.len() {
            let (start, end) = (block * BLOCK, self.width(block));
            let (width, height) = (end, end - start);
            let (done, rest) = self.blocks.split_at_mut(block + 1);
            let diagonal = &mut done[block];
            factor_diagonal(diagonal, start, width, least)?;
            if rest.is_empty() {
                break;
            }
            let transposed = transpose_diagonal(diagonal, start, width, height);
            let size = self.size;
            let width_of = |below: usize| ((block + below + 2) * BLOCK).min(size);
            // Columns start..end of all rows below, eight rows side by side.
            let panel: Vec<Group> = rest
                .par_iter_mut()
                .enumerate()
                .flat_map_iter(|(below, values)| {
                    let width = width_of(below);
                    for row in values.chunks_exact_mut(width) {
                        solve(&mut row[start..end], &transposed);
                    }
                    values
                        .chunks_exact(width * TILE_COLUMNS_F64)
                        .map(move |rows| {
                            let mut group = [[0.0; TILE_COLUMNS_F64]; BLOCK];
                            for (lane, row) in rows.chunks_exact(width).enumerate() {
                                for (group, value) in group.iter_mut().zip(&row[start..end]) {
                                    group[lane] = *value;
                                }
                            }
                            group
                        })
                        .collect::<Vec<_>>()
                })
                .collect();
            rest.par_iter_mut().enumerate().for_each(|(below, values)| {
                let width = width_of(below);
                update(isa, values, width, end, &panel, below * (BLOCK / TILE_COLUMNS_F64));
            });
        }
        Ok(())
    }
}

/// Factors the square at the end of a block's rows, which begins at column `start`.
fn factor_diagonal(
    values: &mut [f64],
    start: usize,
    width: usize,
    least: f64,
) -> Result<(), usize> {
    for row in 0..values.len() / width {
        let (above, own) = values.split_at_mut(row * width);
        let own = &mut own[start..=start + row];
        // Of the columns before the diagonal, each in turn taken from all behind it.
        for (column, other) in above.chunks_exact(width).enumerate() {
            let other = &other[start..=start + column];
            let mut value = own[column];
            for (own, other) in own[..column].iter().zip(other) {
                value -= own * other;
            }
            own[column] = value / other[column];
        }
        let Some((last, before)) = own.split_last_mut() else { continue };
        for value in before {
            *last -= *value * *value;
        }
        if !(last.is_finite() && *last > least) {
            return Err(start + row);
        }
        *last = last.sqrt();
    }
    Ok(())
}

/// The factored square, transposed: row t holds column t.
fn transpose_diagonal(values: &[f64], start: usize, width: usize, height: usize) -> Vec<Vec<f64>> {
    (0..height).map(|t| (t..height).map(|row| values[row * width + start + t]).collect()).collect()
}

/// Solves x·Lᵀ = `row` for x, in place; row t of `transposed` is column t of L from its diagonal on.
fn solve(row: &mut [f64], transposed: &[Vec<f64>]) {
    for (t, factors) in transposed.iter().enumerate() {
        let [x, rest @ ..] = &mut row[t..] else { break };
        let [diagonal, factors @ ..] = factors.as_slice() else { break };
        *x /= diagonal;
        for (value, factor) in rest.iter_mut().zip(factors) {
            *value -= *x * factor;
        }
    }
}

/// Takes the panel's products from a block of rows, from column `end` on; the block's own rows of the
/// panel begin at group `own`.
fn update(isa: Isa, values: &mut [f64], width: usize, end: usize, panel: &[Group], own: usize) {
    let groups = (width - end) / TILE_COLUMNS_F64;
    for (index, columns) in panel[..groups].iter().enumerate() {
        let at = end + index * TILE_COLUMNS_F64;
        let rows = values.len() / width;
        // Groups of rows above the diagonal hold nothing that is read.
        let first = index.saturating_sub(own) * TILE_COLUMNS_F64;
        for row in (first..rows).step_by(TILE_ROWS) {
            let group = &panel[own + row / TILE_COLUMNS_F64];
            let part = row % TILE_COLUMNS_F64;
            kernels::subtract(isa, &mut values[row * width + at..], width, group, part, columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gptq::tests::hessian;

    /// Sizes around those of tiles and blocks.
    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for size in [1, 4, 7, 8, 9, 127, 128, 129, 136, 256, 300, 391] {
            let hessian = hessian(size, size, 21);
            let values = &hessian.blocks[0].values;
            let mean = hessian.diagonal().iter().sum::<f64>() / size as f64;
            let element =
                |i: usize, j: usize| values[i * size + j] + if i == j { 0.01 * mean } else { 0.0 };
            let mut factor = LowerTriangle::new(size, element);
            let mut plain = factor.clone();
            factor.factor_on(Isa::detect(), 0.0).unwrap();
            plain.factor_on(Isa::Baseline, 0.0).unwrap();
            for i in 0..size {
                let row = factor.row(i);
                assert_eq!(row.len(), i + 1);
                assert!(row.iter().zip(plain.row(i)).all(|(a, b)| a.to_bits() == b.to_bits()));
                for j in 0..=i {
                    let product: f64 = row.iter().zip(factor.row(j)).map(|(a, b)| a * b).sum();
                    assert!((product - element(i, j)).abs() < 1e-12 * mean, "{size}: {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn the_first_pivot_that_is_none_is_named() {
        for (size, bad) in [(8, 0), (100, 99), (300, 128), (300, 200), (300, 299)] {
            let element = |i: usize, j: usize| match (i == j, i == bad) {
                (true, true) => 0.5,
                (true, false) => 1.0,
                _ => 0.0,
            };
            assert_eq!(LowerTriangle::new(size, element).factor(0.75), Err(bad));
            assert_eq!(LowerTriangle::new(size, element).factor(0.25), Ok(()));
        }
    }
}
