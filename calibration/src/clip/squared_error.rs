//! The clip of a row's least squared error, and the sign of its scale.
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
//! Where the range has one integer more below zero, one side of the row has a level more. With `N` and
//! `V` of that side alone, its error falls by what the threshold `j = qmax` adds: a negative
//! scale gives the level to the positive side, and both signs are evaluated for each candidate.
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

/// Bins of the table: what magnitudes of 23 bits have without their last 13.
const TABLE_BINS: usize = 1 << (23 - UNIT_BITS);

/// Number and sum of magnitudes, as `number << SUM_BITS | sum`, of positive elements and of negative
/// ones, by bin.
#[derive(Clone, Debug)]
struct Table(Box<[[u64; 2]; TABLE_BINS]>);

impl Default for Table {
    fn default() -> Self {
        Table(Box::new([[0; 2]; TABLE_BINS]))
    }
}

/// What a candidate's error is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// `Σ q²` and `Σ v·q`, with as many levels on both sides.
    squares: u64,
    products: u64,
    /// Number and sum of the magnitudes beyond the next threshold, of positive elements and of negative ones.
    further: [(u64, u64); 2],
}

#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    table: Table,
    totals: Vec<Totals>,
}

/// The clip; negative where the scale is to be. `amax` is that of the row, at least 2^-100. Of the
/// range, either all magnitudes have both signs, or the least integer is one more from zero than the
/// greatest.
pub(super) fn clip(row: &[f32], amax: f32, range: (i8, i8), scratch: &mut Scratch) -> f32 {
    let qmax = range.1.unsigned_abs();
    let two_sided = range.0.unsigned_abs() > qmax;
    match qmax {
        0 => amax,
        1..=HISTOGRAM_QMAX => {
            let (steps, negative) = search_histogram(row, amax, qmax, two_sided, scratch);
            let clip = candidate(amax, steps);
            if negative { -clip } else { clip }
        }
        _ => candidate(amax, search_directly(row, amax, qmax)),
    }
}

/// `steps` / 64 of amax; amax itself for 64.
pub(super) fn candidate(amax: f32, steps: u8) -> f32 {
    amax * (f32::from(steps) / f32::from(STEPS))
}

/// Steps of the clip, and whether the scale is to be negative.
fn search_histogram(
    row: &[f32],
    amax: f32,
    qmax: u8,
    two_sided: bool,
    scratch: &mut Scratch,
) -> (u8, bool) {
    scratch.totals.clear();
    scratch.totals.resize(usize::from(STEPS - LEAST_BY_HISTOGRAM) + 1, Totals::default());
    let bins = 2 * usize::from(qmax) * usize::from(STEPS);
    for part in row.chunks(TABLE_ELEMENTS) {
        tabulate(part, amax, bins, &mut scratch.table);
        add_up(&scratch.table, qmax, &mut scratch.totals);
    }
    let mut best = (i128::MAX, (STEPS, false));
    for (steps, totals) in (LEAST_BY_HISTOGRAM..=STEPS).rev().zip(&scratch.totals) {
        let mut consider = |squares: u64, products: u64, negative: bool| {
            let scale = i128::from(steps) << (UNIT_BITS + 1);
            let error = scale * (scale * i128::from(squares) - 2 * i128::from(products));
            if error < best.0 {
                best = (error, (steps, negative));
            }
        };
        let Totals { squares, products, further } = totals;
        if two_sided {
            let odd = 2 * u64::from(qmax) + 1;
            let [positive, negative] = further;
            consider(squares + odd * negative.0, products + negative.1, false);
            consider(squares + odd * positive.0, products + positive.1, true);
        } else {
            consider(*squares, *products, false);
        }
    }
    best.1
}

/// Fills the table for `bins` bins, and one for amax, which stands on the last edge: of each bin and
/// those above it, the number and the sum of the magnitudes of positive elements, and of negative ones. A row
/// that it can count has at most [`TABLE_ELEMENTS`].
fn tabulate(row: &[f32], amax: f32, bins: usize, table: &mut Table) {
    #[expect(clippy::cast_precision_loss, reason = "at most 7 · 2^20, which f32 holds")]
    let factor = (bins << UNIT_BITS) as f32 / amax;
    let mut places = [0u32; BLOCK];
    table.0[..=bins].fill([0; 2]);
    for block in row.chunks(BLOCK) {
        let places = &mut places[..block.len()];
        for (place, w) in places.iter_mut().zip(block) {
            // The sign below 23 bits of magnitude.
            let magnitude = (w.abs() * factor + MANTISSA).to_bits() << 1 & 0x00ff_ffff;
            *place = magnitude | w.to_bits() >> 31;
        }
        for &place in places.iter() {
            let magnitude = place >> 1;
            // 23 bits without their last 13: always in range.
            let bin = &mut table.0[(magnitude >> UNIT_BITS) as usize & (TABLE_BINS - 1)];
            bin[(place & 1) as usize] += (1 << SUM_BITS) | u64::from(magnitude);
        }
    }
    let mut above = [0; 2];
    for bin in table.0[..=bins].iter_mut().rev() {
        above = [above[0] + bin[0], above[1] + bin[1]];
        *bin = above;
    }
}

/// Adds what a part of a row gives to the totals of every candidate, from the largest down.
fn add_up(table: &Table, qmax: u8, totals: &mut [Totals]) {
    const SUM: u64 = (1 << SUM_BITS) - 1;
    for (steps, totals) in (usize::from(LEAST_BY_HISTOGRAM)..=usize::from(STEPS)).rev().zip(totals)
    {
        let mut edge = steps;
        for odd in (1..2 * u64::from(qmax)).step_by(2) {
            // Both signs together are no more than the table's elements.
            let [positive, negative] = table.0[edge & (TABLE_BINS - 1)];
            let both = positive + negative;
            totals.squares += odd * (both >> SUM_BITS);
            totals.products += both & SUM;
            edge += 2 * steps;
        }
        let last = 2 * usize::from(qmax) * usize::from(STEPS);
        if edge <= last {
            for (further, entry) in totals.further.iter_mut().zip(table.0[edge]) {
                further.0 += entry >> SUM_BITS;
                further.1 += entry & SUM;
            }
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
    use tessera_runtime::quantize::{self, quantize_row_within};

    use super::*;
    use crate::clip::tests::{Distribution, sample};

    /// What the quantizer itself errs by.
    fn error(row: &[f32], clip: f32, range: (i8, i8)) -> f64 {
        let scale = scale_of(clip.abs(), range.1).copysign(clip);
        quantize_row_within(row, scale, range, &mut vec![0; row.len()])
    }

    /// Least error over every candidate.
    fn exhaustive(row: &[f32], amax: f32, range: (i8, i8)) -> f64 {
        let least = if range.1 <= 7 { LEAST_BY_HISTOGRAM } else { LEAST_DIRECT };
        (least..=STEPS)
            .flat_map(|m| [candidate(amax, m), -candidate(amax, m)])
            .map(|clip| error(row, clip, range))
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
                    for range in [(-1, 1), (-3, 3), (-7, 7), (-127, 127), (-2, 1), (-8, 7)] {
                        let clip = clip(&row, amax, range, &mut scratch);
                        let found = error(&row, clip, range);
                        let least = exhaustive(&row, amax, range);
                        let slack = if range.1 <= 7 { 1e-5 } else { 1e-3 };
                        assert!(
                            found <= least * (1.0 + slack),
                            "{distribution:?}, K {k}, seed {seed}, {range:?}: {found} above {least}"
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
        let before = clip(&row, amax, (-7, 7), &mut scratch);
        row.reverse();
        row.rotate_left(1000);
        assert_eq!(clip(&row, amax, (-7, 7), &mut scratch), before);
    }

    #[test]
    fn long_rows_need_several_tables() {
        // Twice the same 2^20 elements and a few more: the least error stays where it was.
        let mut scratch = Scratch::default();
        let part = sample(Distribution::Gaussian, TABLE_ELEMENTS, 3);
        let amax = quantize::amax(&part);
        let expected = clip(&part, amax, (-7, 7), &mut scratch);
        let mut row = part.clone();
        row.extend(&part);
        assert_eq!(clip(&row, amax, (-7, 7), &mut scratch), expected);
    }

    #[test]
    fn equal_errors_keep_the_larger_clip() {
        let mut scratch = Scratch::default();
        // Every multiple of 1/7 in ±1 is exact at the full clip, and only there.
        let row: Vec<f32> = (-7i8..=7).map(f32::from).collect();
        assert_eq!(clip(&row, 7.0, (-7, 7), &mut scratch), 7.0);
        // One magnitude alone: the full clip has error 0.
        assert_eq!(clip(&[0.0, -3.0, 3.0], 3.0, (-7, 7), &mut scratch), 3.0);
        assert_eq!(clip(&[0.0, -3.0, 3.0], 3.0, (-127, 127), &mut scratch), 3.0);
    }

    #[test]
    fn longer_side_gets_the_further_level() {
        let mut scratch = Scratch::default();
        // Eight levels below zero and seven above are exact at seven eighths of amax.
        let row: Vec<f32> = (-8i8..=7).map(f32::from).collect();
        assert_eq!(clip(&row, 8.0, (-8, 7), &mut scratch), 7.0);
        let mirrored: Vec<f32> = row.iter().map(|w| -w).collect();
        assert_eq!(clip(&mirrored, 8.0, (-8, 7), &mut scratch), -7.0);
        assert!(clip(&mirrored, 8.0, (-7, 7), &mut scratch) > 0.0);
        // Neither side is longer.
        assert_eq!(clip(&[0.0, -3.0, 3.0], 3.0, (-8, 7), &mut scratch), 3.0);
    }

    /// At its best scale, by integration, a grid of −7 … 7 errs by 1.289 % of a Gaussian's energy, and one of
    /// −8 … 7 by 1.186 %.
    #[test]
    fn sixteenth_level_is_worth_what_theory_says() {
        let mut scratch = Scratch::default();
        let row = sample(Distribution::Gaussian, 1 << 18, 5);
        let (amax, energy) = (quantize::amax(&row), quantize::squared_norm(&row));
        let mut share = |range| error(&row, clip(&row, amax, range, &mut scratch), range) / energy;
        let (fifteen, sixteen) = (share((-7, 7)), share((-8, 7)));
        assert!((0.0127..0.0130).contains(&fifteen), "{fifteen}");
        assert!((0.0117..0.0120).contains(&sixteen), "{sixteen}");
    }
}
