//! What a device computes, and how a model runs on it.

pub mod accumulator;
pub mod checkpoint;
pub mod linear;
pub mod quantize;
pub mod rotation;
pub mod tokenizer;
