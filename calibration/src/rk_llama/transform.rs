//! The transform of a row: signs, zero padding, unnormalised Hadamard butterflies.

use super::signs::signs;

/// K_op, the length of a transformed row of `k` elements: the next power of two, 1 for 0; `None`
/// if it does not fit.
pub fn padded_length(k: usize) -> Option<usize> {
    k.checked_next_power_of_two()
}

/// What the weights of one tensor go through before they are quantized.
#[derive(Clone, Debug)]
pub struct Transform {
    /// One sign per element of the unpadded row; empty in a `STANDARD` pipeline.
    signs: Vec<f32>,
    k: usize,
    k_op: usize,
}

impl Transform {
    /// The transform of the `HADAMARD` pipelines for the tensor called `name` with rows of `k`
    /// elements; `None` if K_op does not fit.
    pub fn hadamard(name: &str, k: usize) -> Option<Self> {
        let k_op = padded_length(k)?;
        Some(Transform { signs: signs(name, k), k, k_op })
    }

    /// The transform of the `STANDARD` pipelines, which leaves rows as they are.
    pub fn identity(k: usize) -> Self {
        Transform { signs: Vec::new(), k, k_op: k }
    }

    /// Elements of a row before the transform.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Elements of a row after the transform, K_op.
    pub fn size(&self) -> usize {
        self.k_op
    }

    /// Whether rows change at all.
    pub fn is_identity(&self) -> bool {
        self.signs.is_empty()
    }

    /// Transforms a row in place: `row` has [`size`](Self::size) elements, the first
    /// [`k`](Self::k) of them the weights; what the others hold is overwritten.
    ///
    /// # Panics
    ///
    /// If `row` has another length.
    pub fn apply(&self, row: &mut [f32]) {
        assert_eq!(row.len(), self.k_op, "row of another tensor");
        if self.is_identity() {
            return;
        }
        let (weights, padding) = row.split_at_mut(self.k);
        for (weight, sign) in weights.iter_mut().zip(&self.signs) {
            *weight *= sign;
        }
        padding.fill(0.0);
        hadamard(row);
    }
}

/// Multiplies `row` by the Sylvester-Hadamard matrix of its length, entries ±1, in place. At the
/// strides 1, 2, 4, … each pair (x, y) that far apart becomes (x + y, x − y).
///
/// # Panics
///
/// If the length is not a power of two.
pub fn hadamard(row: &mut [f32]) {
    assert!(row.len().is_power_of_two(), "length is not a power of two");
    let mut stride = 1;
    if row.len() >= 8 {
        // The first three strides on whole vectors: the same sums, in registers.
        for group in row.as_chunks_mut::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *group;
            let (a, b, c, d) = (a + b, a - b, c + d, c - d);
            let (e, f, g, h) = (e + f, e - f, g + h, g - h);
            let (a, b, c, d) = (a + c, b + d, a - c, b - d);
            let (e, f, g, h) = (e + g, f + h, e - g, f - h);
            *group = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
        }
        stride = 8;
    }
    while stride < row.len() {
        for pair in row.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (x, y) in low.iter_mut().zip(high) {
                (*x, *y) = (*x + *y, *x - *y);
            }
        }
        stride *= 2;
    }
}

/// The scale to store in a pack, whose transform is the orthonormal `R = H·diag(s)/√K_op`, for a
/// weight that was quantized with `scale` after the unnormalised transform: `scale / √K_op`,
/// divided in `f64` and rounded once. Pass 1 for `k_op` in a `STANDARD` pipeline.
pub fn pack_scale(scale: f32, k_op: usize) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "the one rounding to the stored type")]
    let stored = (f64::from(scale) / (k_op as f64).sqrt()) as f32;
    stored
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padded_lengths() {
        let cases = [(0, 1), (1, 1), (576, 1024), (4096, 4096), (4097, 8192), (18944, 32768)];
        for (k, expected) in cases {
            assert_eq!(padded_length(k), Some(expected), "{k}");
        }
        assert_eq!(padded_length(usize::MAX), None);
    }

    #[test]
    fn a_standard_row_is_left_alone() {
        let mut row = [1.5f32, -0.0, 3.0];
        Transform::identity(3).apply(&mut row);
        assert_eq!(row.map(f32::to_bits), [1.5f32, -0.0, 3.0].map(f32::to_bits));
    }

    proptest! {
        /// Against the definition, H[i][j] = (−1)^popcount(i & j), on integers so that every sum
        /// is exact.
        #[test]
        fn equals_the_dense_matrix(power in 0u32..9, seed in any::<u64>()) {
            let size = 1usize << power;
            let input: Vec<f32> = (0..size as u64)
                .map(|i| (seed.wrapping_mul(2 * i + 1) >> 56) as f32 - 128.0)
                .collect();
            let mut output = input.clone();
            hadamard(&mut output);
            for (i, &found) in output.iter().enumerate() {
                let expected: f32 = input
                    .iter()
                    .enumerate()
                    .map(|(j, &x)| if (i & j).count_ones() % 2 == 0 { x } else { -x })
                    .sum();
                prop_assert_eq!(found, expected, "row {} of {}", i, size);
            }
        }

        /// R is orthonormal: the same integers with the pack's scale restore the rotated row.
        #[test]
        fn pack_scale_is_that_of_the_normalised_transform(power in 0u32..16, scale in 1e-6f32..1e6) {
            let k_op = 1usize << power;
            let stored = f64::from(pack_scale(scale, k_op));
            let expected = f64::from(scale) * (0.5f64).powi(power as i32).sqrt();
            prop_assert!((stored / expected - 1.0).abs() < 1e-7);
            if power % 2 == 0 {
                prop_assert_eq!(stored, expected);
            }
        }
    }
}
