//! A trained model as the decoder sees it: keys, tensors, linears. GGUF files and packs are two.

mod gguf;
mod pack;

use tessera_formats::gguf::Metadata;

use crate::linear::{Linear, LinearError};

pub use gguf::GgufCheckpoint;
pub use pack::{PackCheckpoint, PackCheckpointError};

/// A trained model: what the decoder reads.
pub trait Checkpoint: Sync {
    /// The GGUF's keys and values, which describe the model and its tokenizer.
    fn metadata(&self) -> &Metadata;

    /// Names of all tensors that the model has, linears included.
    fn names(&self) -> Vec<&str>;

    /// Shape of a tensor in GGUF's order, `[k, n]` or `[k, n, experts]` for a linear; `None` if the
    /// model has no such tensor.
    fn dims(&self, name: &str) -> Option<Vec<u64>>;

    /// Reads rows of a tensor that is no linear, from row `first` on, dequantized to f32: as many
    /// rows as `out` has room for, each as long as the first of its dimensions.
    ///
    /// # Errors
    ///
    /// If there is no such tensor or no such rows, or it cannot be read or dequantized.
    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError>;

    /// Bytes of a linear as it is stored, scales and padding included.
    fn linear_bytes(&self, name: &str) -> u64;

    /// About the bytes of memory that a linear takes while it is loaded.
    fn loaded_bytes(&self, name: &str) -> u64 {
        self.linear_bytes(name)
    }

    /// Loads a linear, or expert linears, onto the device.
    ///
    /// # Errors
    ///
    /// If there is no such linear, or its weights cannot be read.
    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError>;
}
