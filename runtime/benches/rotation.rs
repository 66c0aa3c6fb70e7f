//! Time to rotate one row in place, with its vector, for the row lengths of real models.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_runtime::rotation::{Rotation, RotationError, signs};

type Constructor = fn(usize) -> Result<Rotation, RotationError>;

const LENGTHS: [usize; 6] = [1152, 2048, 2880, 4096, 6912, 18944];

fn rotate(criterion: &mut Criterion) {
    let variants: [(&str, Constructor); 4] = [
        ("paley", Rotation::paley),
        ("hartley", Rotation::hartley),
        ("block", Rotation::block_diagonal),
        ("padded", Rotation::padded_sylvester),
    ];
    for (name, make) in variants {
        let mut group = criterion.benchmark_group(name);
        for k in LENGTHS {
            let Ok(rotation) = make(k) else { continue };
            let vector = signs(1, "bench", k);
            let mut scratch = vec![0.0; rotation.scratch_len()];
            let mut row = vector.clone();
            row.resize(rotation.size(), 0.0);
            group.throughput(Throughput::Elements(k as u64));
            group.bench_function(k.to_string(), |bencher| {
                bencher.iter(|| {
                    rotation.apply_scaled(black_box(&mut row), black_box(&vector), &mut scratch);
                });
            });
        }
    }
}

criterion_group!(benches, rotate);
criterion_main!(benches);
