//! Rotated moments against rotated rows.

use proptest::prelude::*;

use super::*;
use crate::gptq::tests::correlated;

/// Rows one by one, products one by one.
fn explicit(rows: &[f32], vector: Option<&[f32]>, rotation: &Rotation) -> Vec<f64> {
    let size = rotation.size();
    let mut scratch = vec![0.0; rotation.scratch_len()];
    let mut values = vec![0.0; size * size];
    let count = rows.len() / rotation.k();
    for row in rows.chunks_exact(rotation.k()) {
        let mut x = vec![0.0f32; size];
        for (i, x) in x[..row.len()].iter_mut().enumerate() {
            *x = row[i] * vector.map_or(1.0, |vector| vector[i]);
        }
        rotation.apply(&mut x, &mut scratch);
        for i in 0..size {
            for j in 0..size {
                values[i * size + j] += f64::from(x[i]) * f64::from(x[j]) / count as f64;
            }
        }
    }
    values
}

fn sums(rows: &[f32], k: usize) -> Vec<f32> {
    let identity = explicit(rows, None, &Rotation::identity(k));
    identity.iter().map(|&v| narrow(v * (rows.len() / k) as f64)).collect()
}

fn rotations() -> Vec<Rotation> {
    vec![
        Rotation::identity(20),
        Rotation::hadamard(64).unwrap(),
        Rotation::paley(36).unwrap(),
        Rotation::hartley(72).unwrap(),
        Rotation::block_diagonal(48).unwrap(),
        Rotation::padded_sylvester(40).unwrap(),
    ]
}

fn mean_diagonal(values: &[f64], size: usize) -> f64 {
    values.iter().step_by(size + 1).sum::<f64>() / size as f64
}

#[test]
fn rotated_moments_are_those_of_rotated_rows() {
    for (seed, rotation) in rotations().into_iter().enumerate() {
        let k = rotation.k();
        let rows = correlated(3 * k + 5, k, seed as u64);
        let vector: Vec<f32> =
            (0..k).map(|i| (0.3 + (i * 7 % 11) as f32) * [1.0, -1.0][i * i % 3 % 2]).collect();
        for vector in [None, Some(vector.as_slice())] {
            let expected = explicit(&rows, vector, &rotation);
            let scale = mean_diagonal(&expected, rotation.size());
            let weight = (rows.len() / k) as f64;
            let found = rotate(&sums(&rows, k), weight, vector, &rotation);
            assert_eq!((found.blocks.len(), found.k()), (1, rotation.size()));
            let direct = of_rows(&rows, vector, &rotation, 1 << 20);
            assert_eq!(direct.blocks.len(), 1);
            for ((found, direct), expected) in
                found.blocks[0].values.iter().zip(&direct.blocks[0].values).zip(&expected)
            {
                assert!((found - expected).abs() < 3e-6 * scale, "{rotation}");
                assert!((direct - expected).abs() < 1e-6 * scale, "{rotation}");
            }
            let size = rotation.size();
            for hessian in [&found, &direct] {
                let values = &hessian.blocks[0].values;
                assert!((0..size * size).all(|at| {
                    values[at].to_bits() == values[at % size * size + at / size].to_bits()
                }));
                assert_eq!(hessian.diagonal().len(), size);
            }
        }
    }
}

#[test]
fn blocks_are_those_of_the_whole() {
    let rotation = Rotation::hadamard(104).unwrap();
    let rows = correlated(700, 104, 3);
    let whole = of_rows(&rows, None, &rotation, 104);
    for (limit, lengths) in
        [(104, vec![104]), (103, vec![48, 56]), (48, vec![32, 32, 40]), (1, vec![8; 13])]
    {
        let parts = of_rows(&rows, None, &rotation, limit);
        let found: Vec<_> = parts.blocks.iter().map(|block| block.columns.len()).collect();
        assert_eq!(found, lengths);
        assert_eq!(parts.k(), 104);
        assert_eq!(parts.diagonal(), whole.diagonal());
        for block in &parts.blocks {
            for (row, values) in block.columns.clone().zip(block.values.chunks(block.columns.len()))
            {
                assert_eq!(values, &whole.blocks[0].values[row * 104..][block.columns.clone()]);
            }
        }
    }
}

#[test]
fn nothing_observed_is_zeros() {
    let rotation = Rotation::hadamard(16).unwrap();
    let found = rotate(&[0.0; 256], 0.0, None, &rotation);
    assert!(found.blocks[0].values.iter().all(|&value| value == 0.0));
    assert!(of_rows(&[], None, &rotation, 16).diagonal().iter().all(|&value| value == 0.0));
}

#[test]
fn an_expert_of_few_tokens_leans_on_the_others() {
    let (own, pool) = (correlated(1, 9, 1), correlated(1, 9, 2));
    let (sum, weight) = shrink((&own, 30.0), (&pool, 900.0), 10.0);
    assert_eq!(weight, 40.0);
    for ((sum, own), pool) in sum.iter().zip(&own).zip(&pool) {
        assert!((sum - (own + pool / 90.0)).abs() < 1e-5);
    }
    assert_eq!(shrink((&own, 30.0), (&pool, 0.0), 10.0), (own.clone(), 30.0));
    assert_eq!(shrink((&own, 30.0), (&pool, 5.0), 0.0), (own, 30.0));
}

proptest! {
    #[test]
    fn forms_are_sums_of_products(rows in 1usize..150, block in 1usize..90, seed: u64) {
        let k = 72;
        let hessian =
            of_rows(&correlated(100, k, seed), None, &Rotation::identity(k), block);
        let errors = correlated(rows, k, !seed);
        let found = hessian.forms(&errors);
        prop_assert_eq!(found.len(), rows);
        for (found, e) in found.iter().zip(errors.chunks(k)) {
            let mut expected = 0.0;
            for block in &hessian.blocks {
                let e = &e[block.columns.clone()];
                for (values, &a) in block.values.chunks(e.len()).zip(e) {
                    for (value, &b) in values.iter().zip(e) {
                        expected += value * f64::from(a) * f64::from(b);
                    }
                }
            }
            prop_assert!((found / expected - 1.0).abs() < 1e-4, "{} {}", found, expected);
        }
    }
}
