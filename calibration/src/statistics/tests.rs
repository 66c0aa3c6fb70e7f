//! Accumulated statistics against direct computation.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use proptest::prelude::*;
use tessera_runtime::rotation::{Rotation, signs};

use super::spread::RowFigures;
use super::*;

/// Rows with channels of different size, a few massive rows, and a mean that is not zero.
pub(super) fn rows(m: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..m * k)
        .map(|index| {
            let (row, channel) = (index / k, index % k);
            let massive = if row % 97 == 5 { 300.0 } else { 1.0 };
            let lonely = if row % 89 == 7 && channel == 1 { 50.0 } else { 1.0 };
            (next() * (1.0 + channel as f32 / 8.0) + 0.1) * massive * lonely
        })
        .collect()
}

pub(super) fn options() -> ObservationOptions {
    ObservationOptions { rows: 16, expected_tokens: 1500, seed: 3, ..ObservationOptions::default() }
}

pub(super) fn of_rows(name: &str, rows: &[f32], k: usize) -> InputStatistics {
    let mut accumulator = Accumulator::new(vec![name.to_owned()], k, None, &options()).unwrap();
    accumulator.add(None, rows).unwrap();
    accumulator.finish()
}

/// Statistics of an input of experts, rows in stretches that alternate between experts.
pub(super) fn of_experts(name: &str, rows: &[f32], k: usize, experts: usize) -> InputStatistics {
    let mut accumulator =
        Accumulator::new(vec![name.to_owned()], k, Some(experts), &options()).unwrap();
    for (stretch, rows) in rows.chunks(37 * k).enumerate() {
        accumulator.add(Some(stretch * stretch % experts), rows).unwrap();
    }
    accumulator.finish()
}

/// |a - b| is at most `tolerance` of `size`.
pub(super) fn near(a: f64, b: f64, size: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * size.abs().max(1e-30)
}

/// Rows of weight less than 1.
fn massive(rows: &[f32], k: usize, medians: &Medians) -> u64 {
    rows.chunks(k).filter(|row| medians.weight(&RowFigures::of(row)) < 1.0).count() as u64
}

/// All sums, computed directly in f64 from the definitions.
fn check_directly(found: &InputStatistics, rows: &[f32], k: usize, medians: &Medians) {
    let m = rows.len() / k;
    let weights: Vec<f64> =
        rows.chunks(k).map(|row| medians.weight(&RowFigures::of(row))).collect();
    let moment = |f: &dyn Fn(usize, usize) -> f64, channel| -> f64 {
        (0..m).map(|row| f(row, channel)).sum()
    };
    let x = |row: usize, channel: usize| f64::from(rows[row * k + channel]);
    for channel in 0..k {
        let squares = moment(&|r, c| x(r, c) * x(r, c), channel);
        let robust = moment(&|r, c| weights[r] * x(r, c) * x(r, c), channel);
        assert!(near(found.sum[channel], moment(&x, channel), squares.sqrt() * m as f64, 1e-13));
        assert!(near(found.squares[channel], squares, squares, 1e-12));
        assert!(near(found.robust_squares[channel], robust, robust, 1e-12));
    }
    assert_eq!(found.tokens, m as u64);
    assert!(near(found.robust_weight, weights.iter().sum(), m as f64, 1e-12));
    assert_eq!(found.massive, massive(rows, k, medians));
    let hessian = found.hessian.as_ref().unwrap();
    let diagonal: Vec<f64> = (0..k).map(|c| f64::from(hessian[c * k + c])).collect();
    for a in 0..k {
        for b in 0..k {
            let direct = moment(&|r, _| weights[r] * x(r, a) * x(r, b), 0);
            let size = (diagonal[a] * diagonal[b]).sqrt();
            let value = hessian[a * k + b];
            assert!(near(f64::from(value), direct, size, 1e-5), "{a} {b}: {value} {direct}");
            assert_eq!(value, hessian[b * k + a]);
        }
    }
}

fn check_histograms(found: &InputStatistics, rows: &[f32], k: usize) {
    let mut magnitudes = TensorStatistics::new();
    magnitudes.add(rows);
    assert_eq!(found.magnitudes, magnitudes);
    let rotation = Rotation::hadamard(k).unwrap();
    let signs = signs(options().seed, found.name(), k);
    let mut scratch = vec![0.0; rotation.scratch_len()];
    let mut rotated = rows.to_vec();
    for row in rotated.chunks_mut(k) {
        rotation.apply_scaled(row, &signs, &mut scratch);
    }
    let mut histogram = TensorStatistics::new();
    histogram.add(&rotated);
    assert_eq!(found.rotated, histogram);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Sums are those of the definitions, and do not depend on the calls, to the bit.
    #[test]
    fn sums_are_direct_and_do_not_depend_on_calls(
        (m, k) in (1usize..2500, prop::sample::select(vec![1usize, 3, 12, 20, 33])),
        cuts in prop::collection::vec(0.0f64..1.0, 0..6),
        seed in 0u64..1000,
    ) {
        let rows = rows(m, k, seed);
        let whole = of_rows("a", &rows, k);
        let figures: Vec<RowFigures> =
            rows.chunks(k).take(1024).map(RowFigures::of).collect();
        prop_assert_eq!(whole.medians, Medians::of(&figures));
        check_directly(&whole, &rows, k, &whole.medians);
        check_histograms(&whole, &rows, k);
        prop_assert_eq!(whole.rms.count, m as u64);

        let mut parts = Accumulator::new(vec!["a".to_owned()], k, None, &options()).unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * m as f64) as usize).collect();
        cuts.sort_unstable();
        let mut start = 0;
        for end in cuts.into_iter().chain([m]) {
            parts.add(None, &rows[start * k..end * k]).unwrap();
            start = end;
        }
        prop_assert_eq!(parts.finish(), whole);
    }

    /// Experts' sums add up to the input's, and are those of their rows.
    #[test]
    fn experts_are_observed_apart(m in 1usize..9000, experts in 1usize..5, seed in 0u64..1000) {
        let k = 6;
        let rows = rows(m, k, seed);
        let found = of_experts("e", &rows, k, experts);
        check_directly(&found, &rows, k, &found.medians);
        check_histograms(&found, &rows, k);
        prop_assert_eq!(found.experts.len(), experts);
        for (expert, statistics) in found.experts.iter().enumerate() {
            let own: Vec<f32> = rows
                .chunks(37 * k)
                .enumerate()
                .filter(|(stretch, _)| stretch * stretch % experts == expert)
                .flat_map(|(_, rows)| rows.iter().copied())
                .collect();
            let alone = InputStatistics {
                tokens: statistics.tokens,
                sum: statistics.sum.clone(),
                squares: statistics.squares.clone(),
                hessian: statistics.hessian.clone(),
                robust_weight: statistics.hessian_weight,
                massive: massive(&own, k, &found.medians),
                robust_squares: (0..k)
                    .map(|channel| {
                        own.chunks(k)
                            .map(|row| {
                                let x = f64::from(row[channel]);
                                found.medians.weight(&RowFigures::of(row)) * x * x
                            })
                            .sum()
                    })
                    .collect(),
                ..InputStatistics::default()
            };
            check_directly(&alone, &own, k, &found.medians);
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (k, m) = (300, 1600);
    let rows = rows(m, k, 5);
    let whole = of_rows("a", &rows, k);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(|| of_rows("a", &rows, k)), whole);
    assert_eq!(whole.sampled(), 16);
}

#[test]
fn hessians_are_kept_where_they_are_wanted() {
    let experts = |options: &ObservationOptions| {
        let mut accumulator = Accumulator::new(vec!["a".to_owned()], 4, Some(2), options).unwrap();
        accumulator.add(Some(1), &rows(40, 4, 1)).unwrap();
        let found = accumulator.finish();
        (found.hessian.is_some(), found.experts[0].hessian.is_some(), found.sampled())
    };
    let options = ObservationOptions { rows: 3, rows_large: 5, ..ObservationOptions::default() };
    assert_eq!(experts(&options), (true, true, 3));
    let few = ObservationOptions { expert_hessian_bytes: 127, ..options.clone() };
    assert_eq!(experts(&few), (true, false, 3));
    let small = ObservationOptions { hessian_limit: 3, ..options.clone() };
    assert_eq!(experts(&small), (false, false, 5));
    let none = ObservationOptions { hessians: false, hessian_limit: 3, ..options };
    assert_eq!(experts(&none), (false, false, 3));
}

#[test]
fn rows_that_cannot_be_are_refused_by_name() {
    let new = |linears: &[&str], k, experts| {
        let linears = linears.iter().map(|&name| name.to_owned()).collect();
        Accumulator::new(linears, k, experts, &ObservationOptions::default())
    };
    for (linears, k, experts, message) in [
        (&[][..], 4, None, "the input of `` has no linear that reads it"),
        (&["a"], 0, None, "the input of `a` has no channels"),
        (&["a"], 4, Some(0), "the input of `a` has no experts"),
    ] {
        assert_eq!(new(linears, k, experts).err().unwrap().to_string(), message);
    }
    let mut plain = new(&["a", "b"], 4, None).unwrap();
    let mut of_experts = new(&["e"], 4, Some(2)).unwrap();
    plain.add(None, &[1.0; 4 * 1500]).unwrap();
    let mut broken = [1.0f32; 12];
    broken[6] = f32::NAN;
    for (error, message) in [
        (plain.add(None, &broken), "the input of `a` is NaN in channel 2 of row 1501"),
        (
            plain.add(None, &[1.0; 5]),
            "the input of `a` has 5 values, expected whole rows of 4 channels",
        ),
        (
            plain.add(Some(1), &[1.0; 4]),
            "the input of `a` has rows of expert 1, expected no experts",
        ),
        (
            of_experts.add(None, &[1.0; 4]),
            "the input of `e` has rows of no expert, expected one of 2 experts",
        ),
        (
            of_experts.add(Some(2), &[1.0; 4]),
            "the input of `e` has rows of expert 2, expected one of 2 experts",
        ),
    ] {
        assert_eq!(error.unwrap_err().to_string(), message);
    }
    assert_eq!(plain.finish().tokens, 1500);
    assert_eq!(of_experts.finish().tokens, 0);
}
