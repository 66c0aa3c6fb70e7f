//! What can be wrong with a logits file, or go wrong while one is written.

use std::io;
use std::path::{Path, PathBuf};

use tessera_formats::escape::{Escaped, escaped};
use tessera_formats::temporary::PlaceError;
use thiserror::Error;

/// Why a logits file was not read or written. Every variant names the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogitsFileError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", shown(path))]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// A pipe, a device or a folder stands where a file is expected.
    #[error("`{}` is not a regular file", shown(path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The output is there already.
    #[error("`{}` already exists", shown(path))]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A file of another kind.
    #[error(
        "`{}` is no logits file of llama-perplexity: it starts with `{}`, not `_logits_`",
        shown(path),
        Escaped(found)
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// A number in the file that cannot be there.
    #[error("`{}`: {field} at byte {offset} is {found}, and must be {expected}", shown(path))]
    Field {
        /// The file.
        path: PathBuf,
        /// What the number is.
        field: &'static str,
        /// Where it lies.
        offset: u64,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file of another length than its header asks for.
    #[error(
        "`{}` has {found} bytes, and its header asks for {expected}: {}",
        shown(path),
        if found < expected { "it is incomplete" } else { "it has bytes at its end that are not its own" }
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A file of another run.
    #[error("`{}` holds {what} {found}, and this run has {expected}", shown(path))]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// This run's.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// A file of another text, or of other tokens for it.
    #[error(
        "`{}` is of another text or tokenizer: token {index}, at byte {offset}, is {found}, and \
         this run's is {expected}",
        shown(path)
    )]
    OtherText {
        /// The file.
        path: PathBuf,
        /// Which token.
        index: usize,
        /// Where it lies.
        offset: u64,
        /// This run's.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// A number too large for the file's format.
    #[error("{what} {found} cannot be written to `{}`: at most {most}", shown(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        most: usize,
    },
    /// Rows too few or too many, or of another vocabulary, given to the writer.
    #[error("{found} {what} were given for `{}`, which holds {expected}", shown(path))]
    Rows {
        /// The file.
        path: PathBuf,
        /// What was counted.
        what: &'static str,
        /// How many there must be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
}

impl LogitsFileError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| LogitsFileError::Io { action, path: path.to_owned(), source }
    }
}

impl From<PlaceError> for LogitsFileError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Exists { path } => LogitsFileError::Exists { path },
            PlaceError::Io { action, path, source } => LogitsFileError::Io { action, path, source },
        }
    }
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}
