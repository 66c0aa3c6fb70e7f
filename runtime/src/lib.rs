//! What a device computes: rotation and quantization of rows.

pub mod accumulator;
pub mod quantize;
pub mod rotation;
