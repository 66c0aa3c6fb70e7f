//! Rows that the tests of this folder send through the kernels.

use super::signs;

/// `k` numbers of about unit variance, the same for the same seed: sums of twelve uniform ones.
pub(crate) fn gaussian(seed: u64, k: usize) -> Vec<f32> {
    let signs = signs(seed, "probe", k * 12 * 16);
    let uniform = |bits: &[f32]| bits.iter().fold(0.0, |sum, bit| (sum + bit) / 2.0);
    let normal = |bits: &[f32]| bits.chunks_exact(16).map(uniform).sum::<f32>();
    signs.chunks_exact(12 * 16).map(normal).map(|x| x / 2.0).collect()
}

/// Named rows of length `k` with values at the edges of f32.
pub(super) fn rows(k: usize) -> Vec<(&'static str, Vec<f32>)> {
    let normal = gaussian(1, k);
    let pattern = |values: &[f32]| -> Vec<f32> { values.iter().copied().cycle().take(k).collect() };
    let mut massive = normal.clone();
    massive[k / 2] = f32::MAX / 4.0;
    vec![
        ("zeros", pattern(&[0.0])),
        ("zeros of both signs", pattern(&[0.0, -0.0, -0.0])),
        ("denormals", pattern(&[f32::from_bits(1), -f32::from_bits(3), 1e-40, -1e-41, 0.0])),
        ("largest", pattern(&[f32::MAX, f32::MIN, 1.0])),
        ("infinite", pattern(&[1.0, f32::INFINITY, -2.0, 0.0, 3.0])),
        ("one massive", massive),
        ("mixed", normal.iter().map(|x| x * x * x * 1e3).collect()),
        ("normal", normal),
    ]
}

/// The bits of a row, with one pattern for every NaN.
pub(super) fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}
