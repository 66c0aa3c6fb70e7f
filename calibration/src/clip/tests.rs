//! Tests of the calibrators, and the rows that other tests draw.

use serde_json::Value;
use tessera_runtime::quantize::{quantization_error, squared_norm};

use super::*;

/// What rows are drawn from, with unit variance or so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Distribution {
    Gaussian,
    Laplace,
    StudentT5,
    Uniform,
    /// Gaussian with one element of 40 σ.
    OneOutlier,
    /// Gaussian with one element in 10 000 multiplied by 6, and at least one.
    Outliers,
}

impl Distribution {
    pub(crate) const ALL: [Distribution; 6] = [
        Distribution::Gaussian,
        Distribution::Laplace,
        Distribution::StudentT5,
        Distribution::Uniform,
        Distribution::OneOutlier,
        Distribution::Outliers,
    ];
}

/// `k` elements, the same for the same seed.
pub(crate) fn sample(distribution: Distribution, k: usize, seed: u64) -> Vec<f32> {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap() | 1) / 4_294_967_296.0
    };
    let mut gaussian = {
        let mut uniform = uniform;
        move || {
            let radius = (-2.0 * libm::log(uniform())).sqrt();
            radius * libm::cos(std::f64::consts::TAU * uniform())
        }
    };
    let mut row: Vec<f64> = (0..k)
        .map(|_| match distribution {
            Distribution::Laplace => {
                let sign = if uniform() < 0.5 { -1.0 } else { 1.0 };
                -sign * libm::log(uniform())
            }
            Distribution::Uniform => 2.0 * uniform() - 1.0,
            Distribution::StudentT5 => {
                let chi: f64 = (0..5).map(|_| gaussian().powi(2)).sum();
                gaussian() / (chi / 5.0).sqrt()
            }
            _ => gaussian(),
        })
        .collect();
    match distribution {
        Distribution::OneOutlier => row[k / 3] = 40.0,
        Distribution::Outliers => {
            row.iter_mut().skip(k / 2).step_by(10_000).for_each(|w| *w *= 6.0)
        }
        _ => {}
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding is wanted")]
    row.iter().map(|&w| w as f32).collect()
}

#[test]
fn calibrators_are_written_and_read() {
    for (text, calibrator, canonical) in [
        ("amax", Calibrator::Amax, "amax"),
        ("mse", Calibrator::Mse, "mse"),
        ("kl", Calibrator::Kl, "kl"),
        ("percentile", Calibrator::Percentile(99.9), "percentile:99.9"),
        ("percentile:99.99", Calibrator::Percentile(99.99), "percentile:99.99"),
        ("percentile:100", Calibrator::Percentile(100.0), "percentile:100"),
    ] {
        assert_eq!(text.parse(), Ok(calibrator));
        assert_eq!(calibrator.to_string(), canonical);
        let json = serde_json::to_string(&calibrator).unwrap();
        assert_eq!(json, format!("\"{canonical}\""));
        assert_eq!(serde_json::from_str::<Calibrator>(&json).unwrap(), calibrator);
    }
    for (text, message) in [
        ("max", "no calibrator is named `max`: expected amax, percentile, mse or kl"),
        ("", "no calibrator is named ``: expected amax, percentile, mse or kl"),
        ("percentile:0", "percentile `0` is not a number above 0 and at most 100"),
        ("percentile:nan", "percentile `nan` is not a number above 0 and at most 100"),
        ("percentile:100.1", "percentile `100.1` is not a number above 0 and at most 100"),
        ("percentile:", "percentile `` is not a number above 0 and at most 100"),
    ] {
        assert_eq!(text.parse::<Calibrator>().unwrap_err().to_string(), message);
    }
}

#[test]
fn percentiles_are_order_statistics() {
    let mut scratch = Scratch::default();
    // Magnitudes 1 to 1000, signs and order mixed.
    let row: Vec<f32> = (0..1000u16)
        .map(|i| (f32::from(i * 7 % 1000) + 1.0) * if i % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    for (percentile, magnitude) in
        [(99.9, 1000.0), (99.85, 999.0), (50.0, 501.0), (100.0, 1000.0), (0.01, 1.0)]
    {
        let scale = channel_scale(&row, (-7, 7), Calibrator::Percentile(percentile), &mut scratch);
        assert_eq!(scale, magnitude / 7.0, "{percentile}");
    }
    let sparse = [0.0, 0.0, 0.0, 5.0];
    assert_eq!(
        channel_scale(&sparse, (-7, 7), Calibrator::Percentile(50.0), &mut scratch),
        5.0 / 7.0
    );
}

#[test]
fn rows_that_are_empty_zero_tiny_or_huge() {
    let mut scratch = Scratch::default();
    for calibrator in
        [Calibrator::Amax, Calibrator::Percentile(99.9), Calibrator::Mse, Calibrator::Kl]
    {
        for qmax in [1, 7, 127] {
            for row in [&[][..], &[0.0, -0.0]] {
                assert_eq!(channel_scale(row, (-qmax, qmax), calibrator, &mut scratch), 1.0);
            }
            for w in [1e-45, 1e-38, 1e-31, 1e-29, 1.0, 1e18, f32::MAX] {
                let row = [w, -w, 0.0, w / 3.0];
                let scale = channel_scale(&row, (-qmax, qmax), calibrator, &mut scratch);
                assert!(
                    (1.0 / scale).is_finite()
                        && scale <= (w / f32::from(qmax)).max(f32::MIN_POSITIVE)
                );
            }
        }
    }
}

#[test]
fn least_squares_of_a_gaussian_row() {
    // The optimum for 15 levels and K = 4096 lies at 2.4 to 2.6 σ with an error near 0.0128 σ² (a row's own varies).
    let mut scratch = Scratch::default();
    let row = sample(Distribution::Gaussian, 4096, 1);
    let scale = channel_scale(&row, (-7, 7), Calibrator::Mse, &mut scratch);
    let error = quantization_error(&row, scale, 7) / squared_norm(&row);
    assert!((2.3..2.7).contains(&(scale * 7.0)), "{}", scale * 7.0);
    assert!((0.0110..0.0140).contains(&error), "{error}");
}

/// Scales and errors have the same bits on every machine: a hash of them that x86-64 and aarch64 both
/// give. It changes with the searches, and then packs do.
#[test]
fn scales_have_the_same_bits_everywhere() {
    let mut scratch = Scratch::default();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |bits: u64| hash = (hash ^ bits).wrapping_mul(0x0000_0100_0000_01b3);
    for distribution in Distribution::ALL {
        let row = sample(distribution, 2816, 4);
        let mut statistics = TensorStatistics::new();
        statistics.add(&row);
        for calibrator in
            [Calibrator::Amax, Calibrator::Percentile(99.0), Calibrator::Mse, Calibrator::Kl]
        {
            for qmax in [7, 127] {
                let scale = channel_scale(&row, (-qmax, qmax), calibrator, &mut scratch);
                take(u64::from(scale.to_bits()));
                take(u64::from(statistics.scale(qmax, calibrator).to_bits()));
                take(quantization_error(&row, scale, qmax).to_bits());
            }
        }
    }
    assert_eq!(hash, 0x2e7a_2572_21d3_28d1, "{hash:#x}");
}

/// On a tensor with rare outliers the divergence has a minimum within the range, and clips better
/// than amax does at both widths.
#[test]
fn divergence_clips_outliers() {
    let elements = sample(Distribution::Outliers, 200_000, 2);
    let mut statistics = TensorStatistics::new();
    statistics.add(&elements);
    let (counts, width) = statistics.histogram();
    for (qmax, clips) in [(127, 3.8..12.0), (7, 3.0..4.0)] {
        let choice = histogram_kl::choose(counts, qmax);
        let full = histogram_kl::divergence(counts, qmax, counts.len());
        assert!(choice.divergence < 0.8 * full, "{qmax}: {choice:?} against {full}");
        let clip = edge_of(choice.bins) * width;
        assert!(clips.contains(&clip), "{qmax}: {clip}");
        let [kl, largest] = [Calibrator::Kl, Calibrator::Amax].map(|calibrator| {
            quantization_error(&elements, statistics.scale(qmax, calibrator), qmax)
        });
        assert!(kl < 0.9 * largest, "{qmax}: {kl} against {largest}");
    }
}

fn edge_of(bins: usize) -> f32 {
    f32::from(u16::try_from(bins).unwrap())
}

/// Rows agree with the rule on their histogram.
#[test]
fn divergence_of_rows() {
    let mut scratch = Scratch::default();
    for (seed, distribution) in Distribution::ALL.into_iter().enumerate() {
        for k in [64, 1152, 4096] {
            let row = sample(distribution, k, seed as u64);
            let amax = amax(&row);
            let mut counts = vec![0u64; histogram_kl::BINS];
            for w in &row {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test")]
                let bin = (w.abs() * (2048.0 / amax)) as usize;
                counts[bin.min(2047)] += 1;
            }
            for qmax in [7, 127] {
                let bins = histogram_kl::choose(&counts, qmax).bins;
                let scale = channel_scale(&row, (-qmax, qmax), Calibrator::Kl, &mut scratch);
                assert_eq!(scale, scale_of(amax * (edge_of(bins) / 2048.0), qmax));
            }
        }
    }
}

/// The published algorithm, written in numpy step by step (`golden/kl_golden.py`), gives the same
/// divergences and the same clips.
#[test]
fn divergences_are_those_of_the_published_rule() {
    let golden: Value =
        serde_json::from_str(include_str!("../../tests/golden/kl_golden.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let counts: Vec<u64> = serde_json::from_value(case["counts"].clone()).unwrap();
        let qmax: i8 = serde_json::from_value(case["qmax"].clone()).unwrap();
        let name = format!("{} at {qmax}", case["name"]);
        let choice = histogram_kl::choose(&counts, qmax);
        assert_eq!(Some(choice.bins as u64), case["bins"].as_u64(), "{name}");
        for (bins, expected) in
            serde_json::from_value::<Vec<(usize, Option<f64>)>>(case["divergences"].clone())
                .unwrap()
        {
            let found = histogram_kl::divergence(&counts, qmax, bins);
            match expected {
                Some(expected) => {
                    assert!(
                        (found - expected).abs() < 1e-11,
                        "{name}, {bins}: {found}, {expected}"
                    );
                }
                None => assert_eq!(found, f64::INFINITY, "{name}, {bins}"),
            }
        }
    }
}
