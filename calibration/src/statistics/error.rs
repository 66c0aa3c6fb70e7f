//! What can be wrong with statistics.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tessera_formats::escape::Escaped;
use tessera_formats::temporary::PlaceError;
use thiserror::Error;

/// Why statistics cannot be taken, written, read or merged.
///
/// The message says where, what was found and what was expected; [`StatisticsError::hint`] says what
/// to do. Names from files are escaped in both.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// An input that no statistics can be of.
    #[error("the input of `{}` has {what}", Escaped(.input))]
    Input {
        /// Name of its first linear.
        input: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Rows of another length, or of another expert.
    #[error("the input of `{}` has {found}, expected {expected}", Escaped(.input))]
    Rows {
        /// Name of its first linear.
        input: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An activation is NaN or infinite.
    #[error("the input of `{}` is {value} in channel {channel} of row {row}", Escaped(.input))]
    NotFinite {
        /// Name of its first linear.
        input: String,
        /// Row, counted over all that came.
        row: u64,
        /// Channel.
        channel: usize,
        /// The value.
        value: f32,
    },
    /// The machine has too little memory.
    #[error("no memory for {bytes} bytes of the input of `{}`", Escaped(.input))]
    Memory {
        /// Name of its first linear.
        input: String,
        /// Bytes asked for.
        bytes: u128,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`", shown(.path))]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file or folder.
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
    /// The file does not begin with the length of a header.
    #[error(
        "`{}` begins with a header of {found} bytes, expected 2 to {limit}: not a safetensors file",
        shown(.path)
    )]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// Length found.
        found: u64,
        /// Longest that is possible.
        limit: u64,
    },
    /// The header is not that of a safetensors file.
    #[error("the header of `{}` is malformed: {}", shown(.path), Escaped(.reason))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A safetensors file of something else.
    #[error("`{}` holds no statistics: its header has no `tessera-statistics`", shown(.path))]
    NotStatistics {
        /// The file.
        path: PathBuf,
    },
    /// Another version of the format.
    #[error(
        "`{}` has version {}.{} of the statistics format, this tessera reads {}.0 to {}.{}",
        shown(.path), .found[0], .found[1], .supported[0], .supported[0], .supported[1]
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: [u32; 2],
        /// Newest version that is read.
        supported: [u32; 2],
    },
    /// The description of the statistics is malformed.
    #[error("the description in `{}` is malformed: {}", shown(.path), Escaped(.reason))]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{}` has {found} bytes, its header says {expected}", shown(.path))]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Length by the header.
        expected: u64,
        /// Length found.
        found: u64,
    },
    /// A tensor is missing, or has another type or shape.
    #[error(
        "tensor `{}` in `{}` is {found}, expected {expected}",
        Escaped(.tensor),
        shown(.path)
    )]
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
    /// A tensor that belongs to no input.
    #[error("tensor `{}` in `{}` belongs to no input", Escaped(.tensor), shown(.path))]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A field of an input that cannot be, or does not agree with the others.
    #[error(
        "{field} of the input of `{}` in `{}` is {}, expected {expected}",
        Escaped(.input),
        shown(.path),
        Escaped(.found)
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// Name of the input's first linear.
        input: String,
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value that no sum can have.
    #[error(
        "element {index} of `{}.{tensor}` in `{}` is {found}, expected {expected}",
        Escaped(.input),
        shown(.path)
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// Name of the input's first linear.
        input: String,
        /// The tensor, without the input's name.
        tensor: &'static str,
        /// Index of the element.
        index: usize,
        /// Its value.
        found: f64,
        /// What it must be.
        expected: &'static str,
    },
    /// The statistics are of another model.
    #[error("the statistics are of {}, the model is {}", Escaped(.expected), Escaped(.found))]
    OtherModel {
        /// Model of the statistics.
        expected: String,
        /// The model at hand.
        found: String,
    },
    /// Files that cannot be merged.
    #[error(
        "`{}` and `{}` cannot be merged: {what} is {} in the first and {} in the second",
        shown(.first),
        shown(.second),
        Escaped(.expected),
        Escaped(.found)
    )]
    Merge {
        /// The first file.
        first: PathBuf,
        /// A file that does not agree with it.
        second: PathBuf,
        /// What they do not agree in.
        what: String,
        /// The first file's.
        expected: String,
        /// The second file's.
        found: String,
    },
    /// Nothing to merge.
    #[error("no statistics were given")]
    Nothing,
}

impl StatisticsError {
    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFinite { .. } => {
                "the model overflows on this text, or a tensor of it is damaged: `tessera inspect` \
                 shows tensors with values that are not finite"
            }
            Self::Version { .. } => "read it with the version of tessera that wrote it, or newer",
            Self::OtherModel { .. } => "run `tessera calibrate` with this model",
            Self::FileLength { .. } => "the file was cut short or changed: make or copy it again",
            Self::NotStatistics { .. } | Self::HeaderLength { .. } => {
                "statistics are written by `tessera calibrate`"
            }
            Self::Memory { .. } => "collect without Hessians, or set a lower limit for them",
            Self::Merge { .. } => {
                "only statistics of the same model, taken with the same options, can be added"
            }
            _ => return None,
        })
    }

    pub(super) fn place(error: PlaceError) -> Self {
        match error {
            PlaceError::Exists { path } => {
                Self::io("replace", &path)(ErrorKind::AlreadyExists.into())
            }
            PlaceError::Io { action, path, source } => Self::Io { action, path, source },
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// A path, escaped: file names come from strangers too.
fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}
