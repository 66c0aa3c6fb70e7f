//! Integers with a zero point: a value is `scale·q + zero`.

use super::{CHUNK, Isa, MIN_SCALE};

/// Scale and zero point of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Worth of one integer step.
    pub scale: f32,
    /// Value of the integer 0.
    pub zero: f32,
}

impl Affine {
    /// The points whose integers `lo` and `hi` stand for `least` and `greatest`:
    ///
    /// ```text
    /// scale = max((greatest/2 − least/2)/((hi − lo)/2), 2^-126)        zero = greatest − scale·hi
    /// ```
    ///
    /// each operation rounded to f32. Halves, so that no finite row overflows. Where `least` and
    /// `greatest` are equal, the scale is 1 and the zero point is `greatest`: a constant row has
    /// integers of zero, and is exact.
    pub fn new(least: f32, greatest: f32, (lo, hi): (i16, i16)) -> Self {
        if least == greatest {
            return Affine { scale: 1.0, zero: greatest };
        }
        let steps = (f32::from(hi) - f32::from(lo)) * 0.5;
        let scale = ((greatest * 0.5 - least * 0.5) / steps).max(MIN_SCALE);
        Affine { scale, zero: greatest - scale * f32::from(hi) }
    }
}

/// An affine grid as the kernels use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AffineGrid {
    pub(super) zero: f32,
    pub(super) inverse: f32,
    pub(super) least: f32,
    pub(super) greatest: f32,
    /// Added to an integer before it is written.
    pub(super) bias: f32,
}

impl AffineGrid {
    pub(super) fn new(affine: Affine, range: (i16, i16)) -> Self {
        let scale = if affine.scale >= MIN_SCALE { affine.scale } else { MIN_SCALE };
        AffineGrid {
            zero: affine.zero,
            inverse: 1.0 / scale,
            least: range.0.into(),
            greatest: range.1.into(),
            bias: bias_of(range).into(),
        }
    }
}

/// What [`quantize_row_affine`] adds to integers of that range so that they fit an i8: 0 where they
/// do, else as much as brings `lo` to −128.
pub const fn bias_of((lo, _): (i16, i16)) -> i16 {
    if lo < -128 { -128 - lo } else { 0 }
}

/// Least and greatest element of the row, 0 of an empty one; a zero is +0.
pub fn extremes(row: &[f32]) -> (f32, f32) {
    extremes_on(Isa::detect(), row)
}

pub(super) fn extremes_on(isa: Isa, row: &[f32]) -> (f32, f32) {
    let Some(&first) = row.first() else { return (0.0, 0.0) };
    let (least, greatest) = isa.extremes(row, first);
    // Which of two zeros a kernel keeps depends on the order it compares in.
    (least + 0.0, greatest + 0.0)
}

/// [`extremes`], after elements are limited to ±`factor` times the row's root mean square, which is
/// that of [`clip_by_rms`](super::clip_by_rms). Not limited where the product is zero.
pub fn extremes_clipped_by_rms(row: &[f32], factor: f32) -> (f32, f32) {
    let (least, greatest) = extremes(row);
    match super::rms_clip(row, factor) {
        Some(clip) => (least.max(-clip).min(clip), greatest.min(clip).max(-clip)),
        None => (least, greatest),
    }
}

/// Quantizes a row to integers in `lo`…`hi`, `q = clamp(round_half_even((w − zero)·f32(1/scale)))`,
/// and writes `q +` [`bias_of`] the range, or the nearest i8.
///
/// The scale should come from [`Affine::new`] or be any normal positive number; others are taken as
/// [`MIN_SCALE`].
///
/// # Panics
///
/// If `out` is not as long as `row`.
pub fn quantize_row_affine(row: &[f32], affine: Affine, range: (i16, i16), out: &mut [i8]) {
    quantize_row_affine_on(Isa::detect(), row, affine, range, out);
}

pub(super) fn quantize_row_affine_on(
    isa: Isa,
    row: &[f32],
    affine: Affine,
    range: (i16, i16),
    out: &mut [i8],
) {
    assert_eq!(row.len(), out.len(), "integers of a row are as many as its elements");
    let grid = AffineGrid::new(affine, range);
    for (chunk, out) in row.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        isa.quantize_affine(chunk, grid, out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::kernels;
    use super::*;

    const RANGES: [(i16, i16); 5] = [(-128, 127), (-8, 7), (-136, 119), (-112, 112), (-1, 1)];

    /// All kernels against the definition; returns the integers without bias.
    fn quantize(row: &[f32], affine: Affine, range: (i16, i16)) -> Vec<i16> {
        let mut first: Option<Vec<i8>> = None;
        for isa in kernels() {
            let mut out = vec![0; row.len()];
            quantize_row_affine_on(isa, row, affine, range, &mut out);
            let expected = first.get_or_insert_with(|| out.clone());
            assert_eq!(*expected, out, "{isa:?} {affine:?} {range:?}");
        }
        let inverse = 1.0 / affine.scale;
        let integers = first.unwrap().into_iter().map(|q| i16::from(q) - bias_of(range));
        integers
            .zip(row)
            .map(|(q, x)| {
                let exact = ((x - affine.zero) * inverse).round_ties_even();
                let exact = exact.clamp(range.0.into(), range.1.into());
                assert_eq!(f32::from(q), exact + 0.0, "{x} {affine:?} {range:?}");
                q
            })
            .collect()
    }

    fn check(row: &[f32]) {
        let mut first = None;
        for isa in kernels() {
            let (least, greatest) = extremes_on(isa, row);
            let bits = (least.to_bits(), greatest.to_bits());
            assert_eq!(*first.get_or_insert(bits), bits, "{isa:?}");
        }
        let (least, greatest) = extremes(row);
        if !row.is_empty() {
            assert_eq!(least, row.iter().copied().fold(f32::INFINITY, f32::min));
            assert_eq!(greatest, row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        for range in RANGES {
            let affine = Affine::new(least, greatest, range);
            assert!(affine.scale >= MIN_SCALE && affine.scale.is_finite());
            assert!((1.0 / affine.scale).is_finite() && affine.zero.is_finite());
            let integers = quantize(row, affine, range);
            let slack =
                f64::from(affine.scale) * 0.51 + f64::from(greatest.abs().max(least.abs())) * 3e-7;
            for (q, x) in integers.iter().zip(row) {
                let value = f64::from(*q) * f64::from(affine.scale) + f64::from(affine.zero);
                assert!((value - f64::from(*x)).abs() <= slack, "{x} {affine:?} {range:?}");
            }
        }
    }

    #[test]
    fn edges() {
        check(&[]);
        for length in [1, 7, 8, 9, 31, 32, 33, 40, 100] {
            check(&vec![0.0; length]);
            check(&vec![-0.0; length]);
            for constant in [1.0, -3.5e-3, f32::MAX, f32::MIN, 1e-45, -1e-40] {
                check(&vec![constant; length]);
                assert_eq!(
                    extremes_clipped_by_rms(&vec![constant; length], 9.0),
                    (constant, constant)
                );
            }
            let ramp = |at: usize| (at * 37 % length) as f32 - length as f32 * 0.3;
            for unit in [1.0, 1e-38, 1e-45, 1e36, -2.5e-3] {
                let row: Vec<f32> = (0..length).map(|at| ramp(at) * unit).collect();
                check(&row);
            }
            let mut row = vec![f32::MIN; length];
            row[length / 2] = f32::MAX;
            check(&row);
            row.fill(-0.0);
            row[length - 1] = 0.0;
            check(&row);
            row.fill(1.0);
            row[0] = 1f32.next_up();
            check(&row);
        }
    }

    #[test]
    fn constant_rows_have_integers_of_zero() {
        for value in [0.0, -0.0, 5.0, -1e30, 1e-45] {
            for range in RANGES {
                let affine = Affine::new(value + 0.0, value + 0.0, range);
                assert_eq!((affine.scale, affine.zero.to_bits()), (1.0, (value + 0.0).to_bits()));
                assert_eq!(quantize(&[value; 9], affine, range), [0; 9]);
            }
        }
    }

    #[test]
    fn ends_of_the_range_stand_for_the_extremes() {
        for range in RANGES {
            let affine = Affine::new(-1.0, 3.0, range);
            assert_eq!(quantize(&[3.0, -1.0, 1e38, -1e38], affine, range)[..2], [range.1, range.0]);
        }
        let affine = Affine { scale: 0.5, zero: 1.0 };
        let row = [1.25, 1.75, 2.25, 0.75, 0.25, 100.0, -100.0];
        assert_eq!(quantize(&row, affine, (-8, 7)), [0, 2, 2, 0, -2, 7, -8]);
    }

    #[test]
    fn rms_limits_both_ends() {
        let mut row = vec![1.0f32; 64];
        (row[3], row[60]) = (10.0, -0.5);
        let rms = ((62.0 + 100.0 + 0.25) / 64.0f64).sqrt();
        let (least, greatest) = extremes_clipped_by_rms(&row, 2.0);
        assert_eq!(least, -0.5);
        assert!((f64::from(greatest) - 2.0 * rms).abs() < 1e-6);
        // All above the clip: both ends are the clip.
        assert_eq!(extremes_clipped_by_rms(&[4.0; 8], 0.5), (2.0, 2.0));
        assert_eq!(extremes_clipped_by_rms(&[-4.0; 8], 0.5), (-2.0, -2.0));
        assert_eq!(extremes_clipped_by_rms(&[], 0.5), (0.0, 0.0));
        assert_eq!(extremes_clipped_by_rms(&[1e-30, 0.0, 0.0, 0.0], 0.5), (0.0, 0.25e-30));
        assert_eq!(extremes_clipped_by_rms(&[1e-45, 0.0, 0.0, 0.0], 0.1), (0.0, 1e-45));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_row(
            row in prop::collection::vec(
                prop_oneof![
                    4 => -4.0f32..4.0,
                    1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
                ],
                0..120,
            ),
            zero in -4.0f32..4.0,
            scale in 1e-3f32..2.0,
        ) {
            check(&row);
            for range in RANGES {
                quantize(&row, Affine { scale, zero }, range);
            }
        }
    }
}
