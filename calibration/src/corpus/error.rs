//! What can be wrong with a text.

use std::io;
use std::path::{Path, PathBuf};

use tessera_formats::escape::Escaped;
use thiserror::Error;

/// Why a corpus cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
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
    /// A pipe, a device or a socket.
    #[error("`{}` is neither a regular file nor a folder", shown(.path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// More text than is read.
    #[error("with `{}` there are more than {limit} bytes of text", shown(.path))]
    TooLarge {
        /// The file that is too much.
        path: PathBuf,
        /// Most bytes of all files.
        limit: u64,
    },
    /// Bytes that are no text.
    #[error("`{}` is not UTF-8 from byte {offset} on", shown(.path))]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// First byte that is not.
        offset: usize,
    },
    /// A line that is no JSON.
    #[error("line {line} of `{}` is not JSON: {}", shown(.path), Escaped(.reason))]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1 on.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A line without the text.
    #[error(
        "line {line} of `{}` has {found}, expected an object whose field `{}` is a string",
        shown(.path),
        Escaped(.field)
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// Line, from 1 on.
        line: usize,
        /// The field.
        field: String,
        /// What there is.
        found: String,
    },
    /// No text at all.
    #[error("there is no text in {}", all(.paths))]
    Empty {
        /// What was named.
        paths: Vec<PathBuf>,
    },
}

impl CorpusError {
    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Field { .. } => "name the field that holds the text",
            Self::NotUtf8 { .. } => "convert the file to UTF-8, for example with `iconv`",
            Self::Empty { .. } => {
                "of a folder, files that end with .txt, .md, .jsonl or .raw are read"
            }
            Self::TooLarge { .. } => "a few hundred kilobytes of varied text are enough",
            _ => return None,
        })
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// A path, escaped: file names come from strangers too.
fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}

fn all(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "no files".to_owned();
    }
    let shown: Vec<String> = paths.iter().map(|path| format!("`{}`", shown(path))).collect();
    shown.join(", ")
}
