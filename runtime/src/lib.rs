//! What a device computes: rotation and quantization of rows.

pub mod rotation;
