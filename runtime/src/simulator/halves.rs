//! The f16 engine: sums of 32 products, each exact and then rounded once, added in f32.
//!
//! ```text
//! c = +0
//! for each 32 columns, ascending:   c = f32(c + f32(Σ a·w))      Σ exact, both roundings to nearest even
//! ```
//!
//! The model of the hardware is that of public measurements (131 million results, equal but for a
//! rare deviation in one lane of sixteen that is not modelled).
//!
//! A finite f16 is a multiple of 2^-24 below 2^16. If in 32 columns the magnitudes of a row span s
//! bits, from their highest to their lowest set one, and those of a channel t, then all partial sums
//! of their products are multiples of one power of two and have at most s + t + 5 bits: where that
//! is at most 53, an f64 sums them exactly, in any order. Elsewhere integers of 128 bits do.

use half::f16;

use super::gemm::{GROUP, Isa, ROWS};

/// Products of one exact sum.
pub const PRODUCTS: usize = 32;

/// Weights of a group in one column.
pub type Column = [f32; GROUP];

/// Bits that s and t may have together for an f64 to be exact.
const EXACT_BITS: u8 = 48;

/// 2^24: a finite f16 times it is an integer.
const UNIT: f64 = 16_777_216.0;

/// Bits that the magnitudes span, from the highest to the lowest that is set in any; 0 of zeros.
pub fn span(values: impl IntoIterator<Item = f16>) -> u8 {
    let all = values.into_iter().fold(0u64, |all, value| {
        let bits = value.to_bits();
        let (exponent, fraction) = (bits >> 10 & 0x1f, u64::from(bits & 0x3ff));
        all | if exponent == 0 { fraction } else { (fraction | 0x400) << (exponent - 1) }
    });
    if all == 0 {
        return 0;
    }
    let bits = u64::BITS - all.leading_zeros() - all.trailing_zeros();
    u8::try_from(bits).unwrap_or(u8::MAX)
}

/// Finite f16 values as f32, exactly.
///
/// # Panics
///
/// If `out` is not as long as `values`.
pub fn widen(isa: Isa, values: &[f16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len(), "as many values");
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::widen_avx2(values, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::widen_avx512(values, out),
        _ => widen_all(values, out),
    }
}

/// What every instruction set compiles for itself.
#[inline(always)]
fn widen_all(values: &[f16], out: &mut [f32]) {
    // Exponents 112 and 113 of f32 are 0 and 1 of f16.
    const BIAS: u32 = 112 << 23;
    const ONE: u32 = 113 << 23;
    for (out, value) in out.iter_mut().zip(values) {
        let bits = u32::from(value.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let normal = f32::from_bits(magnitude + BIAS);
        let subnormal = f32::from_bits(magnitude + ONE) - f32::from_bits(ONE);
        let magnitude = if bits & 0x7c00 == 0 { subnormal } else { normal };
        *out = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16);
    }
}

/// A block of rows of activations for the engine.
#[derive(Clone, Copy, Debug)]
pub struct HalfRows<'a> {
    /// `[k][rows]`, finite f16 values.
    pub values: &'a [f64],
    /// [`span`] of each row's 32 columns, `[k/32][rows]`.
    pub spans: &'a [u8],
}

/// Weights of a group of channels for the engine.
#[derive(Clone, Copy, Debug)]
pub struct HalfWeights<'a> {
    /// `[k][64]`, finite f16 values.
    pub values: &'a [Column],
    /// [`span`] of each channel's 32 columns, `[k/32][64]`.
    pub spans: &'a [[u8; GROUP]],
}

/// Adds the columns' products to `sums`, one for each row of the block, in the engine's order.
///
/// # Panics
///
/// If `sums` has no row or more than [`ROWS`], or the lengths do not agree.
pub fn add_products(isa: Isa, rows: HalfRows<'_>, weights: HalfWeights<'_>, sums: &mut [Column]) {
    match sums.len() {
        1 => add::<1>(isa, rows, weights, sums),
        2 => add::<2>(isa, rows, weights, sums),
        3 => add::<3>(isa, rows, weights, sums),
        4 => add::<4>(isa, rows, weights, sums),
        5 => add::<5>(isa, rows, weights, sums),
        ROWS => add::<ROWS>(isa, rows, weights, sums),
        rows => panic!("a block of {rows} rows"),
    }
}

fn add<const R: usize>(
    isa: Isa,
    rows: HalfRows<'_>,
    weights: HalfWeights<'_>,
    sums: &mut [Column],
) {
    let (columns, _) = rows.values.as_chunks::<R>();
    let (row_spans, _) = rows.spans.as_chunks::<R>();
    let (weight_parts, rest) = weights.values.as_chunks::<PRODUCTS>();
    assert!(rest.is_empty() && columns.len() == weights.values.len(), "whole groups of columns");
    assert!(row_spans.len() == weight_parts.len() && weights.spans.len() == weight_parts.len());
    let Some((sums, [])) = sums.split_first_chunk_mut::<R>() else { return };
    let (row_parts, _) = columns.as_chunks::<PRODUCTS>();
    let parts = row_parts.iter().zip(weight_parts).zip(row_spans.iter().zip(weights.spans));
    for ((rows, weights), (row_spans, weight_spans)) in parts {
        let greatest = |spans: &[u8]| spans.iter().copied().max().unwrap_or(0);
        if greatest(row_spans) + greatest(weight_spans) <= EXACT_BITS {
            add_part(isa, rows, weights, sums);
        } else {
            let before = *sums;
            add_part(isa, rows, weights, sums);
            add_wide_spans(rows, weights, row_spans, weight_spans, &before, sums);
        }
    }
}

/// One exact sum of each element, in f64.
fn add_part<const R: usize>(
    isa: Isa,
    rows: &[[f64; R]; PRODUCTS],
    weights: &[Column; PRODUCTS],
    sums: &mut [Column; R],
) {
    match isa {
        Isa::Scalar => sum_part::<R, 16, false>(rows, weights, sums),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2(rows, weights, sums),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512(rows, weights, sums),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => match R {
            1 => sum_part::<R, 16, true>(rows, weights, sums),
            _ => sum_part::<R, 8, true>(rows, weights, sums),
        },
    }
}

/// `L` channels at a time. A fused multiplication changes nothing: all sums are exact.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
#[inline(always)]
fn sum_part<const R: usize, const L: usize, const FUSED: bool>(
    rows: &[[f64; R]; PRODUCTS],
    weights: &[Column; PRODUCTS],
    sums: &mut [Column; R],
) {
    for slab in 0..GROUP / L {
        let mut exact = [[0.0f64; L]; R];
        for (a, column) in rows.iter().zip(weights) {
            let (slabs, _) = column.as_chunks::<L>();
            let w = slabs[slab].map(f64::from);
            for (exact, &a) in exact.iter_mut().zip(a) {
                for (exact, w) in exact.iter_mut().zip(w) {
                    *exact = if FUSED { a.mul_add(w, *exact) } else { *exact + a * w };
                }
            }
        }
        for (sums, exact) in sums.iter_mut().zip(exact) {
            let (slabs, _) = sums.as_chunks_mut::<L>();
            for (sum, exact) in slabs[slab].iter_mut().zip(exact) {
                *sum += exact as f32;
            }
        }
    }
}

/// Replaces the sums of elements for which an f64 may be too narrow: those `before`, plus one exact
/// sum. They are rare: 32 normal numbers span about 18 bits.
fn add_wide_spans<const R: usize>(
    rows: &[[f64; R]; PRODUCTS],
    weights: &[Column; PRODUCTS],
    row_spans: &[u8; R],
    weight_spans: &[u8; GROUP],
    before: &[Column; R],
    sums: &mut [Column; R],
) {
    for (r, row_span) in row_spans.iter().enumerate() {
        for (n, weight_span) in weight_spans.iter().enumerate() {
            if row_span + weight_span > EXACT_BITS {
                let pairs = rows.iter().zip(weights).map(|(a, w)| (a[r], f64::from(w[n])));
                sums[r][n] = before[r][n] + exact_sum(pairs);
            }
        }
    }
}

/// The sum of products of finite f16 values, rounded once to the nearest f32, ties to even.
#[expect(clippy::cast_possible_truncation, reason = "f16 values times 2^24 are integers")]
fn exact_sum(pairs: impl Iterator<Item = (f64, f64)>) -> f32 {
    let integer = |value: f64| i128::from((value * UNIT) as i64);
    let sum: i128 = pairs.map(|(a, w)| integer(a) * integer(w)).sum();
    // The conversion rounds; the factor 2^-48 does not.
    sum as f32 * (1.0 / (UNIT * UNIT)) as f32
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "kernels compiled for an instruction set")]

    use half::f16;

    use super::{Column, PRODUCTS, sum_part};

    pub(super) fn widen_avx2(values: &[f16], out: &mut [f32]) {
        #[target_feature(enable = "avx2")]
        fn kernel(values: &[f16], out: &mut [f32]) {
            super::widen_all(values, out);
        }
        // SAFETY: the caller chose this kernel because the machine has AVX2.
        unsafe { kernel(values, out) }
    }

    pub(super) fn widen_avx512(values: &[f16], out: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn kernel(values: &[f16], out: &mut [f32]) {
            super::widen_all(values, out);
        }
        // SAFETY: the caller chose this kernel because the machine has AVX-512.
        unsafe { kernel(values, out) }
    }

    pub(super) fn avx2<const R: usize>(
        rows: &[[f64; R]; PRODUCTS],
        weights: &[Column; PRODUCTS],
        sums: &mut [Column; R],
    ) {
        #[target_feature(enable = "avx2")]
        fn kernel<const R: usize>(
            rows: &[[f64; R]; PRODUCTS],
            weights: &[Column; PRODUCTS],
            sums: &mut [Column; R],
        ) {
            match R {
                1 | 2 => sum_part::<R, 16, false>(rows, weights, sums),
                _ => sum_part::<R, 8, false>(rows, weights, sums),
            }
        }
        // SAFETY: the caller chose this kernel because the machine has AVX2.
        unsafe { kernel(rows, weights, sums) }
    }

    pub(super) fn avx512<const R: usize>(
        rows: &[[f64; R]; PRODUCTS],
        weights: &[Column; PRODUCTS],
        sums: &mut [Column; R],
    ) {
        #[target_feature(enable = "avx512f")]
        fn kernel<const R: usize>(
            rows: &[[f64; R]; PRODUCTS],
            weights: &[Column; PRODUCTS],
            sums: &mut [Column; R],
        ) {
            match R {
                1 => sum_part::<R, 64, true>(rows, weights, sums),
                2 => sum_part::<R, 32, true>(rows, weights, sums),
                _ => sum_part::<R, 16, true>(rows, weights, sums),
            }
        }
        // SAFETY: the caller chose this kernel because the machine has AVX-512.
        unsafe { kernel(rows, weights, sums) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "numbers that fit, or are to be rounded")]

    use proptest::prelude::*;

    use super::*;

    /// The model from its definition: integers of 128 bits, rounded by hand.
    fn reference(a: &[f16], w: &[f16]) -> f32 {
        let integer = |value: &f16| i128::from((value.to_f64() * 16_777_216.0) as i64);
        let mut sum = 0.0f32;
        for (a, w) in a.chunks(32).zip(w.chunks(32)) {
            let exact: i128 = a.iter().zip(w).map(|(a, w)| integer(a) * integer(w)).sum();
            sum += round(exact);
        }
        sum
    }

    /// exact · 2^-48 to the nearest f32, ties to even, with integer operations alone.
    fn round(exact: i128) -> f32 {
        let magnitude = exact.unsigned_abs();
        let bits = 128 - magnitude.leading_zeros();
        if bits == 0 {
            return 0.0;
        }
        let shift = bits.saturating_sub(24);
        let (mut kept, lost) = (magnitude >> shift, magnitude & ((1 << shift) - 1));
        let half = if shift == 0 { 1 } else { 1u128 << (shift - 1) };
        if lost > half || (lost == half && kept & 1 == 1) {
            kept += 1;
        }
        let value = kept as f64 * 2f64.powi(i32::try_from(shift).unwrap() - 48);
        (if exact < 0 { -value } else { value }) as f32
    }

    fn check(rows: &[Vec<f16>], weights: &[Vec<f16>]) {
        let k = rows[0].len();
        let count = rows.len();
        let values: Vec<f64> =
            (0..k * count).map(|i| rows[i % count][i / count].to_f64()).collect();
        let spans: Vec<u8> = (0..k / 32 * count)
            .map(|i| span(rows[i % count][i / count * 32..][..32].iter().copied()))
            .collect();
        let columns: Vec<Column> =
            (0..k).map(|k| std::array::from_fn(|n| weights[n][k].to_f32())).collect();
        let weight_spans: Vec<[u8; GROUP]> = (0..k / 32)
            .map(|g| std::array::from_fn(|n| span(weights[n][g * 32..][..32].iter().copied())))
            .collect();
        for isa in Isa::available() {
            let mut sums = vec![[0.0; GROUP]; count];
            add_products(
                isa,
                HalfRows { values: &values, spans: &spans },
                HalfWeights { values: &columns, spans: &weight_spans },
                &mut sums,
            );
            for (sums, row) in sums.iter().zip(rows) {
                for (sum, weights) in sums.iter().zip(weights) {
                    assert_eq!(sum.to_bits(), reference(row, weights).to_bits(), "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn every_finite_value_is_widened_exactly() {
        let all = (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite());
        let all: Vec<f16> = all.collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; all.len()];
            widen(isa, &all, &mut out);
            for (value, out) in all.iter().zip(&out) {
                assert_eq!(out.to_bits(), value.to_f32().to_bits());
            }
        }
    }

    #[test]
    fn spans_of_values() {
        let of = |values: &[f32]| span(values.iter().map(|&v| f16::from_f32(v)));
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[0.0, -0.0]), 0);
        assert_eq!(of(&[1.0, -2.0]), 2);
        assert_eq!(of(&[65504.0]), 11);
        assert_eq!(of(&[65504.0, 5.960_464_5e-8]), 40);
    }

    #[test]
    fn cancellation_keeps_the_least_bit() {
        // 65504² − 65504² + 2^-48: lost by f32 and f64 alike, kept by an exact sum.
        let least = f16::from_bits(1);
        let mut a = vec![f16::ZERO; 32];
        let mut w = a.clone();
        (a[0], a[1], a[2]) = (f16::MAX, f16::MAX, least);
        (w[0], w[1], w[2]) = (f16::MAX, -f16::MAX, least);
        assert_eq!(reference(&a, &w), 2f32.powi(-48));
        check(&[a], &vec![w; GROUP]);
    }

    #[test]
    fn groups_are_added_in_order() {
        // 2^24, then 1, then 1: each is lost when added to the first, not when they come first.
        let row = |values: [f32; 3]| -> Vec<f16> {
            values
                .iter()
                .flat_map(|&v| {
                    let mut group = [f16::ZERO; 32];
                    group[7] = f16::from_f32(v);
                    group
                })
                .collect()
        };
        let forward = row([4096.0, 1.0, 1.0]);
        let backward = row([1.0, 1.0, 4096.0]);
        let square = |row: &[f16]| reference(row, row);
        assert_eq!((square(&forward), square(&backward)), (16_777_216.0, 16_777_218.0));
        check(
            &[forward.clone(), backward.clone()],
            &[vec![forward; 32], vec![backward; 32]].concat(),
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// `mask` takes exponent bits away, so that spreads are small, large, subnormal.
        #[test]
        fn any_finite_values(
            bits in prop::collection::vec(any::<u16>(), 4096),
            mask in prop::sample::select(vec![0xffffu16, 0x83ff, 0xbfff, 0xc7ff, 0xfc00, 0x8fff]),
            set in prop::sample::select(vec![0u16, 0x3800, 0x4000]),
            rows in 1usize..=ROWS,
            groups in 1usize..5,
        ) {
            let value = |index: usize| {
                let value = f16::from_bits(bits[index * 7919 % bits.len()] & mask | set);
                if value.is_finite() { value } else { f16::from_bits(value.to_bits() ^ 0x4000) }
            };
            let row = |r: usize| (0..groups * 32).map(|k| value(r * 131 + k)).collect::<Vec<_>>();
            let a: Vec<_> = (0..rows).map(row).collect();
            let w: Vec<_> = (rows..rows + GROUP).map(row).collect();
            check(&a, &w);
        }
    }
}
