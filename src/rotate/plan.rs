//! What becomes of every tensor of a model, before any weight is read.

use std::collections::HashMap;

use anyhow::{anyhow, ensure};
use tessera_formats::escape::Escaped;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_runtime::model::{Attention, Hyperparameters, names};

use super::turn::{HeadTurn, Turn};

/// Everything decided before weights are read.
pub struct Plan {
    /// Tensors of the new file, in the source's order; the head of a tied model last.
    pub tensors: Vec<TensorPlan>,
    /// Rotation of the residual stream.
    pub residual: Turn,
    /// Rotations of each layer's heads of values; empty where they stay.
    pub heads: Vec<HeadTurn>,
}

/// One tensor of the new file.
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Index of the tensor it is made from.
    pub source: usize,
    /// Its type.
    pub ggml_type: GgmlType,
    /// What is done.
    pub step: Step,
}

/// What is done to a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copied bit for bit.
    Copy,
    /// A norm's gain, which went into the linears behind it: ones.
    Ones,
    /// Rows that are states, or that normalized states are multiplied by.
    Rows {
        /// The norm whose gain they take in.
        gain: Option<String>,
        /// The rows that make values.
        values: Option<ValueRows>,
    },
    /// Columns that are added to states; with the layer whose heads of values they read.
    Columns {
        /// The layer.
        heads: Option<usize>,
    },
    /// A bias that is added to states.
    Bias,
    /// A bias of values.
    ValueBias(ValueRows),
}

/// Rows of a linear that make values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRows {
    /// The layer.
    pub layer: usize,
    /// The first of them; they reach to the end.
    pub first: usize,
}

/// Weights that read states behind the norm before attention.
const ATTENTION_READERS: &[&str] = &["attn_q", "attn_k", "attn_v", "attn_qkv"];

/// Weights that read states behind the norm before the FFN.
const FFN_READERS: &[&str] = &[
    "ffn_gate_inp",
    "ffn_gate_inp_shexp",
    "ffn_gate",
    "ffn_up",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_gate_up_exps",
    "ffn_gate_shexp",
    "ffn_up_shexp",
];

/// Weights that write states.
const WRITERS: &[&str] = &["attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp"];

/// Tensors of a layer that stand between a reader and a writer.
const WITHIN: &[&str] = &[
    "attn_q.bias",
    "attn_k.bias",
    "attn_q_norm.weight",
    "attn_k_norm.weight",
    "ffn_gate.bias",
    "ffn_up.bias",
    "ffn_gate_shexp.bias",
    "ffn_up_shexp.bias",
];

/// Tensors outside of layers that do not meet a state.
const OUTSIDE: &[&str] =
    &[names::HEAD_BIAS, names::ROPE_FACTORS, names::ROPE_LONG, names::ROPE_SHORT];

/// Routers keep their precision: which experts a token goes to depends on it.
const ROUTERS: &[&str] = &["ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight"];

impl Plan {
    /// Decides for every tensor of `gguf`, whose graph is `model`; matrices get the type
    /// `ggml_type`.
    pub fn new(
        gguf: &Gguf,
        model: &Hyperparameters,
        seed: u64,
        heads: bool,
        ggml_type: GgmlType,
    ) -> anyhow::Result<Plan> {
        let steps = steps(model, heads);
        let mut tensors = Vec::new();
        for (source, tensor) in gguf.tensors().iter().enumerate() {
            let step = steps.get(&tensor.name).cloned().ok_or_else(|| {
                anyhow!("how `{}` meets the residual stream is not known", Escaped(&tensor.name))
            })?;
            let ggml_type = new_type(tensor, &step, ggml_type);
            ensure!(
                step == Step::Copy || tensor.ggml_type.can_dequantize(),
                "`{}` has type {}, which cannot be dequantized: rotate the model from another type",
                Escaped(&tensor.name),
                tensor.ggml_type.name(),
            );
            tensors.push(TensorPlan { name: tensor.name.clone(), source, ggml_type, step });
        }
        // A tied head takes the gain of its norm in, and the embedding does not.
        if gguf.tensor(names::HEAD).is_none() {
            let source = gguf.tensors().iter().position(|tensor| tensor.name == names::EMBEDDING);
            let source = source.ok_or_else(|| anyhow!("the model has no token embedding"))?;
            let step = head();
            tensors.push(TensorPlan { name: names::HEAD.to_owned(), source, ggml_type, step });
        }
        let layers = model.shapes.iter().enumerate().filter(|_| heads);
        Ok(Plan {
            tensors,
            residual: Turn::of_residual(seed, model.width)?,
            heads: layers
                .map(|(layer, shape)| HeadTurn::of_layer(seed, layer, &shape.attention))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The type that a tensor gets: matrices what was asked for, what is small or routes F32.
fn new_type(tensor: &TensorInfo, step: &Step, asked: GgmlType) -> GgmlType {
    match step {
        Step::Copy => tensor.ggml_type,
        _ if tensor.dims.len() < 2 => GgmlType::F32,
        _ if ROUTERS.iter().any(|router| tensor.name.ends_with(router)) => GgmlType::F32,
        _ => asked,
    }
}

/// What is done to the head.
fn head() -> Step {
    Step::Rows { gain: Some(names::HEAD_NORM.to_owned()), values: None }
}

/// What is done to every tensor that a graph can have.
fn steps(model: &Hyperparameters, heads: bool) -> HashMap<String, Step> {
    let mut steps = HashMap::from([
        (names::EMBEDDING.to_owned(), Step::Rows { gain: None, values: None }),
        (names::HEAD.to_owned(), head()),
        (names::HEAD_NORM.to_owned(), Step::Ones),
    ]);
    steps.extend(OUTSIDE.iter().map(|&name| (name.to_owned(), Step::Copy)));
    for (layer, shape) in model.shapes.iter().enumerate() {
        let name = |tensor: &str| names::layer(layer, tensor);
        steps.extend(WITHIN.iter().map(|tensor| (name(tensor), Step::Copy)));
        for (norm, readers) in
            [("attn_norm.weight", ATTENTION_READERS), ("ffn_norm.weight", FFN_READERS)]
        {
            steps.insert(name(norm), Step::Ones);
            for reader in readers {
                let values = value_rows(layer, &shape.attention, reader).filter(|_| heads);
                let step = Step::Rows { gain: Some(name(norm)), values };
                steps.insert(name(&format!("{reader}.weight")), step);
            }
        }
        for reader in ["attn_v", "attn_qkv"] {
            let values = value_rows(layer, &shape.attention, reader).filter(|_| heads);
            let step = values.map_or(Step::Copy, Step::ValueBias);
            steps.insert(name(&format!("{reader}.bias")), step);
        }
        for writer in WRITERS {
            let heads = (heads && *writer == "attn_output").then_some(layer);
            steps.insert(name(&format!("{writer}.weight")), Step::Columns { heads });
            steps.insert(name(&format!("{writer}.bias")), Step::Bias);
        }
    }
    steps
}

/// The rows of a projection that make values.
fn value_rows(layer: usize, attention: &Attention, projection: &str) -> Option<ValueRows> {
    let Attention { heads, kv_heads, key_length, .. } = *attention;
    match projection {
        "attn_v" => Some(ValueRows { layer, first: 0 }),
        "attn_qkv" => Some(ValueRows { layer, first: (heads + kv_heads) * key_length }),
        _ => None,
    }
}
