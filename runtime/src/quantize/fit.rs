//! The range of a row whose integers, scaled by least squares, come closest to it.

use super::affine::{Affine, AffineGrid};
use super::{CHUNK, Isa, MIN_SCALE, fold};

/// Parts of a row's extremes that are tried as the ends of its integers, in this order.
pub const SHRINKS: [f32; 5] = [1.0, 0.9375, 0.875, 0.8125, 0.75];

/// How a row is rounded, and what its integers stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The grid that integers are taken on ([`quantize_row_affine`](super::quantize_row_affine)).
    pub grid: Affine,
    /// What they stand for: the scale and zero point of least squared error.
    pub value: Affine,
}

impl Fit {
    /// Integers that stand for what the grid says.
    pub const fn of(grid: Affine) -> Self {
        Fit { grid, value: grid }
    }
}

/// Sums over the elements of a row, in the module's order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    /// Σ u, with u the element less the grid's zero point.
    pub(super) u: f64,
    /// Σ q.
    pub(super) q: f64,
    /// Σ q².
    pub(super) qq: f64,
    /// Σ q·u.
    pub(super) qu: f64,
}

/// The grid, of those from each of [`SHRINKS`] times `least` to as much of `greatest`, whose integers
/// leave the least squared error when their scale and zero point are those of least squares; of equal
/// ones the first.
///
/// With n elements, sums over them, and u = x − grid.zero rounded to f32:
///
/// ```text
/// P = n·Σqu − Σq·Σu        V = n·Σq² − (Σq)²        scale = P/V
/// zero = grid.zero + (Σu − scale·Σq)/n               gain = P·(P/V), greatest for least error
/// ```
///
/// in f64, with the results rounded to f32. Where no gain is positive, as of constant rows, or the
/// results are not fit for use, the integers stand for what the first grid says.
pub fn fit_row(row: &[f32], least: f32, greatest: f32, range: (i16, i16)) -> Fit {
    fit_row_on(Isa::detect(), row, (least, greatest), range)
}

pub(super) fn fit_row_on(
    isa: Isa,
    row: &[f32],
    (least, greatest): (f32, f32),
    range: (i16, i16),
) -> Fit {
    let whole = Affine::new(least, greatest, range);
    let (mut best, mut most) = (Fit::of(whole), 0.0);
    if least == greatest {
        return best;
    }
    let n = row.len() as f64;
    for shrink in SHRINKS {
        let grid = Affine::new(least * shrink, greatest * shrink, range);
        let Moments { u, q, qq, qu } = moments(isa, row, grid, range);
        let (product, variance) = (n * qu - q * u, n * qq - q * q);
        let slope = product / variance;
        let gain = product * slope;
        #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
        let value = Affine {
            scale: slope as f32,
            zero: (f64::from(grid.zero) + (u - slope * q) / n) as f32,
        };
        // Not so of what is no number.
        let fit = value.scale >= MIN_SCALE && value.scale.is_finite() && value.zero.is_finite();
        if fit && gain > most {
            (best, most) = (Fit { grid, value }, gain);
        }
    }
    best
}

pub(super) fn moments(isa: Isa, row: &[f32], grid: Affine, range: (i16, i16)) -> Moments {
    let grid = AffineGrid::new(grid, range);
    row.chunks(CHUNK).fold(Moments::default(), |sums, chunk| {
        let [u, q, qq, qu] = isa.moments(chunk, grid).map(fold);
        Moments { u: sums.u + u, q: sums.q + q, qq: sums.qq + qq, qu: sums.qu + qu }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::kernels;
    use super::super::{bias_of, extremes, quantize_row_affine};
    use super::*;

    const RANGES: [(i16, i16); 3] = [(-8, 7), (-128, 127), (-136, 119)];

    /// Sums one after the other in f64, of the integers that are written.
    fn plain(row: &[f32], grid: Affine, range: (i16, i16)) -> Moments {
        let mut integers = vec![0; row.len()];
        quantize_row_affine(row, grid, range, &mut integers);
        let mut sums = Moments::default();
        for (x, q) in row.iter().zip(integers) {
            let (u, q) = (f64::from(x - grid.zero), f64::from(i16::from(q) - bias_of(range)));
            sums.u += u;
            sums.q += q;
            sums.qq += q * q;
            sums.qu += q * u;
        }
        sums
    }

    fn squared_error(row: &[f32], fit: Fit, range: (i16, i16)) -> f64 {
        let mut integers = vec![0; row.len()];
        quantize_row_affine(row, fit.grid, range, &mut integers);
        let error = |(x, q): (&f32, i8)| {
            let q = f64::from(i16::from(q) - bias_of(range));
            (f64::from(*x) - (f64::from(fit.value.scale) * q + f64::from(fit.value.zero))).powi(2)
        };
        row.iter().zip(integers).map(error).sum()
    }

    fn check(row: &[f32]) {
        let (least, greatest) = extremes(row);
        let amax = f64::from(least.abs().max(greatest.abs()));
        for range in RANGES {
            let mut first = None;
            for isa in kernels() {
                for shrink in SHRINKS {
                    let grid = Affine::new(least * shrink, greatest * shrink, range);
                    let sums = moments(isa, row, grid, range);
                    assert_eq!(sums, moments(Isa::Scalar, row, grid, range), "{isa:?}");
                    let expected = plain(row, grid, range);
                    assert_eq!((sums.q, sums.qq), (expected.q, expected.qq), "{isa:?}");
                    let slack = 1e-5 * amax * row.len() as f64;
                    assert!((sums.u - expected.u).abs() <= 2.0 * slack, "{isa:?}");
                    assert!((sums.qu - expected.qu).abs() <= 300.0 * slack, "{isa:?}");
                }
                let fit = fit_row_on(isa, row, (least, greatest), range);
                assert_eq!(*first.get_or_insert(fit), fit, "{isa:?}");
            }
            let fit = first.unwrap();
            assert!(fit.value.scale >= MIN_SCALE && fit.value.zero.is_finite());
            // No worse than the extremes, but for rounding.
            let whole = Affine::new(least, greatest, range);
            let plain = squared_error(row, Fit::of(whole), range);
            let found = squared_error(row, fit, range);
            let slack = 1e-10 * amax * amax * row.len() as f64;
            assert!(found <= plain * (1.0 + 1e-4) + slack, "{found} {plain} {range:?} {row:?}");
        }
    }

    #[test]
    fn edges() {
        check(&[]);
        for length in [1, 2, 7, 8, 9, 40, 100, 4095, 4097, 9000] {
            check(&vec![0.0; length]);
            check(&vec![-2.5; length]);
            let row = |f: fn(usize) -> f32| (0..length).map(f).collect::<Vec<_>>();
            check(&row(|at| (at * 37 % 101) as f32 - 30.0));
            check(&row(|at| (at * 37 % 101) as f32 * 1e-3 + 50.0));
            check(&row(|at| if at == 3 { 1000.0 } else { (at * 7 % 11) as f32 }));
        }
        for row in [[f32::MAX, f32::MIN, 1.0], [1e-45, 0.0, -1e-45], [1e38, 2e38, 3e38]] {
            let (least, greatest) = extremes(&row);
            let fit = fit_row(&row, least, greatest, (-8, 7));
            assert!(fit.value.scale >= MIN_SCALE && fit.value.scale.is_finite());
            assert!(fit.value.zero.is_finite());
        }
    }

    /// 16 levels of a Gaussian row err by 1.15 % of its energy at the best fixed clip; short rows can
    /// do better by what they happen to be.
    #[test]
    fn short_rows_gain_most() {
        for (k, most) in [(64, 0.0078), (320, 0.0107), (864, 0.0115)] {
            let (mut error, mut energy) = (0.0, 0.0);
            for seed in 0..400 {
                let row = crate::rotation::probe::gaussian(seed, k);
                let (least, greatest) = extremes(&row);
                error += squared_error(&row, fit_row(&row, least, greatest, (-8, 7)), (-8, 7));
                energy += row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            }
            assert!(error / energy < most, "{k}: {}", error / energy);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_row(row in prop::collection::vec(-4.0f32..4.0, 0..300)) {
            check(&row);
        }
    }
}
