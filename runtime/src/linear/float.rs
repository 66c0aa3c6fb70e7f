//! The float device: weights as the GGUF has them, dequantized panel by panel, products in f32.

use std::sync::Arc;

use tessera_formats::ggml::{self, GgmlType};

use super::gemm::{self, Block, Matrix};
use super::ggml_rounding::Rounding;
use super::shape::Shape;
use super::{Activations, Linear, LinearError};

/// Rows of x up to which products are computed row by row: packing them would cost more. The sums of
/// one way differ from those of the other in their order, so that chunks of an evaluation, of at least
/// 3 rows, must all go one way: how many of them are computed together must not change results.
const FEW_ROWS: usize = 2;

/// Weights that a thread dequantizes at a time: 8 MiB of f32.
const PANEL_WEIGHTS: usize = 1 << 21;

/// Rows of x and rows of W of one product. Both are packed for it, so that a block should be large
/// and about as wide as high.
const BLOCK: usize = 1024;

/// Rows of a block that are not divided further.
const SMALL_BLOCK: usize = 64;

/// Weights `[experts, n, k]` in ggml's blocks.
pub struct FloatLinear {
    shape: Shape,
    ggml_type: GgmlType,
    row_bytes: usize,
    bytes: Vec<u8>,
    rounding: Rounding,
}

impl FloatLinear {
    /// A linear of `(experts, n, k)`, from the blocks of its rows.
    ///
    /// # Errors
    ///
    /// If the type cannot be dequantized or `bytes` has another length.
    pub fn new(
        name: &str,
        ggml_type: GgmlType,
        (experts, n, k): (Option<usize>, usize, usize),
        bytes: Vec<u8>,
    ) -> Result<Self, LinearError> {
        let row_bytes = u64::try_from(k).ok().and_then(|k| ggml_type.row_bytes(k));
        let row_bytes = row_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        let rows = experts.unwrap_or(1).checked_mul(n);
        let expected = rows.and_then(|rows| rows.checked_mul(row_bytes)).unwrap_or(usize::MAX);
        if row_bytes == 0 || bytes.len() != expected || expected == 0 {
            return Err(LinearError::Length {
                name: name.to_owned(),
                what: "weights",
                expected,
                found: bytes.len(),
            });
        }
        if !ggml_type.can_dequantize() {
            return Err(LinearError::Type { name: name.to_owned(), ggml_type: ggml_type.name() });
        }
        let rounding = Rounding::None;
        let shape = Shape { name: name.to_owned(), experts, n, k };
        Ok(Self { shape, ggml_type, row_bytes, bytes, rounding })
    }

    /// The same weights, with activations rounded as ggml's CPU backend rounds them for their type.
    #[must_use]
    pub fn like_ggml(mut self) -> Self {
        self.rounding = Rounding::of(self.ggml_type);
        self
    }

    /// The rows of x as they are multiplied.
    fn rounded(&self, x: &Activations<'_>) -> Option<Arc<Vec<f32>>> {
        if self.rounding == Rounding::None {
            return None;
        }
        let round = |x: &Activations<'_>| {
            let mut values = x.values().to_vec();
            values.chunks_mut(x.k()).for_each(|row| self.rounding.apply(row));
            Ok::<_, std::convert::Infallible>(values)
        };
        match x.prepared(self.rounding as usize, round) {
            Ok(values) => Some(values),
            Err(never) => match never {},
        }
    }

    /// Dequantizes rows of the matrices, one below the other, from row `first` on, as many as
    /// `weights` holds.
    fn dequantize(&self, first: usize, weights: &mut [f32]) -> Result<(), LinearError> {
        let last = first + weights.len() / self.shape.k;
        let bytes = &self.bytes[first * self.row_bytes..last * self.row_bytes];
        ggml::dequantize(self.ggml_type, bytes, weights).map_err(|source| self.weights(source))
    }

    fn weights(&self, source: impl std::error::Error + Send + Sync + 'static) -> LinearError {
        LinearError::Weights { name: self.shape.name.clone(), source: Box::new(source) }
    }

    /// Shape, and all weights, dequantized.
    #[cfg(feature = "candle")]
    pub(super) fn to_f32(&self) -> Result<(Shape, Vec<f32>), LinearError> {
        use rayon::prelude::*;

        let k = self.shape.k;
        let count = (self.bytes.len() / self.row_bytes).saturating_mul(k);
        let mut weights = Vec::new();
        weights.try_reserve_exact(count).map_err(|source| self.weights(source))?;
        weights.resize(count, 0.0f32);
        let rows = (PANEL_WEIGHTS / k).max(1);
        let panels = weights.par_chunks_mut(rows * k).enumerate();
        panels.try_for_each(|(panel, weights)| self.dequantize(panel * rows, weights))?;
        Ok((self.shape.clone(), weights))
    }

    /// `out = x · Wᵀ` for `x` of any number of rows; `few` chooses the order of sums.
    fn product(
        &self,
        matrix: usize,
        x: &[f32],
        few: bool,
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        let (n, k) = (self.shape.n, self.shape.k);
        let (rows, columns) = blocks(out.len() / n, n, k);
        let buffer = || vec![0.0f32; columns.min(n) * k];
        gemm::for_each_block(out, n, (rows, columns), buffer, |weights, block| {
            let weights = &mut weights[..block.columns.len() * k];
            self.dequantize(matrix * n + block.columns.start, weights)?;
            let x = &x[block.rows.start * k..block.rows.end * k];
            if few {
                self.dots(x, weights, block);
            } else {
                let x = Matrix::new(x, block.rows.len(), k, k);
                let w = Matrix::new(weights, block.columns.len(), k, k);
                block.multiply(x, w.transposed());
            }
            Ok(())
        })
    }

    fn dots(&self, x: &[f32], weights: &[f32], mut block: Block<'_>) {
        for (column, w) in weights.chunks_exact(self.shape.k).enumerate() {
            for (row, x) in x.chunks_exact(self.shape.k).enumerate() {
                block.set(row, column, dot(x, w));
            }
        }
    }
}

impl Linear for FloatLinear {
    fn experts(&self) -> Option<usize> {
        self.shape.experts
    }

    fn n(&self) -> usize {
        self.shape.n
    }

    fn k(&self) -> usize {
        self.shape.k
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        self.shape.check_plain(x, out)?;
        let rounded = self.rounded(x);
        let values = rounded.as_ref().map_or(x.values(), |values| values.as_slice());
        self.product(0, values, x.batch() <= FEW_ROWS, out)
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        self.shape.check_expert(expert, x, rows, out)?;
        let rounded = self.rounded(x);
        let values = rounded.as_ref().map_or(x.values(), |values| values.as_slice());
        let k = self.shape.k;
        let mut gathered = Vec::with_capacity(rows.len() * k);
        for &row in rows {
            gathered.extend_from_slice(&values[row * k..(row + 1) * k]);
        }
        // By the rows there are, not by those that came here: a row's result is the same whatever
        // other rows are routed with it.
        self.product(expert, &gathered, x.batch() <= FEW_ROWS, out)
    }
}

/// Rows and columns of the blocks that a product of `[m, k]` and `[n, k]` is cut into: enough of them
/// for all threads. The cut changes no result.
fn blocks(m: usize, n: usize, k: usize) -> (usize, usize) {
    let wanted = 2 * rayon::current_num_threads();
    let mut columns = (PANEL_WEIGHTS / k).clamp(SMALL_BLOCK, BLOCK).min(n.max(1));
    // Narrow panels are multiplied with more rows.
    let mut rows = if columns < BLOCK / 2 { 2 * BLOCK } else { BLOCK }.min(m.max(1));
    while m.div_ceil(rows) * n.div_ceil(columns) < wanted {
        if rows > columns.max(SMALL_BLOCK) {
            rows = rows.div_ceil(2);
        } else if columns > SMALL_BLOCK {
            columns = columns.div_ceil(2);
        } else {
            break;
        }
    }
    (rows, columns)
}

/// Σ aᵢ·bᵢ in 32 sums, added in order.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(experts: Option<usize>, n: usize, k: usize) -> (FloatLinear, Vec<f32>) {
        let count = experts.unwrap_or(1) * n * k;
        let weights: Vec<f32> = (0..count).map(|i| ((i * 29) % 17) as f32 - 8.0).collect();
        let bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        (FloatLinear::new("w", GgmlType::F32, (experts, n, k), bytes).unwrap(), weights)
    }

    #[test]
    fn products_of_any_number_of_rows_are_those_of_the_definition() {
        for (m, n, k) in [(1, 3, 5), (4, 40, 64), (5, 300, 33), (70, 17, 96)] {
            let (linear, weights) = linear(None, n, k);
            let values: Vec<f32> = (0..m * k).map(|i| ((i * 13) % 11) as f32 - 5.0).collect();
            let mut out = vec![0.0; m * n];
            linear.apply(&Activations::new(&values, k), &mut out).unwrap();
            for row in 0..m {
                for column in 0..n {
                    let expected: f32 =
                        (0..k).map(|i| values[row * k + i] * weights[column * k + i]).sum();
                    assert_eq!(out[row * n + column], expected);
                }
            }
        }
    }

    #[test]
    fn experts_multiply_the_rows_that_come_to_them() {
        let (linear, weights) = linear(Some(3), 4, 8);
        let values: Vec<f32> = (0..6 * 8).map(|i| (i % 5) as f32).collect();
        let mut out = vec![0.0; 2 * 4];
        let x = Activations::new(&values, 8);
        linear.apply_expert(2, &x, &[1, 5], &mut out).unwrap();
        for (i, row) in [1, 5].into_iter().enumerate() {
            for column in 0..4 {
                let w = &weights[(2 * 4 + column) * 8..];
                let expected: f32 = (0..8).map(|k| values[row * 8 + k] * w[k]).sum();
                assert_eq!(out[i * 4 + column], expected);
            }
        }
        assert!(linear.apply_expert(3, &x, &[0], &mut out[..4]).is_err());
        assert!(linear.apply_expert(0, &x, &[6], &mut out[..4]).is_err());
        assert!(linear.apply(&x, &mut out).is_err());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let (linear, _) = linear(None, 4, 8);
        let values = [0.0; 18];
        assert!(linear.apply(&Activations::new(&values, 9), &mut [0.0; 8]).is_err());
        assert!(linear.apply(&Activations::new(&values[..16], 8), &mut [0.0; 7]).is_err());
        assert!(FloatLinear::new("w", GgmlType::F32, (None, 4, 8), vec![0; 127]).is_err());
    }
}
