//! Float matrix products on several threads, by matrixmultiply.

#![expect(unsafe_code, reason = "matrixmultiply takes pointers")]

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// A view of f32 values as a matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values, the first values of rows `stride` apart.
    ///
    /// # Panics
    ///
    /// If `values` is too short.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride, "rows do not overlap");
        assert!(rows == 0 || (rows - 1) * stride + columns <= values.len(), "matrix in bounds");
        Matrix { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transposed view.
    #[must_use]
    pub fn transposed(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out[r, c] = Σ a[r, i] · b[i, c]`, rows of `out` `stride` apart.
///
/// # Panics
///
/// If the shapes do not agree or `out` is too short.
pub fn multiply(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], stride: usize) {
    assert!(b.columns <= stride, "rows do not overlap");
    assert!(a.rows == 0 || (a.rows - 1) * stride + b.columns <= out.len(), "matrix in bounds");
    let (rows, columns) = (0..a.rows, 0..b.columns);
    Block { start: out.as_mut_ptr(), stride, rows, columns, of: PhantomData }.multiply(a, b);
}

/// A rectangle of an output matrix, which no other block overlaps.
pub struct Block<'a> {
    start: *mut f32,
    stride: usize,
    /// Its rows in the output.
    pub rows: Range<usize>,
    /// Its columns in the output.
    pub columns: Range<usize>,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: a block gives access to elements that belong to no other block or reference, as a
// `&mut [f32]` does.
unsafe impl Send for Block<'_> {}

impl Block<'_> {
    /// The block becomes `a · b`.
    ///
    /// # Panics
    ///
    /// If the shapes do not agree.
    pub fn multiply(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.combine(a, b, 0.0);
    }

    /// `a · b` is added to the block.
    ///
    /// # Panics
    ///
    /// If the shapes do not agree.
    pub fn add_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        self.combine(a, b, 1.0);
    }

    /// The block becomes `a · b` plus `kept` times what it was.
    fn combine(self, a: Matrix<'_>, b: Matrix<'_>, kept: f32) {
        assert_eq!((a.rows, a.columns, b.columns), (self.rows.len(), b.rows, self.columns.len()));
        let signed = |stride: usize| isize::try_from(stride).unwrap_or(isize::MAX);
        // SAFETY: `a` and `b` are in bounds by the construction of `Matrix`; every element of the
        // block lies in the output that it was cut from, and is reached through no other path while
        // the block lives; strides are those of slices in memory, and so fit isize.
        unsafe {
            matrixmultiply::sgemm(
                a.rows,
                a.columns,
                b.columns,
                1.0,
                a.values.as_ptr(),
                signed(a.row_stride),
                signed(a.column_stride),
                b.values.as_ptr(),
                signed(b.row_stride),
                signed(b.column_stride),
                kept,
                self.start,
                signed(self.stride),
                1,
            );
        }
    }

    /// Sets the element in row `row` and column `column` of the block.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn set(&mut self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows.len() && column < self.columns.len(), "element in the block");
        // SAFETY: the element is one of the block's.
        unsafe { *self.start.add(row * self.stride + column) = value };
    }
}

/// Cuts `out`, a matrix of rows of `n`, into blocks of `rows` rows and `columns` columns, and calls
/// `work` with each, on all threads. `new` makes what a thread needs.
///
/// # Errors
///
/// That of the first block that `work` fails on.
///
/// # Panics
///
/// If `out` is not a whole number of rows.
pub fn for_each_block<T, E: Send>(
    out: &mut [f32],
    n: usize,
    (rows, columns): (usize, usize),
    new: impl Fn() -> T + Sync + Send,
    work: impl Fn(&mut T, Block<'_>) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    assert!(n > 0 && out.len().is_multiple_of(n), "whole rows of {n} values");
    let m = out.len() / n;
    let across = n.div_ceil(columns);
    let blocks = m.div_ceil(rows) * across;
    struct Start(*mut f32);
    // SAFETY: blocks made from it do not overlap, and `out` is borrowed while they live.
    unsafe impl Sync for Start {}
    let start = Start(out.as_mut_ptr());
    let start = &start;
    (0..blocks)
        .into_par_iter()
        .map_init(new, |state, index| {
            let (down, right) = (index / across * rows, index % across * columns);
            let block = Block {
                // SAFETY: row `down` and column `right` exist in `out`.
                start: unsafe { start.0.add(down * n + right) },
                stride: n,
                rows: down..m.min(down + rows),
                columns: right..n.min(right + columns),
                of: PhantomData,
            };
            work(state, block)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 37 + seed * 11) % 23) as f32 - 11.0).collect()
    }

    #[test]
    fn blocks_make_the_whole_product() {
        // Small integers: products are exact in any order.
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (33, 20, 64), (64, 65, 40)] {
            let (x, w) = (values(m * k, 1), values(n * k, 2));
            let mut out = vec![f32::NAN; m * n];
            let whole = for_each_block(
                &mut out,
                n,
                (16, 8),
                || (),
                |(), block| {
                    let a = Matrix::new(&x[block.rows.start * k..], block.rows.len(), k, k);
                    let b = Matrix::new(&w[block.columns.start * k..], block.columns.len(), k, k);
                    block.multiply(a, b.transposed());
                    Ok::<_, ()>(())
                },
            );
            whole.unwrap();
            for row in 0..m {
                for column in 0..n {
                    let dot: f32 = (0..k).map(|i| x[row * k + i] * w[column * k + i]).sum();
                    assert_eq!(out[row * n + column], dot, "{m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn products_are_added_to_what_is_there() {
        let (m, n, k) = (33, 20, 7);
        let (x, w) = (values(m * k, 1), values(n * k, 2));
        let mut out = values(m * n, 3);
        let whole = for_each_block(
            &mut out,
            n,
            (16, 8),
            || (),
            |(), block| {
                if block.columns.start >= block.rows.start {
                    let a = Matrix::new(&x[block.rows.start * k..], block.rows.len(), k, k);
                    let b = Matrix::new(&w[block.columns.start * k..], block.columns.len(), k, k);
                    block.add_product(a, b.transposed());
                }
                Ok::<_, ()>(())
            },
        );
        whole.unwrap();
        let before = values(m * n, 3);
        for row in 0..m {
            for column in 0..n {
                let dot: f32 = (0..k).map(|i| x[row * k + i] * w[column * k + i]).sum();
                let added = if column / 8 * 8 >= row / 16 * 16 { dot } else { 0.0 };
                assert_eq!(out[row * n + column], before[row * n + column] + added);
            }
        }
    }

    /// The result of an element depends on its row and its column alone: any cut gives equal bits.
    #[test]
    fn cuts_do_not_change_bits() {
        let (m, n, k) = (70, 50, 900);
        let noise = |count: usize| -> Vec<f32> {
            let mut state = 1u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            (0..count).map(|_| next()).collect()
        };
        let (x, w) = (noise(m * k), noise(n * k + 3));
        let product = |rows: usize, columns: usize| {
            let mut out = vec![0.0; m * n];
            let whole = for_each_block(
                &mut out,
                n,
                (rows, columns),
                || (),
                |(), block| {
                    let a = Matrix::new(&x[block.rows.start * k..], block.rows.len(), k, k);
                    let b = Matrix::new(&w[block.columns.start * k..], block.columns.len(), k, k);
                    block.multiply(a, b.transposed());
                    Ok::<_, ()>(())
                },
            );
            whole.unwrap();
            out.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let whole = product(m, n);
        for (rows, columns) in [(1, 1), (1, n), (m, 1), (7, 13), (64, 16)] {
            assert_eq!(product(rows, columns), whole, "{rows} {columns}");
        }
    }
}
