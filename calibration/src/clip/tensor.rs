//! Statistics of a whole tensor, for one scale per tensor.

use tessera_runtime::quantize::{amax, scale_of};

use super::{Calibrator, histogram_kl, percentile};

/// Bins of the histogram.
const BINS: usize = 2048;

/// Log2 of [`BINS`].
const BINS_LOG2: i32 = 11;

/// Least exponent of a bin's width, whose reciprocal is still finite in f32.
const LEAST_EXPONENT: i32 = -126;

/// Candidates of the search for the least squared error divide amax into this many steps.
const STEPS: u16 = 256;

/// Smallest such candidate: a thirty-second of amax.
const LEAST_STEPS: u16 = 8;

/// What one scale for a whole tensor is chosen from: a histogram of magnitudes, and amax.
///
/// The histogram has 2048 bins of width 2^e, bin `b` holding magnitudes in `[b·2^e, (b+1)·2^e)`, with
/// the least e that puts amax in range. When amax grows, bins are merged pairwise, so counts are what
/// they would have been had the final width been known: partial statistics may be taken of any parts
/// of the tensor, and merged in any order, with the same result.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStatistics {
    exponent: i32,
    counts: Vec<u64>,
    amax: f32,
}

impl Default for TensorStatistics {
    fn default() -> Self {
        Self::new()
    }
}

impl TensorStatistics {
    /// Bins of the histogram.
    pub const BINS: usize = BINS;

    /// Of no elements.
    pub fn new() -> Self {
        TensorStatistics { exponent: LEAST_EXPONENT, counts: vec![0; BINS], amax: 0.0 }
    }

    /// Of the histogram that [`Self::histogram`] and [`Self::exponent`] give, and its amax; `None` if
    /// no elements have them.
    pub fn from_histogram(exponent: i32, counts: &[u64], amax: f32) -> Option<Self> {
        let total = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count))?;
        if !amax.is_finite() || amax < 0.0 || exponent != exponent_for(amax) || counts.len() > BINS
        {
            return None;
        }
        let last = counts.iter().rposition(|&count| count > 0);
        let expected = (total > 0).then(|| bin(amax, power(-exponent)));
        if last != expected || (total == 0 && amax > 0.0) {
            return None;
        }
        let mut statistics = TensorStatistics { exponent, counts: counts.to_vec(), amax };
        statistics.counts.resize(BINS, 0);
        Some(statistics)
    }

    /// Log2 of the width of a bin.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Adds finite elements of the tensor.
    pub fn add(&mut self, elements: &[f32]) {
        let amax = amax(elements);
        self.amax = self.amax.max(amax);
        self.widen(exponent_for(amax));
        let reciprocal = power(-self.exponent);
        for w in elements {
            if let Some(count) = self.counts.get_mut(bin(*w, reciprocal)) {
                *count += 1;
            }
        }
    }

    /// Adds what `other` has counted, of other elements.
    pub fn merge(&mut self, mut other: TensorStatistics) {
        self.widen(other.exponent);
        other.widen(self.exponent);
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count += other;
        }
        self.amax = self.amax.max(other.amax);
    }

    /// Largest magnitude.
    pub fn amax(&self) -> f32 {
        self.amax
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The histogram: its counts, up to the bin of amax, and the width of a bin.
    pub fn histogram(&self) -> (&[u64], f32) {
        let occupied = self.counts.iter().rposition(|&count| count > 0).map_or(0, |bin| bin + 1);
        (&self.counts[..occupied], power(self.exponent))
    }

    /// The tensor's scale for integers in ±`qmax`, of its [`clip`](Self::clip); 1.0 where every element
    /// is zero.
    pub fn scale(&self, qmax: i8, calibrator: Calibrator) -> f32 {
        scale_of(self.clip(qmax, calibrator), qmax)
    }

    /// The largest magnitude that keeps its value as an integer in ±`qmax`; 0 where every element is
    /// zero.
    ///
    /// All but [`Calibrator::Amax`] read the histogram, whose bins are between 1/2048 and 1/1024 of
    /// amax wide, and never clip above amax. [`Calibrator::Percentile`] clips at the upper edge of
    /// the bin that holds the order statistic. [`Calibrator::Mse`] takes every magnitude to be at the
    /// centre of its bin and tries clips `amax · m/256`, m = 256, …, 8. [`Calibrator::Kl`] is
    /// [`histogram_kl::choose`].
    pub fn clip(&self, qmax: i8, calibrator: Calibrator) -> f32 {
        let (counts, width) = self.histogram();
        let clip = match calibrator {
            _ if counts.is_empty() || self.amax == 0.0 => self.amax,
            Calibrator::Amax => self.amax,
            Calibrator::Percentile(percentile) => edge(self.bins_to(percentile), width),
            Calibrator::Mse => self.least_squared_error(qmax),
            Calibrator::Kl => edge(histogram_kl::choose(counts, qmax).bins, width),
        };
        clip.min(self.amax)
    }

    /// Bins up to and including the one that holds the percentile.
    fn bins_to(&self, percentile: f64) -> usize {
        let rank = percentile::rank(self.count(), percentile);
        let mut below = 0;
        for (bin, count) in self.counts.iter().enumerate() {
            below += count;
            if below > rank {
                return bin + 1;
            }
        }
        BINS
    }

    fn least_squared_error(&self, qmax: i8) -> f32 {
        let (counts, width) = self.histogram();
        let (width, greatest) = (f64::from(width), f64::from(qmax.unsigned_abs()));
        let mut best = (f64::INFINITY, self.amax);
        for steps in (LEAST_STEPS..=STEPS).rev() {
            let clip = self.amax * (f32::from(steps) / f32::from(STEPS));
            let scale = f64::from(scale_of(clip, qmax));
            let mut error = 0.0;
            let mut centre = 0.5 * width;
            for &count in counts {
                if count > 0 {
                    let difference = centre - scale * libm::rint(centre / scale).min(greatest);
                    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
                    let weight = count as f64;
                    error += weight * (difference * difference);
                }
                centre += width;
            }
            if error < best.0 {
                best = (error, clip);
            }
        }
        best.1
    }

    /// Merges bins until their width is at least 2^`exponent`.
    fn widen(&mut self, exponent: i32) {
        let Ok(shift) = u32::try_from(exponent - self.exponent) else { return };
        if shift == 0 {
            return;
        }
        self.exponent = exponent;
        for bin in 1..BINS {
            let count = std::mem::take(&mut self.counts[bin]);
            self.counts[bin.checked_shr(shift).unwrap_or(0)] += count;
        }
    }
}

/// The bin of an element, for bins of which `reciprocal` is one over the width.
fn bin(w: f32, reciprocal: f32) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and the floor is wanted"
    )]
    let bin = (w.abs() * reciprocal) as usize;
    bin.min(BINS - 1)
}

/// Least exponent of a bin's width that keeps `amax` within the bins.
fn exponent_for(amax: f32) -> i32 {
    // Exponent of the power of two at or below amax: amax < 2^(floor + 1) = 2^(e + 11).
    let bits = amax.to_bits() >> 23;
    let floor = i32::try_from(bits & 0xff).unwrap_or_default() - 127;
    (floor + 1 - BINS_LOG2).max(LEAST_EXPONENT)
}

/// 2^`exponent`, which is within ±126.
fn power(exponent: i32) -> f32 {
    f32::from_bits(u32::try_from(exponent + 127).unwrap_or_default() << 23)
}

/// Upper edge of the last of `bins` bins.
fn edge(bins: usize, width: f32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "at most 2048")]
    let bins = bins as f32;
    bins * width
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tessera_runtime::quantize::quantization_error;

    use super::*;
    use crate::clip::tests::{Distribution, sample};

    proptest! {
        #[test]
        fn partial_statistics_merge_in_any_order(
            parts in prop::collection::vec(
                (prop::collection::vec(-1.0f32..1.0, 0..50), -140i32..100), 1..8),
            order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let panels: Vec<Vec<f32>> = parts
                .iter()
                .map(|(row, e)| row.iter().map(|w| libm::scalbnf(*w, *e)).collect())
                .collect();
            // Counted directly, at the width that the whole needs.
            let all: Vec<f32> = panels.iter().flatten().copied().collect();
            let width = power(exponent_for(amax(&all)));
            let mut counts = vec![0u64; BINS];
            for w in &all {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test")]
                let bin = (f64::from(w.abs()) / f64::from(width)).floor() as usize;
                counts[bin] += 1;
            }
            let mut merged = TensorStatistics::new();
            for &panel in order.iter().filter(|&&panel| panel < panels.len()) {
                let mut part = TensorStatistics::new();
                part.add(&panels[panel]);
                merged.merge(part);
            }
            let mut sequential = TensorStatistics::new();
            for elements in &panels {
                sequential.add(elements);
            }
            prop_assert_eq!(&merged.counts, &counts);
            prop_assert_eq!(merged.count(), all.len() as u64);
            prop_assert_eq!(merged.amax(), amax(&all));
            prop_assert_eq!(&merged, &sequential);
        }
    }

    #[test]
    fn scales_are_near_those_of_the_elements() {
        let mut scratch = crate::clip::Scratch::default();
        for distribution in Distribution::ALL {
            let elements = sample(distribution, 30_000, 5);
            let mut statistics = TensorStatistics::new();
            for elements in elements.chunks(999) {
                statistics.add(elements);
            }
            for qmax in [7, 127] {
                let of = |calibrator| statistics.scale(qmax, calibrator);
                let mut exact = |calibrator| {
                    crate::clip::channel_scale(&elements, (-qmax, qmax), calibrator, &mut scratch)
                };
                assert_eq!(of(Calibrator::Amax), exact(Calibrator::Amax));
                let (edge, value) =
                    (of(Calibrator::Percentile(99.0)), exact(Calibrator::Percentile(99.0)));
                let bin = statistics.histogram().1 / f32::from(qmax);
                assert!(value <= edge && edge <= value + 1.001 * bin, "{distribution:?}");
                let found = quantization_error(&elements, of(Calibrator::Mse), qmax);
                let least = quantization_error(&elements, exact(Calibrator::Mse), qmax);
                assert!(found < 1.02 * least, "{distribution:?} {qmax}: {found} above {least}");
            }
        }
    }

    #[test]
    fn a_histogram_is_taken_back_only_if_elements_can_have_it() {
        let back = |statistics: &TensorStatistics| {
            let (counts, _) = statistics.histogram();
            TensorStatistics::from_histogram(statistics.exponent(), counts, statistics.amax())
        };
        let mut statistics = TensorStatistics::new();
        assert_eq!(back(&statistics).as_ref(), Some(&statistics));
        for elements in [&[0.0, 1e-42][..], &[0.3, -7.5, 2.0], &[f32::MAX]] {
            statistics.add(elements);
            assert_eq!(back(&statistics).as_ref(), Some(&statistics), "{elements:?}");
        }
        let of = TensorStatistics::from_histogram;
        assert!(of(-10, &[1, 2], 0.0015).is_none(), "width");
        assert!(of(-20, &[1, 2], 0.0015).is_none(), "amax in another bin");
        assert!(of(LEAST_EXPONENT, &[], 1.0).is_none());
        assert!(of(LEAST_EXPONENT, &[u64::MAX, 1], 0.0).is_none());
        assert!(of(118, &[1], f32::INFINITY).is_none());
        assert!(of(LEAST_EXPONENT, &[0; BINS + 1], 0.0).is_none());
        assert!(of(LEAST_EXPONENT, &[1], f32::NAN).is_none());
        assert!(of(i32::MIN, &[1], 0.0).is_none());
    }

    #[test]
    fn of_nothing_and_of_zeros() {
        let mut statistics = TensorStatistics::new();
        for calibrator in
            [Calibrator::Amax, Calibrator::Percentile(50.0), Calibrator::Mse, Calibrator::Kl]
        {
            assert_eq!(statistics.scale(7, calibrator), 1.0);
        }
        statistics.add(&[0.0, -0.0]);
        assert_eq!(statistics.count(), 2);
        assert_eq!(statistics.scale(7, Calibrator::Kl), 1.0);
        statistics.add(&[1e-42]);
        assert!(statistics.scale(7, Calibrator::Mse) >= f32::MIN_POSITIVE);
        statistics.add(&[f32::MAX]);
        assert_eq!(statistics.scale(7, Calibrator::Amax), f32::MAX / 7.0);
        assert_eq!(statistics.counts[0], 3);
    }
}
