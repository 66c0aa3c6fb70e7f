//! Nanoseconds per element of the row kernels (criterion's throughput is elements).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use tessera_runtime::accumulator::RowSums;
use tessera_runtime::quantize;

fn kernels(criterion: &mut Criterion) {
    let k = 4096usize;
    // A spread of values from a linear congruential generator; the kernels have no branches on data.
    let mut state = 1u32;
    let row: Vec<f32> = (0..k)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from((state >> 16) as u16) - 32768.0) / 32768.0
        })
        .collect();
    let mut integers = vec![0i8; k];
    let mut halves = vec![f16::ZERO; k];
    let scales: Vec<f32> = (8..=64u8).map(|m| f32::from(m) / 448.0).collect();
    let mut errors = vec![0.0; scales.len()];

    let mut group = criterion.benchmark_group("row of 4096");
    group.throughput(Throughput::Elements(k as u64));
    group.bench_function("amax", |b| b.iter(|| quantize::amax(black_box(&row))));
    group.bench_function("squared_norm", |b| b.iter(|| quantize::squared_norm(black_box(&row))));
    group.bench_function("quantize_row", |b| {
        b.iter(|| quantize::quantize_row(black_box(&row), 1.0 / 7.0, 7, &mut integers));
    });
    group.bench_function("quantization_error", |b| {
        b.iter(|| quantize::quantization_error(black_box(&row), 1.0 / 7.0, 7));
    });
    group.bench_function("quantization_errors of 57 scales", |b| {
        b.iter(|| quantize::quantization_errors(black_box(&row), &scales, 7, &mut errors));
    });
    group.bench_function("to_f16_row", |b| {
        b.iter(|| quantize::to_f16_row(black_box(&row), 1.0, &mut halves));
    });
    group.bench_function("row sums", |b| b.iter(|| RowSums::new(black_box(&integers))));
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
