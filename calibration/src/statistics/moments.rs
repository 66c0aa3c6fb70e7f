//! Sums over rows: moments of each channel and second moments of all pairs.

use std::borrow::Cow;
use std::convert::Infallible;

use rayon::prelude::*;
use tessera_runtime::linear::gemm::{self, Matrix};

/// Channels that a thread sums at a time. The sum of a channel is in the order of its rows, whatever
/// this is.
const CHANNELS: usize = 256;

/// Rows and columns of a Hessian that are computed at a time.
const BLOCK: usize = 256;

/// Σ x, Σ x² and Σ w x² per channel, in f64, in the order of the rows.
#[derive(Clone, Debug, Default)]
pub(super) struct ChannelSums {
    pub sum: Vec<f64>,
    pub squares: Vec<f64>,
    pub robust: Vec<f64>,
}

impl ChannelSums {
    /// Of no rows of `k` elements.
    pub(super) fn new(k: usize) -> Self {
        ChannelSums { sum: vec![0.0; k], squares: vec![0.0; k], robust: vec![0.0; k] }
    }

    /// Adds `rows`, `[m, k]`, of `weights`, `[m]`.
    pub(super) fn add(&mut self, rows: &[f32], weights: &[f64]) {
        let k = self.sum.len();
        self.sum
            .par_chunks_mut(CHANNELS)
            .zip(self.squares.par_chunks_mut(CHANNELS))
            .zip(self.robust.par_chunks_mut(CHANNELS))
            .enumerate()
            .for_each(|(chunk, ((sum, squares), robust))| {
                let first = chunk * CHANNELS;
                for (row, &weight) in rows.chunks_exact(k).zip(weights) {
                    let row = &row[first..first + sum.len()];
                    for (((sum, squares), robust), &x) in
                        sum.iter_mut().zip(&mut *squares).zip(&mut *robust).zip(row)
                    {
                        let x = f64::from(x);
                        *sum += x;
                        *squares += x * x;
                        *robust += weight * (x * x);
                    }
                }
            });
    }
}

/// `rows`, `[m, k]`, times the roots of their weights.
pub(super) fn weighted<'a>(rows: &'a [f32], weights: &[f64], k: usize) -> Cow<'a, [f32]> {
    if weights.iter().all(|&weight| weight == 1.0) {
        return Cow::Borrowed(rows);
    }
    let mut scaled = rows.to_vec();
    scaled.par_chunks_mut(k).zip(weights).for_each(|(row, &weight)| {
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
        let root = weight.sqrt() as f32;
        for x in row {
            *x *= root;
        }
    });
    Cow::Owned(scaled)
}

/// Adds Xᵀ·X to the blocks on and above the diagonal of `hessian`, `[k, k]`, for X, `[m, k]`.
pub(super) fn add_outer_products(hessian: &mut [f32], x: &[f32], k: usize) {
    let m = x.len() / k;
    if m == 0 {
        return;
    }
    let columns =
        |range: &std::ops::Range<usize>| Matrix::new(&x[range.start..], m, range.len(), k);
    let done = gemm::for_each_block(
        hessian,
        k,
        (BLOCK, BLOCK),
        || (),
        |(), block| {
            if block.columns.start >= block.rows.start {
                let (rows, columns) = (columns(&block.rows), columns(&block.columns));
                block.add_product(rows.transposed(), columns);
            }
            Ok::<_, Infallible>(())
        },
    );
    match done {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// Copies what is above the diagonal of `hessian`, `[k, k]`, below it.
pub(super) fn mirror(hessian: &mut [f32], k: usize) {
    for row in 1..k {
        let (above, below) = hessian.split_at_mut(row * k);
        for (column, value) in below[..row].iter_mut().enumerate() {
            *value = above[column * k + row];
        }
    }
}
