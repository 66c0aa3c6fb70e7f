//! The attention block of a layer: projections, head norms, RoPE, cache, output.

use rayon::prelude::*;

use super::attention::{Queries, attend};
use super::cache::Sequence;
use super::norm::{Norm, declare_head_norm};
use super::observer::{Stop, Tap};
use super::weights::{Loader, Projection, existing, projection};
use crate::checkpoint::Checkpoint;
use crate::linear::Activations;
use crate::model::{Attention, Hyperparameters, ModelError, Rope, names};

/// The attention block of a layer.
pub(super) struct SelfAttention {
    shape: Attention,
    rope: Option<Rope>,
    temperature: Option<(f32, usize)>,
    inputs: Inputs,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    output: Projection,
}

/// Projections to queries, keys and values.
enum Inputs {
    /// Three linears.
    Separate { query: Projection, key: Projection, value: Projection },
    /// One linear, its rows those of the three in order.
    Fused(Projection),
}

/// Queries, keys and values, rows of all heads.
struct Projected {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Declares the block's tensors.
pub(super) fn declare(
    loader: &Loader<'_>,
    model: &Hyperparameters,
    layer: usize,
) -> Result<(), ModelError> {
    let shape = &model.shapes[layer].attention;
    let name = |tensor: &str| names::layer(layer, tensor);
    let [q, k, v] = lengths(shape);
    if loader.declare(&name("attn_qkv.weight"), &[model.width, q + k + v])? {
        loader.declare(&name("attn_qkv.bias"), &[q + k + v])?;
    } else {
        for (tensor, n) in [("attn_q", q), ("attn_k", k), ("attn_v", v)] {
            loader.require(&name(&format!("{tensor}.weight")), &[model.width, n])?;
            loader.declare(&name(&format!("{tensor}.bias")), &[n])?;
        }
    }
    if model.head_norms {
        declare_head_norm(loader, &name("attn_q_norm.weight"), shape.key_length, shape.heads)?;
        declare_head_norm(loader, &name("attn_k_norm.weight"), shape.key_length, shape.kv_heads)?;
    }
    let inner = shape.heads * shape.value_length;
    loader.require(&name("attn_output.weight"), &[inner, model.width])?;
    loader.declare(&name("attn_output.bias"), &[model.width])?;
    Ok(())
}

/// Names of the block's linears, those that share an input together.
pub(super) fn inputs(checkpoint: &dyn Checkpoint, layer: usize) -> Vec<Vec<String>> {
    existing(
        checkpoint,
        layer,
        "",
        &[&["attn_qkv", "attn_q", "attn_k", "attn_v"], &["attn_output"]],
    )
}

/// Lengths of a row of queries, keys and values.
fn lengths(shape: &Attention) -> [usize; 3] {
    let Attention { heads, kv_heads, key_length, value_length, .. } = *shape;
    [heads * key_length, kv_heads * key_length, kv_heads * value_length]
}

impl SelfAttention {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        model: &Hyperparameters,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let shape = model.shapes[layer].attention;
        let load = |tensor: &str| projection(checkpoint, &names::layer(layer, tensor));
        let fused = checkpoint.dims(&names::layer(layer, "attn_qkv.weight")).is_some();
        let inputs = match fused {
            true => Inputs::Fused(load("attn_qkv")?),
            false => Inputs::Separate {
                query: load("attn_q")?,
                key: load("attn_k")?,
                value: load("attn_v")?,
            },
        };
        let norm = |tensor: &str| {
            let name = names::layer(layer, tensor);
            let norm = || Norm::load(checkpoint, &name, model.norm_epsilon);
            model.head_norms.then(norm).transpose()
        };
        Ok(SelfAttention {
            shape,
            rope: shape.rope.and_then(|rope| model.ropes.get(rope)).cloned(),
            temperature: model.temperature,
            inputs,
            query_norm: norm("attn_q_norm.weight")?,
            key_norm: norm("attn_k_norm.weight")?,
            output: load("attn_output")?,
        })
    }

    /// What the block makes of normalized rows, `[m, width]`; the rows' keys and values join the
    /// caches.
    pub(super) fn forward(
        &self,
        x: &[f32],
        width: usize,
        sequences: &mut [Sequence<'_>],
        tap: Tap<'_>,
    ) -> Result<Vec<f32>, Stop> {
        let x = Activations::new(x, width);
        let Projected { mut queries, mut keys, values } = self.project(&x, tap)?;
        if let Some(norm) = &self.query_norm {
            norm.apply(&mut queries);
        }
        if let Some(norm) = &self.key_norm {
            norm.apply(&mut keys);
        }
        let [q, k, v] = lengths(&self.shape);
        let mut first = 0;
        for sequence in &mut *sequences {
            let rows = first..first + sequence.tokens;
            let start = sequence.cache.len();
            let (queries, keys) = (
                &mut queries[rows.start * q..rows.end * q],
                &mut keys[rows.start * k..rows.end * k],
            );
            self.place(start, sequence.tokens, queries, keys);
            sequence.cache.extend(sequence.tokens, keys, &values[rows.start * v..rows.end * v]);
            first = rows.end;
        }
        let mut first = 0;
        let spans: Vec<_> = sequences
            .iter()
            .map(|sequence| {
                let rows = first..first + sequence.tokens;
                first = rows.end;
                Queries { rows, cache: &*sequence.cache }
            })
            .collect();
        let inner = self.shape.heads * self.shape.value_length;
        let mut mixed = vec![0.0; x.rows() * inner];
        attend(&self.shape, &spans, &queries, &mut mixed);
        let mixed = Activations::new(&mixed, inner);
        tap.observe(&[&self.output.name], None, &mixed, None)?;
        Ok(self.output.apply(&mixed)?)
    }

    fn project(&self, x: &Activations<'_>, tap: Tap<'_>) -> Result<Projected, Stop> {
        match &self.inputs {
            Inputs::Separate { query, key, value } => {
                tap.observe(&[&query.name, &key.name, &value.name], None, x, None)?;
                Ok(Projected {
                    queries: query.apply(x)?,
                    keys: key.apply(x)?,
                    values: value.apply(x)?,
                })
            }
            Inputs::Fused(fused) => {
                tap.observe(&[&fused.name], None, x, None)?;
                let rows = fused.apply(x)?;
                let [q, k, v] = lengths(&self.shape);
                let part = |start: usize, length: usize| {
                    let rows = rows.chunks_exact(q + k + v);
                    rows.flat_map(|row| &row[start..start + length]).copied().collect()
                };
                Ok(Projected { queries: part(0, q), keys: part(q, k), values: part(q + k, v) })
            }
        }
    }

    /// Turns queries and keys by their positions, from `first` on.
    #[expect(clippy::cast_precision_loss, reason = "positions are small")]
    fn place(&self, first: usize, tokens: usize, queries: &mut [f32], keys: &mut [f32]) {
        let [q, k, _] = lengths(&self.shape);
        if let Some(rope) = &self.rope {
            let table = rope.table(first, tokens);
            for (values, length) in [(&mut *queries, q), (keys, k)] {
                values.par_chunks_exact_mut(length).enumerate().for_each(|(index, row)| {
                    let heads = row.chunks_exact_mut(self.shape.key_length);
                    heads.for_each(|head| table.rotate(index, head));
                });
            }
        }
        if let Some((scale, step)) = self.temperature {
            for (index, row) in queries.chunks_exact_mut(q).enumerate() {
                let steps = ((first + index) / step) as f32;
                let factor = (steps + 1.0).ln() * scale + 1.0;
                row.iter_mut().for_each(|query| *query *= factor);
            }
        }
    }
}
