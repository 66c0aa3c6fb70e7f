//! What can be wrong with an importance matrix.

use std::io;
use std::path::{Path, PathBuf};

use tessera_formats::escape::Escaped;
use tessera_formats::gguf::GgufError;
use thiserror::Error;

/// Why an importance matrix cannot be read or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The operating system refused.
    #[error("cannot read `{}`", shown(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// A pipe, a device or a folder stands where a file is expected.
    #[error("`{}` is not a regular file", shown(.path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The GGUF file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A GGUF file of something else.
    #[error(
        "`{}` is no importance matrix: its `general.type` is {}, expected `imatrix`",
        shown(.path),
        Escaped(.found)
    )]
    NotImatrix {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// A tensor is missing, or has another type or shape.
    #[error("tensor `{}` in `{}` is {found}, expected {expected}", Escaped(.tensor), shown(.path))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value that no importance or count can have.
    #[error(
        "element {index} of `{}` in `{}` is {found}, expected {expected}",
        Escaped(.entry),
        shown(.path)
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// The entry or tensor.
        entry: String,
        /// Index of the element.
        index: usize,
        /// Its value.
        found: f32,
        /// What it must be.
        expected: &'static str,
    },
    /// A file in the old format that is damaged, or a file of another kind.
    #[error(
        "byte {offset} of `{}`: {what} is {}, expected {expected}",
        shown(.path),
        Escaped(.found)
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Byte where the field begins.
        offset: usize,
        /// The field.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The file has no entries.
    #[error("`{}` has no entries", shown(.path))]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// An entry that does not fit the model's linear.
    #[error(
        "`{}` in `{}` has {found} values, which are no whole rows of the model's {expected} channels",
        Escaped(.entry),
        shown(.path)
    )]
    Channels {
        /// The file.
        path: PathBuf,
        /// The linear.
        entry: String,
        /// Input channels of the model's linear.
        expected: usize,
        /// Values of the entry.
        found: usize,
    },
}

impl ImatrixError {
    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotImatrix { .. } | Self::Malformed { .. } | Self::Empty { .. } => {
                "importance matrices are written by `llama-imatrix`"
            }
            Self::Channels { .. } => "make the importance matrix with this model",
            _ => return None,
        })
    }
}

/// A path, escaped: file names come from strangers too.
fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}
