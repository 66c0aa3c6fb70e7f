//! What a tensor is to a model, by the names that llama.cpp gives.

use tessera_formats::gguf::TensorInfo;

/// Name of the output head.
pub const HEAD: &str = "output.weight";

/// Name of the token embedding, which a tied head shares.
pub const EMBEDDING: &str = "token_embd.weight";

/// Name of the norm before the head.
pub const HEAD_NORM: &str = "output_norm";

/// What is done with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight matrix [N, K] of a projection, an FFN or the head.
    Linear,
    /// E weight matrices [E, N, K], one per expert.
    Experts,
    /// A matrix that is no known linear, such as a router: a recipe may declare it one.
    Matrix,
    /// The token embedding, whose rows are looked up.
    Embedding,
    /// Everything else: norms, biases, convolutions.
    Other,
}

/// Operators whose 2-D weights become linears; a weight's operator is the last part of its name
/// before `.weight`.
const LINEARS: &[&str] = &[
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "attn_gate",
    "attn_q_a",
    "attn_q_b",
    "attn_kv_a_mqa",
    "attn_kv_b",
    "cross_attn_q",
    "cross_attn_k",
    "cross_attn_v",
    "cross_attn_o",
    "attn_o",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
    "ffn_gate_chexp",
    "ffn_up_chexp",
    "ffn_down_chexp",
    "ssm_in",
    "ssm_out",
    "output",
];

/// Operators whose 3-D weights hold a matrix per expert.
const EXPERTS: &[&str] = &[
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_up_exps",
    "ffn_gate_chexps",
    "ffn_up_chexps",
    "ffn_down_chexps",
];

impl Role {
    /// Role of a tensor by its name and shape.
    pub fn of(tensor: &TensorInfo) -> Role {
        if tensor.name == EMBEDDING {
            return Role::Embedding;
        }
        let Some(operator) = operator(&tensor.name) else { return Role::Other };
        match tensor.dims.len() {
            2 if LINEARS.contains(&operator) => Role::Linear,
            3 if EXPERTS.contains(&operator) => Role::Experts,
            2 => Role::Matrix,
            _ => Role::Other,
        }
    }
}

/// `attn_q` of `blk.0.attn_q.weight`; `None` for what is not a weight.
pub fn operator(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".weight")?;
    Some(stem.rsplit_once('.').map_or(stem, |(_, operator)| operator))
}

/// The layer a tensor belongs to, `3` of `blk.3.attn_q.weight`.
pub fn layer(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once("blk.")?;
    rest.split_once('.')?.0.parse().ok()
}

/// Where a linear's input comes from: linears with the same name read the same activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSource {
    /// Name of the input, such as `blk.0.attn_input`.
    pub name: String,
    /// What the name of a norm of the same block begins with, such as `blk.0.`.
    block: String,
    producer: Producer,
}

/// What makes an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Producer {
    /// The norm before attention.
    AttentionNorm,
    /// The norm before the FFN.
    FfnNorm,
    /// The norm before the experts, where it is not the FFN's.
    ExpertsNorm,
    /// The norm of that name.
    Norm(&'static str),
    /// Something else.
    Other,
}

/// The input of the linear `name`.
pub fn input_of(name: &str) -> InputSource {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let (block, operator) = match stem.rsplit_once('.') {
        Some((block, operator)) => (format!("{block}."), operator),
        None => (String::new(), stem),
    };
    let (input, producer) = match operator {
        "attn_q" | "attn_k" | "attn_v" | "attn_qkv" | "attn_gate" | "attn_q_a"
        | "attn_kv_a_mqa" | "ssm_in" => ("attn_input", Producer::AttentionNorm),
        "ffn_gate" | "ffn_up" => ("ffn_input", Producer::FfnNorm),
        "ffn_gate_exps" | "ffn_up_exps" | "ffn_gate_up_exps" | "ffn_gate_shexp"
        | "ffn_up_shexp" | "ffn_gate_chexp" | "ffn_up_chexp" | "ffn_gate_chexps"
        | "ffn_up_chexps" => ("ffn_experts_input", Producer::ExpertsNorm),
        "attn_q_b" => ("attn_q_b_input", Producer::Norm("attn_q_a_norm")),
        "attn_kv_b" => ("attn_kv_b_input", Producer::Norm("attn_kv_a_norm")),
        "cross_attn_q" => ("cross_attn_input", Producer::Norm("cross_attn_norm")),
        // The head is not equalized from its norm: `docs/decisions/equalization-without-the-head.md`.
        other => {
            return InputSource {
                name: format!("{block}{other}_input"),
                block,
                producer: Producer::Other,
            };
        }
    };
    InputSource { name: format!("{block}{input}"), block, producer }
}

impl InputSource {
    /// Name, without `.weight`, of the norm whose output this input is; `exists` tells whether the
    /// model has a norm. Names and forms are those of llama.cpp's graphs.
    pub fn norm(&self, exists: impl Fn(&str) -> bool) -> Option<String> {
        let of_block = |norm: &str| format!("{}{norm}", self.block);
        let exists = |norm: &str| exists(&of_block(norm));
        let norm = match self.producer {
            Producer::Other => return None,
            Producer::Norm(norm) => norm,
            // Falcon 40B normalizes attention and FFN apart, both from the block's input.
            Producer::AttentionNorm if exists("attn_norm") && exists("attn_norm_2") => {
                "attn_norm_2"
            }
            Producer::AttentionNorm => "attn_norm",
            // Gemma 4 and Arctic have experts beside a dense FFN, with a norm of their own.
            Producer::ExpertsNorm if exists("pre_ffw_norm_2") => "pre_ffw_norm_2",
            Producer::ExpertsNorm if exists("ffn_norm_exps") => "ffn_norm_exps",
            // Qwen 3.5, GLM 4.5 and gpt-oss call the norm before the FFN by what precedes it; models
            // that normalize the FFN's output, too, apply it to the output of attention.
            Producer::FfnNorm | Producer::ExpertsNorm
                if !exists("ffn_norm") && !exists("post_ffw_norm") =>
            {
                "post_attention_norm"
            }
            Producer::FfnNorm | Producer::ExpertsNorm => "ffn_norm",
        };
        exists(norm).then(|| of_block(norm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_formats::ggml::GgmlType;

    fn tensor(name: &str, dims: &[u64]) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            ggml_type: GgmlType::F32,
            dims: dims.to_vec(),
            offset: 0,
            bytes: 0,
            shard: 0,
        }
    }

    #[test]
    fn roles_follow_names_and_shapes() {
        for (name, dims, role) in [
            ("blk.0.attn_q.weight", &[64, 64][..], Role::Linear),
            ("blk.12.ffn_down.weight", &[172, 64], Role::Linear),
            ("output.weight", &[64, 512], Role::Linear),
            ("blk.0.ffn_up_exps.weight", &[64, 172, 4], Role::Experts),
            ("blk.0.ffn_gate_inp.weight", &[64, 4], Role::Matrix),
            ("token_embd.weight", &[64, 512], Role::Embedding),
            ("blk.0.attn_norm.weight", &[64], Role::Other),
            ("blk.0.attn_q.bias", &[64], Role::Other),
            ("output_norm.weight", &[64], Role::Other),
        ] {
            assert_eq!(Role::of(&tensor(name, dims)), role, "{name}");
        }
    }

    #[test]
    fn inputs_are_shared_where_activations_are() {
        let q = input_of("blk.3.attn_q.weight");
        assert_eq!(q.name, "blk.3.attn_input");
        assert_eq!(input_of("blk.3.attn_v.weight"), q);
        assert_eq!(input_of("blk.3.ffn_up_exps.weight"), input_of("blk.3.ffn_gate_shexp.weight"));
        assert_ne!(input_of("blk.3.ffn_up_exps.weight"), input_of("blk.3.ffn_up.weight"));
        assert_eq!(input_of("blk.3.ffn_down.weight").name, "blk.3.ffn_down_input");
        assert_eq!(input_of("output.weight").name, "output_input");
        assert_eq!(layer("blk.12.attn_q.weight"), Some(12));
        assert_eq!(layer("output.weight"), None);
    }

    #[test]
    fn norms_are_those_that_precede_the_linear() {
        for (linear, norms, expected) in [
            ("attn_q", &["attn_norm", "ffn_norm"][..], Some("attn_norm")),
            ("attn_qkv", &["attn_norm", "attn_norm_2"], Some("attn_norm_2")),
            // BERT's second norm follows attention.
            ("attn_q", &["attn_norm_2"], None),
            ("attn_q", &["post_attention_norm", "post_ffw_norm"], None),
            ("ffn_up", &["attn_norm", "ffn_norm"], Some("ffn_norm")),
            ("ffn_up", &["attn_norm", "post_attention_norm"], Some("post_attention_norm")),
            // OLMo 2 normalizes outputs.
            ("ffn_up", &["post_attention_norm", "post_ffw_norm"], None),
            // Gemma 3 does both.
            ("ffn_up", &["ffn_norm", "post_attention_norm", "post_ffw_norm"], Some("ffn_norm")),
            ("ffn_up_exps", &["ffn_norm"], Some("ffn_norm")),
            ("ffn_up_exps", &["ffn_norm", "pre_ffw_norm_2"], Some("pre_ffw_norm_2")),
            ("ffn_up_exps", &["ffn_norm", "ffn_norm_exps"], Some("ffn_norm_exps")),
            ("ffn_gate", &["ffn_norm", "pre_ffw_norm_2"], Some("ffn_norm")),
            ("ffn_down", &["ffn_norm"], None),
            ("attn_q_b", &["attn_q_a_norm"], Some("attn_q_a_norm")),
        ] {
            let input = input_of(&format!("blk.7.{linear}.weight"));
            let exists = |name: &str| norms.iter().any(|norm| name == format!("blk.7.{norm}"));
            let expected = expected.map(|norm| format!("blk.7.{norm}"));
            assert_eq!(input.norm(exists), expected, "{linear} {norms:?}");
        }
        assert_eq!(input_of("output.weight").norm(|_| true), None);
    }
}
