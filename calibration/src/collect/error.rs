//! What can go wrong while statistics are collected.

use std::io;
use std::path::{Path, PathBuf};

use tessera_formats::escape::escaped;
use tessera_runtime::model::ModelError;
use thiserror::Error;

use super::PrefixFailure;
use crate::statistics::StatisticsError;

/// Why statistics cannot be collected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CollectError {
    /// Nothing to run over.
    #[error("the text has no chunk of tokens")]
    NoChunks,
    /// Chunks of different lengths.
    #[error("chunk {chunk} has {found} tokens, expected {expected}")]
    ChunkLength {
        /// The chunk.
        chunk: usize,
        /// Tokens of the first chunk.
        expected: usize,
        /// Tokens of this one.
        found: usize,
    },
    /// The budget does not suffice.
    #[error(
        "a memory budget of {budget} bytes is too small: chunks of {context} tokens need {needed}{}",
        of_which(*hessians)
    )]
    Budget {
        /// Tokens of a chunk.
        context: usize,
        /// Bytes needed at least.
        needed: u64,
        /// Bytes of them that Hessians take.
        hessians: u64,
        /// The budget.
        budget: u64,
    },
    /// The model cannot be run.
    #[error("{}", place(.layer))]
    Model {
        /// The layer; none outside of layers.
        layer: Option<usize>,
        /// Why.
        source: ModelError,
    },
    /// An input cannot be observed.
    #[error("{}", observed(.layer))]
    Observation {
        /// The layer; none for the head.
        layer: Option<usize>,
        /// Why; it names the linear.
        source: Box<StatisticsError>,
    },
    /// The layer that states should pass on through cannot be made.
    #[error("what layer {layer} is to be replaced by")]
    Prefix {
        /// The layer.
        layer: usize,
        /// Why.
        source: PrefixFailure,
    },
    /// A file of statistics cannot be written or read.
    #[error(transparent)]
    Statistics(Box<StatisticsError>),
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
    /// The work folder of an interrupted run stands in the way.
    #[error("the work folder `{}` of an unfinished run exists", shown(.path))]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Something else stands where the work folder should.
    #[error("`{}` is not the work folder of a run", shown(.path))]
    NotAWorkFolder {
        /// What stands there.
        path: PathBuf,
    },
    /// Another process works in the folder.
    #[error("another process works in `{}`", shown(.path))]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is that of a run of something else.
    #[error("the work folder `{}` is that of another run: {}", shown(.path), differences.join("; "))]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// What differs, with both values where they are short.
        differences: Vec<String>,
    },
    /// A file of the work folder is missing or not what it should be.
    #[error("`{}` in the work folder {what}", shown(.path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl From<StatisticsError> for CollectError {
    fn from(error: StatisticsError) -> Self {
        CollectError::Statistics(Box::new(error))
    }
}

impl CollectError {
    /// An input of a layer, or of the head, that cannot be observed.
    pub(super) fn observation(layer: Option<usize>) -> impl Fn(StatisticsError) -> Self {
        move |source| CollectError::Observation { layer, source: Box::new(source) }
    }

    /// An I/O error with its place.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| CollectError::Io { action, path, source }
    }

    /// What the user can do, where there is something. The words are those of the command line.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Budget { hessians: 0, .. } => {
                "give more with `--memory-budget`, or ask for shorter chunks with `--ctx`"
            }
            Self::Budget { .. } => "give more with `--memory-budget`, or leave `--hessians` out",
            Self::Exists { .. } => {
                "go on with it by `--resume`, or remove the folder to start anew"
            }
            Self::OtherRun { .. } => {
                "give the model, data and options that it was started with, or remove the folder to \
                 start anew"
            }
            Self::NotAWorkFolder { .. } => "name another output with `-o`",
            Self::InUse { .. } => "wait until it has finished, or name another output with `-o`",
            Self::Damaged { .. } => "remove the work folder to start anew",
            Self::Observation { source, .. } | Self::Statistics(source) => return source.hint(),
            _ => return None,
        })
    }
}

fn place(layer: &Option<usize>) -> String {
    layer.map_or("outside of layers".to_owned(), |layer| format!("layer {layer}"))
}

fn observed(layer: &Option<usize>) -> String {
    layer.map_or("the head".to_owned(), |layer| format!("layer {layer}"))
}

fn of_which(hessians: u64) -> String {
    match hessians {
        0 => String::new(),
        bytes => format!(", of which {bytes} are for Hessians"),
    }
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}
