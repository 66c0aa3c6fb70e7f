//! Whether a model fits a board.

use serde::Serialize;
use tessera_formats::gguf::{Gguf, Value};

/// Memory of the boards that people own, in bytes.
const BOARDS: [u64; 4] = [4 << 30, 8 << 30, 16 << 30, 32 << 30];

/// Memory that the system and the runtime's buffers take, in bytes.
const SYSTEM: u64 = 1 << 30;

/// Context length that the key-value cache is counted for, at most.
const CONTEXT: u64 = 4096;

/// A board and whether the model runs on it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fit {
    /// Memory of the board, in bytes.
    pub board: u64,
    /// Whether weights, cache and system fit.
    pub fits: bool,
}

/// For every board, whether `weights` bytes and a cache of `cache` bytes fit.
pub fn fits(weights: u64, cache: u64) -> Vec<Fit> {
    let needed = weights.saturating_add(cache).saturating_add(SYSTEM);
    BOARDS.iter().map(|&board| Fit { board, fits: needed <= board }).collect()
}

/// Bytes of an f16 key-value cache for the model's context, at most [`CONTEXT`] tokens; 0 where
/// the keys do not tell.
pub fn cache_bytes(gguf: &Gguf) -> u64 {
    let bytes = || {
        let architecture = gguf.architecture().ok()?;
        let key = |name: &str| gguf.metadata().get(&format!("{architecture}.{name}"));
        let number = |name: &str| key(name).and_then(Value::as_u64);
        let layers = number("block_count")?;
        let heads = number("attention.head_count").filter(|&heads| heads > 0)?;
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let head = number("embedding_length")? / heads;
        let keys = number("attention.key_length").unwrap_or(head);
        let values = number("attention.value_length").unwrap_or(head);
        let context = number("context_length").unwrap_or(CONTEXT).min(CONTEXT);
        keys.checked_add(values)?
            .checked_mul(2)?
            .checked_mul(kv_heads)?
            .checked_mul(layers)?
            .checked_mul(context)
    };
    bytes().unwrap_or(0)
}
