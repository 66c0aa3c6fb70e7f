//! Time per element of the clip searches and statistics (criterion's throughput is elements).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_calibration::clip::{Calibrator, Scratch, TensorStatistics, channel_scale};
use tessera_calibration::equalize::ColumnEnergy;

/// `k` elements near enough to a Gaussian: sums of twelve uniform numbers.
fn sample(k: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    };
    (0..k).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn searches(criterion: &mut Criterion) {
    let mut scratch = Scratch::default();
    for k in [512, 4096, 14336] {
        let row = sample(k);
        let mut group = criterion.benchmark_group(format!("row of {k}"));
        group.throughput(Throughput::Elements(k as u64));
        for calibrator in ["amax", "percentile", "mse", "kl"] {
            let calibrator: Calibrator = calibrator.parse().expect("a calibrator");
            for range in [(-8, 7), (-127, 127)] {
                group.bench_function(format!("{calibrator}, {range:?}"), |b| {
                    b.iter(|| channel_scale(black_box(&row), range, calibrator, &mut scratch));
                });
            }
        }
        group.bench_function("column energy", |b| {
            let mut energy = ColumnEnergy::new(k);
            b.iter(|| energy.add_rows(black_box(&row)));
        });
        group.bench_function("tensor statistics", |b| {
            let mut statistics = TensorStatistics::new();
            b.iter(|| statistics.add(black_box(&row)));
        });
        group.finish();
    }
    let mut statistics = TensorStatistics::new();
    statistics.add(&sample(1 << 20));
    for calibrator in ["mse", "kl"] {
        let calibrator: Calibrator = calibrator.parse().expect("a calibrator");
        for qmax in [7, 127] {
            criterion.bench_function(&format!("tensor scale, {calibrator}, qmax {qmax}"), |b| {
                b.iter(|| black_box(&statistics).scale(qmax, calibrator));
            });
        }
    }
}

criterion_group!(benches, searches);
criterion_main!(benches);
