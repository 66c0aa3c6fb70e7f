//! What a device computes, and how a model runs on it.

pub mod accumulator;
pub mod checkpoint;
pub mod decoder;
pub mod generate;
pub mod golden;
pub mod host;
pub mod linear;
pub mod model;
pub mod perplexity;
pub mod quantize;
pub mod rknn;
pub mod rotation;
pub mod simulator;
pub mod tokenizer;
