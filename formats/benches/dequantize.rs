//! Speed of dequantization and of packing, per type.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_formats::ggml::{GgmlType, dequantize};
use tessera_formats::npu::tiles::{pack_row_i4, pack_row_i8};

/// Elements of a row; its floats stay in the second-level cache, as a converter's do.
const ROW: usize = 4096;

/// Rate in bytes of f32 written. Blocks hold one byte value, which makes every scale an ordinary
/// number.
fn dequantization(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dequantize");
    group.throughput(Throughput::Bytes(4 * ROW as u64));
    for ty in GgmlType::ALL.iter().copied().filter(|ty| ty.can_dequantize()) {
        let src = vec![0x2b; usize::try_from(ty.row_bytes(ROW as u64).unwrap()).unwrap()];
        let mut dst = vec![0.0; ROW];
        group.bench_function(ty.name(), |bencher| {
            bencher.iter(|| dequantize(ty, black_box(&src), black_box(&mut dst)).unwrap());
        });
    }
}

/// Rate in bytes of i8 read, a whole panel at a time.
fn packing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pack");
    let row: Vec<i8> = (0..ROW).map(|i| i8::try_from(i % 15).unwrap() - 7).collect();
    let mut panel = vec![0; ROW * 32];
    group.throughput(Throughput::Bytes(32 * ROW as u64));
    group.bench_function("i8", |bencher| {
        bencher.iter(|| (0..32).for_each(|lane| pack_row_i8(black_box(&row), lane, &mut panel)));
    });
    group.throughput(Throughput::Bytes(64 * ROW as u64));
    group.bench_function("i4", |bencher| {
        bencher.iter(|| (0..64).for_each(|lane| pack_row_i4(black_box(&row), lane, &mut panel)));
    });
}

criterion_group!(benches, dequantization, packing);
criterion_main!(benches);
