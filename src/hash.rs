//! SHA-256 of files and of a model's tensors.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tessera_formats::escape::escaped_path;
use tessera_formats::gguf::{Gguf, TensorInfo};

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// SHA-256 of a file, in hexadecimal. An error once `cancelled` is set.
pub fn hash_file(path: &Path, cancelled: &AtomicBool) -> anyhow::Result<String> {
    let context = || format!("`{}`", escaped_path(path));
    let mut file = File::open(path).with_context(context)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    loop {
        if cancelled.load(Ordering::Relaxed) {
            bail!("the hashing of `{}` was given up", escaped_path(path));
        }
        let read = file.read(&mut buffer).with_context(context)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// Reads a tensor in blocks, gives each with its offset to `take`, and returns their SHA-256.
pub fn hash_tensor(
    gguf: &Gguf,
    tensor: &TensorInfo,
    mut take: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BLOCK.min(usize::try_from(tensor.bytes)?)];
    let mut done = 0;
    while done < tensor.bytes {
        let left = usize::try_from(tensor.bytes - done)?;
        let block = &mut buffer[..left.min(BLOCK)];
        gguf.read_at(tensor, done, block)?;
        hasher.update(&*block);
        take(done, block)?;
        done += u64::try_from(block.len())?;
    }
    Ok(hasher.finalize().into())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
