//! Float products with the weights of a group, for activations that are not quantized.
#![expect(unsafe_code, reason = "the matrix product takes pointers")]

use super::halves::Column;

/// `sums[m, 64] += rows[m, k]·weights[k, 64]`. Row m begins at `rows[m·stride]`.
///
/// # Panics
///
/// If `rows` ends before the last row does.
pub fn add_products(rows: &[f32], stride: usize, weights: &[Column], sums: &mut [Column]) {
    let (m, k, n) = (sums.len(), weights.len(), size_of::<Column>() / size_of::<f32>());
    if m == 0 || k == 0 {
        return;
    }
    assert!(k <= stride && rows.len() >= (m - 1) * stride + k, "rows of {k} columns");
    let (Ok(a), Ok(b)) = (isize::try_from(stride), isize::try_from(n)) else { return };
    let sums = sums.as_flattened_mut();
    // SAFETY: `rows` holds m rows of k elements, `stride` apart; the weights are k rows of n, the sums
    // m rows of n, without gaps; only the sums are written.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            rows.as_ptr(),
            a,
            1,
            weights.as_flattened().as_ptr(),
            b,
            1,
            1.0,
            sums.as_mut_ptr(),
            b,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_sums_of_products() {
        let value = |i: usize| ((i * 37 + i / 5) % 23) as f32 - 11.0;
        for (m, k, stride) in [(1, 1, 1), (1, 40, 50), (7, 33, 33), (9, 64, 100)] {
            let rows: Vec<f32> = (0..(m - 1) * stride + k).map(value).collect();
            let weights: Vec<Column> =
                (0..k).map(|k| std::array::from_fn(|n| value(k * 64 + n + 3))).collect();
            let mut sums = vec![[2.0; 64]; m];
            add_products(&rows, stride, &weights, &mut sums);
            for (m, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    // Small integers: every order of additions is exact.
                    let expected: f32 =
                        (0..k).map(|k| rows[m * stride + k] * weights[k][n]).sum::<f32>() + 2.0;
                    assert_eq!(sum, expected);
                }
            }
        }
    }
}
