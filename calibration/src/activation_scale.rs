//! How the rows of an input are scaled: by their own magnitudes, clipped or not, or by a threshold
//! that was fixed beforehand.
//!
//! A rotated row is close to Gaussian, and at few bits a Gaussian is rounded best when its tails
//! saturate. A clip of `c` times the row's root mean square does that, follows the row, and needs
//! nothing but the number c, which is chosen here on rows that were observed. Thresholds per tensor
//! need nothing at run time at all, and are worse for it: a row far below the threshold is left with
//! few integers.

use std::ops::Range;

use rayon::prelude::*;
use tessera_runtime::quantize::{self, Affine, Fit, amax, scale_of, squared_norm};

use crate::clip::{Calibrator, TensorStatistics};

/// Factors that are tried: multiples of an eighth from 2 to 4½.
const FACTORS: Range<u8> = 16..37;

/// Rows whose histograms a thread makes.
const PANEL: usize = 64;

/// What the magnitudes of a row are clipped at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip<'a> {
    /// Its amax: nothing saturates.
    Amax,
    /// The lesser of amax and this many times the root mean square.
    Rms(f32),
    /// A threshold for each segment.
    Static(&'a [f32]),
}

/// Rows of a rotated input, and the segments that they are cut into.
#[derive(Clone, Debug)]
pub struct RotatedRows<'a> {
    /// `[m, k]`, finite.
    pub values: &'a [f32],
    /// Length of a row, at least 1.
    pub k: usize,
    /// Columns of each segment; columns beyond k are padding and have no part in anything.
    pub segments: &'a [Range<usize>],
}

/// The clip by rms that rows are best quantized with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsClip {
    /// The factor; none if rows are best left unclipped.
    pub factor: Option<f32>,
    /// The error with it, as of [`RotatedRows::relative_error`].
    pub relative_error: f64,
    /// The error without any clip.
    pub unclipped_error: f64,
}

impl RotatedRows<'_> {
    /// The mean over rows of the squared error of a row's integers in ±`qmax` over its squared norm,
    /// exactly as the runtime quantizes it: every token counts the same, however large. Rows of zeros
    /// are left out; 0 where there are no others.
    ///
    /// # Panics
    ///
    /// If the values are not whole rows, or there are fewer static thresholds than segments.
    pub fn relative_error(&self, qmax: i8, clip: Clip<'_>) -> f64 {
        self.relative_errors(qmax, &[clip])[0]
    }

    /// The factor of least [`relative_error`](Self::relative_error): multiples of ⅛ from 2 to 4½, and
    /// none; of equal ones, none or the largest.
    ///
    /// # Panics
    ///
    /// If the values are not whole rows.
    pub fn choose_rms_clip(&self, qmax: i8) -> RmsClip {
        let factors: Vec<f32> = FACTORS.rev().map(|eighths| f32::from(eighths) / 8.0).collect();
        let clips: Vec<_> =
            [Clip::Amax].into_iter().chain(factors.iter().map(|&c| Clip::Rms(c))).collect();
        let errors = self.relative_errors(qmax, &clips);
        let unclipped_error = errors[0];
        let mut best = RmsClip { factor: None, relative_error: unclipped_error, unclipped_error };
        for (&factor, &error) in factors.iter().zip(&errors[1..]) {
            if error < best.relative_error {
                (best.factor, best.relative_error) = (Some(factor), error);
            }
        }
        best
    }

    /// The same for integers from `lo` to `hi` with a zero point, which reach from a row's least to
    /// its greatest value; `fitted` to the row ([`quantize::fit_row`]), or not.
    ///
    /// # Panics
    ///
    /// If the values are not whole rows.
    pub fn choose_affine_rms_clip(&self, range: (i16, i16), fitted: bool) -> RmsClip {
        self.check();
        let factors: Vec<f32> = FACTORS.rev().map(|eighths| f32::from(eighths) / 8.0).collect();
        let of_row = |row: &[f32]| -> Option<Vec<f64>> {
            let energy: f64 = self.parts(row).map(squared_norm).sum();
            let error = |clip| self.affine_error(row, clip, range, fitted) / energy;
            let unclipped = error(None);
            let clipped = factors.iter().map(|&c| error(Some(c)));
            (energy > 0.0).then(|| std::iter::once(unclipped).chain(clipped).collect())
        };
        let of_rows: Vec<Option<Vec<f64>>> =
            self.values.par_chunks_exact(self.k).map(of_row).collect();
        let (mut sums, mut rows) = (vec![0.0; factors.len() + 1], 0.0);
        for errors in of_rows.iter().flatten() {
            rows += 1.0;
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
        }
        let errors: Vec<f64> = sums.iter().map(|sum| sum / f64::max(rows, 1.0)).collect();
        let unclipped_error = errors[0];
        let mut best = RmsClip { factor: None, relative_error: unclipped_error, unclipped_error };
        for (&factor, &error) in factors.iter().zip(&errors[1..]) {
            if error < best.relative_error {
                (best.factor, best.relative_error) = (Some(factor), error);
            }
        }
        best
    }

    /// Squared error of a row's integers with a zero point.
    fn affine_error(&self, row: &[f32], clip: Option<f32>, range: (i16, i16), fitted: bool) -> f64 {
        let mut error = 0.0;
        for part in self.parts(row) {
            let (least, greatest) = match clip {
                Some(factor) => quantize::extremes_clipped_by_rms(part, factor),
                None => quantize::extremes(part),
            };
            let Fit { grid, value } = match fitted {
                true => quantize::fit_row(part, least, greatest, range),
                false => Fit::of(Affine::new(least, greatest, range)),
            };
            let Affine { scale, zero } = value;
            let (lo, hi) = (f32::from(range.0), f32::from(range.1));
            for &x in part {
                let q = libm::rintf((x - grid.zero) * (1.0 / grid.scale)).clamp(lo, hi);
                let difference = f64::from(x) - (f64::from(scale) * f64::from(q) + f64::from(zero));
                error += difference * difference;
            }
        }
        error
    }

    /// A threshold for each segment, chosen by `calibrator` from the histogram of magnitudes; 0 where
    /// all are zero.
    ///
    /// # Panics
    ///
    /// If the values are not whole rows.
    pub fn thresholds(&self, qmax: i8, calibrator: Calibrator) -> Vec<f32> {
        self.check();
        let panels: Vec<Vec<TensorStatistics>> = self
            .values
            .par_chunks(PANEL * self.k)
            .map(|rows| {
                let mut of_segments = vec![TensorStatistics::new(); self.segments.len()];
                for row in rows.chunks_exact(self.k) {
                    for (statistics, part) in of_segments.iter_mut().zip(self.parts(row)) {
                        statistics.add(part);
                    }
                }
                of_segments
            })
            .collect();
        let mut merged = vec![TensorStatistics::new(); self.segments.len()];
        for panel in panels {
            for (merged, statistics) in merged.iter_mut().zip(panel) {
                merged.merge(statistics);
            }
        }
        merged.iter().map(|statistics| statistics.clip(qmax, calibrator)).collect()
    }

    /// The relative error of each of several clips.
    fn relative_errors(&self, qmax: i8, clips: &[Clip<'_>]) -> Vec<f64> {
        self.check();
        let of_rows: Vec<Option<Vec<f64>>> = self
            .values
            .par_chunks_exact(self.k)
            .map(|row| self.errors_of(row, qmax, clips))
            .collect();
        let (mut sums, mut rows) = (vec![0.0; clips.len()], 0.0);
        for errors in of_rows.iter().flatten() {
            rows += 1.0;
            for (sum, error) in sums.iter_mut().zip(errors) {
                *sum += error;
            }
        }
        sums.iter().map(|sum| if rows > 0.0 { sum / rows } else { 0.0 }).collect()
    }

    /// Of one row; none if it has no energy.
    fn errors_of(&self, row: &[f32], qmax: i8, clips: &[Clip<'_>]) -> Option<Vec<f64>> {
        let mut sums = vec![0.0; clips.len()];
        let mut errors = vec![0.0; clips.len()];
        let mut energy = 0.0;
        for (index, part) in self.parts(row).enumerate() {
            let amax = amax(part);
            let norm = squared_norm(part);
            let scales: Vec<f32> = clips
                .iter()
                .map(|clip| {
                    let threshold = match clip {
                        Clip::Amax => amax,
                        Clip::Rms(factor) => clip_by_rms(part.len(), norm, amax, *factor),
                        Clip::Static(thresholds) => thresholds[index],
                    };
                    scale_of(threshold, qmax)
                })
                .collect();
            quantize::quantization_errors(part, &scales, qmax, &mut errors);
            for (sum, error) in sums.iter_mut().zip(&errors) {
                *sum += error;
            }
            energy += norm;
        }
        (energy > 0.0).then(|| sums.iter().map(|sum| sum / energy).collect())
    }

    /// The present columns of each segment.
    fn parts<'a>(&self, row: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        let k = self.k;
        self.segments.iter().map(move |segment| &row[segment.start.min(k)..segment.end.min(k)])
    }

    fn check(&self) {
        assert!(self.k > 0 && self.values.len().is_multiple_of(self.k), "whole rows");
    }
}

/// The lesser of amax and `factor` times the root mean square of `length` elements of that squared
/// norm; amax where the product is zero or no number. The runtime clips by the same operations.
fn clip_by_rms(length: usize, norm: f64, amax: f32, factor: f32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a row is shorter than 2^53")]
    let rms = (norm / length as f64).sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
    let clip = (f64::from(factor) * rms) as f32;
    if clip > 0.0 { clip.min(amax) } else { amax }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clip::tests::{Distribution, sample};

    /// One element after another.
    fn plain(rows: &RotatedRows<'_>, qmax: i8, clip: Clip<'_>) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for row in rows.values.chunks(rows.k) {
            let (mut error, mut energy) = (0.0, 0.0);
            for (index, segment) in rows.segments.iter().enumerate() {
                let part = &row[segment.start.min(rows.k)..segment.end.min(rows.k)];
                let squares: f64 = part.iter().map(|&x| f64::from(x).powi(2)).sum();
                let amax = part.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
                let threshold = match clip {
                    Clip::Amax => f64::from(amax),
                    Clip::Rms(c) => {
                        (f64::from(c) * (squares / part.len() as f64).sqrt()).min(amax.into())
                    }
                    Clip::Static(thresholds) => f64::from(thresholds[index]),
                };
                let (scale, greatest) = (threshold / f64::from(qmax), f64::from(qmax));
                for &x in part.iter().filter(|_| threshold > 0.0) {
                    let q = (f64::from(x) / scale).round_ties_even().clamp(-greatest, greatest);
                    error += (f64::from(x) - q * scale).powi(2);
                }
                energy += squares;
            }
            if energy > 0.0 {
                (sum, count) = (sum + error / energy, count + 1.0);
            }
        }
        if count > 0.0 { sum / count } else { 0.0 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn errors_are_those_of_quantized_rows(
            m in 0usize..20,
            k in 1usize..200,
            cut in 1usize..200,
            qmax in prop::sample::select(vec![7i8, 119, 127]),
            seed: u64,
        ) {
            let mut values = sample(Distribution::StudentT5, m * k, seed);
            values.iter_mut().step_by(13).for_each(|x| *x *= 6.0);
            if m > 1 {
                values[..k].fill(0.0);
            }
            let cut = cut.min(k);
            let segments = [0..cut, cut..k + 24];
            let rows = RotatedRows { values: &values, k, segments: &segments };
            let thresholds = rows.thresholds(qmax, Calibrator::Mse);
            prop_assert_eq!(thresholds.len(), 2);
            for clip in [Clip::Amax, Clip::Rms(2.5), Clip::Rms(4.5), Clip::Static(&thresholds)] {
                let (found, expected) = (rows.relative_error(qmax, clip), plain(&rows, qmax, clip));
                prop_assert!((found - expected).abs() <= 1e-3 * expected + 1e-9, "{} {}", found, expected);
            }
            let chosen = rows.choose_rms_clip(qmax);
            prop_assert_eq!(chosen.unclipped_error, rows.relative_error(qmax, Clip::Amax));
            prop_assert!(chosen.relative_error <= chosen.unclipped_error);
            for c in [2.0, 2.625, 3.5, 4.5] {
                prop_assert!(chosen.relative_error <= rows.relative_error(qmax, Clip::Rms(c)));
            }
            let again = chosen.factor.map_or(Clip::Amax, Clip::Rms);
            prop_assert_eq!(chosen.relative_error, rows.relative_error(qmax, again));
        }
    }

    /// A Gaussian row of 15 levels is rounded best at 2.5 standard deviations or so, and errs by
    /// 1.3 % of its energy; at 8 bits the clip is beyond the row's largest magnitude, or nearly.
    #[test]
    fn factors_of_gaussian_rows() {
        let k = 2048;
        let values = sample(Distribution::Gaussian, 40 * k, 3);
        let segments = [Range { start: 0, end: k }];
        let rows = RotatedRows { values: &values, k, segments: &segments };
        let four_bits = rows.choose_rms_clip(7);
        assert!((2.375..=2.625).contains(&four_bits.factor.unwrap()), "{four_bits:?}");
        assert!((0.0125..0.0135).contains(&four_bits.relative_error), "{four_bits:?}");
        assert!(four_bits.unclipped_error > 1.7 * four_bits.relative_error, "{four_bits:?}");
        let eight_bits = rows.choose_rms_clip(127);
        assert!(eight_bits.factor.is_none_or(|factor| factor >= 3.75), "{eight_bits:?}");
    }

    /// Tokens of different sizes: what follows the row is better than any threshold.
    #[test]
    fn thresholds_of_tokens_of_different_sizes() {
        let (k, m) = (512, 80);
        let mut values = sample(Distribution::Gaussian, m * k, 4);
        for (row, values) in values.chunks_mut(k).enumerate() {
            let size = [0.2, 1.0, 3.0, 1.0][row % 4];
            values.iter_mut().for_each(|x| *x *= size);
        }
        let segments = [0..256, 256..512];
        let rows = RotatedRows { values: &values, k, segments: &segments };
        let dynamic = rows.choose_rms_clip(7).relative_error;
        let amax = amax(&values);
        for calibrator in
            [Calibrator::Amax, Calibrator::Percentile(99.9), Calibrator::Mse, Calibrator::Kl]
        {
            let thresholds = rows.thresholds(7, calibrator);
            assert!(thresholds.iter().all(|&t| t > 0.0 && t <= amax));
            assert!(rows.relative_error(7, Clip::Static(&thresholds)) > 2.0 * dynamic);
        }
        let largest = rows.thresholds(7, Calibrator::Amax);
        assert!(largest.contains(&amax));
    }
}
