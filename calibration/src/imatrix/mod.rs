//! llama.cpp's importance matrices, in both of its formats, as statistics that know only squares.
//!
//! `llama-imatrix` sums the squares of the inputs of every matrix product. Its files are either GGUF
//! (`general.type` is `imatrix`, tensors `NAME.in_sum2`, `NAME.counts` and, by newer versions,
//! `NAME.in_sum`) or, by versions before August 2025 and on request, a binary format without a name,
//! usually called `.dat`.

mod dat;
mod error;
mod gguf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::ImatrixError;

use crate::statistics::{DataSource, ExpertStatistics, InputStatistics, Provenance, Statistics};

/// An importance matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// The file.
    pub path: PathBuf,
    /// By the name of the linear's weight.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts, as the file has them.
    pub datasets: Vec<String>,
    /// Tokens of a chunk; a file in the old format does not know them.
    pub chunk: Option<u32>,
}

/// Importances of one linear.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Means of squares, `[matrices, k]`. In the old format those of an expert that saw no token are 1.
    pub mean_squares: Vec<f32>,
    /// Means, `[matrices, k]`, or empty where the file has none.
    pub means: Vec<f32>,
    /// Rows seen: of each expert, or one number for all of the linear.
    pub tokens: Vec<u64>,
}

impl ImportanceMatrix {
    /// Reads a file of either format.
    ///
    /// # Errors
    ///
    /// If it is neither, or damaged, or a value is not a finite number that is not negative.
    pub fn read(path: &Path) -> Result<Self, ImatrixError> {
        let io = |source| ImatrixError::Io { path: path.to_owned(), source };
        // Asked before opening: opening a pipe waits for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(ImatrixError::NotAFile { path: path.to_owned() });
        }
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).map_err(io)?;
        if start == b"GGUF" { gguf::read(path) } else { dat::read(path) }
    }

    /// The statistics of these squares. `channels` gives the input channels of a linear's matrix, or
    /// `None` for a linear that the model does not have, whose entry is left out.
    ///
    /// Each linear becomes an input of its own. The provenance knows the texts' names and no model.
    ///
    /// # Errors
    ///
    /// If an entry has another number of channels.
    pub fn to_statistics(
        &self,
        channels: impl Fn(&str) -> Option<usize>,
    ) -> Result<Statistics, ImatrixError> {
        let mut inputs = Vec::new();
        for (name, entry) in &self.entries {
            if let Some(k) = channels(name) {
                inputs.push(self.input(name, entry, k)?);
            }
        }
        let source = |name: &String| DataSource { name: name.clone(), ..DataSource::default() };
        let tokens = inputs.iter().map(|input: &InputStatistics| input.tokens).max();
        let provenance = Provenance {
            data: self.datasets.iter().map(source).collect(),
            tokens: tokens.unwrap_or(0),
            context: u64::from(self.chunk.unwrap_or(0)),
            tool: "llama-imatrix".to_owned(),
            ..Provenance::default()
        };
        Ok(Statistics { provenance, inputs })
    }

    fn input(&self, name: &str, entry: &Entry, k: usize) -> Result<InputStatistics, ImatrixError> {
        let found = entry.mean_squares.len();
        let matrices = found.checked_div(k).unwrap_or(0);
        if matrices == 0
            || matrices * k != found
            || (entry.tokens.len() != 1 && entry.tokens.len() != matrices)
        {
            return Err(ImatrixError::Channels {
                path: self.path.clone(),
                entry: name.to_owned(),
                expected: k,
                found,
            });
        }
        let sums = |means: &[f32], tokens: u64| -> Vec<f64> {
            means.iter().map(|&mean| f64::from(mean) * count(tokens)).collect()
        };
        let experts: Vec<ExpertStatistics> = (0..matrices)
            .map(|matrix| {
                let tokens = entry.tokens.get(matrix).or(entry.tokens.first()).copied();
                let tokens = tokens.unwrap_or(0);
                let row = |means: &[f32]| {
                    sums(means.get(matrix * k..(matrix + 1) * k).unwrap_or_default(), tokens)
                };
                ExpertStatistics {
                    tokens,
                    sum: row(&entry.means),
                    squares: row(&entry.mean_squares),
                    hessian: None,
                    hessian_weight: 0.0,
                }
            })
            .collect();
        let total = |of: fn(&ExpertStatistics) -> &[f64]| -> Vec<f64> {
            let mut total = vec![0.0; experts.first().map_or(0, |expert| of(expert).len())];
            for expert in &experts {
                for (total, value) in total.iter_mut().zip(of(expert)) {
                    *total += value;
                }
            }
            total
        };
        Ok(InputStatistics {
            linears: vec![name.to_owned()],
            k,
            tokens: experts.iter().fold(0, |sum, expert| expert.tokens.saturating_add(sum)),
            sum: total(|expert| &expert.sum),
            squares: total(|expert| &expert.squares),
            experts: if matrices > 1 { experts } else { Vec::new() },
            ..InputStatistics::default()
        })
    }
}

/// Tokens as f64: the readers let only numbers below 2^53 pass.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn count(tokens: u64) -> f64 {
    tokens as f64
}
