//! The gated FFN of a layer, or of an expert shared by all tokens.

use rayon::prelude::*;

use super::functions::gated;
use super::observer::{Stop, Tap};
use super::weights::{Loader, Projection, existing, projection};
use crate::checkpoint::Checkpoint;
use crate::linear::Activations;
use crate::model::{Activation, ModelError, names};

/// Values of an activation function computed on one thread.
const PIECE: usize = 1 << 14;

/// A gated FFN.
pub(super) struct GatedFfn {
    activation: Activation,
    inputs: Inputs,
    down: Projection,
}

/// Projections to the gate and to what it gates.
enum Inputs {
    /// Two linears.
    Separate { gate: Projection, up: Projection },
    /// One linear, the gate's rows first.
    Fused(Projection),
}

/// Declares the tensors of an FFN of `inner` channels; `suffix` is `_shexp` for a shared expert.
pub(super) fn declare(
    loader: &Loader<'_>,
    width: usize,
    layer: usize,
    (inner, suffix): (usize, &str),
) -> Result<(), ModelError> {
    let name = |tensor: &str, part: &str| names::layer(layer, &format!("{tensor}{suffix}.{part}"));
    let gate = name("ffn_gate", "weight");
    let fused = !loader.declare(&gate, &[width, inner])?;
    let halves = [width as u64, inner as u64];
    if fused && loader.checkpoint.dims(&name("ffn_up", "weight")).is_some_and(|up| up == halves) {
        return Err(ModelError::MissingTensor { tensor: gate });
    }
    loader.declare(&name("ffn_gate", "bias"), &[inner])?;
    let up = if fused { 2 * inner } else { inner };
    loader.require(&name("ffn_up", "weight"), &[width, up])?;
    loader.declare(&name("ffn_up", "bias"), &[up])?;
    loader.require(&name("ffn_down", "weight"), &[inner, width])?;
    loader.declare(&name("ffn_down", "bias"), &[width])?;
    Ok(())
}

/// Names of the FFN's linears, those that share an input together.
pub(super) fn inputs(checkpoint: &dyn Checkpoint, layer: usize, suffix: &str) -> Vec<Vec<String>> {
    existing(checkpoint, layer, suffix, &[&["ffn_gate", "ffn_up"], &["ffn_down"]])
}

impl GatedFfn {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        activation: Activation,
        layer: usize,
        suffix: &str,
    ) -> Result<Self, ModelError> {
        let stem = |tensor: &str| names::layer(layer, &format!("{tensor}{suffix}"));
        let load = |tensor: &str| projection(checkpoint, &stem(tensor));
        let separate = checkpoint.dims(&format!("{}.weight", stem("ffn_gate"))).is_some();
        let inputs = match separate {
            true => Inputs::Separate { gate: load("ffn_gate")?, up: load("ffn_up")? },
            false => Inputs::Fused(load("ffn_up")?),
        };
        Ok(GatedFfn { activation, inputs, down: load("ffn_down")? })
    }

    /// What the FFN makes of normalized rows.
    pub(super) fn forward(&self, x: &Activations<'_>, tap: Tap<'_>) -> Result<Vec<f32>, Stop> {
        let inner = match &self.inputs {
            Inputs::Separate { gate, up } => {
                tap.observe(&[&gate.name, &up.name], None, x, None)?;
                gate_with(self.activation, gate.apply(x)?, &up.apply(x)?)
            }
            Inputs::Fused(fused) => {
                tap.observe(&[&fused.name], None, x, None)?;
                gate_halves(self.activation, &fused.apply(x)?, fused.n())
            }
        };
        let k = inner.len() / x.rows();
        let inner = Activations::new(&inner, k);
        tap.observe(&[&self.down.name], None, &inner, None)?;
        Ok(self.down.apply(&inner)?)
    }
}

/// `f(gate) · up`.
pub(super) fn gate_with(activation: Activation, mut gate: Vec<f32>, up: &[f32]) -> Vec<f32> {
    gate.par_chunks_mut(PIECE)
        .zip(up.par_chunks(PIECE))
        .for_each(|(gate, up)| gated(activation, gate, up));
    gate
}

/// `f(gate) · up` of rows of `n`, gates in the first half of each.
pub(super) fn gate_halves(activation: Activation, rows: &[f32], n: usize) -> Vec<f32> {
    let half = |start: usize| {
        let rows = rows.chunks_exact(n);
        rows.flat_map(|row| &row[start..start + n / 2]).copied().collect::<Vec<_>>()
    };
    gate_with(activation, half(0), &half(n / 2))
}
