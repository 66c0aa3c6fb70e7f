//! The clip of a row's least squared error.
//!
//! Up to `qmax` 7, all candidates are evaluated from one histogram. Magnitudes are brought to
//! integers `v`, so that amax is `2 · qmax · 64` bins of 2^13 units. The scale of clip `amax · m/64`
//! is then `s = m · 2^14` units, and every rounding threshold `(j + ½)·s` is the edge of bin
//! `(2j + 1)·m`. So with `N(b)` the number and `V(b)` the sum of the magnitudes in bins ≥ b,
//!
//! ```text
//! Σ q²  = Σ_j (2j+1) · N((2j+1)·m)        Σ v·q = Σ_j V((2j+1)·m)        j = 0 … qmax-1
//! Σ (v - s·q)² = Σ v² - 2s·Σ v·q + s²·Σ q²
//! ```
//!
//! exactly, in integers, in any order of the elements. What is lost is the rounding of magnitudes to
//! units, below 2^-22 of amax, where a threshold loses nothing: both neighbours err alike. The time
//! is that of one histogram, however many candidates there are.
//!
//! Above `qmax` 7 the thresholds would need too many bins, and the candidates are evaluated by
//! [`quantization_errors`].

use tessera_runtime::quantize::{quantization_errors, scale_of};

/// Candidates divide amax into this many steps.
const STEPS: u8 = 64;

/// Smallest candidate of the histogram search, in steps: an eighth of amax.
const LEAST_BY_HISTOGRAM: u8 = 8;

/// Smallest candidate of the direct search: a quarter of amax.
const LEAST_DIRECT: u8 = 16;

/// First candidates of the direct search are so many steps apart.
const STRIDE: u8 = 4;

/// Largest `qmax` that the histogram search serves.
const HISTOGRAM_QMAX: u8 = 7;

/// Bits of a magnitude below its bin.
const UNIT_BITS: u32 = 13;

/// Bits of a table entry that hold the sum of magnitudes; those above hold their number.
const SUM_BITS: u32 = 43;

/// Elements that a table entry can count without overflow of its sum: 2^20 magnitudes below 2^23.
const TABLE_ELEMENTS: usize = 1 << 20;

/// Elements whose magnitudes are computed together, before they are scattered.
const BLOCK: usize = 256;

/// 2^23: a number below it, added to it in f32, is left as an integer in the mantissa, rounded to
/// nearest.
const MANTISSA: f32 = 8_388_608.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    /// Number and sum of the magnitudes in each bin, as `number << SUM_BITS | sum`.
    table: Vec<u64>,
    /// Number and sum of the magnitudes in each bin and those above it.
    above: Vec<(u64, u64)>,
}

/// The clip; `amax` is that of the row, at least 2^-100.
pub(super) fn clip(row: &[f32], amax: f32, qmax: i8, scratch: &mut Scratch) -> f32 {
    let steps = match qmax.unsigned_abs() {
        0 => STEPS,
        qmax @ 1..=HISTOGRAM_QMAX => search_histogram(row, amax, qmax, scratch),
        qmax => search_directly(row, amax, qmax),
    };
    candidate(amax, steps)
}

/// `steps` / 64 of amax; amax itself for 64.
pub(super) fn candidate(amax: f32, steps: u8) -> f32 {
    amax * (f32::from(steps) / f32::from(STEPS))
}

fn search_histogram(row: &[f32], amax: f32, qmax: u8, scratch: &mut Scratch) -> u8 {
    let bins = 2 * usize::from(qmax) * usize::from(STEPS);
    tabulate(row, amax, bins, scratch);
    let mut best = (i128::MAX, STEPS);
    for steps in (LEAST_BY_HISTOGRAM..=STEPS).rev() {
        let (mut squares, mut products) = (0u64, 0u64);
        for odd in (1..2 * u64::from(qmax)).step_by(2) {
            let edge = usize::from(steps) * usize::try_from(odd).unwrap_or(usize::MAX);
            let (number, sum) = scratch.above.get(edge).copied().unwrap_or_default();
            squares += odd * number;
            products += sum;
        }
        let scale = i128::from(steps) << (UNIT_BITS + 1);
        let error = scale * (scale * i128::from(squares) - 2 * i128::from(products));
        if error < best.0 {
            best = (error, steps);
        }
    }
    best.1
}

/// Fills `scratch.above` for `bins` bins (and one for amax, which stands on the last edge).
fn tabulate(row: &[f32], amax: f32, bins: usize, scratch: &mut Scratch) {
    let Scratch { table, above } = scratch;
    above.clear();
    above.resize(bins + 1, (0, 0));
    #[expect(clippy::cast_precision_loss, reason = "at most 7 · 2^20, which f32 holds")]
    let factor = (bins << UNIT_BITS) as f32 / amax;
    let mut magnitudes = [0u32; BLOCK];
    for part in row.chunks(TABLE_ELEMENTS) {
        table.clear();
        table.resize(1 << (23 - UNIT_BITS), 0);
        for block in part.chunks(BLOCK) {
            let magnitudes = &mut magnitudes[..block.len()];
            for (magnitude, w) in magnitudes.iter_mut().zip(block) {
                *magnitude = (w.abs() * factor + MANTISSA).to_bits() & 0x007f_ffff;
            }
            // As long as there are values of 23 bits without their last 13: always in range.
            if let Ok(table) = <&mut [u64; 1 << (23 - UNIT_BITS)]>::try_from(table.as_mut_slice()) {
                for &magnitude in magnitudes.iter() {
                    let entry = &mut table[(magnitude >> UNIT_BITS) as usize & (table.len() - 1)];
                    *entry += (1 << SUM_BITS) | u64::from(magnitude);
                }
            }
        }
        let (mut number, mut sum) = (0, 0);
        for (above, entry) in above.iter_mut().zip(table.iter()).rev() {
            number += entry >> SUM_BITS;
            sum += entry & ((1 << SUM_BITS) - 1);
            above.0 += number;
            above.1 += sum;
        }
    }
}

fn search_directly(row: &[f32], amax: f32, qmax: u8) -> u8 {
    let mut best = (f64::INFINITY, STEPS);
    let mut next = STEPS;
    // Downwards by four candidates at a time, as long as the last of them is the best so far.
    while next >= LEAST_DIRECT {
        let group = [0, 1, 2, 3].map(|i| next.saturating_sub(STRIDE * i).max(LEAST_DIRECT));
        try_all(row, amax, qmax, &group, &mut best);
        if best.1 != group[3] {
            break;
        }
        next = group[3].saturating_sub(STRIDE);
    }
    let (low, high) = (best.1 - (STRIDE - 1), (best.1 + (STRIDE - 1)).min(STEPS));
    let centre = best.1;
    let around: Vec<u8> =
        (low.max(LEAST_DIRECT)..=high).rev().filter(|&steps| steps != centre).collect();
    try_all(row, amax, qmax, &around, &mut best);
    best.1
}

/// Evaluates candidates; the least error stays in `best`, with the larger of two equal clips.
fn try_all(row: &[f32], amax: f32, qmax: u8, steps: &[u8], best: &mut (f64, u8)) {
    const MOST: usize = 8;
    let qmax = i8::try_from(qmax).unwrap_or(i8::MAX);
    for steps in steps.chunks(MOST) {
        let (mut scales, mut errors) = ([0.0; MOST], [0.0; MOST]);
        let (scales, errors) = (&mut scales[..steps.len()], &mut errors[..steps.len()]);
        for (scale, &steps) in scales.iter_mut().zip(steps) {
            *scale = scale_of(candidate(amax, steps), qmax);
        }
        quantization_errors(row, scales, qmax, errors);
        for (&error, &steps) in errors.iter().zip(steps) {
            if error < best.0 || (error == best.0 && steps > best.1) {
                *best = (error, steps);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_runtime::quantize::{self, quantization_error};

    use super::*;
    use crate::clip::tests::{Distribution, sample};

    /// Least error over every candidate, by the quantizer itself.
    fn exhaustive(row: &[f32], amax: f32, qmax: i8) -> f64 {
        let least = if qmax <= 7 { LEAST_BY_HISTOGRAM } else { LEAST_DIRECT };
        (least..=STEPS)
            .map(|m| quantization_error(row, scale_of(candidate(amax, m), qmax), qmax))
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn finds_the_least_error() {
        let mut scratch = Scratch::default();
        for distribution in Distribution::ALL {
            for (k, seeds) in [(32, 40), (100, 30), (576, 20), (4096, 6), (18944, 1)] {
                for seed in 0..seeds {
                    let row = sample(distribution, k, seed);
                    let amax = quantize::amax(&row);
                    for qmax in [1, 3, 7, 127] {
                        let clip = clip(&row, amax, qmax, &mut scratch);
                        let found = quantization_error(&row, scale_of(clip, qmax), qmax);
                        let least = exhaustive(&row, amax, qmax);
                        let slack = if qmax <= 7 { 1e-5 } else { 1e-3 };
                        assert!(
                            found <= least * (1.0 + slack),
                            "{distribution:?}, K {k}, seed {seed}, qmax {qmax}: {found} above {least}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn order_of_elements_is_immaterial() {
        let mut scratch = Scratch::default();
        let mut row = sample(Distribution::StudentT5, 4096, 9);
        let amax = quantize::amax(&row);
        let before = clip(&row, amax, 7, &mut scratch);
        row.reverse();
        row.rotate_left(1000);
        assert_eq!(clip(&row, amax, 7, &mut scratch), before);
    }

    #[test]
    fn long_rows_need_several_tables() {
        // Twice the same 2^20 elements and a few more: the least error stays where it was.
        let mut scratch = Scratch::default();
        let part = sample(Distribution::Gaussian, TABLE_ELEMENTS, 3);
        let amax = quantize::amax(&part);
        let expected = clip(&part, amax, 7, &mut scratch);
        let mut row = part.clone();
        row.extend(&part);
        assert_eq!(clip(&row, amax, 7, &mut scratch), expected);
    }

    #[test]
    fn equal_errors_keep_the_larger_clip() {
        let mut scratch = Scratch::default();
        // Every multiple of 1/7 in ±1 is exact at the full clip, and only there.
        let row: Vec<f32> = (-7i8..=7).map(f32::from).collect();
        assert_eq!(clip(&row, 7.0, 7, &mut scratch), 7.0);
        // One magnitude alone: the full clip has error 0.
        assert_eq!(clip(&[0.0, -3.0, 3.0], 3.0, 7, &mut scratch), 3.0);
        assert_eq!(clip(&[0.0, -3.0, 3.0], 3.0, 127, &mut scratch), 3.0);
    }
}
