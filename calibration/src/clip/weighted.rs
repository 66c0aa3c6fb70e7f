//! The clip of a row's least weighted squared error, `Σ h·(w - s·q)²`, and the sign of its scale.
//!
//! Up to `qmax` 7 all candidates are evaluated from one histogram, as those of the plain error are
//! ([`squared_error`](super::squared_error)): the rounding thresholds of the clip `amax · m/64` are edges
//! of `2 · qmax · 64` bins, so that with `N(b)` the sum of h and `V(b)` that of h·v over the
//! magnitudes v in bins ≥ b
//!
//! ```text
//! Σ h·(v - s·q)² = Σ h·v² - 2s·Σ_j V((2j+1)·m) + s²·Σ_j (2j+1)·N((2j+1)·m)        j = 0 … qmax-1
//! ```
//!
//! and with one integer more below zero than above, both signs of the scale as there. Sums are f64, in
//! the order of the row's elements. Above `qmax` 7 candidates are evaluated one by one.

use tessera_runtime::quantize::scale_of;

use super::squared_error::candidate;

/// Candidates divide amax into this many steps.
const STEPS: u8 = 64;

/// Smallest candidate up to [`HISTOGRAM_QMAX`], and above, in steps.
const LEAST_BY_HISTOGRAM: u8 = 8;
const LEAST_DIRECT: u8 = 16;

/// Above [`HISTOGRAM_QMAX`], first candidates are so many steps apart.
const STRIDE: u8 = 4;

/// Largest `qmax` that the histogram serves.
const HISTOGRAM_QMAX: u8 = 7;

/// Sums over bins and those above them.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// `[Σ h, Σ h·v]` of positive elements and of negative ones.
    above: Vec<[[f64; 2]; 2]>,
}

/// The clip; negative where the scale is to be. `amax` is that of the row, at least 2^-100; the range is
/// as in [`squared_error`](super::squared_error::clip). `importance` is finite, not negative, and as
/// long as the row.
pub(super) fn clip(
    row: &[f32],
    importance: &[f32],
    amax: f32,
    range: (i8, i8),
    scratch: &mut Scratch,
) -> f32 {
    let qmax = range.1.unsigned_abs();
    let two_sided = range.0.unsigned_abs() > qmax;
    match qmax {
        0 => amax,
        1..=HISTOGRAM_QMAX => {
            let (steps, negative) =
                search_histogram(row, importance, amax, (qmax, two_sided), scratch);
            let clip = candidate(amax, steps);
            if negative { -clip } else { clip }
        }
        _ => candidate(amax, search_directly(row, importance, amax, range.1)),
    }
}

/// Steps of the clip, and whether the scale is to be negative.
fn search_histogram(
    row: &[f32],
    importance: &[f32],
    amax: f32,
    (qmax, two_sided): (u8, bool),
    scratch: &mut Scratch,
) -> (u8, bool) {
    let bins = 2 * u32::from(qmax) * u32::from(STEPS);
    let above = &mut scratch.above;
    above.clear();
    above.resize(usize::try_from(bins).unwrap_or_default() + 1, [[0.0; 2]; 2]);
    // In bins: a clip of m steps has a scale of 2m bins.
    let factor = f64::from(bins) / f64::from(amax);
    for (w, &h) in row.iter().zip(importance) {
        let (v, h) = (f64::from(w.abs()) * factor, f64::from(h));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and the floor is wanted"
        )]
        let bin = (v as usize).min(above.len() - 1);
        let sums = &mut above[bin][usize::from(w.is_sign_negative())];
        *sums = [sums[0] + h, sums[1] + h * v];
    }
    let mut sums = [[0.0; 2]; 2];
    for bin in above.iter_mut().rev() {
        for (sums, bin) in sums.iter_mut().zip(bin) {
            *sums = [sums[0] + bin[0], sums[1] + bin[1]];
            *bin = *sums;
        }
    }
    let mut best = (f64::INFINITY, (STEPS, false));
    for steps in (LEAST_BY_HISTOGRAM..=STEPS).rev() {
        let at =
            |odd: u16| above.get(usize::from(odd * u16::from(steps))).copied().unwrap_or_default();
        let (mut squares, mut products) = (0.0, 0.0);
        for odd in (1..2 * u16::from(qmax)).step_by(2) {
            let [positive, negative] = at(odd);
            squares += f64::from(odd) * (positive[0] + negative[0]);
            products += positive[1] + negative[1];
        }
        let mut consider = |squares: f64, products: f64, negative: bool| {
            let scale = 2.0 * f64::from(steps);
            let error = scale * (scale * squares - 2.0 * products);
            if error < best.0 {
                best = (error, (steps, negative));
            }
        };
        if two_sided {
            let odd = 2 * u16::from(qmax) + 1;
            let [positive, negative] = at(odd);
            consider(squares + f64::from(odd) * negative[0], products + negative[1], false);
            consider(squares + f64::from(odd) * positive[0], products + positive[1], true);
        } else {
            consider(squares, products, false);
        }
    }
    best.1
}

fn search_directly(row: &[f32], importance: &[f32], amax: f32, qmax: i8) -> u8 {
    let mut best = (f64::INFINITY, STEPS);
    let mut try_all = |candidates: &mut dyn Iterator<Item = u8>| {
        for steps in candidates {
            let error = error(row, importance, scale_of(candidate(amax, steps), qmax), qmax);
            if error < best.0 || (error == best.0 && steps > best.1) {
                best = (error, steps);
            }
        }
        best.1
    };
    let centre = try_all(&mut (LEAST_DIRECT..=STEPS).rev().step_by(STRIDE.into()));
    let low = (centre - (STRIDE - 1)).max(LEAST_DIRECT);
    let high = (centre + (STRIDE - 1)).min(STEPS);
    try_all(&mut (low..=high).rev().filter(|&steps| steps != centre))
}

fn error(row: &[f32], importance: &[f32], scale: f32, qmax: i8) -> f64 {
    let (greatest, inverse) = (f32::from(qmax).abs(), 1.0 / scale);
    let mut sum = 0.0;
    for (w, &h) in row.iter().zip(importance) {
        let q = (w * inverse).clamp(-greatest, greatest).round_ties_even();
        let difference = f64::from(w - q * scale);
        sum += f64::from(h) * (difference * difference);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::channel_scale_weighted;
    use super::super::tests::{Distribution, sample};
    use super::super::{Calibrator, channel_scale};
    use super::*;

    fn importances(k: usize, seed: u64) -> Vec<f32> {
        sample(Distribution::StudentT5, k, seed).iter().map(|x| x * x).collect()
    }

    fn exact(row: &[f32], importance: &[f32], scale: f32, range: (i8, i8)) -> f64 {
        let (scale, least, greatest) = (f64::from(scale), f64::from(range.0), f64::from(range.1));
        row.iter()
            .zip(importance)
            .map(|(&w, &h)| {
                let w = f64::from(w);
                let q = (w / scale).round_ties_even().clamp(least, greatest);
                f64::from(h) * (w - q * scale).powi(2)
            })
            .sum()
    }

    #[test]
    fn finds_the_least_error() {
        let mut scratch = super::super::Scratch::default();
        for distribution in Distribution::ALL {
            for (k, seeds) in [(1, 3), (96, 20), (576, 10), (4096, 3)] {
                for seed in 0..seeds {
                    let row = sample(distribution, k, seed);
                    let importance = importances(k, seed + 100);
                    let amax = tessera_runtime::quantize::amax(&row);
                    for range in [(-1, 1), (-3, 3), (-7, 7), (-127, 127), (-2, 1), (-8, 7)] {
                        let of = |scale: f32| exact(&row, &importance, scale, range);
                        let found =
                            of(channel_scale_weighted(&row, &importance, range, &mut scratch));
                        let first = if range.1 <= 7 { 8 } else { 16 };
                        let least = (first..=STEPS)
                            .map(|steps| scale_of(candidate(amax, steps), range.1))
                            .flat_map(|scale| [of(scale), of(-scale)])
                            .fold(f64::INFINITY, f64::min);
                        let slack = if range.1 <= 7 { 1e-4 } else { 0.02 };
                        // Where everything is exact, f32's rounding of the scale is left.
                        let energy = exact(&row, &importance, f32::MAX, (0, 0));
                        assert!(
                            found <= least * (1.0 + slack) + 1e-13 * energy,
                            "{distribution:?}, K {k}, seed {seed}, {range:?}: {found} {least}"
                        );
                        let plain = of(channel_scale(&row, range, Calibrator::Mse, &mut scratch));
                        assert!(found <= plain * (1.0 + slack) + 1e-12);
                    }
                }
            }
        }
    }

    #[test]
    fn equal_importances_are_none() {
        let mut scratch = super::super::Scratch::default();
        for distribution in Distribution::ALL {
            let row = sample(distribution, 1024, 7);
            let plain = channel_scale(&row, (-8, 7), Calibrator::Mse, &mut scratch);
            assert_eq!(channel_scale_weighted(&row, &[0.37; 1024], (-8, 7), &mut scratch), plain);
            for unusable in [[0.0; 1024], [f32::NAN; 1024], [f32::INFINITY; 1024], [-1.0; 1024]] {
                for range in [(-7, 7), (-8, 7), (-127, 127)] {
                    let plain = channel_scale(&row, range, Calibrator::Mse, &mut scratch);
                    let found = channel_scale_weighted(&row, &unusable, range, &mut scratch);
                    assert_eq!(found, plain);
                }
            }
        }
        assert_eq!(channel_scale_weighted(&[], &[], (-8, 7), &mut scratch), 1.0);
        assert_eq!(channel_scale_weighted(&[0.0; 3], &[1.0; 3], (-8, 7), &mut scratch), 1.0);
        for w in [1e-45, 1e-38, 1e-31, f32::MAX] {
            for range in [(-1, 1), (-7, 7), (-8, 7), (-127, 127)] {
                let scale =
                    channel_scale_weighted(&[w, -w / 3.0], &[f32::MAX, 1.0], range, &mut scratch);
                assert!((1.0 / scale).is_finite());
            }
        }
    }

    #[test]
    fn what_matters_keeps_its_value() {
        // One outlier in a Gaussian row: clipped, unless it matters.
        let mut scratch = super::super::Scratch::default();
        let mut row = sample(Distribution::Gaussian, 512, 1);
        row[100] = 12.0;
        let mut importance = vec![1.0; 512];
        let clip = |importance: &[f32], scratch: &mut super::super::Scratch| {
            channel_scale_weighted(&row, importance, (-7, 7), scratch) * 7.0
        };
        assert!(clip(&importance, &mut scratch) < 8.0);
        importance[100] = 1000.0;
        assert!(clip(&importance, &mut scratch) > 11.0);
        importance[100] = 0.0;
        assert!(clip(&importance, &mut scratch) < 3.0);
    }
}
