//! Shapes and hyperparameters of real models, as their GGUF files state them.

use tessera_formats::gguf::{Strings, Value};

/// What the elements of a tensor look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A matrix of a linear, stored in the type the user chose.
    Weight,
    /// A small matrix that converters leave in F32, such as a router.
    FloatWeight,
    /// Values around 1 in F32: norm gains, scales.
    Gain,
}

/// A tensor to write; `dims` in GGUF's order, K first.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name as llama.cpp gives it.
    pub name: String,
    /// Elements per dimension, K first.
    pub dims: Vec<u64>,
    /// What its elements look like.
    pub content: Content,
}

impl Tensor {
    /// Length of a row.
    pub fn k(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A model whose shapes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Model {
    /// TinyLlama 1.1B: 22 layers, D 2048, F 5632, vocabulary 32000, head not tied
    #[value(name = "llama-1b")]
    Llama1b,
    /// Llama 3 8B: 32 layers, D 4096, F 14336, vocabulary 128256, head not tied
    #[value(name = "llama-3-8b")]
    Llama3_8b,
    /// Qwen3 30B-A3B: 48 layers, D 2048, 128 experts of 768, vocabulary 151936, head not tied
    #[value(name = "qwen3-30b-a3b")]
    Qwen3_30bA3b,
    /// Gemma 4 26B-A4B: 30 layers, D 2816, F 2112, 128 experts of 704, vocabulary 262144, tied
    #[value(name = "gemma-4-26b-a4b")]
    Gemma4_26bA4b,
}

/// What to write: key-values and tensors, both in file order.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Keys and values.
    pub metadata: Vec<(String, Value)>,
    /// Tensors.
    pub tensors: Vec<Tensor>,
}

impl Model {
    /// Keys and tensors, with fewer layers or a smaller vocabulary where given.
    pub fn contents(self, layers: Option<u32>, vocabulary: Option<u32>) -> Contents {
        let mut contents = match self {
            Model::Llama1b => Transformer {
                vocabulary: 32_000,
                layers: 22,
                width: 2048,
                feed_forward: 5632,
                heads: 32,
                kv_heads: 4,
                head: 64,
                context: 2048,
                rope_base: 10_000.0,
                epsilon: 1e-5,
            }
            .resized(layers, vocabulary)
            .llama(),
            Model::Llama3_8b => Transformer {
                vocabulary: 128_256,
                layers: 32,
                width: 4096,
                feed_forward: 14_336,
                heads: 32,
                kv_heads: 8,
                head: 128,
                context: 8192,
                rope_base: 500_000.0,
                epsilon: 1e-5,
            }
            .resized(layers, vocabulary)
            .llama(),
            Model::Qwen3_30bA3b => Transformer {
                vocabulary: 151_936,
                layers: 48,
                width: 2048,
                feed_forward: 6144,
                heads: 32,
                kv_heads: 4,
                head: 128,
                context: 40_960,
                rope_base: 1_000_000.0,
                epsilon: 1e-6,
            }
            .resized(layers, vocabulary)
            .qwen3moe(128, 8, 768),
            Model::Gemma4_26bA4b => Transformer {
                vocabulary: 262_144,
                layers: 30,
                width: 2816,
                feed_forward: 2112,
                heads: 16,
                kv_heads: 8,
                head: 256,
                context: 262_144,
                rope_base: 1_000_000.0,
                epsilon: 1e-6,
            }
            .resized(layers, vocabulary)
            .gemma4(),
        };
        let name = clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        contents
            .metadata
            .insert(1, ("general.name".to_owned(), format!("synthetic {name}").into()));
        contents
    }
}

/// The numbers that every decoder has.
#[derive(Clone, Copy, Debug)]
struct Transformer {
    vocabulary: u32,
    layers: u32,
    width: u32,
    feed_forward: u32,
    heads: u32,
    kv_heads: u32,
    head: u32,
    context: u32,
    rope_base: f32,
    epsilon: f32,
}

impl Transformer {
    fn resized(self, layers: Option<u32>, vocabulary: Option<u32>) -> Self {
        Transformer {
            layers: layers.unwrap_or(self.layers),
            vocabulary: vocabulary.unwrap_or(self.vocabulary),
            ..self
        }
    }

    fn llama(self) -> Contents {
        let mut contents = self.begin("llama");
        contents.key("llama.attention.head_count_kv", self.kv_heads);
        contents.key("llama.rope.dimension_count", self.head);
        self.vocabulary_keys(&mut contents);
        contents.weight("token_embd", [self.width, self.vocabulary]);
        contents.weight("output", [self.width, self.vocabulary]);
        contents.gain("output_norm", self.width);
        for layer in 0..self.layers {
            let block = |part: &str| format!("blk.{layer}.{part}");
            self.attention(&mut contents, layer, self.head, self.kv_heads, true);
            contents.gain(&block("ffn_norm"), self.width);
            self.feed_forward(&mut contents, layer);
        }
        contents
    }

    fn qwen3moe(self, experts: u32, used: u32, expert_width: u32) -> Contents {
        let mut contents = self.begin("qwen3moe");
        contents.key("qwen3moe.attention.head_count_kv", self.kv_heads);
        contents.key("qwen3moe.attention.key_length", self.head);
        contents.key("qwen3moe.attention.value_length", self.head);
        contents.key("qwen3moe.expert_count", experts);
        contents.key("qwen3moe.expert_used_count", used);
        contents.key("qwen3moe.expert_feed_forward_length", expert_width);
        self.vocabulary_keys(&mut contents);
        contents.weight("token_embd", [self.width, self.vocabulary]);
        contents.weight("output", [self.width, self.vocabulary]);
        contents.gain("output_norm", self.width);
        for layer in 0..self.layers {
            let block = |part: &str| format!("blk.{layer}.{part}");
            self.attention(&mut contents, layer, self.head, self.kv_heads, true);
            contents.gain(&block("attn_q_norm"), self.head);
            contents.gain(&block("attn_k_norm"), self.head);
            contents.gain(&block("ffn_norm"), self.width);
            contents.float_weight(&block("ffn_gate_inp"), [self.width, experts]);
            contents.weight(&block("ffn_gate_exps"), [self.width, expert_width, experts]);
            contents.weight(&block("ffn_up_exps"), [self.width, expert_width, experts]);
            contents.weight(&block("ffn_down_exps"), [expert_width, self.width, experts]);
        }
        contents
    }

    /// Five layers of sliding-window attention, then one of global attention with heads of 512,
    /// 2 kv heads and no value projection; a dense feed-forward beside the experts.
    fn gemma4(self) -> Contents {
        const EXPERTS: u32 = 128;
        const EXPERT_WIDTH: u32 = 704;
        const GLOBAL_HEAD: u32 = 512;
        const GLOBAL_KV_HEADS: u32 = 2;
        let sliding = |layer: u32| layer % 6 != 5;
        let kv_heads = |layer| if sliding(layer) { self.kv_heads } else { GLOBAL_KV_HEADS };

        let mut contents = self.begin("gemma4");
        contents.key(
            "gemma4.attention.head_count_kv",
            (0..self.layers).map(kv_heads).collect::<Vec<_>>(),
        );
        contents.key("gemma4.attention.key_length", GLOBAL_HEAD);
        contents.key("gemma4.attention.value_length", GLOBAL_HEAD);
        contents.key("gemma4.attention.key_length_swa", self.head);
        contents.key("gemma4.attention.value_length_swa", self.head);
        contents.key("gemma4.attention.sliding_window", 1024_u32);
        contents.key(
            "gemma4.attention.sliding_window_pattern",
            (0..self.layers).map(sliding).collect::<Vec<_>>(),
        );
        contents.key("gemma4.rope.freq_base_swa", 10_000.0_f32);
        contents.key("gemma4.rope.dimension_count", GLOBAL_HEAD);
        contents.key("gemma4.rope.dimension_count_swa", self.head);
        contents.key("gemma4.final_logit_softcapping", 30.0_f32);
        contents.key("gemma4.embedding_length_per_layer_input", 0_u32);
        contents.key("gemma4.expert_count", EXPERTS);
        contents.key("gemma4.expert_used_count", 8_u32);
        contents.key("gemma4.expert_feed_forward_length", EXPERT_WIDTH);
        self.vocabulary_keys(&mut contents);
        contents.gain("rope_freqs", GLOBAL_HEAD / 2);
        contents.weight("token_embd", [self.width, self.vocabulary]);
        contents.gain("output_norm", self.width);
        for layer in 0..self.layers {
            let block = |part: &str| format!("blk.{layer}.{part}");
            let head = if sliding(layer) { self.head } else { GLOBAL_HEAD };
            self.attention(&mut contents, layer, head, kv_heads(layer), sliding(layer));
            contents.gain(&block("attn_q_norm"), head);
            contents.gain(&block("attn_k_norm"), head);
            contents.gain(&block("post_attention_norm"), self.width);
            contents.gain(&block("layer_output_scale"), 1);
            contents.gain(&block("ffn_norm"), self.width);
            self.feed_forward(&mut contents, layer);
            for norm in ["post_ffw_norm", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"] {
                contents.gain(&block(norm), self.width);
            }
            contents.float_weight(&block("ffn_gate_inp"), [self.width, EXPERTS]);
            contents.tensor(block("ffn_gate_inp.scale"), vec![self.width.into()], Content::Gain);
            contents.weight(&block("ffn_gate_up_exps"), [self.width, 2 * EXPERT_WIDTH, EXPERTS]);
            contents.weight(&block("ffn_down_exps"), [EXPERT_WIDTH, self.width, EXPERTS]);
            contents.tensor(block("ffn_down_exps.scale"), vec![EXPERTS.into()], Content::Gain);
        }
        contents
    }

    fn begin(self, architecture: &str) -> Contents {
        let mut contents = Contents::default();
        let key = |name: &str| format!("{architecture}.{name}");
        contents.key("general.architecture", architecture);
        contents.key(&key("context_length"), self.context);
        contents.key(&key("embedding_length"), self.width);
        contents.key(&key("block_count"), self.layers);
        contents.key(&key("feed_forward_length"), self.feed_forward);
        contents.key(&key("attention.head_count"), self.heads);
        contents.key(&key("attention.layer_norm_rms_epsilon"), self.epsilon);
        contents.key(&key("rope.freq_base"), self.rope_base);
        contents.key(&key("vocab_size"), self.vocabulary);
        contents
    }

    /// A SentencePiece vocabulary of the right size: three control tokens, 256 bytes, words.
    fn vocabulary_keys(self, contents: &mut Contents) {
        const NORMAL: i32 = 1;
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const BYTE: i32 = 6;
        let (mut tokens, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
        for token in 0..self.vocabulary {
            let (text, score, token_type) = match token {
                0 => ("<unk>".to_owned(), 0.0, UNKNOWN),
                1 => ("<s>".to_owned(), 0.0, CONTROL),
                2 => ("</s>".to_owned(), 0.0, CONTROL),
                3..=258 => (format!("<0x{:02X}>", token - 3), 0.0, BYTE),
                #[expect(clippy::cast_precision_loss, reason = "a made-up score")]
                _ => (format!("\u{2581}word{token}"), -(token as f32), NORMAL),
            };
            tokens.push(text);
            scores.push(score);
            types.push(token_type);
        }
        contents.key("tokenizer.ggml.model", "llama");
        contents.key("tokenizer.ggml.tokens", tokens.into_iter().collect::<Strings>());
        contents.key("tokenizer.ggml.scores", scores);
        contents.key("tokenizer.ggml.token_type", types);
        contents.key("tokenizer.ggml.bos_token_id", 1_u32);
        contents.key("tokenizer.ggml.eos_token_id", 2_u32);
    }

    fn attention(
        self,
        contents: &mut Contents,
        layer: u32,
        head: u32,
        kv_heads: u32,
        has_value: bool,
    ) {
        let block = |part: &str| format!("blk.{layer}.{part}");
        contents.gain(&block("attn_norm"), self.width);
        contents.weight(&block("attn_q"), [self.width, self.heads * head]);
        contents.weight(&block("attn_k"), [self.width, kv_heads * head]);
        if has_value {
            contents.weight(&block("attn_v"), [self.width, kv_heads * head]);
        }
        contents.weight(&block("attn_output"), [self.heads * head, self.width]);
    }

    fn feed_forward(self, contents: &mut Contents, layer: u32) {
        let block = |part: &str| format!("blk.{layer}.{part}");
        contents.weight(&block("ffn_gate"), [self.width, self.feed_forward]);
        contents.weight(&block("ffn_up"), [self.width, self.feed_forward]);
        contents.weight(&block("ffn_down"), [self.feed_forward, self.width]);
    }
}

impl Contents {
    fn key(&mut self, name: &str, value: impl Into<Value>) {
        self.metadata.push((name.to_owned(), value.into()));
    }

    fn tensor(&mut self, name: String, dims: Vec<u64>, content: Content) {
        self.tensors.push(Tensor { name, dims, content });
    }

    fn weight<const D: usize>(&mut self, name: &str, dims: [u32; D]) {
        let dims = dims.into_iter().map(u64::from).collect();
        self.tensor(format!("{name}.weight"), dims, Content::Weight);
    }

    fn float_weight<const D: usize>(&mut self, name: &str, dims: [u32; D]) {
        let dims = dims.into_iter().map(u64::from).collect();
        self.tensor(format!("{name}.weight"), dims, Content::FloatWeight);
    }

    fn gain(&mut self, name: &str, length: u32) {
        self.tensor(format!("{name}.weight"), vec![length.into()], Content::Gain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters that the models' makers state: 1.1 B, 8.03 B, 30.5 B; for Gemma 4 the 25.2 B that
    /// remain of the stated 25.8 B without the vision tower.
    #[test]
    fn parameter_counts_are_those_of_the_models() {
        for (model, expected) in [
            (Model::Llama1b, 1_100_048_384),
            (Model::Llama3_8b, 8_030_261_248),
            (Model::Qwen3_30bA3b, 30_532_122_624),
        ] {
            let total: u64 = model.contents(None, None).tensors.iter().map(Tensor::elements).sum();
            assert_eq!(total, expected, "{model:?}");
        }
        let gemma = Model::Gemma4_26bA4b.contents(None, None);
        let total: u64 = gemma.tensors.iter().map(Tensor::elements).sum();
        assert_eq!(total / 100_000_000, 252);
    }

    #[test]
    fn names_and_keys_are_unique() {
        for model in <Model as clap::ValueEnum>::value_variants() {
            let contents = model.contents(Some(7), Some(300));
            let mut names: Vec<&str> = contents.tensors.iter().map(|t| t.name.as_str()).collect();
            names.extend(contents.metadata.iter().map(|(key, _)| key.as_str()));
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{model:?}");
        }
    }
}
