//! rk-llama.cpp's quantization against libstdc++ (`golden/rk_llama.cpp`) and against an
//! implementation in numpy (`golden/rk_llama_kl.py`).
#![expect(clippy::cast_possible_truncation, reason = "generators of the golden files cut bits")]

use proptest::prelude::*;
use serde_json::Value;
use tessera_calibration::rk_llama::{
    BlockScales, Blocks, ScalePass, Scales, Step, Transform, amax, channel_scale, name_hash,
    pack_scale, quantize_row, signs,
};

fn golden(text: &str) -> Value {
    serde_json::from_str(text).expect("golden file is JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().expect("array")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("string")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("whole number")
}

fn size(value: &Value) -> usize {
    number(value).try_into().expect("size")
}

fn float(value: &Value) -> f32 {
    f32::from_bits(number(value).try_into().expect("bits of an f32"))
}

fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> String {
    let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn splitmix64(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn signs_are_those_of_libstdcxx() {
    let golden = golden(include_str!("golden/rk_llama.json"));
    for case in list(&golden, "signs") {
        let name = text(case, "name");
        assert_eq!(format!("{:016x}", name_hash(name.as_bytes())), text(case, "hash"), "{name}");
        let drawn: String = signs(name, size(&case["count"]))
            .iter()
            .map(|&sign| if sign == 1.0 { '+' } else { '-' })
            .collect();
        assert!(drawn.starts_with(text(case, "first")), "{name}");
        assert_eq!(fnv1a(drawn.into_bytes()), text(case, "fnv1a"), "{name}");
    }
}

/// Bits drawn directly: see `draw_row` of `golden/rk_llama.cpp`.
fn draw_row(seed: u64, k: usize) -> Vec<f32> {
    (0..k as u64)
        .map(|i| {
            let z = splitmix64(seed, i);
            let exponent = 111 + (z >> 40 & 31) as u32;
            let bits = (z >> 32) as u32 & 0x8000_0000 | exponent << 23 | z as u32 & 0x7f_ffff;
            f32::from_bits(if i % 16 == 7 { bits & 0x8000_0000 } else { bits })
        })
        .collect()
}

#[test]
fn transformed_rows_are_those_of_cxx_to_the_bit() {
    let golden = golden(include_str!("golden/rk_llama.json"));
    for case in list(&golden, "rows") {
        let k = size(&case["k"]);
        let transform = Transform::hadamard(text(case, "name"), k).expect("fits");
        assert_eq!(transform.size(), size(&case["size"]), "K {k}");
        let mut row = draw_row(number(&case["seed"]), k);
        row.resize(transform.size(), f32::NAN); // what stands in the padding is overwritten
        transform.apply(&mut row);
        let bytes = row.iter().flat_map(|value| value.to_le_bytes());
        assert_eq!(fnv1a(bytes), text(case, "fnv1a"), "K {k}");
    }
}

/// See `draw` of `golden/rk_llama_kl.py`.
fn draw_block(table: &[Vec<f32>], seed: u64, count: u64) -> Vec<f32> {
    (0..count)
        .map(|i| {
            let z = splitmix64(seed, i);
            let u = ((z >> 8) as u32).max(1 << 4);
            let octave = u.leading_zeros();
            let mantissa = u << octave << 1;
            let points = &table[octave as usize];
            let point = (mantissa >> 28) as usize;
            let fraction = f64::from(mantissa & 0x0fff_ffff) / f64::from(1 << 28);
            let (a, b) = (f64::from(points[point]), f64::from(points[point + 1]));
            let magnitude = (a + (b - a) * fraction) as f32;
            if z >> 63 == 1 { -magnitude } else { magnitude }
        })
        .collect()
}

fn tables(golden: &Value, distribution: &str) -> Vec<Vec<f32>> {
    let rows = list(&golden["tables"], distribution).iter();
    rows.map(|row| row.as_array().expect("array").iter().map(float).collect()).collect()
}

/// The scale of a block whose elements come in `chunks`, the i-th seen by pass i mod `passes`.
fn entropy_scale(chunks: &[&[f32]], passes: usize) -> f32 {
    let mut first = ScalePass::entropy();
    loop {
        let mut forks: Vec<ScalePass> = (0..passes).map(|_| first.fork()).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            forks[i % passes].observe(chunk);
        }
        for fork in forks.iter().rev() {
            first.merge(fork).expect("forks of one pass");
        }
        first = match first.next().expect("finite block") {
            Step::Again(pass) => pass,
            Step::Done(scale) => return scale,
        };
    }
}

#[test]
fn clips_are_those_of_numpy() {
    let golden = golden(include_str!("golden/rk_llama_kl.json"));
    for case in list(&golden, "blocks") {
        let distribution = text(case, "distribution");
        let label = format!("{distribution}, seed {}", case["seed"]);
        let table = tables(&golden, distribution);
        let mut block = draw_block(&table, number(&case["seed"]), number(&case["count"]));
        for outlier in list(case, "outliers") {
            block[size(&outlier[0])] = float(&outlier[1]);
        }
        assert_eq!(amax(&block), float(&case["amax"]), "{label}");
        let scale = entropy_scale(&[&block], 1);
        assert_eq!(scale, float(&case["scale"]), "{label}");
    }
}

/// What makes the search degenerate: on a large block the first candidate wins, so that the clip
/// is the 99.5th percentile of |x|, 2.807σ for a Gaussian.
#[test]
fn large_blocks_are_clipped_at_their_percentile() {
    let golden = golden(include_str!("golden/rk_llama_kl.json"));
    let expected =
        [("gauss", 2.807), ("laplace", 3.746), ("student5", 4.773 / (5f64 / 3.0).sqrt())];
    for (case, (distribution, sigmas)) in list(&golden, "blocks").iter().zip(expected) {
        assert_eq!(text(case, "distribution"), distribution);
        let count = number(&case["count"]);
        assert!(count >= 1 << 20);
        let block = draw_block(&tables(&golden, distribution), number(&case["seed"]), count);
        let chunks: Vec<&[f32]> = block.chunks(4096).collect();
        let clip = 7.0 * f64::from(entropy_scale(&chunks, 3));

        let mut magnitudes: Vec<f32> = block.iter().map(|value| value.abs()).collect();
        magnitudes.sort_by(f32::total_cmp);
        let percentile = f64::from(magnitudes[count as usize * 995 / 1000]);
        assert!((clip / percentile - 1.0).abs() < 1e-3, "{distribution}: {clip} {percentile}");

        let squares: f64 = block.iter().map(|&value| f64::from(value).powi(2)).sum();
        let found = clip / (squares / count as f64).sqrt();
        assert!((found / sigmas - 1.0).abs() < 0.01, "{distribution}: {found}σ");
    }
}

/// Integers times the pack's scales give the product of the original's formula, which is the plain
/// product of the rows but for rounding.
#[test]
fn pack_scales_keep_the_products_of_the_original() {
    let k = 1152;
    let transform = Transform::hadamard("blk.0.ffn_up.weight", k).expect("fits");
    let k_op = transform.size();
    let [w, a] = [draw_row(1, k), draw_row(2, k)];
    let exact = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    let (plain, norms) = (exact(&w, &a), (exact(&w, &w) * exact(&a, &a)).sqrt());
    let rows = [w, a].map(|mut row| {
        row.resize(k_op, 0.0);
        transform.apply(&mut row);
        let scale = channel_scale(&row, 127);
        let mut integers = vec![0i8; k_op];
        quantize_row(&row, scale, 127, &mut integers);
        (integers, scale)
    });
    let [(weights, weight_scale), (activations, activation_scale)] = rows;
    let dot: i32 =
        weights.iter().zip(&activations).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
    let original = dot as f32 * (activation_scale * weight_scale / k_op as f32);
    let packed = dot as f32 * (pack_scale(activation_scale, k_op) * pack_scale(weight_scale, k_op));
    assert!((packed / original - 1.0).abs() < 1e-6, "{packed} {original}");
    assert!((f64::from(packed) - plain).abs() < 1e-3 * norms, "{packed} {plain}");
    assert!(plain.abs() > 1e-2 * norms, "a product near zero would prove little");
}

/// The tensor-wide passes give what each block's elements give by themselves.
#[test]
fn tensors_have_the_scales_of_their_blocks() {
    let (n, k_op) = (320, 8192 + 64);
    let rows: Vec<Vec<f32>> = (0..n).map(|n| draw_row(50 + n as u64, k_op)).collect();
    for qmax in [7, 127] {
        let blocks = Blocks::new(n, k_op, 3, 64);
        let mut scales = BlockScales::new(blocks.clone(), qmax);
        let found = loop {
            let mut fork = scales.fork();
            for (n, row) in rows.iter().enumerate().rev() {
                let pass = if n % 3 == 0 { &mut fork } else { &mut scales };
                pass.observe(n, row).expect("row of the tensor");
            }
            scales.merge(&fork).expect("fork");
            match scales.next().expect("finite") {
                Scales::Again(again) => scales = again,
                Scales::Done(found) => break found,
            }
        };
        assert_eq!(found.len(), 2 * 3);
        for (segment, columns) in blocks.segments().iter().enumerate() {
            for (slice, slice_rows) in blocks.slices().iter().enumerate() {
                let block: Vec<&[f32]> =
                    rows[slice_rows.clone()].iter().map(|row| &row[columns.clone()]).collect();
                let expected = if qmax == 7 {
                    entropy_scale(&block, 1)
                } else {
                    channel_scale(&block.concat(), 127)
                };
                assert_eq!(found[blocks.index(segment, slice)], expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any division of a block among chunks and threads, in any order, gives the same scale.
    #[test]
    fn chunks_and_threads_do_not_change_the_scale(
        block in prop::collection::vec(-1e3f32..1e3, 1..3000),
        chunk in 1usize..700,
        passes in 1usize..5,
        turn in 0usize..3000,
    ) {
        let expected = entropy_scale(&[&block], 1);
        let mut turned = block.clone();
        turned.rotate_left(turn % block.len());
        let chunks: Vec<&[f32]> = turned.chunks(chunk).collect();
        prop_assert_eq!(entropy_scale(&chunks, passes), expected);
    }

    /// The clip lies between the percentile, found here by sorting, and amax, on a candidate.
    #[test]
    fn clips_are_candidates(block in prop::collection::vec(-1e3f32..1e3, 1..2000)) {
        let mut magnitudes: Vec<f32> = block.iter().map(|value| value.abs()).collect();
        magnitudes.sort_by(f32::total_cmp);
        let rank = (block.len() as f32 * 99.5 / 100.0) as usize;
        let low = magnitudes[rank.min(block.len() - 1)];
        let high = amax(&block);
        let step = (high - low) / 128.0;
        let scale = entropy_scale(&[&block], 1);
        let candidates = (0..128).map(|i| (low + i as f32 * step) / 7.0);
        prop_assert!(high == 0.0 || candidates.into_iter().any(|candidate| candidate == scale));
    }
}
