//! Generation 2's clip search: least Kullback-Leibler divergence over a histogram of a block.

use super::quantize::{inverse, round_to_byte};

/// Bins of the histogram over [−amax, amax].
pub const BINS: usize = 2048;

/// Clips that are tried, from the 99.5th percentile up; amax itself is not among them.
pub const STEPS: u16 = 128;

/// Added to every bin of both distributions.
const EPSILON: f64 = 1e-9;

/// Largest integer; the search is only run for 4-bit weights.
const QMAX: i8 = 7;

/// Width of a bin.
pub(super) fn bin_width(amax: f32) -> f64 {
    f64::from(amax) * 2.0 / BINS as f64
}

/// Bin of a value: the sum in `f32`, the quotient in `f64`, truncated into `0..BINS`.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and the range is enforced"
)]
pub(super) fn bin(value: f32, amax: f32, width: f64) -> usize {
    ((f64::from(value + amax) / width) as usize).min(BINS - 1)
}

/// Rank, counted from 0 in ascending order, of the magnitude where the search begins:
/// `float(count) · 99.5 / 100` in `f32`, truncated, at most `count − 1`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the original truncates; the product is never negative"
)]
pub fn percentile_rank(count: u64) -> u64 {
    ((count as f32 * 99.5 / 100.0) as u64).min(count.saturating_sub(1))
}

/// The clip (largest magnitude kept) of a block of `count` elements, from its largest magnitude
/// `amax`, the magnitude `low` at [`percentile_rank`], and its histogram.
///
/// For each of [`STEPS`] clips, every bin's mass P goes to the bin of its centre quantized and
/// restored, giving Q; the first clip with the least Σ P·ln(P/Q) wins. P, Q and the sum are `f64`,
/// clips, scales, centres and restored values `f32`, as in the original. `ln` is libm's, whose last
/// bit may differ from that of a given C library; sums are in bin order.
pub fn clip_amax(amax: f32, low: f32, count: u64, histogram: &[u64; BINS]) -> f32 {
    if count == 0 || amax == 0.0 {
        return 0.0;
    }
    let width = bin_width(amax);
    let p = histogram.map(|bin| bin as f64 / count as f64 + EPSILON);
    // Almost every bin of Q is empty, at every clip: its term is computed once.
    let term = |p: f64, q: f64| p * libm::log(p / (q + EPSILON));
    let counted = |p: f64| p > EPSILON * 1.1;
    let unmatched = p.map(|p| if counted(p) { term(p, 0.0) } else { 0.0 });

    let step = (amax - low) / f32::from(STEPS);
    let mut best = amax;
    let mut least = f64::MAX;
    let mut q = [0.0f64; BINS];
    for i in 0..STEPS {
        let clip = low + f32::from(i) * step;
        let scale = clip / f32::from(QMAX);
        if scale < 1e-9 {
            continue;
        }
        let inverse = inverse(scale);
        q.fill(0.0);
        for (index, &mass) in p.iter().enumerate() {
            let integer = round_to_byte(centre(index, amax, width) * inverse).clamp(-QMAX, QMAX);
            q[bin(f32::from(integer) * scale, amax, width)] += mass;
        }
        let mut divergence = 0.0;
        for ((&p, &q), &unmatched) in p.iter().zip(&q).zip(&unmatched) {
            if counted(p) {
                divergence += if q == 0.0 { unmatched } else { term(p, q) };
            }
        }
        if divergence < least {
            (least, best) = (divergence, clip);
        }
    }
    best
}

/// Centre of a bin, in `f64` and then rounded to `f32`.
#[expect(clippy::cast_possible_truncation, reason = "the original stores it as float")]
fn centre(index: usize, amax: f32, width: f64) -> f32 {
    // Below 2048, so exact in f32 with the half added.
    let position = f64::from(index as f32 + 0.5);
    (-f64::from(amax) + position * width) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_carry_the_rounding_of_f32() {
        // exact ranks would be 0, 0, 199, 995, 1_043_333, 199_000_000
        let cases = [(0, 0), (1, 0), (200, 199), (1000, 995), (1 << 20, 1_043_333)];
        for (count, rank) in cases {
            assert_eq!(percentile_rank(count), rank, "{count}");
        }
        // 16777217 is not an f32: the rank is that of 16777216
        assert_eq!(percentile_rank((1 << 24) + 1), percentile_rank(1 << 24));
    }

    #[test]
    fn bins_span_the_range() {
        for amax in [1.0f32, 0.1, 3.3e-7, 123.456] {
            let width = bin_width(amax);
            assert_eq!(bin(-amax, amax, width), 0);
            assert_eq!(bin(amax, amax, width), BINS - 1);
            assert_eq!(bin(0.0, amax, width), BINS / 2);
            assert_eq!(bin(-amax * 1.5, amax, width), 0, "never below the first");
            for index in 0..BINS {
                assert_eq!(bin(centre(index, amax, width), amax, width), index);
            }
        }
    }

    #[test]
    fn an_empty_block_has_no_clip() {
        assert_eq!(clip_amax(0.0, 0.0, 5, &[0; BINS]), 0.0);
        assert_eq!(clip_amax(1.0, 0.0, 0, &[0; BINS]), 0.0);
    }

    #[test]
    fn clips_below_the_least_scale_are_passed_over() {
        let mut histogram = [0; BINS];
        histogram[BINS - 1] = 1;
        histogram[BINS / 2] = 999;
        assert_eq!(clip_amax(6e-9, 0.0, 1000, &histogram), 6e-9);
    }
}
