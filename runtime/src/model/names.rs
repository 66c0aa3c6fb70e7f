//! Names of a model's tensors, as llama.cpp gives them.

/// Token embedding, which a tied head shares.
pub const EMBEDDING: &str = "token_embd.weight";

/// Output head.
pub const HEAD: &str = "output.weight";

/// Bias of the output head.
pub const HEAD_BIAS: &str = "output.bias";

/// Norm before the head.
pub const HEAD_NORM: &str = "output_norm.weight";

/// Frequency factors of RoPE.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Frequency factors of RoPE for contexts beyond the original one.
pub const ROPE_LONG: &str = "rope_factors_long.weight";

/// Frequency factors of RoPE for the original context.
pub const ROPE_SHORT: &str = "rope_factors_short.weight";

/// Tensor `tensor` of a layer: `blk.3.attn_q.weight`.
pub fn layer(layer: usize, tensor: &str) -> String {
    format!("blk.{layer}.{tensor}")
}
