//! Prints the table of docs/rotation.md: for each row length of real models and each rotation, the
//! time per row and the error of 4-bit quantization after it.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tessera_runtime::rotation::{Rotation, RotationError, signs};

/// Row lengths of real models, and three more: 3328 and 12800, whose smallest Paley matrix has eight
/// times the order of the Hartley matrix, and 11008, which has none.
const LENGTHS: [usize; 21] = [
    704, 1152, 1536, 2048, 2112, 2560, 2816, 2880, 3072, 3328, 3584, 4096, 5632, 6912, 8960, 9728,
    10240, 11008, 12800, 14336, 18944,
];

/// Rows of each kind, each rotated with signs of its own.
const ROWS: u64 = 64;

/// The massive element of a row of unit variance: models have them of this size.
const MASSIVE: f32 = 1000.0;

type RowKind = fn(&mut ChaCha8Rng, usize) -> Vec<f32>;

/// What stands in a row: heavy tails (Student's t with 4 degrees of freedom), one element of [`MASSIVE`]
/// standard deviations, or one channel in 64 with 30 standard deviations.
const KINDS: [RowKind; 3] = [
    |rng, k| (0..k).map(|_| student(rng)).collect(),
    |rng, k| {
        let mut row: Vec<f32> = (0..k).map(|_| normal(rng)).collect();
        let position = usize::try_from(rng.next_u32()).unwrap_or(0) % k;
        row[position] = MASSIVE;
        row
    },
    |rng, k| {
        let gain =
            |rng: &mut ChaCha8Rng| if rng.next_u32().is_multiple_of(64) { 30.0 } else { 1.0 };
        (0..k).map(|_| normal(rng) * gain(rng)).collect()
    },
];

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (f64::from(rng.next_u32()) + 0.5) / 2_f64.powi(32)
}

/// Box and Muller's normal deviate.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * uniform(rng).ln()).sqrt();
    (radius * (std::f64::consts::TAU * uniform(rng)).cos()) as f32
}

/// Student's t with 4 degrees of freedom.
fn student(rng: &mut ChaCha8Rng) -> f32 {
    let chi_squared: f32 = (0..4).map(|_| normal(rng).powi(2)).sum();
    normal(rng) / (chi_squared / 4.0).sqrt()
}

/// The row after symmetric 4-bit quantization with the scale, of 39, that loses least.
fn quantized(row: &[f32]) -> Vec<f32> {
    let amax = row.iter().fold(0.0_f32, |amax, x| amax.max(x.abs()));
    let quantize = |x: f32, scale: f32| {
        // Rounds half to even, for numbers this small.
        let shift = 1.5 * 2_f32.powi(23);
        ((x / scale + shift) - shift).clamp(-7.0, 7.0) * scale
    };
    let loss = |scale: f32| {
        let squared = |&x: &f32| (x - quantize(x, scale)).powi(2);
        row.chunks(64).map(|run| f64::from(run.iter().map(squared).sum::<f32>())).sum::<f64>()
    };
    let scales = (2_u8..=40).map(|step| amax * f32::from(step) / 40.0 / 7.0);
    let best = scales.min_by(|&a, &b| loss(a).total_cmp(&loss(b))).unwrap_or(1.0);
    row.iter().map(|&x| quantize(x, best)).collect()
}

/// √(Σ error² / Σ x²) over the rows of a kind, in percent. The error is taken after the rotation is
/// undone, so that what a padded rotation loses in the columns that are dropped does not count.
fn relative_error(rotation: &Rotation, kind: RowKind) -> f64 {
    let (mut error, mut energy) = (0.0, 0.0);
    let mut scratch = vec![0.0; rotation.scratch_len()];
    for seed in 0..ROWS {
        let row = kind(&mut ChaCha8Rng::seed_from_u64(seed), rotation.k());
        let vector = signs(seed, "table", row.len());
        let mut rotated = row.clone();
        rotated.resize(rotation.size(), 0.0);
        rotation.apply_scaled(&mut rotated, &vector, &mut scratch);
        let mut restored = quantized(&rotated);
        rotation.apply_transposed(&mut restored, &mut scratch);
        for ((x, sign), restored) in row.iter().zip(&vector).zip(restored) {
            error += f64::from(x - sign * restored).powi(2);
            energy += f64::from(*x).powi(2);
        }
    }
    100.0 * (error / energy).sqrt()
}

/// Nanoseconds per row: the fastest of 400 runs of about a fifth of a millisecond, with caches warm.
fn nanoseconds(rotation: &Rotation) -> f64 {
    let vector = signs(1, "table", rotation.k());
    let mut row = vec![0.0; rotation.size()];
    row[..rotation.k()].copy_from_slice(&vector);
    let mut scratch = vec![0.0; rotation.scratch_len()];
    let mut time = |count: u32| {
        let start = Instant::now();
        for _ in 0..count {
            rotation.apply_scaled(black_box(&mut row), black_box(&vector), &mut scratch);
        }
        start.elapsed()
    };
    let once = time(10).div_f64(10.0).max(Duration::from_nanos(10));
    let count = 1 + u32::try_from(200_000 / once.as_nanos()).unwrap_or(0);
    let fastest = (0..400).map(|_| time(count)).min().unwrap_or_default();
    fastest.as_secs_f64() * 1e9 / f64::from(count)
}

fn main() {
    println!("| K | rotation | µs per row | heavy tails | one massive | outlier channels |");
    println!("|--:|:--|--:|--:|--:|--:|");
    for k in LENGTHS {
        let chosen = Rotation::hadamard(k).map(|rotation| rotation.to_string());
        let mut variants: Vec<Result<Rotation, RotationError>> = vec![Rotation::block_diagonal(k)];
        if !k.is_power_of_two() {
            variants.push(Rotation::hartley(k));
            variants.push(Rotation::paley(k));
            variants.push(Rotation::padded_sylvester(k));
        }
        for rotation in variants.into_iter().flatten() {
            let name = rotation.to_string();
            let mark = if chosen.as_ref() == Ok(&name) { "**" } else { "" };
            let time = nanoseconds(&rotation) / 1000.0;
            let errors = KINDS.map(|kind| format!("{:.2} %", relative_error(&rotation, kind)));
            println!("| {k} | {mark}{name}{mark} | {time:.2} | {} |", errors.join(" | "));
        }
    }
}
