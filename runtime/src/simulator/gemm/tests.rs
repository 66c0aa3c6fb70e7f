//! Every kernel against a plain triple loop.

use proptest::prelude::*;

use super::*;

/// Weights `[64][k]` in the kernels' layout.
fn interleave(weights: &[Vec<i8>], k: usize) -> Vec<i8> {
    let mut packed = vec![0; k * GROUP];
    for (n, row) in weights.iter().enumerate() {
        for (k, &w) in row.iter().enumerate() {
            packed[(k / QUAD * GROUP + n) * QUAD + k % QUAD] = w;
        }
    }
    packed
}

/// The product, computed in i64 from the definition.
fn reference(rows: &[Vec<i8>], weights: &[Vec<i8>]) -> Vec<Vec<i64>> {
    let dot =
        |a: &[i8], w: &[i8]| a.iter().zip(w).map(|(&a, &w)| i64::from(a) * i64::from(w)).sum();
    rows.iter().map(|a| weights.iter().map(|w| dot(a, w)).collect()).collect()
}

fn check(rows: &[Vec<i8>], weights: &[Vec<i8>], k: usize) {
    let expected = reference(rows, weights);
    let packed = interleave(weights, k);
    let mut totals = [0; GROUP];
    add_weights(&packed, &mut totals);
    for isa in Isa::available() {
        let operand = isa.operand();
        let slices: Vec<&[i8]> = rows.iter().map(Vec::as_slice).collect();
        let mut block = vec![0; rows.len() * k * operand.bytes()];
        pack_rows(operand, &slices, &mut block);
        let mut sums = vec![beginning(operand, &totals); rows.len()];
        // In two calls, as where K is worked on in parts.
        let cut = k / QUAD / 3 * QUAD;
        let (left, right) = block.split_at(cut * rows.len() * operand.bytes());
        isa.add_products(left, &packed[..cut * GROUP], &mut sums);
        isa.add_products(right, &packed[cut * GROUP..], &mut sums);
        for (sums, expected) in sums.iter().zip(&expected) {
            for (&sum, &expected) in sums.iter().zip(expected) {
                assert_eq!(i64::from(sum), expected, "{isa:?}, {} rows, K = {k}", rows.len());
            }
        }
    }
}

#[test]
fn extreme_values_are_exact() {
    for k in [4, 8, 32, 512, 8192] {
        for (a, w) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
            check(&[vec![a; k], vec![w; k]], &vec![vec![w; k]; GROUP], k);
        }
    }
    // The longest K whose products fit at full range.
    let k = 131_068;
    check(&[vec![-128; k]], &vec![vec![-128; k]; GROUP], k);
}

#[test]
fn every_length_and_number_of_rows() {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Half of the values are extreme.
        match state >> 24 & 3 {
            0 => -128,
            1 => 127,
            _ => (state >> 8).to_le_bytes()[0].cast_signed(),
        }
    };
    for quads in 0..=70 {
        let k = quads * QUAD;
        let mut row = || (0..k).map(|_| next()).collect::<Vec<i8>>();
        let rows: Vec<_> = (0..1 + quads % ROWS).map(|_| row()).collect();
        let weights: Vec<_> = (0..GROUP).map(|_| row()).collect();
        check(&rows, &weights, k);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_products(
        rows in 1usize..=ROWS,
        quads in 1usize..60,
        values in prop::collection::vec(any::<i8>(), 64 * 1024..=64 * 1024),
    ) {
        let k = quads * QUAD;
        let row = |index: usize| (0..k).map(|i| values[(index * 251 + i * 17) % values.len()]).collect::<Vec<_>>();
        let rows: Vec<_> = (0..rows).map(row).collect();
        let weights: Vec<_> = (rows.len()..rows.len() + GROUP).map(row).collect();
        check(&rows, &weights, k);
    }
}

#[test]
#[should_panic(expected = "a block of 7 rows")]
fn more_rows_than_a_block_has_panic() {
    Isa::Scalar.add_products(&[], &[], &mut [[0; GROUP]; 7]);
}
