//! Rotations against dense matrices made from their definitions.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// ±1 of the Sylvester matrix.
fn sylvester_entry(i: usize, j: usize) -> f64 {
    if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

/// Legendre symbol by Euler's criterion, unlike the table that the crate makes.
fn legendre(x: i64, q: i64) -> i64 {
    let (mut result, mut base, mut exponent) = (1, x.rem_euclid(q), (q - 1) / 2);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result * base % q;
        }
        base = base * base % q;
        exponent /= 2;
    }
    if result == q - 1 { -1 } else { result }
}

/// A dense orthonormal factor in f64, from its definition.
fn factor_entry(kind: &str, order: usize, i: usize, j: usize) -> f64 {
    let signed = |x: usize| i64::try_from(x).unwrap();
    match kind {
        "none" => 1.0,
        "hartley" => {
            let angle = std::f64::consts::TAU * (i * j) as f64 / order as f64;
            (angle.cos() + angle.sin()) / (order as f64).sqrt()
        }
        "paley1" => {
            let sign = match (i, j) {
                (0, _) => 1,
                (_, 0) => -1,
                (i, j) if i == j => 1,
                (i, j) => legendre(signed(i) - signed(j), signed(order) - 1),
            };
            sign as f64 / (order as f64).sqrt()
        }
        "paley2" => {
            let q = signed(order) / 2 - 1;
            let conference = match (i / 2, j / 2) {
                (a, b) if a == b => 0,
                (0, _) | (_, 0) => 1,
                (a, b) => legendre(signed(a) - signed(b), q),
            };
            let diagonal = [[1, -1], [-1, -1]][i % 2][j % 2];
            let other = [[1, 1], [1, -1]][i % 2][j % 2];
            let sign = if conference == 0 { diagonal } else { conference * other };
            sign as f64 / (order as f64).sqrt()
        }
        _ => panic!("{kind}"),
    }
}

/// Entry (row, column) of the whole matrix, from the manifest's description of it.
fn dense_entry(rotation: &manifest::Rotation, row: usize, column: usize) -> f64 {
    let p = usize::try_from(rotation.sylvester).unwrap();
    let (kind, m) = match &rotation.factor {
        Some(factor) => (factor.kind.as_str(), usize::try_from(factor.order).unwrap()),
        None => ("none", 1),
    };
    if row / (m * p) != column / (m * p) {
        return 0.0;
    }
    let (i, j) = (row % (m * p), column % (m * p));
    factor_entry(kind, m, i / p, j / p) * sylvester_entry(i % p, j % p) / (p as f64).sqrt()
}

/// Every rotation there is for a row length.
fn variants(k: usize) -> Vec<Rotation> {
    let all = [
        Ok(Rotation::identity(k)),
        Rotation::hadamard(k),
        Rotation::block_diagonal(k),
        Rotation::paley(k),
        Rotation::hartley(k),
        Rotation::padded_sylvester(k),
    ];
    all.into_iter().flatten().collect()
}

fn scratch(rotation: &Rotation) -> Vec<f32> {
    vec![f32::NAN; rotation.scratch_len()]
}

fn norm_of(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn padded(row: &[f32], size: usize) -> Vec<f32> {
    let mut row = row.to_vec();
    row.resize(size, 0.0);
    row
}

const LENGTHS: &[usize] = &[
    1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 28, 40, 43, 56, 64, 72, 100, 128, 172, 320, 352, 704, 768,
    864, 1152,
];

#[test]
fn agrees_with_the_dense_product() {
    for &k in LENGTHS.iter().chain(&[2816]) {
        for rotation in variants(k) {
            let description = rotation.to_manifest();
            let input = padded(&probe::gaussian(11, k), rotation.size());
            for transposed in [false, true] {
                let mut row = input.clone();
                if transposed {
                    rotation.apply_transposed(&mut row, &mut scratch(&rotation));
                } else {
                    rotation.apply(&mut row, &mut scratch(&rotation));
                }
                // A few rows of the long ones keep the test fast.
                for i in (0..row.len()).step_by(1 + row.len() / 100) {
                    let entry = |j| match transposed {
                        false => dense_entry(&description, i, j),
                        true => dense_entry(&description, j, i),
                    };
                    let terms = input.iter().enumerate().map(|(j, &x)| entry(j) * f64::from(x));
                    let error = (terms.sum::<f64>() - f64::from(row[i])).abs();
                    assert!(error < 2e-6, "{k} {rotation} transposed {transposed} {i}: {error}");
                }
            }
        }
    }
}

/// Length of a row and the SHA-256 of its rotated bytes, from `reference.py`, which shares no code
/// with this crate: the promise that every machine rotates to the same bits.
const GOLDEN: &[(usize, &str)] = &[
    (4, "8b5e38a285bd3a3a5b7e833f380ba0ae043ba763242e4283b03bded029ea4c0e"), // sylvester 1 × 4
    (4096, "a1bf4bf98e163ce8b1fd654ea5a345003e6bdd97debe541ea78c71e3b2e6ef8d"), // sylvester 1 × 4096
    (12, "ec6bb811bbf5ac717753338784015a64d7e26451558ddf3e31fc07c2c69c9bda"),   // paley1 12 × 1
    (320, "a8af85bd4b76c6a01748de2757cbf8b3fa3d72d92d534ff961eec607767d84f0"),  // paley1 20 × 16
    (352, "4735c085812c708276a6e98937bb279266e64d93ee5f5819d1050211fa90a5a9"),  // paley1 44 × 8
    (1152, "ff0ea96421eeab5dc35624179a917143af5de66c18daffcb4d8f21c604e99d40"), // paley2 36 × 32
    (3584, "872c177c575bb05e27c63f361d520fc22a8de477be16089dca56285ba90e8503"), // paley2 28 × 128
    (172, "3b08985a5750578f7a8284013de070b519ae7748357c98f95d4e8d0aed724edf"),  // hartley 43 × 4
    (344, "465d98710fa34e9a700d29bd54fb190bd78e26d39090118a95145cc7dd82d4da"),  // hartley 43 × 8
    (688, "ed1c57f29aacc8f05707250f1bf1ac1d028a949fc77f75772f7c6660fd3eaed2"),  // hartley 43 × 16
    (33, "adf6d4fd700ff759596f7fe19c9785279210cc3f8b197ce17caa5ca55ab92c87"),   // hartley 33 × 1
];

#[test]
fn equals_the_independent_reference_bit_for_bit() {
    for &(k, expected) in GOLDEN {
        let number = |i: usize| f32::from(u16::try_from(i).unwrap());
        let mut row: Vec<f32> = (0..k).map(|i| (number(i * 37 % 1009) - 504.0) / 64.0).collect();
        let mut vector = signs(1, "golden", k);
        vector.iter_mut().enumerate().for_each(|(i, sign)| *sign *= number(8 + i % 7) / 8.0);
        let rotation = Rotation::hadamard(k).unwrap();
        rotation.apply_scaled(&mut row, &vector, &mut scratch(&rotation));
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        let found: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, expected, "{k} {rotation}");
    }
}

#[test]
fn is_orthogonal() {
    // Columns of R are the images of the unit vectors.
    for k in [1, 2, 3, 4, 6, 12, 20, 28, 36, 43, 64, 76, 96, 172] {
        for rotation in variants(k) {
            let column = |j: usize| {
                let mut row = vec![0.0; rotation.size()];
                row[j] = 1.0;
                rotation.apply(&mut row, &mut scratch(&rotation));
                row
            };
            let columns: Vec<Vec<f32>> = (0..rotation.size()).map(column).collect();
            for (i, a) in columns.iter().enumerate() {
                for (j, b) in columns.iter().enumerate() {
                    let product: f64 =
                        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-6, "{k} {rotation} {i} {j}");
                }
            }
        }
    }
}

#[test]
fn the_transpose_inverts_and_norms_are_kept() {
    for &k in LENGTHS.iter().chain(&[2112, 8960, 14336, 18944]) {
        for rotation in variants(k) {
            let input = padded(&probe::gaussian(5, k), rotation.size());
            let mut row = input.clone();
            let mut scratch = scratch(&rotation);
            rotation.apply(&mut row, &mut scratch);
            assert!((norm_of(&row) / norm_of(&input) - 1.0).abs() < 1e-6, "{k} {rotation}");
            rotation.apply_transposed(&mut row, &mut scratch);
            let difference: Vec<f32> = row.iter().zip(&input).map(|(a, b)| a - b).collect();
            assert!(norm_of(&difference) / norm_of(&input) < 1e-6, "{k} {rotation}");
        }
    }
}

#[test]
fn the_vector_is_multiplied_first() {
    for &k in LENGTHS {
        for rotation in variants(k) {
            let (input, vector) = (probe::gaussian(2, k), probe::gaussian(3, k));
            let mut fused = padded(&input, rotation.size());
            rotation.apply_scaled(&mut fused, &vector, &mut scratch(&rotation));
            let product: Vec<f32> = input.iter().zip(&vector).map(|(x, v)| x * v).collect();
            let mut separate = padded(&product, rotation.size());
            rotation.apply(&mut separate, &mut scratch(&rotation));
            assert_eq!(probe::bits(&fused), probe::bits(&separate), "{k} {rotation}");
        }
    }
}

#[test]
fn the_default_is_one_matrix_over_the_row_without_padding() {
    let table = [
        (1, "identity"),
        (4096, "sylvester 4096"),
        (172, "hartley 43 × sylvester 4"),
        (11008, "hartley 43 × sylvester 256"),
        (1152, "paley2 36 × sylvester 32"),
        (2880, "paley1 180 × sylvester 16"),
        (18944, "paley2 148 × sylvester 128"),
    ];
    for (k, expected) in table {
        let rotation = Rotation::hadamard(k).unwrap();
        assert_eq!(rotation.to_string(), expected);
        assert_eq!(rotation.size(), k);
    }
    // An odd part of 1031 is too large for a dense factor.
    let rotation = Rotation::hadamard(1031 * 64).unwrap();
    assert_eq!(rotation.to_string(), "1031 blocks of sylvester 64");
}

#[test]
fn manifests_round_trip() {
    for &k in LENGTHS {
        for rotation in variants(k) {
            let description = rotation.to_manifest();
            let read = Rotation::from_manifest(&description, rotation.factor()).unwrap();
            assert_eq!(read.to_manifest(), description);
            let mut a = padded(&probe::gaussian(4, k), rotation.size());
            let mut b = a.clone();
            rotation.apply(&mut a, &mut scratch(&rotation));
            read.apply(&mut b, &mut scratch(&read));
            assert_eq!(probe::bits(&a), probe::bits(&b), "{k} {rotation}");
        }
    }
}

#[test]
fn bad_manifests_are_refused() {
    let factor = |kind: &str, order| {
        Some(manifest::Factor { kind: kind.to_owned(), order, tensor: "t".to_owned() })
    };
    let table = [
        (0, 0, 1, None, "a row of 0 elements cannot be rotated"),
        (12, 8, 4, None, "a rotation of 12 elements in 8 does not fit blocks of 1 × 4 elements"),
        (12, 12, 8, None, "a rotation of 12 elements in 12 does not fit blocks of 1 × 8 elements"),
        (12, 12, 3, None, "a rotation of 12 elements in 12 does not fit blocks of 1 × 3 elements"),
        (12, 12, 0, None, "a rotation of 12 elements in 12 does not fit blocks of 1 × 0 elements"),
        (
            12,
            12,
            4,
            factor("cas\x1b", 3),
            "unknown construction `cas\\u{1b}` of a rotation's factor",
        ),
        (12, 12, 1, factor("paley2", 6), "there is no paley2 matrix of order 6"),
        (12, 12, 2, factor("hartley", 6), "there is no hartley matrix of order 6"),
        (
            4096,
            4096,
            1,
            factor("hartley", 4096),
            "a dense factor of order 4096 is above the limit of 1024",
        ),
        (
            12,
            12,
            1 << 63,
            factor("hartley", 3),
            "a rotation of 12 elements in 12 does not fit blocks of 3 × 9223372036854775808 elements",
        ),
    ];
    for (k, size, sylvester, factor, expected) in table {
        let rotation = manifest::Rotation { k, size, sylvester, factor };
        let found = Rotation::from_manifest(&rotation, None).unwrap_err().to_string();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_changed_factor_is_refused() {
    let rotation = Rotation::hadamard(12).unwrap();
    let description = rotation.to_manifest();
    let mut stored = rotation.factor().unwrap().to_vec();
    stored[17] = -stored[17];
    let found = Rotation::from_manifest(&description, Some(&stored)).unwrap_err();
    assert_eq!(found, RotationError::FactorValue { kind: "paley1", order: 12, index: 17 });
    let found = Rotation::from_manifest(&description, Some(&stored[1..])).unwrap_err();
    assert_eq!(found, RotationError::FactorLength { expected: 144, found: 143 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_length_has_a_rotation_that_keeps_norms(k in 1_usize..3000, seed in any::<u64>()) {
        let rotation = Rotation::hadamard(k).unwrap();
        prop_assert_eq!((rotation.k(), rotation.size()), (k, k));
        let input = probe::gaussian(seed, k);
        let mut row = input.clone();
        rotation.apply_scaled(&mut row, &signs(seed, "input", k), &mut scratch(&rotation));
        prop_assert!((norm_of(&row) / norm_of(&input) - 1.0).abs() < 1e-6);
    }
}
