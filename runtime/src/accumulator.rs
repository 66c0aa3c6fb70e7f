//! What a matmul's accumulator can reach, and the segments of K that bound it.
//!
//! The INT4 engine accumulates into 16 bits. For a row of integers `q` over one segment, with
//! `P = Σ max(q, 0)` and `Q = Σ max(-q, 0)`, and activations anywhere in `[low, high]`
//! (`low ≤ 0 ≤ high`), the sum `Σ a·q` is greatest where every activation has the sign of its
//! weight at full magnitude: `high·P + |low|·Q`, and least at `-(|low|·P + high·Q)`. Both are
//! reached, so the bound is exact for the row. Partial sums, in any order, stay within it too, since
//! leaving out a product is setting its activation to zero.

use std::ops::Range;

use tessera_formats::npu::tiles::TILE_K;
use tessera_formats::npu::{Engine, Scheme};
use tessera_formats::pack::manifest::Accumulator;

/// Sums over the integers of a row, or of a segment of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSums {
    /// Sum of the positive integers.
    pub positive: i64,
    /// Sum of the magnitudes of the negative integers.
    pub negative: i64,
    /// Sum of the squares.
    pub squares: i64,
}

impl RowSums {
    /// Sums of `row`.
    pub fn new(row: &[i8]) -> Self {
        // 16384 squares of at most 128² fit an i32.
        const CHUNK: usize = 16384;
        let mut sums = RowSums::default();
        for chunk in row.chunks(CHUNK) {
            let (mut total, mut magnitude, mut squares) = (0i32, 0i32, 0i32);
            for &q in chunk {
                let q = i16::from(q);
                total += i32::from(q);
                magnitude += i32::from(q.abs());
                squares += i32::from(q * q);
            }
            sums.positive += i64::from((magnitude + total) / 2);
            sums.negative += i64::from((magnitude - total) / 2);
            sums.squares += i64::from(squares);
        }
        sums
    }

    /// The bound for activations in `[low, high]`, `low ≤ 0 ≤ high`.
    pub fn bound(&self, low: i32, high: i32) -> AccumulatorBound {
        let (low, high) = (i64::from(low).abs(), i64::from(high).abs());
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53, rows of 2^39")]
        let squares = self.squares as f64;
        AccumulatorBound {
            min: -(low * self.positive + high * self.negative),
            max: high * self.positive + low * self.negative,
            norm: squares.sqrt(),
        }
    }
}

/// What the accumulators of a set of rows can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccumulatorBound {
    /// Least value.
    pub min: i64,
    /// Greatest value.
    pub max: i64,
    /// Greatest Euclidean norm of a row's integers: times that of the activations' integers it
    /// bounds the magnitude (Cauchy-Schwarz).
    pub norm: f64,
}

impl AccumulatorBound {
    /// The bound that holds for the rows of both.
    pub fn union(self, other: Self) -> Self {
        AccumulatorBound {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            norm: self.norm.max(other.norm),
        }
    }

    /// The bound that holds for the rows of whichever is there.
    pub fn union_of(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.union(other)),
            (one, other) => one.or(other),
        }
    }

    /// Whether no activation can overflow the accumulators of an integer engine.
    pub fn fits(&self, engine: Engine) -> bool {
        match engine {
            Engine::I4 => self.fits_i16(),
            Engine::I8 | Engine::F16 => self.fits_i32(),
        }
    }

    /// The bound as a manifest records it, with the verdict for the engine.
    pub fn certificate(&self, engine: Engine) -> Accumulator {
        let AccumulatorBound { min, max, norm } = *self;
        Accumulator { min, max, certified: self.fits(engine), norm }
    }

    /// Whether no activation can overflow a 16-bit accumulator.
    pub fn fits_i16(&self) -> bool {
        self.min >= i64::from(i16::MIN) && self.max <= i64::from(i16::MAX)
    }

    /// Whether no activation can overflow a 32-bit accumulator.
    pub fn fits_i32(&self) -> bool {
        self.min >= i64::from(i32::MIN) && self.max <= i64::from(i32::MAX)
    }
}

/// Longest K, in whole tiles, for which no weights of the engine and no activation in the scheme's
/// range can leave the 16 bits of the 4-bit engine: 576 for w4a4, 480 for w4a8 and where activations
/// are `asymmetric`.
pub fn certified_length(scheme: Scheme, asymmetric: bool) -> usize {
    let weight = scheme.engine().weight_range().map_or(1, |(least, _)| least.unsigned_abs());
    let (low, high) = scheme.activation_range(asymmetric).unwrap_or((-1, 1));
    let operand = low.unsigned_abs().max(high.unsigned_abs());
    let longest = i16::MAX.unsigned_abs() / (u16::from(weight) * u16::from(operand));
    usize::from(longest) / TILE_K * TILE_K
}

/// Cuts `0..k_padded` into `count` segments, each a multiple of `align`, as equal as that allows,
/// the longer ones first: lengths differ by at most `align`.
///
/// Asked for more segments than there are multiples of `align`, it gives one per multiple; for none,
/// one. Where `k_padded` is not a multiple, the last segment takes what is over. Empty only for
/// `k_padded` = 0.
pub fn even_segments(k_padded: usize, count: usize, align: usize) -> Vec<Range<usize>> {
    let align = align.max(1);
    let units = k_padded / align;
    let count = count.clamp(1, units.max(1));
    let (each, longer) = (units / count, units % count);
    let mut start = 0;
    let mut segments = Vec::with_capacity(count);
    for index in 0..count {
        let end = if index + 1 == count {
            k_padded
        } else {
            start + align * (each + usize::from(index < longer))
        };
        if end > start {
            segments.push(start..end);
        }
        start = end;
    }
    segments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the engine computes for one output element, without overflow.
    fn dot(a: &[i32], q: &[i8]) -> i64 {
        a.iter().zip(q).map(|(&a, &q)| i64::from(a) * i64::from(q)).sum()
    }

    #[test]
    fn sums_of_extreme_rows() {
        // (row, positive, negative, squares)
        let cases = [
            (vec![], 0, 0, 0),
            (vec![127i8; 40_000], 127 * 40_000, 0, 127 * 127 * 40_000),
            (vec![-128i8; 40_000], 0, 128 * 40_000, 128 * 128 * 40_000),
            (vec![7, -7, 0, 1, -1], 8, 8, 100),
        ];
        for (row, positive, negative, squares) in cases {
            assert_eq!(RowSums::new(&row), RowSums { positive, negative, squares });
        }
    }

    #[test]
    fn limits_of_sixteen_bits() {
        // 668 products of 7·7 fit, 669 do not; with -8 on both sides 511 do (docs of the INT4 engine).
        for (q, count, low, high, fits) in [
            (7i8, 668, -7, 7, true),
            (7, 669, -7, 7, false),
            (-8, 511, -8, 7, true),
            (-8, 512, -8, 7, false),
        ] {
            let bound = RowSums::new(&vec![q; count]).bound(low, high);
            assert_eq!(bound.fits_i16(), fits, "{count} of {q}");
        }
        let wide = RowSums::new(&[127; 16384]).bound(-127, 127);
        assert!(!wide.fits_i16() && wide.fits_i32());
    }

    proptest! {
        #[test]
        fn bound_is_reached_and_never_passed(
            row in prop::collection::vec(-8i8..8, 0..200),
            noise in prop::collection::vec(any::<u32>(), 200),
            high in 1i32..8,
            skew in 0i32..2,
        ) {
            let low = -(high + skew);
            let bound = RowSums::new(&row).bound(low, high);
            let greatest: Vec<i32> = row.iter().map(|&q| if q > 0 { high } else { low }).collect();
            let least: Vec<i32> = row.iter().map(|&q| if q > 0 { low } else { high }).collect();
            prop_assert_eq!(dot(&greatest, &row), bound.max);
            prop_assert_eq!(dot(&least, &row), bound.min);
            let width = u32::try_from(high - low + 1).unwrap();
            let random: Vec<i32> =
                noise.iter().map(|&x| low + i32::try_from(x % width).unwrap()).collect();
            // Every partial sum, too.
            for end in 0..=row.len() {
                let sum = dot(&random[..end], &row[..end]);
                prop_assert!(bound.min <= sum && sum <= bound.max);
            }
            let norm = random.iter().take(row.len()).map(|&a| f64::from(a * a)).sum::<f64>().sqrt();
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let reached = dot(&random, &row).abs() as f64;
            prop_assert!(reached <= bound.norm * norm * (1.0 + 1e-12));
        }

        #[test]
        fn union_holds_for_every_row(rows in prop::collection::vec(prop::collection::vec(any::<i8>(), 40), 1..8)) {
            let bounds: Vec<_> = rows.iter().map(|row| RowSums::new(row).bound(-8, 7)).collect();
            let all = bounds.iter().fold(AccumulatorBound::default(), |a, &b| a.union(b));
            prop_assert_eq!(all.max, bounds.iter().map(|b| b.max).max().unwrap());
            prop_assert_eq!(all.min, bounds.iter().map(|b| b.min).min().unwrap());
            prop_assert_eq!(all.norm, bounds.iter().map(|b| b.norm).fold(0.0, f64::max));
        }

        #[test]
        fn segments_tile_k(units in 1usize..600, count in 1usize..40) {
            let segments = even_segments(units * 32, count, 32);
            prop_assert_eq!(segments.len(), count.min(units));
            prop_assert_eq!(segments[0].start, 0);
            prop_assert_eq!(segments[segments.len() - 1].end, units * 32);
            for pair in segments.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                let (a, b) = (pair[0].len(), pair[1].len());
                prop_assert!(a == b || a == b + 32);
            }
            prop_assert!(segments.iter().all(|s| s.len() % 32 == 0 && !s.is_empty()));
        }
    }

    #[test]
    fn segments_at_the_edges() {
        assert_eq!(even_segments(160, 2, 32), [0..96, 96..160]);
        assert_eq!(even_segments(100, 2, 32), [0..64, 64..100]);
        assert_eq!(even_segments(20, 3, 32), vec![Range { start: 0, end: 20 }]);
        assert_eq!(even_segments(64, 0, 32), vec![Range { start: 0, end: 64 }]);
        assert!(even_segments(0, 2, 32).is_empty());
    }

    #[test]
    fn certified_lengths_are_those_of_the_worst_case() {
        for (scheme, asymmetric, length) in [
            (Scheme::W4A4, false, 576),
            (Scheme::W4A4, true, 480),
            (Scheme::W4A8, false, 480),
            (Scheme::W4A8, true, 480),
        ] {
            assert_eq!(certified_length(scheme, asymmetric), length);
            let (low, high) = scheme.activation_range(asymmetric).unwrap();
            let bound = |q: i8, k| RowSums::new(&vec![q; k]).bound(low.into(), high.into());
            for q in -8..8 {
                assert!(bound(q, length).fits(Engine::I4));
            }
            assert!(!bound(-8, length + TILE_K).fits(Engine::I4));
        }
    }
}
