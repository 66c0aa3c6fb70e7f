//! The choice among sign vectors: the one whose rounding errors harm observed activations least.

use anyhow::Context;
use rayon::prelude::*;
use tessera_calibration::clip;
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::escape::Escaped;
use tessera_formats::ggml;
use tessera_runtime::quantize;

use super::plan::InputPlan;
use super::quantizer::Quantizer;

/// Rows of each linear that are rounded to compare sign vectors.
const WEIGHT_ROWS: usize = 64;

/// Rows of the sample that outputs are compared on.
const SAMPLE_ROWS: usize = 128;

/// The number of the trial with the least error of outputs, weights and activations rounded, on a
/// sample of both; `vector` gives the vector of a trial.
pub fn choose(
    quantizer: &Quantizer<'_>,
    input: &InputPlan,
    statistics: &InputStatistics,
    vector: impl Fn(u32) -> Option<Vec<f32>> + Sync,
) -> anyhow::Result<u32> {
    if statistics.rows.is_empty() {
        return Ok(0);
    }
    let sample = Sample::read(quantizer, input, statistics)?;
    let errors: Vec<f64> = (0..input.sign_trials)
        .into_par_iter()
        .map(|trial| sample.error(input, vector(trial).as_deref()))
        .collect();
    let best = (0u32..).zip(&errors).min_by(|(_, a), (_, b)| a.total_cmp(b));
    Ok(best.map_or(0, |(trial, _)| trial))
}

/// Rows of weights, and of activations.
struct Sample {
    linears: Vec<SampledLinear>,
    /// `[rows, k]`.
    activations: Vec<f32>,
}

/// Rows of a linear, and how it is quantized.
struct SampledLinear {
    /// `[rows, k]`.
    weights: Vec<f32>,
    /// Least and greatest integer of a weight.
    range: (i8, i8),
    activation_qmax: i8,
    calibrator: clip::Calibrator,
}

impl Sample {
    fn read(
        quantizer: &Quantizer<'_>,
        input: &InputPlan,
        statistics: &InputStatistics,
    ) -> anyhow::Result<Self> {
        let k = input.k;
        let mut linears = Vec::new();
        for &linear in &input.linears {
            let linear = &quantizer.plan.linears[linear];
            let tensor = &quantizer.gguf.tensors()[linear.source];
            let Some(range) = linear.engine().weight_range() else { continue };
            let count = linear.matrices() * linear.n;
            let wanted = count.min(WEIGHT_ROWS);
            let mut bytes = vec![0; usize::try_from(tensor.row_bytes())?];
            let mut weights = vec![0.0; wanted * k];
            for (index, row) in weights.chunks_exact_mut(k).enumerate() {
                let number = u64::try_from(index * count / wanted)?;
                quantizer.gguf.read_at(tensor, number * tensor.row_bytes(), &mut bytes)?;
                ggml::dequantize(tensor.ggml_type, &bytes, row)
                    .with_context(|| format!("`{}`", Escaped(&tensor.name)))?;
            }
            let activation_qmax = super::observed::activation_qmax(linear.options.scheme);
            let calibrator = linear.options.calibrator;
            linears.push(SampledLinear { weights, range, activation_qmax, calibrator });
        }
        let rows = statistics.rows.chunks_exact(k);
        let step = rows.len().div_ceil(SAMPLE_ROWS).max(1);
        let activations = rows.step_by(step).flatten().copied().collect();
        Ok(Sample { linears, activations })
    }

    /// Relative squared error of outputs, summed over linears.
    fn error(&self, input: &InputPlan, vector: Option<&[f32]>) -> f64 {
        let basis = super::observed::Basis { rotation: &input.rotation, vector };
        let inverse: Option<Vec<f32>> = vector.map(|v| v.iter().map(|v| 1.0 / v).collect());
        let weights_basis =
            super::observed::Basis { rotation: &input.rotation, vector: inverse.as_deref() };
        let size = input.rotation.size();
        let rows = basis.rotate(&self.activations);
        let mut scratch = clip::Scratch::default();
        let mut total = 0.0;
        for linear in &self.linears {
            let SampledLinear { range, activation_qmax, calibrator, .. } = *linear;
            let rounded = round(
                &rows,
                size,
                |row| quantize::scale_of(quantize::amax(row), activation_qmax),
                (-activation_qmax, activation_qmax),
            );
            let weights = weights_basis.rotate(&linear.weights);
            let rounded_weights = round(
                &weights,
                size,
                |row| clip::channel_scale(row, range, calibrator, &mut scratch),
                range,
            );
            let (mut error, mut energy) = (0.0, 0.0);
            for (w, wq) in weights.chunks_exact(size).zip(rounded_weights.chunks_exact(size)) {
                for (x, xq) in rows.chunks_exact(size).zip(rounded.chunks_exact(size)) {
                    let (exact, found) = (product(w, x), product(wq, xq));
                    error += (exact - found) * (exact - found);
                    energy += exact * exact;
                }
            }
            if energy > 0.0 {
                total += error / energy;
            }
        }
        total
    }
}

/// Rows as integers make them.
fn round(
    rows: &[f32],
    size: usize,
    mut scale: impl FnMut(&[f32]) -> f32,
    range: (i8, i8),
) -> Vec<f32> {
    let mut integers = vec![0; size];
    let mut rounded = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(size) {
        let scale = scale(row);
        quantize::quantize_row_within(row, scale, range, &mut integers);
        rounded.extend(integers.iter().map(|&q| f32::from(q) * scale));
    }
    rounded
}

/// Σ aᵢ·bᵢ in eight sums of f64, added in order.
fn product(a: &[f32], b: &[f32]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}
