//! Bytes: GGUF in, ggml block types, NPU tiles, packs. No policy, no model.

pub mod escape;
pub mod ggml;
pub mod gguf;
pub mod npu;
pub mod pack;
mod shard_name;
pub mod temporary;
