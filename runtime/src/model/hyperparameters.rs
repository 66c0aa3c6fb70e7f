//! Sizes, scales and choices of a model's graph, from its keys.

use tessera_formats::gguf::Value;

use super::architecture::{
    Activation, Architecture, EmbeddingScale, NormPlacement, Pairing, SoftCap, WindowRope, Windows,
};
use super::keys::Keys;
use super::rope::{Rope, RopeParameters, Yarn};
use super::{ModelError, names};
use crate::checkpoint::Checkpoint;

/// Most layers, heads, channels of a head and of a row, tokens, experts and positions that a model may have.
const MOST_LAYERS: usize = 1024;
const MOST_HEADS: usize = 1 << 16;
const LONGEST_HEAD: usize = 1 << 16;
const MOST_CHANNELS: usize = 1 << 24;
const MOST_TOKENS: usize = 1 << 24;
const MOST_EXPERTS: usize = 1 << 16;
const MOST_POSITIONS: usize = 1 << 40;

/// YaRN's betas where no key gives others.
const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

/// A model's graph.
#[derive(Clone, Debug)]
pub struct Hyperparameters {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Channels of the residual stream.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// What is added to mean squares in norms.
    pub norm_epsilon: f32,
    /// Where the norms stand: before attention and FFN, after, or both.
    pub norms_before: bool,
    /// See [`Hyperparameters::norms_before`].
    pub norms_after: bool,
    /// Whether queries and keys are normalized.
    pub head_norms: bool,
    /// Activation function of the FFN.
    pub activation: Activation,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// What attention's and the FFN's outputs are multiplied by before they are added.
    pub residual_scale: f32,
    /// What logits are multiplied by.
    pub logit_scale: f32,
    /// Bound of logits, cap · tanh(x / cap).
    pub logit_soft_cap: Option<f32>,
    /// Temperature of queries by position, as Mistral 3: scale, and positions of a step.
    pub temperature: Option<(f32, usize)>,
    /// Every layer.
    pub shapes: Vec<LayerShape>,
    /// The RoPEs that layers refer to.
    pub ropes: Vec<Rope>,
}

/// A layer's graph.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// Attention.
    pub attention: Attention,
    /// FFN.
    pub feed_forward: FeedForward,
}

/// A layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of the query heads.
    pub kv_heads: usize,
    /// Length of a query or key head.
    pub key_length: usize,
    /// Length of a value head.
    pub value_length: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Bound of scores, cap · tanh(x / cap).
    pub soft_cap: Option<f32>,
    /// Positions that a query sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Index of its RoPE in [`Hyperparameters::ropes`]; `None` for none.
    pub rope: Option<usize>,
}

/// A layer's FFN.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForward {
    /// One gated FFN.
    Dense {
        /// Channels within.
        width: usize,
    },
    /// Experts.
    Experts(Experts),
}

/// Experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token goes to.
    pub used: usize,
    /// Channels within one.
    pub width: usize,
    /// Whether the chosen experts' weights are divided by their sum.
    pub normalized: bool,
    /// What the weights are multiplied by.
    pub scale: f32,
}

/// What only some stages of reading need.
struct Reader<'a> {
    keys: Keys<'a>,
    architecture: Architecture,
    checkpoint: &'a dyn Checkpoint,
    layers: usize,
    width: usize,
    context_length: usize,
}

impl Hyperparameters {
    /// Reads a model's keys for runs of up to `context` positions, which decides between the long
    /// and the short frequency factors of models that have both.
    ///
    /// # Errors
    ///
    /// If the architecture is not known, a key is missing, wrong or unknown, or a tensor of
    /// frequency factors cannot be read.
    pub fn read(checkpoint: &dyn Checkpoint, context: usize) -> Result<Self, ModelError> {
        let metadata = checkpoint.metadata();
        let key = "general.architecture";
        let value = metadata.get(key);
        let name = value
            .ok_or_else(|| ModelError::MissingKey { key: key.to_owned() })?
            .as_str()
            .ok_or_else(|| ModelError::Key {
                key: key.to_owned(),
                expected: "a text".to_owned(),
                found: value.map_or("absent", Value::type_name).to_owned(),
            })?;
        let architecture = Architecture::by_name(name)
            .ok_or_else(|| ModelError::Architecture { name: name.to_owned() })?;
        let keys = Keys::new(metadata, name);
        let layers = keys.positive("block_count", MOST_LAYERS)?;
        let width = keys.positive("embedding_length", MOST_CHANNELS)?;
        let context_length = keys.positive("context_length", MOST_POSITIONS)?;
        Reader { keys, architecture, checkpoint, layers, width, context_length }.read(name, context)
    }
}

impl Reader<'_> {
    fn read(&self, name: &str, context: usize) -> Result<Hyperparameters, ModelError> {
        let Reader { keys, architecture, layers, width, .. } = self;
        let (layers, width) = (*layers, *width);
        let epsilon = keys.positive_float("attention.layer_norm_rms_epsilon")?;
        let norm_epsilon = keys.require("attention.layer_norm_rms_epsilon", epsilon)?;
        let embedding = names::EMBEDDING;
        let missing = || ModelError::MissingTensor { tensor: embedding.to_owned() };
        let found = self.checkpoint.dims(embedding).ok_or_else(missing)?;
        let vocabulary = match found[..] {
            [_, tokens] => usize::try_from(tokens).ok(),
            _ => None,
        };
        let vocabulary = vocabulary.filter(|tokens| (1..=MOST_TOKENS).contains(tokens));
        let vocabulary = vocabulary.ok_or_else(|| ModelError::Vocabulary {
            tensor: embedding.to_owned(),
            width,
            most: MOST_TOKENS,
            found,
        })?;
        let windows = self.windows()?;
        let (ropes, layer_ropes) = self.ropes(&windows, context)?;
        let attention = self.attention(&windows, &layer_ropes)?;
        let feed_forward = self.feed_forward()?;
        let (embedding_scale, residual_scale, logit_scale) = self.multipliers()?;
        let temperature = self.temperature()?;
        let logit_soft_cap = self.soft_cap("final_logit_softcapping", architecture.logit_cap)?;
        self.accept_harmless()?;
        keys.finish()?;
        let norms = architecture.norms;
        Ok(Hyperparameters {
            architecture: name.to_owned(),
            layers,
            width,
            vocabulary,
            context_length: self.context_length,
            norm_epsilon,
            norms_before: norms != NormPlacement::After,
            norms_after: norms != NormPlacement::Before,
            head_norms: architecture.head_norms,
            activation: architecture.activation,
            embedding_scale,
            residual_scale,
            logit_scale,
            logit_soft_cap,
            temperature,
            shapes: attention
                .into_iter()
                .zip(feed_forward)
                .map(|(attention, feed_forward)| LayerShape { attention, feed_forward })
                .collect(),
            ropes,
        })
    }

    /// The window of each layer.
    fn windows(&self) -> Result<Vec<Option<usize>>, ModelError> {
        let (key, pattern) = ("attention.sliding_window", "attention.sliding_window_pattern");
        let none = vec![None; self.layers];
        match self.architecture.windows {
            Windows::Ignored => {
                self.keys.accept(key, |_| true)?;
                Ok(none)
            }
            // A window as long as the context is none.
            Windows::None => {
                let longest = self.context_length as u64;
                let harmless = |value: &Value| {
                    value.as_u64().is_some_and(|window| window == 0 || window >= longest)
                };
                self.keys.accept(key, harmless)?;
                Ok(none)
            }
            Windows::Pattern { period, default, .. } => {
                let length = self.keys.count(key, MOST_POSITIONS)?.or(default);
                let given = self.keys.bools(pattern, self.layers)?;
                let Some(length) = length.filter(|&length| length > 0) else {
                    return Ok(none);
                };
                let windowed = match given {
                    Some(windowed) => windowed,
                    None => {
                        let period = self.keys.count(pattern, MOST_LAYERS)?.unwrap_or(period);
                        let has = |layer: usize| period == 0 || layer % period < period - 1;
                        (0..self.layers).map(has).collect()
                    }
                };
                Ok(windowed.into_iter().map(|has| has.then_some(length)).collect())
            }
        }
    }

    /// The RoPEs of the model, and which of them each layer has.
    fn ropes(
        &self,
        windows: &[Option<usize>],
        context: usize,
    ) -> Result<(Vec<Rope>, Vec<Option<usize>>), ModelError> {
        let Reader { keys, architecture, .. } = self;
        let head = self.head_length()?;
        let dimensions = keys.count("rope.dimension_count", head)?.unwrap_or(head);
        if dimensions == 0 || dimensions % 2 != 0 {
            return Err(keys.wrong("rope.dimension_count", format!("even, and at most {head}")));
        }
        let global = self.rope_parameters(dimensions)?;
        let mut local = global.clone();
        if let Windows::Pattern { rope, .. } = architecture.windows {
            let base = keys.positive_float("rope.freq_base_swa")?;
            match rope {
                WindowRope::Same => {}
                WindowRope::Local if global.yarn.is_some() => {
                    return Err(keys.wrong("rope.scaling.type", "`linear` or `none`"));
                }
                WindowRope::Local => {
                    local = RopeParameters { base: 10000.0, scale: 1.0, magnitude: 1.0, ..local };
                }
                WindowRope::Unscaled => {
                    local = RopeParameters { scale: 1.0, magnitude: 1.0, yarn: None, ..local };
                }
            }
            local.base = base.unwrap_or(local.base);
        }
        let factors = self.rope_factors(dimensions, context)?;
        let ropes = vec![global.rope(factors.as_deref()), local.rope(factors.as_deref())];
        // A switch for Granite; elsewhere a record.
        let finetuned = keys.bool("rope.scaling.finetuned")?;
        let off = architecture.rope_switch && finetuned == Some(false);
        let of_layer = |(layer, window): (usize, &Option<usize>)| {
            let skipped =
                architecture.no_rope_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
            (!off && !skipped).then_some(usize::from(window.is_some()))
        };
        Ok((ropes, windows.iter().enumerate().map(of_layer).collect()))
    }

    /// RoPE where no window changes it.
    fn rope_parameters(&self, dimensions: usize) -> Result<RopeParameters, ModelError> {
        let Reader { keys, architecture, .. } = self;
        let base = keys.positive_float("rope.freq_base")?.unwrap_or(10000.0);
        let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
        let factor = keys.float("rope.scaling.factor")?;
        let linear = keys.float("rope.scale_linear")?;
        let factor = factor.or(linear).filter(|&factor| factor != 0.0).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(keys.wrong("rope.scaling.factor", "above zero"));
        }
        let key = "rope.scaling.original_context_length";
        let original_context = keys
            .count(key, MOST_POSITIONS)?
            .filter(|&length| length > 0)
            .unwrap_or(self.context_length);
        let mut magnitude = keys.positive_float("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let (beta_fast, beta_slow, log_multiplier) = self.yarn_keys()?;
        let (scale, yarn) = match kind {
            "none" => (1.0, None),
            "linear" | "longrope" => (1.0 / factor, None),
            "yarn" => {
                let mscale = |multiplier: f32| match factor > 1.0 {
                    true => 0.1 * multiplier * factor.ln() + 1.0,
                    false => 1.0,
                };
                magnitude *= match log_multiplier {
                    0.0 => mscale(1.0),
                    multiplier => mscale(1.0) / mscale(multiplier),
                };
                (1.0 / factor, Some(Yarn { original_context, beta_fast, beta_slow }))
            }
            _ => {
                let known = "`none`, `linear`, `yarn` or `longrope`";
                return Err(keys.wrong("rope.scaling.type", known));
            }
        };
        let pairing: Pairing = architecture.pairing;
        Ok(RopeParameters { pairing, dimensions, base, scale, yarn, magnitude })
    }

    /// YaRN's betas, and the multiplier of its logarithm.
    fn yarn_keys(&self) -> Result<(f32, f32, f32), ModelError> {
        let keys = &self.keys;
        let (fast, slow) = ("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow");
        let logarithm = "rope.scaling.yarn_log_multiplier";
        if self.architecture.temperature {
            return Ok((
                keys.positive_float(fast)?.unwrap_or(BETA_FAST),
                keys.positive_float(slow)?.unwrap_or(BETA_SLOW),
                keys.float(logarithm)?.unwrap_or(0.0),
            ));
        }
        let is = |expected: f64| move |value: &Value| value.as_f64() == Some(expected);
        keys.accept(fast, is(BETA_FAST.into()))?;
        keys.accept(slow, is(BETA_SLOW.into()))?;
        keys.accept(logarithm, is(0.0))?;
        Ok((BETA_FAST, BETA_SLOW, 0.0))
    }

    /// Frequency factors: one tensor, or the one of two that suits the context.
    fn rope_factors(
        &self,
        dimensions: usize,
        context: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let key = "rope.scaling.original_context_length";
        let original = self.keys.count(key, MOST_POSITIONS)?.unwrap_or(self.context_length);
        let exists = |name: &&str| self.checkpoint.dims(name).is_some();
        let chosen = if context > original { names::ROPE_LONG } else { names::ROPE_SHORT };
        let Some(name) = [names::ROPE_FACTORS, chosen].into_iter().find(exists) else {
            return Ok(None);
        };
        let expected = vec![dimensions as u64 / 2];
        let found = self.checkpoint.dims(name).unwrap_or_default();
        if found != expected {
            return Err(ModelError::Shape { tensor: name.to_owned(), expected, found });
        }
        let mut factors = vec![0.0; dimensions / 2];
        self.checkpoint.read_rows(name, 0, &mut factors)?;
        Ok(Some(factors))
    }

    /// Length of a key head.
    fn head_length(&self) -> Result<usize, ModelError> {
        if let Some(length) = self.keys.count("attention.key_length", LONGEST_HEAD)? {
            return match length {
                0 => Err(self.keys.wrong("attention.key_length", "above zero")),
                length => Ok(length),
            };
        }
        let heads = self.heads()?;
        let divides = |&count: &usize| count == heads[0] && self.width.is_multiple_of(count);
        match heads.iter().all(divides) && self.width / heads[0] <= LONGEST_HEAD {
            true => Ok(self.width / heads[0]),
            false => Err(self.keys.wrong(
                "attention.head_count",
                format!(
                    "a divisor of the width of {} into heads of at most {LONGEST_HEAD}, or go with a \
                     key_length",
                    self.width
                ),
            )),
        }
    }

    fn heads(&self) -> Result<Vec<usize>, ModelError> {
        let key = "attention.head_count";
        let heads = self.keys.per_layer(key, self.layers, MOST_HEADS)?;
        self.keys.require(key, heads)
    }

    #[expect(clippy::cast_precision_loss, reason = "lengths are small")]
    fn attention(
        &self,
        windows: &[Option<usize>],
        ropes: &[Option<usize>],
    ) -> Result<Vec<Attention>, ModelError> {
        let Reader { keys, architecture, layers, width, .. } = self;
        let heads = self.heads()?;
        let kv = "attention.head_count_kv";
        let kv_heads = keys.per_layer(kv, *layers, MOST_HEADS)?.unwrap_or_else(|| heads.clone());
        let key_length = self.head_length()?;
        let value_length = match keys.count("attention.value_length", LONGEST_HEAD)? {
            Some(0) => return Err(keys.wrong("attention.value_length", "above zero")),
            Some(length) => length,
            None => key_length,
        };
        let given = match architecture.multipliers {
            true => keys.float("attention.scale")?.filter(|&scale| scale != 0.0),
            false => None,
        };
        let by_width = architecture.layers_scaled_by_width == Some(*layers);
        let soft_cap = self.soft_cap("attn_logit_softcapping", architecture.attention_cap)?;
        let shape = |layer: usize| {
            let (heads, kv_heads) = (heads[layer], kv_heads[layer]);
            if !heads.is_multiple_of(kv_heads) {
                return Err(keys.wrong(kv, format!("a divisor of {heads}")));
            }
            let length = if by_width { width / heads } else { key_length };
            Ok(Attention {
                heads,
                kv_heads,
                key_length,
                value_length,
                scale: given.unwrap_or(1.0 / (length as f32).sqrt()),
                soft_cap,
                window: windows[layer],
                rope: ropes[layer],
            })
        };
        (0..*layers).map(shape).collect()
    }

    /// The FFN of each layer: experts where it has a router.
    fn feed_forward(&self) -> Result<Vec<FeedForward>, ModelError> {
        let Reader { keys, architecture, layers, .. } = self;
        let dense = keys.per_layer("feed_forward_length", *layers, MOST_CHANNELS)?;
        let count = keys.count("expert_count", MOST_EXPERTS)?.unwrap_or(0);
        let used = keys.count("expert_used_count", count)?.unwrap_or(0);
        let expert_width = keys.per_layer("expert_feed_forward_length", *layers, MOST_CHANNELS)?;
        let scale = keys.float("expert_weights_scale")?.filter(|&scale| scale != 0.0);
        if count > 0 && used == 0 {
            return Err(keys.wrong("expert_used_count", format!("from 1 to {count}")));
        }
        let shape = |layer: usize| {
            let router = names::layer(layer, "ffn_gate_inp.weight");
            let width = |of: &Option<Vec<usize>>| of.as_ref().map(|widths| widths[layer]);
            if count > 0 && self.checkpoint.dims(&router).is_some() {
                // Qwen's oldest files say only what all experts of a token have together.
                let shared_out = |width: usize| match architecture.name.starts_with("qwen") {
                    true => width / used,
                    false => width,
                };
                let width = width(&expert_width).or(width(&dense).map(shared_out));
                return Ok(FeedForward::Experts(Experts {
                    count,
                    used,
                    width: keys.require("expert_feed_forward_length", width)?,
                    normalized: architecture.normalized_router,
                    scale: scale.unwrap_or(1.0),
                }));
            }
            let width = keys.require("feed_forward_length", width(&dense))?;
            Ok(FeedForward::Dense { width })
        };
        (0..*layers).map(shape).collect()
    }

    /// Scales of embeddings, of what joins the residual, and of logits.
    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    fn multipliers(&self) -> Result<(f32, f32, f32), ModelError> {
        let Reader { keys, architecture, width, .. } = self;
        let embedding = match architecture.embedding_scale {
            EmbeddingScale::One => 1.0,
            EmbeddingScale::SqrtWidth => (*width as f32).sqrt(),
        };
        if !architecture.multipliers {
            return Ok((embedding, 1.0, 1.0));
        }
        // Zero means that there is none.
        let scale = |key: &str| Ok::<_, ModelError>(keys.float(key)?.filter(|&scale| scale != 0.0));
        let logit = keys.positive_float("logit_scale")?;
        Ok((
            scale("embedding_scale")?.unwrap_or(1.0),
            scale("residual_scale")?.unwrap_or(1.0),
            1.0 / keys.require("logit_scale", logit)?,
        ))
    }

    /// A bound; a key of zero means none.
    fn soft_cap(&self, key: &str, cap: SoftCap) -> Result<Option<f32>, ModelError> {
        let SoftCap::Key { default } = cap else { return Ok(None) };
        let given = self.keys.float(key)?.or(default).filter(|&cap| cap != 0.0);
        match given {
            Some(cap) if cap < 0.0 => Err(self.keys.wrong(key, "above zero")),
            cap => Ok(cap),
        }
    }

    fn temperature(&self) -> Result<Option<(f32, usize)>, ModelError> {
        if !self.architecture.temperature {
            return Ok(None);
        }
        let scale = self.keys.float("attention.temperature_scale")?;
        let key = "rope.scaling.original_context_length";
        let step = self.keys.count(key, MOST_POSITIONS)?.unwrap_or(self.context_length);
        Ok(scale.filter(|&scale| scale != 0.0).map(|scale| (scale, step.max(1))))
    }

    /// Keys that change nothing with the values that models have, or that repeat what tensors say.
    fn accept_harmless(&self) -> Result<(), ModelError> {
        let keys = &self.keys;
        let is = |expected: u64| move |value: &Value| value.as_u64() == Some(expected);
        let no = |value: &Value| value.as_bool() == Some(false);
        let yes = |value: &Value| value.as_bool() == Some(true);
        let any = |_: &Value| true;
        let width = self.width as u64;
        let normalized = self.architecture.normalized_router;
        // A record of the vocabulary, of the trainer's file, of what tensors show.
        for key in ["vocab_size", "tensor_data_layout", "expert_shared_count"] {
            keys.accept(key, any)?;
        }
        keys.accept("expert_shared_feed_forward_length", any)?;
        keys.accept("attention.layer_norm_epsilon", any)?;
        keys.accept("attention.causal", yes)?;
        keys.accept("use_parallel_residual", no)?;
        keys.accept("embedding_length_out", is(width))?;
        keys.accept("pooling_type", is(0))?;
        keys.accept("leading_dense_block_count", is(0))?;
        keys.accept("nextn_predict_layers", is(0))?;
        keys.accept("interleave_moe_layer_step", is(1))?;
        keys.accept("expert_gating_func", is(1))?;
        keys.accept("expert_weights_norm", |value| value.as_bool() == Some(normalized))?;
        for key in ["expert_group_count", "expert_group_used_count"] {
            keys.accept(key, |value| value.as_u64().is_some_and(|count| count <= 1))?;
        }
        keys.accept("attention.clamp_kqv", |value| value.as_f64() == Some(0.0))?;
        keys.accept("attention.max_alibi_bias", |value| value.as_f64() == Some(0.0))
    }
}
