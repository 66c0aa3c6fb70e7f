//! Properties of GPTQ, and the data that other tests draw.

use proptest::prelude::*;
use tessera_runtime::quantize;
use tessera_runtime::rotation::Rotation;

use super::kernels::Isa;
use super::*;
use crate::hessian::{HessianBlock, RotatedHessian, of_rows};

/// `m` rows of `k` correlated elements of unequal energies, the same for the same seed.
pub(crate) fn correlated(m: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut state = seed ^ 0x5851_f42d_4c95_7f2d;
    // SplitMix64; sums of four uniform numbers.
    let mut noise = move || {
        (0..4)
            .map(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .sum::<f32>()
    };
    let mut rows = Vec::with_capacity(m * k);
    let mixing: Vec<f32> = (0..6 * k).map(|_| noise()).collect();
    for _ in 0..m {
        let shared: [f32; 6] = std::array::from_fn(|_| 2.0 * noise());
        for i in 0..k {
            let common: f32 = shared.iter().zip(&mixing[6 * i..]).map(|(a, b)| a * b).sum();
            rows.push((common + 0.3 * noise()) * (1.0 + (i % 5) as f32));
        }
    }
    rows
}

pub(super) fn hessian(k: usize, block: usize, seed: u64) -> RotatedHessian {
    of_rows(&correlated(2 * k, k, seed), None, &Rotation::identity(k), block)
}

/// Scales of the largest magnitudes of rows, one segment.
pub(super) fn scales(weights: &[f32], k: usize, qmax: i8) -> Vec<f32> {
    weights.chunks(k).map(|row| quantize::scale_of(quantize::amax(row), qmax)).collect()
}

fn quantized(
    weights: &[f32],
    scales: &[f32],
    range: (i8, i8),
    factor: &Factor,
) -> (Vec<i8>, Vec<RowOutcome>) {
    let mut integers = vec![0; weights.len()];
    let rows =
        Rows { values: weights, scales, segments: &[Range { start: 0, end: factor.k() }], range };
    let outcomes = rows.quantize(factor, &mut integers);
    (integers, outcomes)
}

fn rounded(weights: &[f32], scales: &[f32], k: usize, range: (i8, i8)) -> Vec<i8> {
    let mut integers = vec![0; weights.len()];
    for ((row, out), scale) in weights.chunks(k).zip(integers.chunks_mut(k)).zip(scales) {
        quantize::quantize_row_within(row, *scale, range, out);
    }
    integers
}

fn errors(weights: &[f32], integers: &[i8], scales: &[f32], k: usize) -> Vec<f32> {
    let integers = integers.iter().map(|&q| f32::from(q));
    weights.iter().zip(integers).enumerate().map(|(i, (w, q))| w - q * scales[i / k]).collect()
}

/// Of a damped Hessian, one product after another.
fn form(hessian: &RotatedHessian, damping: f64, e: &[f32]) -> f64 {
    let mut sum = 0.0;
    for block in &hessian.blocks {
        let e = &e[block.columns.clone()];
        let mean = block.diagonal().sum::<f64>() / e.len() as f64;
        for (i, values) in block.values.chunks(e.len()).enumerate() {
            for (j, value) in values.iter().enumerate() {
                let added = if i == j { damping * mean } else { 0.0 };
                sum += (value + added) * f64::from(e[i]) * f64::from(e[j]);
            }
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn losses_are_those_of_the_hessian_and_never_above_roundings(
        m in 1usize..80,
        k in 1usize..150,
        block in 8usize..200,
        range in prop::sample::select(vec![(-1i8, 1i8), (-7, 7), (-8, 7), (-127, 127)]),
        act_order: bool,
        damping in prop::sample::select(vec![0.01, 0.1]),
        seed: u64,
    ) {
        let hessian = hessian(k, block, seed);
        let factor = Factor::new(&hessian, &Options { damping, act_order }).unwrap();
        prop_assert_eq!(factor.k(), k);
        prop_assert!(factor.damping().all(|found| found == damping));
        let weights = correlated(m, k, seed ^ 1);
        // Some saturate, and every other scale is negative.
        let scales: Vec<f32> = scales(&weights, k, range.1)
            .iter()
            .zip([0.8, -0.8].iter().cycle())
            .map(|(scale, factor)| scale * factor)
            .collect();
        let (integers, outcomes) = quantized(&weights, &scales, range, &factor);
        let nearest = rounded(&weights, &scales, k, range);
        let found = errors(&weights, &integers, &scales, k);
        let rounding = errors(&weights, &nearest, &scales, k);
        let near = |a: f64, b: f64| (a - b).abs() <= 2e-4 * b;
        for (row, outcome) in outcomes.iter().enumerate() {
            let range = row * k..(row + 1) * k;
            let kept = if outcome.kept_rounding {
                prop_assert!(outcome.loss >= outcome.rounding_loss);
                prop_assert_eq!(&integers[range.clone()], &nearest[range.clone()]);
                outcome.rounding_loss
            } else {
                prop_assert!(outcome.loss < outcome.rounding_loss);
                outcome.loss
            };
            prop_assert!(near(kept, form(&hessian, damping, &found[range.clone()])));
            let expected = form(&hessian, damping, &rounding[range.clone()]);
            prop_assert!(near(outcome.rounding_loss, expected));
            prop_assert!((outcome.output_error - form(&hessian, 0.0, &found[range])).abs() <= 2e-4 * kept);
        }
        let all = [Range { start: 0, end: k }];
        let rows = Rows { values: &weights, scales: &scales, segments: &all, range };
        for (loss, outcome) in rows.losses(&factor, &integers).iter().zip(&outcomes) {
            prop_assert_eq!(loss.output_error.to_bits(), outcome.output_error.to_bits());
        }
    }

    #[test]
    fn uncorrelated_inputs_are_rounded(m in 1usize..70, k in 1usize..100, seed: u64, act_order: bool) {
        let values = (0..k * k).map(|at| if at % (k + 1) == 0 { 1.0 + (at % 7) as f64 } else { 0.0 });
        let block = HessianBlock { columns: 0..k, values: values.collect() };
        let options = Options { damping: 0.0, act_order };
        let factor = Factor::new(&RotatedHessian { blocks: vec![block] }, &options).unwrap();
        let weights = correlated(m, k, seed);
        for range in [(-7, 7), (-8, 7), (-127, 127)] {
            let scales: Vec<f32> =
                scales(&weights, k, range.1).iter().map(|s| s * -0.7).collect();
            let (integers, outcomes) = quantized(&weights, &scales, range, &factor);
            prop_assert_eq!(integers, rounded(&weights, &scales, k, range));
            prop_assert!(outcomes.iter().all(|o| o.kept_rounding && o.loss == o.rounding_loss));
        }
    }

    /// With the order given by the energies, the order in which columns stand is none of GPTQ's business.
    #[test]
    fn the_order_of_quantization_is_undone(seed: u64, shift in 1usize..60) {
        let (m, k) = (9, 60);
        let data = correlated(3 * k, k, seed);
        let weights = correlated(m, k, seed ^ 2);
        let permuted = |rows: &[f32]| -> Vec<f32> {
            rows.chunks(k).flat_map(|row| (0..k).map(|i| row[(i * 7 + shift) % k])).collect()
        };
        let of = |data: &[f32], weights: &[f32]| {
            let hessian = of_rows(data, None, &Rotation::identity(k), k);
            let options = Options { damping: 0.05, act_order: true };
            let factor = Factor::new(&hessian, &options).unwrap();
            quantized(weights, &scales(weights, k, 7), (-7, 7), &factor).0
        };
        let expected: Vec<i8> = {
            let straight = of(&data, &weights);
            straight.chunks(k).flat_map(|row| (0..k).map(|i| row[(i * 7 + shift) % k])).collect()
        };
        prop_assert_eq!(of(&permuted(&data), &permuted(&weights)), expected);
    }
}

/// Sizes around those of blocks, steps, tiles and panels; other rows, threads and instruction sets.
#[test]
fn results_do_not_depend_on_the_machine() {
    for (m, k) in [(1, 1), (3, 64), (64, 65), (65, 128), (130, 129), (70, 331)] {
        let hessian = hessian(k, 256, 5);
        let factor = Factor::new(&hessian, &Options::default()).unwrap();
        let weights = correlated(m, k, 6);
        let scales: Vec<f32> =
            scales(&weights, k, 7).iter().flat_map(|&s| [0.8 * s, 0.7 * s, 0.9 * s]).collect();
        let segments = [0..k / 3, k / 3..k / 2, k / 2..k + 31];
        let rows = Rows { values: &weights, scales: &scales, segments: &segments, range: (-7, 7) };
        let run = |isa: Isa| {
            let mut integers = vec![0; weights.len()];
            let outcomes = rows.quantize_on(isa, &factor, &[], &mut integers);
            (integers, outcomes)
        };
        let expected = run(Isa::Baseline);
        assert_eq!(run(Isa::detect()), expected);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let again = pool.install(|| Factor::new(&hessian, &Options::default()).unwrap());
        let mut integers = vec![0; weights.len()];
        assert_eq!(pool.install(|| rows.quantize(&again, &mut integers)), expected.1);
        assert_eq!(integers, expected.0);
        // Each row by itself.
        for row in 0..m {
            let rows = Rows {
                values: &weights[row * k..][..k],
                scales: &scales[row * 3..][..3],
                segments: &segments,
                range: (-7, 7),
            };
            let mut integers = vec![0; k];
            assert_eq!(rows.quantize(&factor, &mut integers), expected.1[row..=row]);
            assert_eq!(integers, expected.0[row * k..][..k]);
        }
    }
}

/// A hash that x86-64 and aarch64 both give. It changes with the algorithm, and then packs do.
#[test]
fn integers_have_the_same_bits_everywhere() {
    let (m, k) = (40, 200);
    let hessian = hessian(k, 120, 9);
    let factor = Factor::new(&hessian, &Options::default()).unwrap();
    let weights = correlated(m, k, 10);
    let scales = scales(&weights, k, 7);
    let (mut integers, outcomes) = quantized(&weights, &scales, (-7, 7), &factor);
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |bits: u64| hash = (hash ^ bits).wrapping_mul(0x0000_0100_0000_01b3);
    integers.iter().for_each(|&q| take(u64::from(q.cast_unsigned())));
    for outcome in outcomes {
        for loss in [outcome.loss, outcome.rounding_loss, outcome.output_error] {
            take(loss.to_bits());
        }
    }
    let segments = [Range { start: 0, end: k }];
    let rows = Rows { values: &weights, scales: &scales, segments: &segments, range: (-7, 7) };
    for loss in rows.descend(&Descent::new(&hessian, &factor), 10, &mut integers) {
        take(loss.damped.to_bits());
    }
    integers.iter().for_each(|&q| take(u64::from(q.cast_unsigned())));
    assert_eq!(hash, 0x7be9_c344_6471_f876, "{hash:#x}");
}

#[test]
fn dead_columns_are_rounded_and_cost_nothing() {
    let (m, k) = (5, 40);
    let mut data = correlated(100, k, 1);
    for row in data.chunks_mut(k) {
        (row[3], row[39]) = (0.0, 0.0);
    }
    let hessian = of_rows(&data, None, &Rotation::identity(k), k);
    let weights = correlated(m, k, 2);
    let scales = scales(&weights, k, 7);
    let nearest = rounded(&weights, &scales, k, (-7, 7));
    for act_order in [false, true] {
        let factor = Factor::new(&hessian, &Options { damping: 0.01, act_order }).unwrap();
        let (integers, outcomes) = quantized(&weights, &scales, (-7, 7), &factor);
        let found = errors(&weights, &integers, &scales, k);
        for row in 0..m {
            for column in [3, 39] {
                assert_eq!(integers[row * k + column], nearest[row * k + column]);
            }
            let expected = form(&hessian, 0.0, &found[row * k..][..k]);
            assert!((outcomes[row].output_error - expected).abs() < 1e-4 * expected);
        }
        // Only dead ones.
        let blocks = vec![HessianBlock { columns: 0..k, values: vec![0.0; k * k] }];
        let factor = Factor::new(&RotatedHessian { blocks }, &Options::default()).unwrap();
        let (integers, outcomes) = quantized(&weights, &scales, (-7, 7), &factor);
        assert_eq!(integers, nearest);
        assert!(outcomes.iter().all(|outcome| outcome.output_error == 0.0));
    }
}

#[test]
fn damping_grows_where_it_must() {
    // One row of data for 30 columns, with and without a taste of noise below zero.
    let row = correlated(1, 30, 4);
    let hessian = of_rows(&row, None, &Rotation::identity(30), 30);
    let damping = |hessian: &RotatedHessian, damping| {
        Factor::new(hessian, &Options { damping, act_order: false })
            .map(|factor| factor.damping().collect::<Vec<_>>())
    };
    assert_eq!(damping(&hessian, 0.01).unwrap(), [0.01]);
    assert!(damping(&hessian, 0.0).unwrap()[0] >= 1e-4);
    let mut worse = hessian.clone();
    let mean = hessian.diagonal().iter().sum::<f64>() / 30.0;
    for value in worse.blocks[0].values.iter_mut().step_by(31) {
        *value = (*value - 0.03 * mean).max(0.0);
    }
    assert_eq!(damping(&worse, 0.01).unwrap().len(), 1);
    assert!(damping(&worse, 0.01).unwrap()[0] > 0.05);
    let mut none = hessian.clone();
    (none.blocks[0].values[1], none.blocks[0].values[30]) = (1e30, 1e30);
    let error = damping(&none, 0.01).unwrap_err();
    assert!(error.to_string().starts_with("block 0 of the Hessian is not positive definite"));
}

#[test]
fn what_is_no_hessian_is_refused() {
    let new = |blocks: Vec<(Range<usize>, Vec<f64>)>| {
        let blocks =
            blocks.into_iter().map(|(columns, values)| HessianBlock { columns, values }).collect();
        Factor::new(&RotatedHessian { blocks }, &Options::default()).map(|factor| factor.k())
    };
    assert_eq!(new(vec![]), Ok(0));
    assert_eq!(new(vec![(0..0, vec![]), (0..1, vec![2.0])]), Ok(1));
    let shape = |block, columns, elements| Err(GptqError::Shape { block, columns, elements });
    assert_eq!(new(vec![(0..2, vec![1.0; 3])]), shape(0, 0..2, 3));
    assert_eq!(new(vec![(0..1, vec![1.0]), (2..3, vec![1.0])]), shape(1, 2..3, 1));
    for (at, value) in [(1, f64::NAN), (2, f64::INFINITY), (3, -1.0)] {
        let mut values = vec![1.0, 0.0, 0.0, 1.0];
        values[at] = value;
        let Err(GptqError::NotFinite { block: 0, row, column, value: found }) =
            new(vec![(0..2, values)])
        else {
            panic!("{value} is refused");
        };
        assert_eq!((row, column, found.to_bits()), (at / 2, at % 2, value.to_bits()));
    }
}

#[test]
fn extreme_rows_stay_in_range() {
    let k = 64;
    let factor = Factor::new(&hessian(k, k, 3), &Options::default()).unwrap();
    for scale in [0.0, f32::NAN, 1e-45, f32::MIN_POSITIVE, 1.0, f32::MAX, -1.0, f32::MIN] {
        for weight in [0.0, 1e-45, -1.0, f32::MAX] {
            for range in [(-1, 1), (-7, 7), (-8, 7), (-127, 127), (-128, 127), (0, 0)] {
                let (integers, outcomes) = quantized(&vec![weight; k], &[scale], range, &factor);
                assert!(integers.iter().all(|q| (range.0..=range.1).contains(q)));
                assert_eq!(outcomes.len(), 1);
            }
        }
    }
}

#[test]
fn the_best_of_several_scales_is_kept() {
    let (m, k) = (100, 90);
    let segments = [0..30, 30..90];
    let factor = Factor::new(&hessian(k, k, 11), &Options::default()).unwrap();
    let weights = correlated(m, k, 12);
    let base: Vec<f32> =
        scales(&weights, k, 7).iter().flat_map(|&scale| [scale, 0.9 * scale]).collect();
    let scaled = |ratio: f32| base.iter().map(|scale| scale * ratio).collect::<Vec<_>>();
    let ratios = [0.5, 0.7, 0.85, 1.0];
    let alternatives: Vec<Vec<f32>> = ratios.iter().map(|&ratio| scaled(ratio)).collect();
    let mut kept = vec![0; weights.len()];
    let alternatives_of: Vec<&[f32]> = alternatives.iter().map(Vec::as_slice).collect();
    let rows = Rows { values: &weights, scales: &base, segments: &segments, range: (-7, 7) };
    let outcomes = rows.quantize_among(&alternatives_of, &factor, &mut kept);
    let single = |scales: &[f32]| {
        let mut integers = vec![0; weights.len()];
        let rows = Rows { values: &weights, scales, segments: &segments, range: (-7, 7) };
        let outcomes = rows.quantize(&factor, &mut integers);
        (integers, outcomes)
    };
    let each: Vec<_> =
        std::iter::once(&base).chain(&alternatives).map(|scales| single(scales)).collect();
    let mut chosen = [0; 5];
    for (row, outcome) in outcomes.iter().enumerate() {
        let least = each.iter().map(|(_, o)| o[row].loss).fold(f64::INFINITY, f64::min);
        assert_eq!(outcome.loss, least);
        assert_eq!(outcome.rounding_loss, each[0].1[row].rounding_loss);
        let (integers, of) = &each[outcome.scales];
        if !outcome.kept_rounding {
            assert_eq!(of[row].loss, least);
            assert_eq!(of[row].output_error, outcome.output_error);
        }
        let columns = row * k..(row + 1) * k;
        assert_eq!(kept[columns.clone()], integers[columns]);
        chosen[outcome.scales] += 1;
    }
    assert!(chosen[0] > 10 && chosen[3] > 10, "{chosen:?}");
    // That is the first again.
    assert_eq!(chosen[4], 0);
}

/// What GPTQ is for.
#[test]
fn correlated_inputs_gain() {
    let (m, k) = (64, 256);
    let hessian = hessian(k, k, 8);
    let factor = Factor::new(&hessian, &Options::default()).unwrap();
    let weights = correlated(m, k, 7);
    let (mut integers, outcomes) = quantized(&weights, &scales(&weights, k, 7), (-7, 7), &factor);
    let sum = |of: fn(&RowOutcome) -> f64| outcomes.iter().map(of).sum::<f64>();
    let (found, rounding) = (sum(|o| o.loss), sum(|o| o.rounding_loss));
    assert!(found < 0.5 * rounding, "{found} of {rounding}");
    // And what descent adds.
    let rows = Rows {
        values: &weights,
        scales: &scales(&weights, k, 7),
        segments: &[Range { start: 0, end: k }],
        range: (-7, 7),
    };
    let losses = rows.descend(&Descent::new(&hessian, &factor), 10, &mut integers);
    let descended = losses.iter().map(|loss| loss.damped).sum::<f64>();
    assert!(descended < 0.995 * found, "{descended} of {found}");
}
