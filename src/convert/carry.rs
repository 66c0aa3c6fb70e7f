//! Tensors that go into the pack as they are.

use anyhow::Context;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::pack::ShardWriter;

use super::entries;
use crate::hash::hash_tensor;
use crate::progress::Progress;

/// Copies a tensor into the shard; SHA-256 of its bytes.
pub fn copy(
    gguf: &Gguf,
    tensor: &TensorInfo,
    shard: &mut ShardWriter,
    progress: &Progress,
) -> anyhow::Result<[u8; 32]> {
    let context = || format!("`{}`", Escaped(&tensor.name));
    let start = shard.allocate(tensor.bytes).with_context(context)?;
    let (dtype, shape) = entries::carried_form(tensor);
    shard.describe(&tensor.name, dtype, &shape, start).with_context(context)?;
    hash_tensor(gguf, tensor, |offset, block| {
        shard.write_at(start + offset, block)?;
        progress.advance(u64::try_from(block.len())?);
        Ok(())
    })
}

/// Bytes of one element as a carried tensor's type in the pack has it; tensors with more come
/// first, so that every one is aligned.
pub fn element_bytes(tensor: &TensorInfo) -> usize {
    entries::carried_form(tensor).0.bitsize() / 8
}
