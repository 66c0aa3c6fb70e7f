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
fn operator(name: &str) -> Option<&str> {
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
    /// Name, without `.weight`, of the norm whose output it is, if it is one's.
    pub norm: Option<String>,
}

/// The input of the linear `name`.
pub fn input_of(name: &str) -> InputSource {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let (block, operator) = match stem.rsplit_once('.') {
        Some((block, operator)) => (format!("{block}."), operator),
        None => (String::new(), stem),
    };
    let (input, norm) = match operator {
        "attn_q" | "attn_k" | "attn_v" | "attn_qkv" | "attn_gate" | "attn_q_a"
        | "attn_kv_a_mqa" | "ssm_in" => ("attn_input", Some("attn_norm")),
        "ffn_gate" | "ffn_up" | "ffn_gate_exps" | "ffn_up_exps" | "ffn_gate_up_exps"
        | "ffn_gate_shexp" | "ffn_up_shexp" | "ffn_gate_chexp" | "ffn_up_chexp"
        | "ffn_gate_chexps" | "ffn_up_chexps" => ("ffn_input", Some("ffn_norm")),
        "attn_q_b" => ("attn_q_b_input", Some("attn_q_a_norm")),
        "attn_kv_b" => ("attn_kv_b_input", Some("attn_kv_a_norm")),
        "cross_attn_q" => ("cross_attn_input", Some("cross_attn_norm")),
        // The head is not equalized from its norm: `docs/decisions/equalization-without-the-head.md`.
        "output" => ("output_input", None),
        other => return InputSource { name: format!("{block}{other}_input"), norm: None },
    };
    InputSource { name: format!("{block}{input}"), norm: norm.map(|norm| format!("{block}{norm}")) }
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
        assert_eq!(q.norm.as_deref(), Some("blk.3.attn_norm"));
        assert_eq!(input_of("blk.3.attn_v.weight"), q);
        assert_eq!(input_of("blk.3.ffn_up_exps.weight"), input_of("blk.3.ffn_gate_shexp.weight"));
        assert_eq!(input_of("blk.3.ffn_down.weight").name, "blk.3.ffn_down_input");
        assert_eq!(input_of("blk.3.ffn_down.weight").norm, None);
        assert_eq!(input_of("output.weight").name, "output_input");
        assert_eq!(input_of("output.weight").norm, None);
        assert_eq!(layer("blk.12.attn_q.weight"), Some(12));
        assert_eq!(layer("output.weight"), None);
    }
}
