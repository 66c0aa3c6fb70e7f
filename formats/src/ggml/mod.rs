//! The ggml tensor types of GGUF files, and their dequantization.

mod dequantize;
mod types;

pub use dequantize::{DequantizeError, dequantize};
pub use types::GgmlType;
