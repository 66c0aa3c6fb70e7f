//! What a model's keys say of its graph.

use std::collections::HashMap;

use arbitrary::{Arbitrary, Unstructured};
use tessera_formats::gguf::{Gguf, Metadata};
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint};
use tessera_runtime::decoder::Decoder;
use tessera_runtime::linear::{Linear, LinearError};

use crate::gguf_bytes::{Value, put_key};
use crate::hostile::{Hostile, Rarely};
use crate::input;
use crate::told::told;

/// A GGUF file, or keys that are made up: a graph, whose layers can be asked for, or an error.
pub fn model(data: &[u8]) {
    if data.starts_with(b"GGUF") {
        let path = input::file("model.gguf", data);
        let Ok(gguf) = Gguf::open(&path) else { return };
        check(&GgufCheckpoint::new(&gguf));
        return;
    }
    let Ok(keys) = Keys::arbitrary(&mut Unstructured::new(data)) else { return };
    let path = input::path("model.gguf");
    let Ok(metadata) = Metadata::parse(&path, keys.bytes()) else { return };
    check(&Shapes { metadata, dims: keys.dims(), filling: keys.filling });
}

fn check(checkpoint: &dyn Checkpoint) {
    for context in [1, 512, 1 << 20] {
        let decoder = match Decoder::for_context(checkpoint, context) {
            Ok(decoder) => decoder,
            Err(error) => {
                told(&error);
                continue;
            }
        };
        let model = decoder.model();
        assert!(model.layers >= 1 && model.layers == model.shapes.len());
        for index in 0..model.layers.min(4) {
            for name in decoder.layer_linears(index) {
                let _ = decoder.linear_dims(&name);
            }
            let _ = (decoder.layer_inputs(index), decoder.layer_bytes(index));
            let _ = decoder.layer(index).map(drop);
        }
        let _ = (decoder.head_linear(), decoder.head_bytes());
        let _ = decoder.embed(&[0, 1, u32::MAX]);
        let _ = decoder.embed(&[0]);
        let _ = decoder.head().map(drop);
    }
}

/// Keys, and tensors that are shapes.
struct Shapes {
    metadata: Metadata,
    dims: HashMap<String, Vec<u64>>,
    filling: f32,
}

impl Checkpoint for Shapes {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn names(&self) -> Vec<&str> {
        self.dims.keys().map(String::as_str).collect()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        self.dims.get(name).cloned()
    }

    fn read_rows(&self, name: &str, _: u64, out: &mut [f32]) -> Result<(), LinearError> {
        let missing = || LinearError::Missing { name: name.to_owned() };
        self.dims.get(name).ok_or_else(missing)?;
        out.fill(self.filling);
        Ok(())
    }

    fn linear_bytes(&self, _: &str) -> u64 {
        0
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        Err(LinearError::Missing { name: name.to_owned() })
    }
}

const ARCHITECTURES: [&str; 16] = [
    "llama",
    "gemma",
    "gemma2",
    "gemma3",
    "mistral3",
    "smollm3",
    "granite",
    "granitemoe",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "phi3",
    "olmo2",
    "olmoe",
    "llama4",
];

/// Keys that say something, without the architecture before them.
const KEYS: [&str; 44] = [
    "block_count",
    "embedding_length",
    "context_length",
    "attention.layer_norm_rms_epsilon",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.clamp_kqv",
    "attention.causal",
    "attention.temperature_scale",
    "attention.temperature_length",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "router_logit_softcapping",
    "feed_forward_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_shared_count",
    "expert_weights_scale",
    "expert_weights_norm",
    "expert_gating_func",
    "leading_dense_block_count",
    "interleave_moe_layer_step",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scale_linear",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
];

const TENSORS: [&str; 14] = [
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_qkv.weight",
    "blk.0.attn_q.bias",
    "blk.0.attn_q_norm.weight",
    "blk.0.ffn_norm.weight",
    "blk.0.ffn_gate_inp.weight",
    "blk.0.ffn_up.weight",
];

#[derive(Arbitrary, Debug)]
struct Keys {
    architecture: u8,
    layers: Rarely<Hostile>,
    width: Rarely<Hostile>,
    heads: Rarely<Hostile>,
    vocabulary: Rarely<Hostile>,
    epsilon: Rarely<f32>,
    others: Vec<(u8, Setting)>,
    tensors: Vec<(u8, Vec<Rarely<Hostile>>)>,
    filling: f32,
}

#[derive(Arbitrary, Debug)]
enum Setting {
    Count(Rarely<Hostile>, u8),
    Number(f32),
    Counts(Vec<u8>),
    Switch(bool),
    Kind(u8),
    Texts(Vec<String>),
}

impl Keys {
    fn width(&self) -> u64 {
        self.width.or(64)
    }

    fn dims(&self) -> HashMap<String, Vec<u64>> {
        let mut dims = HashMap::from([
            ("token_embd.weight".to_owned(), vec![self.width(), self.vocabulary.or(32)]),
            ("output_norm.weight".to_owned(), vec![self.width()]),
        ]);
        for (name, shape) in &self.tensors {
            let name = TENSORS[usize::from(*name) % TENSORS.len()];
            let shape = shape.iter().take(4).map(|dim| dim.or(self.width())).collect();
            dims.insert(name.to_owned(), shape);
        }
        dims
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let name = ARCHITECTURES[usize::from(self.architecture) % ARCHITECTURES.len()];
        put_key(&mut out, "general.architecture", &Value::text(name));
        let mut seen = std::collections::HashSet::new();
        let mut put = |index: usize, value: &Value| {
            if seen.insert(index) {
                put_key(&mut out, &format!("{name}.{}", KEYS[index]), value);
            }
        };
        for (key, setting) in &self.others {
            let value = match setting {
                Setting::Count(number, small) => Value::U64(number.or(u64::from(*small))),
                Setting::Number(number) => Value::F32(*number),
                Setting::Counts(counts) => {
                    Value::i32s(counts.iter().copied().map(i32::from).collect())
                }
                Setting::Switch(on) => Value::Bool(u8::from(*on)),
                Setting::Kind(kind) => {
                    Value::text(["none", "linear", "yarn", "longrope", "x"][usize::from(*kind) % 5])
                }
                Setting::Texts(texts) => Value::texts(texts),
            };
            put(usize::from(*key) % KEYS.len(), &value);
        }
        let layers = self.layers.or(2);
        let heads = self.heads.or(4);
        for (index, value) in [
            (0, Value::U64(layers)),
            (1, Value::U64(self.width())),
            (2, Value::U64(128)),
            (3, Value::F32(self.epsilon.0.unwrap_or(1e-5))),
            (4, Value::U64(heads)),
            (18, Value::U64(96)),
        ] {
            put(index, &value);
        }
        out
    }
}
