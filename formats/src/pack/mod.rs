//! Packs: safetensors files of NPU tiles with a manifest.

pub mod manifest;
