//! Packs: safetensors files of NPU tiles with a manifest.
//!
//! The format is specified in `formats/spec/pack.md`; [`manifest`] holds the JSON document,
//! [`ShardWriter`] writes one file in constant memory and [`PackReader`] opens a whole pack after
//! checking every size, shape and name in it.

mod agree;
mod check;
mod error;
mod header;
mod index;
mod locate;
pub mod manifest;
pub mod names;
mod reader;
mod reopen;
mod writer;

pub use error::PackError;
pub use header::{DATA_ALIGNMENT, LONGEST_HEADER, TensorEntry, header_bytes, tensor_bytes};
pub use index::{index_path, shard_path, write_index};
pub use reader::{PackReader, ShardFile, TensorInfo, floats};
/// Element type of a stored tensor.
pub use safetensors::Dtype;
pub use writer::{FinishedShard, SealedShard, ShardWriter};
