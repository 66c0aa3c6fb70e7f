//! Hartley matrices: orthogonal and symmetric, of any order, from cas(x) = cos x + sin x.
//!
//! R. N. Bracewell, "Discrete Hartley transform", Journal of the Optical Society of America 73
//! (1983).

use std::f64::consts::TAU;

/// cos and sin of 2πr/m for r from 0 to m - 1, in f64, by the `libm` crate: the same bits on every
/// machine.
fn circle(m: usize) -> Vec<(f64, f64)> {
    let angle = |r: usize| TAU * r as f64 / m as f64;
    (0..m).map(|r| (libm::cos(angle(r)), libm::sin(angle(r)))).collect()
}

/// The orthonormal matrix of order m, row-major: entry (i, j) is cas(2πr/m) / √m with r = ij mod m,
/// computed in f64 and rounded once.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
pub(super) fn matrix(m: usize) -> Vec<f32> {
    let circle = circle(m);
    let norm = (m as f64).sqrt();
    let entry = |(cos, sin): (f64, f64)| ((cos + sin) / norm) as f32;
    (0..m * m).map(|index| entry(circle[(index / m) * (index % m) % m])).collect()
}

/// The pairs (cos, sin)(2πil/m) / √scale for i and l from 1 to (m - 1)/2, i outermost, computed in
/// f64 and rounded once; m is odd.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
pub(super) fn half_coefficients(m: usize, scale: usize) -> Vec<[f32; 2]> {
    let circle = circle(m);
    let norm = (scale as f64).sqrt();
    let half = m / 2;
    let pair = |(cos, sin): (f64, f64)| [(cos / norm) as f32, (sin / norm) as f32];
    (0..half * half)
        .map(|index| pair(circle[(index / half + 1) * (index % half + 1) % m]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_orthogonal_and_symmetric() {
        for m in [1, 2, 3, 5, 9, 11, 27, 37, 43, 45, 128] {
            let matrix = matrix(m);
            let entry = |i: usize, j: usize| f64::from(matrix[i * m + j]);
            for i in 0..m {
                for j in 0..m {
                    assert_eq!(entry(i, j), entry(j, i));
                    let product: f64 = (0..m).map(|l| entry(i, l) * entry(j, l)).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-6, "order {m}: {product}");
                }
            }
        }
    }
}
