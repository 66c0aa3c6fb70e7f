//! Tensors that go into the pack as they are.

use anyhow::Context;
use sha2::{Digest, Sha256};
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::pack::ShardWriter;

use super::entries;
use crate::progress::Progress;

/// Bytes copied at a time.
const BLOCK: usize = 1 << 20;

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
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK.min(usize::try_from(tensor.bytes)?)];
    let mut done = 0;
    while done < tensor.bytes {
        let left = usize::try_from(tensor.bytes - done)?;
        let block = &mut buffer[..left.min(BLOCK)];
        gguf.read_at(tensor, done, block)?;
        hasher.update(&*block);
        shard.write_at(start + done, block)?;
        done += u64::try_from(block.len())?;
        progress.advance(u64::try_from(block.len())?);
    }
    Ok(hasher.finalize().into())
}

/// Bytes of one element as a carried tensor's type in the pack has it; tensors with more come
/// first, so that every one is aligned.
pub fn element_bytes(tensor: &TensorInfo) -> usize {
    entries::carried_form(tensor).0.bitsize() / 8
}
