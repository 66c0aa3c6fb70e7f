//! Time of a factor, of rows against it, and of what is done before and after. Throughput of rows is in
//! weights; a weight takes K multiplications and additions, half for GPTQ and half for the loss of
//! rounding.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tessera_calibration::gptq::{Descent, Factor, Options, Rows};
use tessera_calibration::hessian;
use tessera_runtime::quantize::{amax, scale_of};
use tessera_runtime::rotation::Rotation;

/// Rows of weights.
const M: usize = 512;

/// Numbers near enough to Gaussian ones: sums of four uniform numbers.
fn noise() -> impl FnMut() -> f32 {
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    };
    move || (0..4).map(|_| uniform()).sum::<f32>() - 2.0
}

fn rows_of_an_input(criterion: &mut Criterion) {
    for k in [1024, 4096] {
        let mut noise = noise();
        let mut inputs = vec![0.0f32; k / 2 * k];
        for row in inputs.chunks_mut(k) {
            let mut last = 0.0;
            for x in row {
                last = 0.9 * last + noise();
                *x = last;
            }
        }
        let rotation = Rotation::hadamard(k).expect("a rotation");
        let rotated = hessian::of_rows(&inputs, None, &rotation, k);
        let factor = Factor::new(&rotated, &Options::default()).expect("a factor");
        let weights: Vec<f32> = (0..M * k).map(|_| noise()).collect();
        let scales: Vec<f32> = weights.chunks(k).map(|row| scale_of(0.75 * amax(row), 7)).collect();
        let all = [std::ops::Range { start: 0, end: k }];
        let rows = Rows { values: &weights, scales: &scales, segments: &all, range: (-8, 7) };
        let mut integers = vec![0; weights.len()];
        rows.quantize(&factor, &mut integers);

        let mut group = criterion.benchmark_group(format!("K {k}"));
        group.sample_size(10);
        group.bench_function("second moments of K/2 rows", |b| {
            b.iter(|| hessian::of_rows(black_box(&inputs), None, &rotation, k));
        });
        let sums = vec![1.0f32; k * k];
        group.bench_function("rotation of second moments", |b| {
            b.iter(|| hessian::rotate(black_box(&sums), 1.0, None, &rotation));
        });
        group.bench_function("factor", |b| {
            b.iter(|| Factor::new(black_box(&rotated), &Options::default()));
        });
        group.throughput(Throughput::Elements((M * k) as u64));
        group.bench_function("GPTQ of 512 rows", |b| {
            let mut integers = vec![0; weights.len()];
            b.iter(|| black_box(&rows).quantize(&factor, &mut integers));
        });
        let descent = Descent::new(&rotated, &factor);
        group.bench_function("descent of 512 rows, 4 passes", |b| {
            b.iter_batched(
                || integers.clone(),
                |mut integers| rows.descend(&descent, 4, &mut integers),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, rows_of_an_input);
criterion_main!(benches);
