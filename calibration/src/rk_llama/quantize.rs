//! Integers of a row: rk-llama.cpp's scale, rounding and casts.

use half::f16;

/// Elements whose squared errors are summed in `f32` before the sum goes into `f64`.
const CHUNK: usize = 4096;

/// Largest magnitude in `row`; 0 for an empty one.
pub fn amax(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [0.0f32; 8];
    let (groups, rest) = row.as_chunks::<8>();
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane = larger(*lane, value.abs());
        }
    }
    rest.iter().map(|value| value.abs()).chain(lanes).fold(0.0, larger)
}

/// Generation 3's scale of a row within a segment: largest magnitude over `qmax`, 1 for a row of
/// zeros.
pub fn channel_scale(row: &[f32], qmax: i8) -> f32 {
    scale_of(amax(row), qmax)
}

/// The scale that maps `amax` to `qmax`; 1 where `amax` is 0.
pub(super) fn scale_of(amax: f32, qmax: i8) -> f32 {
    if amax == 0.0 { 1.0 } else { amax / f32::from(qmax) }
}

/// `roundf`, ties away from zero, to the low byte of the integer: the original converts to `int8_t`
/// *before* it clamps, which on its compilers keeps the low byte. Beyond `i32` the integer
/// saturates first, as it does on aarch64.
///
/// Adding the largest `f32` below a half and truncating is `roundf` for every `f32`, and is made
/// of vector instructions.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the original's wrap is reproduced")]
pub(super) fn round_to_byte(value: f32) -> i8 {
    const BELOW_HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    (value + BELOW_HALF.copysign(value)) as i32 as i8
}

/// The original's 1/scale: 0 where the scale is 0.
#[inline]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Quantizes `row` into `out`: q = `roundf(w · (1/scale))` as `int8_t`, clamped to ±`qmax` where
/// `qmax` is less than 127, not clamped at all where it is 127. Returns Σ (w − scale·q)²: eight
/// `f32` lanes (element i in lane i mod 8) over at most 4096 elements, lanes l and l+4 added, then
/// l and l+2, then l and l+1, the sums of 4096 added in `f64`.
///
/// With |w| ≤ qmax·scale, as generation 3's scales guarantee, nothing is clamped. Where a clip
/// leaves |w| ≥ 127.5·scale, the original's 8-bit cast wraps and the integer takes the wrong sign:
/// that, too, is reproduced.
///
/// # Panics
///
/// If the lengths of `row` and `out` differ.
pub fn quantize_row(row: &[f32], scale: f32, qmax: i8, out: &mut [i8]) -> f64 {
    assert_eq!(row.len(), out.len(), "as many integers as weights");
    let inverse = inverse(scale);
    if qmax == i8::MAX {
        quantize_with(row, scale, out, |weight| round_to_byte(weight * inverse))
    } else {
        quantize_with(row, scale, out, |weight| {
            round_to_byte(weight * inverse).min(qmax).max(-qmax)
        })
    }
}

/// Casts `row` to f16, to nearest even, as the `W16A16` pipelines do; what exceeds 65504 becomes
/// infinite there and here. Returns Σ (w − f16(w))², summed as in [`quantize_row`].
///
/// # Panics
///
/// If the lengths of `row` and `out` differ.
pub fn cast_row(row: &[f32], out: &mut [f16]) -> f64 {
    assert_eq!(row.len(), out.len(), "as many halves as weights");
    for (half, weight) in out.iter_mut().zip(row) {
        *half = f16::from_f32(*weight);
    }
    let chunks = row.chunks(CHUNK).zip(out.chunks(CHUNK));
    chunks.map(|(row, out)| squares(row, out, |half| half.to_f32())).sum()
}

fn quantize_with(row: &[f32], scale: f32, out: &mut [i8], quantize: impl Fn(f32) -> i8) -> f64 {
    let mut error = 0.0;
    for (row, out) in row.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        for (integer, &weight) in out.iter_mut().zip(row) {
            *integer = quantize(weight);
        }
        error += squares(row, out, |integer| scale * f32::from(integer));
    }
    error
}

/// Σ (row − restored(out))² of one chunk.
#[inline]
fn squares<Q: Copy>(row: &[f32], out: &[Q], restore: impl Fn(Q) -> f32) -> f64 {
    let mut lanes = [0.0f32; 8];
    for (row, out) in row.chunks(8).zip(out.chunks(8)) {
        for ((lane, &weight), &stored) in lanes.iter_mut().zip(row).zip(out) {
            let error = weight - restore(stored);
            *lane += error * error;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    f64::from(((a + e) + (c + g)) + ((b + f) + (d + h)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `f32::round` is ties away from zero.
    #[expect(clippy::cast_possible_truncation, reason = "the wrap under test")]
    fn rounded(value: f32) -> i8 {
        value.round() as i32 as i8
    }

    #[test]
    fn ties_and_their_neighbours_round_as_roundf() {
        for half in 0..2000 {
            let tie = half as f32 / 2.0;
            for value in [tie, tie.next_up(), tie.next_down()] {
                for value in [value, -value] {
                    assert_eq!(round_to_byte(value), rounded(value), "{value:e}");
                }
            }
        }
        for power in 0..160 {
            let value = f32::from_bits((60 + power) << 23);
            for value in [value, value.next_down(), 3.0 * value, f32::INFINITY, f32::NAN] {
                assert_eq!(round_to_byte(value), rounded(value), "{value:e}");
                assert_eq!(round_to_byte(-value), rounded(-value), "-{value:e}");
            }
        }
    }

    #[test]
    fn casts_before_the_clamp() {
        let row = [1.0, -1.0, 6.5, 7.5, 90.0, 127.4, 127.5, -128.6, 200.0, 256.0, 3e9];
        let mut out = [0i8; 11];
        quantize_row(&row, 1.0, 7, &mut out);
        assert_eq!(out, [1, -1, 7, 7, 7, 7, -7, 7, -7, 0, -1]);
        quantize_row(&row, 1.0, 127, &mut out);
        assert_eq!(out, [1, -1, 7, 8, 90, 127, -128, 127, -56, 0, -1]);
        assert_eq!(quantize_row(&[3.0], 0.0, 7, &mut out[..1]), 9.0);
        assert_eq!(out[0], 0);
    }

    #[test]
    fn a_row_of_zeros_has_scale_one() {
        assert_eq!(channel_scale(&[0.0, -0.0], 7), 1.0);
        assert_eq!(channel_scale(&[], 127), 1.0);
        assert_eq!(channel_scale(&[3.5, -14.0], 7), 2.0);
    }

    #[test]
    fn halves_overflow_to_infinity() {
        let mut out = [f16::ZERO; 4];
        assert_eq!(cast_row(&[1.0, -2.5, 65504.0, 0.0], &mut out), 0.0);
        cast_row(&[1.0, -70000.0, 2f32.powi(-24), 2048.5], &mut out);
        assert_eq!(out.map(f16::to_bits), [0x3c00, 0xfc00, 0x0001, 0x6800]);
    }

    proptest! {
        #[test]
        fn rounds_as_roundf(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(round_to_byte(value), rounded(value));
        }

        /// A row's own scale reaches ±qmax, never past it, and errs by half a step at most.
        #[test]
        fn own_scales_never_clip(
            row in prop::collection::vec(-1e4f32..1e4, 1..9000),
            qmax in prop::sample::select(vec![7i8, 127]),
        ) {
            let scale = channel_scale(&row, qmax);
            let mut out = vec![0i8; row.len()];
            let error = quantize_row(&row, scale, qmax, &mut out);
            let expected: f64 = row.iter().zip(&out)
                .map(|(&w, &q)| (f64::from(w) - f64::from(scale) * f64::from(q)).powi(2))
                .sum();
            // f32 rounds each product by up to 2^-24 of it: where all are exact, that is what is left.
            let energy: f64 = row.iter().map(|&w| f64::from(w).powi(2)).sum();
            prop_assert!((error - expected).abs() <= 1e-4 * expected + 1e-13 * energy + 1e-9);
            for (&weight, &integer) in row.iter().zip(&out) {
                prop_assert!(integer.unsigned_abs() <= qmax.unsigned_abs());
                prop_assert!((weight - scale * f32::from(integer)).abs() <= 0.5001 * scale);
            }
            let largest = out.iter().map(|q| q.unsigned_abs()).max();
            prop_assert_eq!(largest, Some(if amax(&row) == 0.0 { 0 } else { qmax.unsigned_abs() }));
        }
    }
}
