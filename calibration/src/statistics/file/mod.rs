//! The statistics file: safetensors, with one JSON document in `__metadata__["tessera-statistics"]`.
//!
//! The document has the format's name and version, the provenance and, in the order of the layers,
//! each input's figures. What an input has many of is tensors, named after its first linear:
//!
//! | tensor | type | shape | content |
//! |---|---|---|---|
//! | `LINEAR.sum` | F64 | `[k]` | Σ x |
//! | `LINEAR.squares` | F64 | `[k]` | Σ x² |
//! | `LINEAR.robust_squares` | F64 | `[k]` | Σ w x² |
//! | `LINEAR.magnitudes` | U64 | `[bins]` | histogram of \|x\|, up to the last bin with a count |
//! | `LINEAR.rotated` | U64 | `[bins]` | histogram of \|R(s ⊙ x)\| |
//! | `LINEAR.experts.tokens` | U64 | `[e]` | rows of each expert |
//! | `LINEAR.experts.sum` | F64 | `[e, k]` | Σ x |
//! | `LINEAR.experts.squares` | F64 | `[e, k]` | Σ x² |
//! | `LINEAR.experts.hessian_weight` | F64 | `[e]` | Σ w |
//! | `LINEAR.reference_sum` | F64 | `[k]` | Σ x of the float model, where x̃ was observed |
//! | `LINEAR.cross` | F32 | `[k, k]` | Σ w x x̃ᵀ |
//! | `LINEAR.hessian` | F32 | `[k, k]` | Σ w x xᵀ |
//! | `LINEAR.experts.hessian` | F32 | `[e, k, k]` | Σ w x xᵀ |
//! | `LINEAR.rows` | BF16 | `[n, k]` | a sample of rows |
//!
//! A tensor whose content is not known is left out. All 8-byte tensors come first, then F32, then
//! BF16, each in the order of the inputs and of the table, so that all are aligned without filler;
//! the data begin at a multiple of 4096 bytes. The same statistics give the same bytes.
//!
//! History: 1.0 is the first version. A reader refuses another major version, a newer minor version,
//! and fields and tensors that it does not know.

mod document;
mod layout;
mod locate;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

pub(super) use layout::{Head, Part};
pub use locate::InputEntry;
pub use reader::StatisticsFile;
pub(super) use writer::Writer;

use super::error::StatisticsError;
use super::{Provenance, Statistics};

/// The format's name.
pub const FORMAT: &str = "tessera-statistics";

/// Major version of the format: another one cannot be read.
pub const VERSION_MAJOR: u32 = 1;

/// Minor version of the format: newer ones cannot be read.
pub const VERSION_MINOR: u32 = 0;

impl Statistics {
    /// Writes the statistics to `path`, replacing what stands there: into a temporary file beside
    /// it, which is synced and renamed.
    ///
    /// # Errors
    ///
    /// If a length does not agree or a value is not finite, or the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), StatisticsError> {
        let heads: Vec<Head> = self.inputs.iter().map(Head::of).collect();
        let mut writer = Writer::create(path, &self.provenance, &heads)?;
        for (index, input) in self.inputs.iter().enumerate() {
            writer.write(index, input)?;
        }
        writer.finish()
    }

    /// Reads all statistics of a file. Those of a large model may take more memory than there is:
    /// [`StatisticsFile`] reads one input at a time.
    ///
    /// # Errors
    ///
    /// As [`StatisticsFile::open`] and [`StatisticsFile::load`].
    pub fn read(path: &Path) -> Result<Self, StatisticsError> {
        let file = StatisticsFile::open(path)?;
        let inputs = (0..file.inputs().len()).map(|index| file.load(index));
        Ok(Statistics {
            inputs: inputs.collect::<Result<_, _>>()?,
            provenance: file.provenance().clone(),
        })
    }
}

/// Writes one file with the inputs of several, in their order, and a provenance of its own. One input
/// at a time is in memory. The result has the bytes that [`Statistics::write`] of all would write.
///
/// # Errors
///
/// If a file cannot be read, an input occurs twice, or the system refuses.
pub fn concatenate(
    parts: &[PathBuf],
    provenance: &Provenance,
    path: &Path,
) -> Result<(), StatisticsError> {
    let files: Vec<StatisticsFile> =
        parts.iter().map(|part| StatisticsFile::open(part)).collect::<Result<_, _>>()?;
    let places: Vec<(&StatisticsFile, usize)> =
        files.iter().flat_map(|file| (0..file.inputs().len()).map(move |at| (file, at))).collect();
    let heads: Vec<Head> = places.iter().map(|(file, at)| file.head(*at)).collect();
    let mut writer = Writer::create(path, provenance, &heads)?;
    for (index, (file, at)) in places.iter().enumerate() {
        writer.write(index, &file.load(*at)?)?;
    }
    writer.finish()
}
