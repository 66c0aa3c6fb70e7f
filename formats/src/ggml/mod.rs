//! The ggml tensor types of GGUF files, and their dequantization.

mod types;

pub use types::GgmlType;
