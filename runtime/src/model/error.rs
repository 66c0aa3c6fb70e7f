//! What can be wrong with a model.

use tessera_formats::escape::Escaped;
use thiserror::Error;

use crate::linear::LinearError;

/// Why a model cannot be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The architecture's graph is not known.
    #[error(
        "the architecture `{}` is not known: tessera runs {}",
        Escaped(name),
        super::architecture::known_names()
    )]
    Architecture {
        /// `general.architecture`.
        name: String,
    },
    /// A key that the architecture needs is absent.
    #[error("the model has no key `{}`, which its architecture needs", Escaped(key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has a type or a value that it cannot have.
    #[error("`{}` is {found}, and must be {expected}", Escaped(key))]
    Key {
        /// The key.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A key that the graph does not heed: the model would run, and wrongly.
    #[error(
        "the key `{}` ({}) is not known for this architecture: it may change what the model \
         computes, so the model is not run without it",
        Escaped(key),
        Escaped(value)
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A tensor that the graph needs is absent.
    #[error("the model has no tensor `{}`, which its architecture needs", Escaped(tensor))]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the graph does not use.
    #[error(
        "the tensor `{}` is not known for this architecture: it may change what the model \
         computes, so the model is not run without it",
        Escaped(tensor)
    )]
    UnknownTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor of another shape than the keys say.
    #[error("`{}` has shape {found:?}, and the model's keys ask for {expected:?}", Escaped(tensor))]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape that the keys ask for, in GGUF's order.
        expected: Vec<u64>,
        /// Its shape, in GGUF's order.
        found: Vec<u64>,
    },
    /// An embedding that is no matrix of a row for each token.
    #[error(
        "`{}` has shape {found:?}, and must be [{width}, N], N from 1 to {most}",
        Escaped(tensor)
    )]
    Vocabulary {
        /// The tensor.
        tensor: String,
        /// Length of a row.
        width: usize,
        /// Most tokens.
        most: usize,
        /// Its shape, in GGUF's order.
        found: Vec<u64>,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// A linear could not be loaded or applied.
    #[error(transparent)]
    Linear(#[from] LinearError),
}
