//! Dequantization of ggml block types.
