//! Mixture of experts: routing, the experts' FFNs, the shared expert.

use rayon::prelude::*;

use super::feed_forward::{self, GatedFfn, gate_halves, gate_with};
use super::functions::{sigmoid, softmax};
use super::observer::{Stop, Tap};
use super::weights::{Loader, Projection, existing, projection, read, read_if};
use crate::checkpoint::Checkpoint;
use crate::linear::Activations;
use crate::linear::float::dot;
use crate::model::{Activation, Experts, Hyperparameters, ModelError, names};

/// Least sum that chosen weights are divided by: the smallest normal f16, as llama.cpp.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// Suffix of the shared expert's tensors.
const SHARED: &str = "_shexp";

/// The experts of a layer.
pub(super) struct MixtureOfExperts {
    shape: Experts,
    activation: Activation,
    /// `[experts, width]`.
    router: Vec<f32>,
    inputs: Inputs,
    down: Projection,
    shared: Option<Shared>,
}

/// Projections of the experts.
enum Inputs {
    /// Two linears.
    Separate { gate: Projection, up: Projection },
    /// One linear, the gate's rows first.
    Fused(Projection),
}

/// An expert that every token goes to.
struct Shared {
    ffn: GatedFfn,
    /// `[width]`: its output is multiplied by the sigmoid of the input's product with this.
    gate: Option<Vec<f32>>,
}

/// A token's way to one expert.
#[derive(Clone, Copy)]
struct Route {
    row: usize,
    weight: f32,
}

/// Declares the tensors of a layer's experts.
pub(super) fn declare(
    loader: &Loader<'_>,
    model: &Hyperparameters,
    shape: &Experts,
    layer: usize,
) -> Result<(), ModelError> {
    let name = |tensor: &str| names::layer(layer, tensor);
    let (width, inner, count) = (model.width, shape.width, shape.count);
    loader.require(&name("ffn_gate_inp.weight"), &[width, count])?;
    if !loader.declare(&name("ffn_gate_up_exps.weight"), &[width, 2 * inner, count])? {
        loader.require(&name("ffn_gate_exps.weight"), &[width, inner, count])?;
        loader.require(&name("ffn_up_exps.weight"), &[width, inner, count])?;
    }
    loader.require(&name("ffn_down_exps.weight"), &[inner, width, count])?;
    let shared = name("ffn_up_shexp.weight");
    if let Some(found) = loader.checkpoint.dims(&shared) {
        // No key says its width: the tensor does.
        let n = found.get(1).copied().unwrap_or(1);
        let inner = usize::try_from(n).ok().filter(|_| found == [width as u64, n]);
        let inner = inner.ok_or_else(|| {
            let expected = vec![width as u64, n];
            ModelError::Shape { tensor: shared, expected, found }
        })?;
        feed_forward::declare(loader, width, layer, (inner, SHARED))?;
        let gate = name("ffn_gate_inp_shexp.weight");
        let flat = loader.checkpoint.dims(&gate).is_some_and(|dims| dims.len() == 1);
        let shape = [width, 1];
        loader.declare(&gate, if flat { &shape[..1] } else { &shape })?;
    }
    Ok(())
}

/// Names of the experts' linears, those that share an input together.
pub(super) fn inputs(checkpoint: &dyn Checkpoint, layer: usize) -> Vec<Vec<String>> {
    let routed: &[&[&str]] = &[&["ffn_gate_up", "ffn_gate", "ffn_up"], &["ffn_down"]];
    let mut inputs = existing(checkpoint, layer, "_exps", routed);
    inputs.extend(feed_forward::inputs(checkpoint, layer, SHARED));
    inputs
}

impl MixtureOfExperts {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        model: &Hyperparameters,
        shape: Experts,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let name = |tensor: &str| names::layer(layer, tensor);
        let exists = |tensor: &str| checkpoint.dims(&name(tensor)).is_some();
        let load = |tensor: &str| projection(checkpoint, &name(tensor));
        let inputs = match exists("ffn_gate_up_exps.weight") {
            true => Inputs::Fused(load("ffn_gate_up_exps")?),
            false => Inputs::Separate { gate: load("ffn_gate_exps")?, up: load("ffn_up_exps")? },
        };
        let shared = match exists("ffn_up_shexp.weight") {
            true => Some(Shared {
                ffn: GatedFfn::load(checkpoint, model.activation, layer, SHARED)?,
                gate: read_if(checkpoint, &name("ffn_gate_inp_shexp.weight"))?,
            }),
            false => None,
        };
        Ok(MixtureOfExperts {
            shape,
            activation: model.activation,
            router: read(checkpoint, &name("ffn_gate_inp.weight"))?,
            inputs,
            down: load("ffn_down_exps")?,
            shared,
        })
    }

    /// What the experts make of normalized rows. Every expert's rows are computed together; a row's
    /// contributions are added in the order of the experts.
    pub(super) fn forward(&self, x: &Activations<'_>, tap: Tap<'_>) -> Result<Vec<f32>, Stop> {
        let routes = self.route(x);
        let mut out = vec![0.0f32; x.values().len()];
        let busy: Vec<_> = (0..routes.len()).filter(|&expert| !routes[expert].is_empty()).collect();
        for experts in busy.chunks(rayon::current_num_threads().max(1)) {
            let inner: Vec<_> = experts
                .par_iter()
                .map(|&expert| self.inner(expert, &routes[expert], x))
                .collect::<Result<_, ModelError>>()?;
            for (&expert, inner) in experts.iter().zip(&inner) {
                self.observe(expert, &routes[expert], x, inner, tap)?;
            }
            let results: Vec<_> = experts
                .par_iter()
                .zip(inner)
                .map(|(&expert, inner)| self.output(expert, &inner, x))
                .collect::<Result<_, ModelError>>()?;
            for (&expert, rows) in experts.iter().zip(results) {
                for (route, row) in routes[expert].iter().zip(rows.chunks_exact(x.k())) {
                    let out = &mut out[route.row * x.k()..(route.row + 1) * x.k()];
                    out.iter_mut().zip(row).for_each(|(out, y)| *out += route.weight * y);
                }
            }
        }
        if let Some(shared) = &self.shared {
            let rows = shared.ffn.forward(x, tap)?;
            for (row, (out, y)) in
                out.chunks_exact_mut(x.k()).zip(rows.chunks_exact(x.k())).enumerate()
            {
                let weight =
                    shared.gate.as_ref().map_or(1.0, |gate| sigmoid(dot(x.row(row), gate)));
                out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
            }
        }
        Ok(out)
    }

    /// Rows of every expert, ascending: the `used` experts of largest probability of each row, the
    /// first of equal ones.
    fn route(&self, x: &Activations<'_>) -> Vec<Vec<Route>> {
        let Experts { count, used, normalized, scale, .. } = self.shape;
        let chosen: Vec<Vec<(usize, f32)>> = (0..x.rows())
            .into_par_iter()
            .map(|row| {
                let experts = self.router.chunks_exact(x.k());
                let mut probabilities: Vec<f32> =
                    experts.map(|expert| dot(x.row(row), expert)).collect();
                softmax(&mut probabilities);
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|&a, &b| {
                    probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b))
                });
                order.truncate(used);
                let sum: f32 = order.iter().map(|&expert| probabilities[expert]).sum();
                let divisor = if normalized { sum.max(LEAST_SUM) } else { 1.0 };
                let weight = |expert: usize| probabilities[expert] / divisor * scale;
                order.into_iter().map(|expert| (expert, weight(expert))).collect()
            })
            .collect();
        let mut routes = vec![Vec::new(); count];
        for (row, chosen) in chosen.into_iter().enumerate() {
            for (expert, weight) in chosen {
                routes[expert].push(Route { row, weight });
            }
        }
        routes
    }

    /// What an expert's last linear reads, a row for each of its routes.
    fn inner(
        &self,
        expert: usize,
        routes: &[Route],
        x: &Activations<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let rows = rows_of(routes);
        Ok(match &self.inputs {
            Inputs::Separate { gate, up } => {
                let up = up.apply_expert(expert, x, &rows)?;
                gate_with(self.activation, gate.apply_expert(expert, x, &rows)?, &up)
            }
            Inputs::Fused(fused) => {
                let rows = fused.apply_expert(expert, x, &rows)?;
                gate_halves(self.activation, &rows, fused.n())
            }
        })
    }

    /// Shows what an expert's linears read.
    fn observe(
        &self,
        expert: usize,
        routes: &[Route],
        x: &Activations<'_>,
        inner: &[f32],
        tap: Tap<'_>,
    ) -> Result<(), Stop> {
        let rows = rows_of(routes);
        match &self.inputs {
            Inputs::Separate { gate, up } => {
                tap.observe(&[&gate.name, &up.name], Some(expert), x, Some(&rows))?;
            }
            Inputs::Fused(fused) => tap.observe(&[&fused.name], Some(expert), x, Some(&rows))?,
        }
        let inner = Activations::new(inner, self.shape.width);
        tap.observe(&[&self.down.name], Some(expert), &inner, None)
    }

    /// Outputs of an expert, of the rows that its last linear reads.
    fn output(
        &self,
        expert: usize,
        inner: &[f32],
        x: &Activations<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let inner = Activations::new(inner, self.shape.width).of_batch(x.batch());
        let all: Vec<_> = (0..inner.rows()).collect();
        self.down.apply_expert(expert, &inner, &all)
    }
}

/// Rows that come to an expert.
fn rows_of(routes: &[Route]) -> Vec<usize> {
    routes.iter().map(|route| route.row).collect()
}
