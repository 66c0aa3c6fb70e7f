//! llama-perplexity's file of a base model's log-probabilities (`--kl-divergence-base`).
//!
//! Little-endian: `_logits_`; n_ctx (u32), n_vocab, n_chunk (i32); n_chunk · n_ctx tokens (i32), as
//! the text has them; then for each chunk, for each of its n_ctx − 1 − n_ctx/2 scored positions, a
//! row of n_vocab rounded up to an even number plus 4 u16: the first two f32 are scale and minimum,
//! the rest integers q with ln p = scale · q + minimum. Log-probabilities more than 16 below the
//! greatest are raised to that (llama.cpp, `tools/perplexity/perplexity.cpp`, `log_softmax`).

mod error;
mod reader;
mod row;
mod writer;

pub use error::LogitsFileError;
pub use reader::LogitsFile;
pub use row::StoredRow;
pub use writer::LogitsFileWriter;

/// First bytes of a file.
const MAGIC: [u8; 8] = *b"_logits_";
/// Bytes before the tokens.
const HEADER_BYTES: u64 = 20;

/// Rows of a chunk.
fn rows_per_chunk(context: u64) -> u64 {
    (context - context / 2).saturating_sub(1)
}

/// Bytes of a row.
fn row_bytes(vocabulary: u64) -> u64 {
    2 * (vocabulary.next_multiple_of(2) + 4)
}

#[cfg(test)]
mod tests;
