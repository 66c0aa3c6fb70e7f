//! Golden vectors against plain loops over the formulas.

use proptest::prelude::*;
use tessera_formats::npu::Scheme;
use tessera_formats::npu::tiles::TileLayout;

use super::*;

/// From `hashlib` and an implementation of ChaCha8 that shares no code with this crate.
const REFERENCE: &[(u64, usize, usize, [i8; 8])] = &[
    (0, 0, 0, [100, -113, 30, 52, 47, -20, 57, 3]),
    (0, 1, 0, [109, 57, -111, -107, -65, -10, -81, -45]),
    (42, 0, 0, [-65, 114, 48, 78, 17, 86, -26, 48]),
    (18446744073709551615, 1, 18900, [73, 87, 53, -53, -13, -60, 0, -88]),
];

#[test]
fn random_rows_equal_the_independent_reference() {
    for &(seed, row, start, expected) in REFERENCE {
        let inputs = GoldenInputs::new(seed, start + expected.len());
        assert_eq!(inputs.row(row)[start..], expected, "seed {seed} row {row}");
    }
}

#[test]
fn rows_are_as_described() {
    let inputs = GoldenInputs::new(7, 1000);
    assert_ne!(inputs.row(0), inputs.row(1));
    for row in 0..2 {
        let row = inputs.row(row);
        assert!(row.iter().any(|&v| v < -120) && row.iter().any(|&v| v > 120));
    }
    assert!(inputs.row(2).iter().all(|&v| v == -128));
    assert_eq!(inputs.row(3)[..5], [127, -128, 127, -128, 127]);
    let shorter = GoldenInputs::new(7, 333);
    for row in 0..ROWS {
        assert_eq!(shorter.row(row), &inputs.row(row)[..333]);
    }
    assert_ne!(GoldenInputs::new(8, 1000).row(0), inputs.row(0));
    assert_eq!(GoldenInputs::from_bytes(&inputs.to_bytes()).unwrap(), inputs);
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let bytes = GoldenInputs::from_bytes(&[0; 7]);
    assert_eq!(bytes.unwrap_err(), GoldenError::Length { bytes: 7 });
    let inputs = GoldenInputs::new(0, 64);
    let error = inputs.operands(Engine::I8, Some((-127, 127)), 96).unwrap_err();
    assert_eq!(error, GoldenError::Columns { columns: 64, k: 96 });
    assert!(inputs.operands(Engine::I8, Some((-127, 127)), 64).is_ok());
}

#[test]
fn operands_stay_in_the_range_that_is_certified() {
    for scheme in Scheme::ALL {
        for asymmetric in [false, true] {
            let Some((lo, hi)) = scheme.activation_range(asymmetric) else { continue };
            let operands: Vec<i8> = (i8::MIN..=i8::MAX)
                .map(|v| integer_operand(scheme.engine(), (lo, hi), v))
                .collect();
            assert_eq!(operands.iter().min(), Some(&lo), "{scheme}");
            assert_eq!(operands.iter().max(), Some(&hi), "{scheme}");
            assert!(operands.is_sorted());
        }
    }
    assert_eq!(integer_operand(Engine::I4, (-8, 7), -1), -1);
    assert_eq!(integer_operand(Engine::I4, (-8, 7), 15), 0);
    for v in i8::MIN..=i8::MAX {
        assert_eq!(float_operand(v).to_f64() * 64.0, f64::from(v));
    }
}

/// The float engine from its definition: integers of 128 bits, rounded once for each 32 products.
#[expect(clippy::cast_possible_truncation, reason = "numbers that fit, or are to be rounded")]
fn float_reference(a: &[f16], w: &[f16]) -> f32 {
    let integer = |value: &f16| i128::from((value.to_f64() * 16_777_216.0) as i64);
    let mut sum = 0.0f32;
    for (a, w) in a.chunks(32).zip(w.chunks(32)) {
        let exact: i128 = a.iter().zip(w).map(|(a, w)| integer(a) * integer(w)).sum();
        // At most 2^84 in units of 2^-48; `as` rounds to nearest even.
        sum += exact as f32 * 2f32.powi(-48);
    }
    sum
}

/// What the tiles of a linear give, by a loop over matrices, channels and rows.
fn reference(
    inputs: &GoldenInputs,
    engine: Engine,
    range: Option<(i8, i8)>,
    columns: Range<usize>,
    weight: impl Fn(usize, usize) -> f16,
    n: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for channel in 0..n {
        for row in 0..ROWS {
            let v = &inputs.row(row)[columns.clone()];
            if engine == Engine::F16 {
                let a: Vec<f16> = v.iter().map(|&v| float_operand(v)).collect();
                let w: Vec<f16> = columns.clone().map(|k| weight(channel, k)).collect();
                bytes.extend(float_reference(&a, &w).to_le_bytes());
                continue;
            }
            let (lo, hi) = range.unwrap();
            let mut sum = 0i64;
            for (k, &v) in columns.clone().zip(v) {
                let v = i64::from(v);
                let v = if engine == Engine::I4 { v.div_euclid(16) } else { v };
                let q = weight(channel, k).to_f64();
                #[expect(clippy::cast_possible_truncation, reason = "a small integer")]
                let q = q as i64;
                sum += v.clamp(lo.into(), hi.into()) * q;
            }
            match engine {
                Engine::I4 => {
                    let sum = i16::try_from(sum.clamp(-32768, 32767)).unwrap();
                    bytes.extend(sum.to_le_bytes());
                }
                _ => bytes.extend(i32::try_from(sum).unwrap().to_le_bytes()),
            }
        }
    }
    bytes
}

/// A weight of the engine's range, any finite one on the float engine.
fn any_weight(engine: Engine, bits: u16) -> f16 {
    match engine.weight_range() {
        None => f16::from_bits(if bits & 0x7c00 == 0x7c00 { bits & !0x4000 } else { bits }),
        Some((lo, hi)) => {
            let count = i32::from(hi) - i32::from(lo) + 1;
            let q = i32::from(lo) + i32::from(bits) % count;
            f16::from_f64(f64::from(q))
        }
    }
}

fn check(scheme: Scheme, asymmetric: bool, (n, tiles_of_k): (usize, usize), weights: &[u16]) {
    let engine = scheme.engine();
    let range = scheme.activation_range(asymmetric);
    let length = TILE_K * tiles_of_k;
    let columns = TILE_K..TILE_K + length;
    let k = columns.end + TILE_K;
    let inputs = GoldenInputs::new(3, k + 5);
    let weight = |channel: usize, k: usize| {
        any_weight(engine, weights[(channel * 131 + k * 7) % weights.len()])
    };
    let n_padded = n.next_multiple_of(engine.tile_n());
    let layout = TileLayout::new(engine, n_padded, length).unwrap();
    let mut tiles = vec![0u8; layout.bytes()];
    for channel in 0..n {
        let (panel, lane) = (channel / engine.tile_n(), channel % engine.tile_n());
        let panel = &mut tiles[panel * layout.panel_bytes()..][..layout.panel_bytes()];
        let row: Vec<f16> = columns.clone().map(|k| weight(channel, k)).collect();
        let integers = || -> Vec<i8> {
            #[expect(clippy::cast_possible_truncation, reason = "a small integer")]
            row.iter().map(|w| w.to_f32() as i8).collect()
        };
        match engine {
            Engine::F16 => tiles::pack_row_f16(&row, lane, panel),
            Engine::I8 => tiles::pack_row_i8(&integers(), lane, panel),
            Engine::I4 => tiles::pack_row_i4(&integers(), lane, panel),
        }
    }
    let expected = reference(&inputs, engine, range, columns.clone(), weight, n);
    let mut operands = inputs.operands(engine, range, k).unwrap();
    for isa in Isa::available() {
        operands.isa = isa;
        let (mut buffer, mut found) = (LaneBuffer::default(), Vec::new());
        for (index, panel) in tiles.chunks_exact(layout.panel_bytes()).enumerate() {
            let lanes = (n - index * engine.tile_n()).min(engine.tile_n());
            operands.panel(columns.clone(), panel, lanes, &mut buffer, &mut found);
        }
        assert_eq!(found.len(), n * ROWS * GoldenOperands::result_bytes(engine));
        assert_eq!(found, expected, "{scheme} {isa:?}");
    }
}

proptest! {
    #[test]
    fn results_are_those_of_a_plain_loop(
        weights in prop::collection::vec(any::<u16>(), 1..600),
        n in 1usize..80,
        tiles_of_k in 1usize..9,
        asymmetric in any::<bool>(),
        scheme in prop::sample::select(Scheme::ALL.to_vec()),
    ) {
        check(scheme, asymmetric, (n, tiles_of_k), &weights);
    }
}

#[test]
fn long_rows_of_extreme_weights() {
    for scheme in Scheme::ALL {
        // The least and the greatest weight: bits that `any_weight` makes them of.
        let extremes = match scheme.engine() {
            Engine::F16 => [f16::MIN.to_bits(), f16::MAX.to_bits(), 1],
            Engine::I8 => [0, 254, 0],
            Engine::I4 => [0, 15, 0],
        };
        for weights in [&extremes[..1], &extremes[1..2], &extremes] {
            check(scheme, true, (3, 256), weights);
        }
    }
}

#[test]
fn four_bit_results_saturate() {
    let inputs = GoldenInputs::new(0, 8192);
    let operands = inputs.operands(Engine::I4, Some((-8, 7)), 8192).unwrap();
    let of = |q: i8| operands.integers(0..8192, &[q; 8192])[2];
    assert_eq!([of(-8), of(7), of(0)], [32767, -32768, 0]);
}
