//! Rates of simulated linears, in multiply-accumulates (criterion's throughput is one per element):
//! a result of 250 G elements/s is 500 GOPS. Beside them `matrixmultiply` in f32, the same shape.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::npu::{Engine, Scheme};
use tessera_formats::pack::manifest::Granularity;
use tessera_runtime::host::{ActivationScale, LinearInput, Weights};
use tessera_runtime::linear::{Activations, Linear};
use tessera_runtime::rotation::Rotation;
use tessera_runtime::simulator::{SimulatedLinear, Simulation};

/// A spread of bytes from a linear congruential generator; the kernels have no branches on data but
/// for the spread of f16 values, which is that of numbers between 1 and 2.
fn tiles(engine: Engine, n: usize, k: usize) -> Vec<u8> {
    let bytes = TileLayout::new(engine, n, k).map_or(0, |layout| layout.bytes());
    let mut state = 1u32;
    let mut tiles: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24).to_le_bytes()[0]
        })
        .collect();
    if engine == Engine::F16 {
        tiles.iter_mut().skip(1).step_by(2).for_each(|high| *high = *high & 0x83 | 0x3c);
    }
    tiles
}

/// Schemes, each without and with a zero point of activations, and fitted to rows, with their names.
fn cases() -> impl Iterator<Item = (Scheme, ActivationScale, String)> {
    let kinds = [(false, false, ""), (true, false, " asymmetric"), (true, true, " fitted")];
    Scheme::ALL.into_iter().flat_map(move |scheme| {
        kinds.map(|(asymmetric, fitted, kind)| {
            let scale = ActivationScale::Dynamic { rms_clip: None, asymmetric, fitted };
            (scheme, scale, format!("{scheme}{kind}"))
        })
    })
}

fn linear(
    scheme: Scheme,
    activation: ActivationScale,
    n: usize,
    k: usize,
) -> Option<SimulatedLinear> {
    let input = Arc::new(LinearInput::new(Arc::new(Rotation::hadamard(k).ok()?), None));
    let weights = Weights {
        name: scheme.name().to_owned(),
        scheme,
        n,
        k,
        experts: None,
        segments: vec![std::ops::Range { start: 0, end: k }],
        granularity: Granularity::Channel,
        scales: vec![0.01; n],
        activation,
        correction: None,
    };
    let tiles = vec![tiles(scheme.engine(), n, k)];
    SimulatedLinear::new(weights, tiles, input, Simulation::default(), Arc::default()).ok()
}

fn linears(criterion: &mut Criterion) {
    let (n, k) = (2048, 2048);
    for threads in [1, 2] {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { return };
        for m in [512usize, 1] {
            let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let mut out = vec![0.0f32; m * n];
            let mut group = criterion.benchmark_group(format!("{m}x{n}x{k}, {threads} threads"));
            group.throughput(Throughput::Elements((m * n * k) as u64));
            for (scheme, activation, case) in cases() {
                // None of w16a16 with a zero point.
                let Some(linear) = linear(scheme, activation, n, k) else { continue };
                // The rows are prepared once, as for the linears of one input.
                let rows = Activations::new(&x, k);
                let mut apply =
                    || pool.install(|| linear.apply(&rows, black_box(&mut out)).is_ok());
                group.bench_function(BenchmarkId::new("apply", case), |b| b.iter(&mut apply));
            }
            if threads == 1 {
                let w = vec![0.5f32; n * k];
                group.bench_function("matrixmultiply f32", |b| {
                    b.iter(|| sgemm(m, k, n, black_box(&x), &w, &mut out));
                });
            }
            group.finish();
        }
    }
    let mut group = criterion.benchmark_group("preparing 512 rows of 2048");
    let x: Vec<f32> = (0..512 * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    group.throughput(Throughput::Elements(x.len() as u64));
    for (scheme, activation, case) in cases() {
        // A linear of few channels: nearly all of its time is spent on the rows.
        let Some(linear) = linear(scheme, activation, 64, k) else { continue };
        let mut out = vec![0.0f32; 512 * 64];
        group.bench_function(BenchmarkId::new("apply to 64 channels", case), |b| {
            b.iter(|| linear.apply(&Activations::new(&x, k), black_box(&mut out)).is_ok());
        });
    }
    group.finish();
}

#[expect(unsafe_code, reason = "matrixmultiply takes pointers")]
fn sgemm(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
    let (k_stride, n_stride) = (k.cast_signed(), n.cast_signed());
    // SAFETY: the slices hold the matrices, without gaps; b is read as its transpose.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            k_stride,
            1,
            b.as_ptr(),
            1,
            k_stride,
            0.0,
            c.as_mut_ptr(),
            n_stride,
            1,
        );
    }
}

criterion_group!(benches, linears);
criterion_main!(benches);
