//! The vectors of the linears' inputs: random signs and the equalization diagonal.

use std::sync::Arc;

use anyhow::Context;
use rayon::prelude::*;
use tessera_calibration::equalize::{self, ColumnEnergy};
use tessera_calibration::rk_llama;
use tessera_calibration::signs;
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::escape::Escaped;
use tessera_formats::ggml;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_runtime::rotation;

use super::observed::Observed;
use super::plan::{InputEqualization, InputPlan, Signs};
use super::quantizer::Quantizer;
use super::stream::{Panels, for_each_chunk};
use super::transform::RowTransform;
use super::trials;

/// Rows whose column energies are summed before they join the total; part of the promise that the
/// same bytes come out for any number of threads.
const ROWS_PER_PANEL: usize = 64;

/// An input, ready for the rows of its linears.
pub struct PreparedInput {
    /// v: the input is multiplied by it before its rotation. Absent when all are 1.
    pub vector: Option<Vec<f32>>,
    /// The same on the weights' side.
    pub transform: RowTransform,
    /// Which of several sign vectors was chosen.
    pub sign_trial: Option<u32>,
    /// What calibration observed, until the input's last linear is done.
    pub observed: Option<Observed>,
}

impl PreparedInput {
    /// Chooses the vector of input `index` of the plan, reading its linears' weights if it is
    /// equalized or has several sign vectors to choose from.
    pub fn new(quantizer: &Quantizer<'_>, index: usize) -> anyhow::Result<Self> {
        let input = &quantizer.plan.inputs[index];
        let statistics = match quantizer.calibration {
            Some(calibration) => calibration.input(quantizer.plan, input)?,
            None => None,
        };
        let diagonal = diagonal(quantizer, input, statistics.as_ref())?;
        let vector = |signs: Option<Vec<f32>>| match (signs, &diagonal) {
            (signs, None) => signs,
            (None, Some(diagonal)) => Some(diagonal.iter().map(|d| 1.0 / d).collect()),
            (Some(signs), Some(diagonal)) => {
                Some(signs.iter().zip(diagonal).map(|(sign, d)| sign / d).collect())
            }
        };
        let (vector, sign_trial) = match (&input.signs, &statistics) {
            (Signs::None, _) => (vector(None), None),
            (Signs::RkLlama(weight), _) => (vector(Some(rk_llama::signs(weight, input.k))), None),
            (Signs::Seeded, Some(statistics)) if input.sign_trials > 1 => {
                let trial = |trial| {
                    let signs = signs::candidate(quantizer.seed, &input.name, input.k, trial);
                    vector(Some(signs))
                };
                let best = trials::choose(quantizer, input, statistics, trial)?;
                (trial(best), Some(best))
            }
            (Signs::Seeded, _) => {
                (vector(Some(rotation::signs(quantizer.seed, &input.name, input.k))), None)
            }
        };
        let transform = match &input.signs {
            Signs::RkLlama(weight) => RowTransform::RkLlama(
                rk_llama::Transform::hadamard(weight, input.k).context("a row is too long")?,
            ),
            _ => RowTransform::new(vector.as_deref(), Arc::clone(&input.rotation)),
        };
        let observed = match statistics {
            Some(statistics) => {
                Observed::new(quantizer.plan, input, &statistics, vector.as_deref())
                    .map(Some)
                    .with_context(|| format!("input `{}`", Escaped(&input.name)))?
            }
            None => None,
        };
        Ok(PreparedInput { vector, transform, sign_trial, observed })
    }
}

/// The equalization diagonal of an input, from what is known of its channels and from the columns
/// of all its linears.
fn diagonal(
    quantizer: &Quantizer<'_>,
    input: &InputPlan,
    statistics: Option<&InputStatistics>,
) -> anyhow::Result<Option<Vec<f32>>> {
    let gguf = quantizer.gguf;
    match (input.equalization, statistics) {
        (InputEqualization::None, _) | (InputEqualization::Observed, None) => Ok(None),
        (InputEqualization::Norm(norm), _) => {
            let gain = vector(gguf, &gguf.tensors()[norm.gain])?;
            let bias = norm.bias.map(|bias| vector(gguf, &gguf.tensors()[bias])).transpose()?;
            let columns = columns(quantizer, input)?;
            Ok(Some(equalize::diagonal(&gain, bias.as_deref(), &columns)?))
        }
        (InputEqualization::Observed, Some(statistics)) => {
            let columns = columns(quantizer, input)?;
            let Some(rms) = statistics.robust_channel_rms() else { return Ok(None) };
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
            let rms: Vec<f32> = rms.into_iter().map(|rms| rms as f32).collect();
            Ok(Some(equalize::diagonal(&rms, None, &columns)?))
        }
    }
}

/// Root mean squares of the columns of all linears of an input.
fn columns(quantizer: &Quantizer<'_>, input: &InputPlan) -> anyhow::Result<Vec<f64>> {
    let Quantizer { gguf, plan, .. } = quantizer;
    let mut energy = ColumnEnergy::new(input.k);
    for &linear in &input.linears {
        let linear = &plan.linears[linear];
        let tensor = &gguf.tensors()[linear.source];
        let panels = Panels { matrices: linear.matrices(), n: linear.n, rows: ROWS_PER_PANEL };
        add_columns(quantizer, tensor, panels, &mut energy)
            .with_context(|| format!("`{}`", Escaped(&tensor.name)))?;
    }
    Ok(energy.rms())
}

/// Bytes that a panel in flight takes where columns are measured, and that a thread does.
pub fn memory(k: usize, row_bytes: usize) -> (usize, usize) {
    (2 * ROWS_PER_PANEL * row_bytes + k * size_of::<f64>(), k * size_of::<f32>())
}

/// Bytes that an input of `k` channels takes while it is prepared: signs, diagonal, vector and its
/// inverse, and the columns' energies.
pub fn resident(k: usize) -> usize {
    k * (4 * size_of::<f32>() + 2 * size_of::<f64>())
}

/// Adds the energy of every column of a tensor.
fn add_columns(
    quantizer: &Quantizer<'_>,
    tensor: &TensorInfo,
    panels: Panels,
    energy: &mut ColumnEnergy,
) -> anyhow::Result<()> {
    let Quantizer { gguf, budget, progress, .. } = quantizer;
    let k = usize::try_from(tensor.dims[0])?;
    let row_bytes = usize::try_from(tensor.row_bytes())?;
    let (in_flight, scratch) = memory(k, row_bytes);
    let per_chunk = budget.panels(&tensor.name, in_flight, scratch)?;
    for_each_chunk(gguf, tensor, panels, panels.all(), per_chunk, |chunk| {
        let partial = chunk
            .panels
            .clone()
            .into_par_iter()
            .map_init(Vec::new, |weights: &mut Vec<f32>, index| {
                let (_, bytes) = chunk.panel(index);
                let mut energy = ColumnEnergy::new(k);
                weights.resize(k, 0.0);
                for row in bytes.chunks_exact(row_bytes) {
                    ggml::dequantize(tensor.ggml_type, row, weights)?;
                    energy.add_rows(weights);
                }
                Ok((energy, bytes.len()))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        for (panel, bytes) in partial {
            energy.merge(&panel);
            progress.advance(u64::try_from(bytes)?);
        }
        Ok(true)
    })
}

/// A small tensor, dequantized whole.
fn vector(gguf: &Gguf, tensor: &TensorInfo) -> anyhow::Result<Vec<f32>> {
    let mut bytes = vec![0; usize::try_from(tensor.bytes)?];
    gguf.read_at(tensor, 0, &mut bytes)?;
    let mut values = vec![0.0; usize::try_from(tensor.elements())?];
    ggml::dequantize(tensor.ggml_type, &bytes, &mut values)
        .with_context(|| format!("`{}`", Escaped(&tensor.name)))?;
    Ok(values)
}
