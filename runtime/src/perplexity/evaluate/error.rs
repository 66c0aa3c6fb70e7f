//! Why models could not be evaluated.

use tessera_formats::escape::Escaped;
use thiserror::Error;

use super::ModelFailure;
use crate::perplexity::LogitsFileError;

/// Why an evaluation failed. Names of models are the participants'.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// Nothing to run.
    #[error("there is no model to evaluate")]
    NoModel,
    /// Memory for not even a chunk.
    #[error(
        "one chunk of {context} tokens, with the largest layer or the heads, needs {needed} bytes of \
         memory, and the budget is {budget}"
    )]
    Budget {
        /// Tokens of a chunk.
        context: usize,
        /// The least budget that suffices.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// Models of two vocabularies.
    #[error(
        "`{}` has a vocabulary of {found} tokens, and `{}` has {expected}",
        Escaped(name),
        Escaped(other)
    )]
    Vocabulary {
        /// The model.
        name: String,
        /// The first model of the run.
        other: String,
        /// The first model's vocabulary.
        expected: usize,
        /// The model's vocabulary.
        found: usize,
    },
    /// A token that the vocabulary does not have.
    #[error(
        "the text has the token {token}, and the vocabulary of `{}` has {vocabulary}",
        Escaped(name)
    )]
    Token {
        /// The model.
        name: String,
        /// The token.
        token: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// A logit that is no number.
    #[error(
        "`{}` gives a logit of {value} for token {token} at position {position} of chunk {chunk}",
        Escaped(name)
    )]
    NotFinite {
        /// The model.
        name: String,
        /// The chunk, from 0.
        chunk: usize,
        /// The position in it, from 0.
        position: usize,
        /// The token whose logit it is.
        token: usize,
        /// The logit.
        value: f32,
    },
    /// A model that gives rows of another size than it says.
    #[error("`{}` gives {found} {what} where {expected} are due", Escaped(name))]
    Size {
        /// The model.
        name: String,
        /// What was counted.
        what: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A model failed.
    #[error("`{}`", Escaped(name))]
    Model {
        /// The model.
        name: String,
        /// Why.
        source: ModelFailure,
    },
    /// A logits file could not be read or written.
    #[error(transparent)]
    LogitsFile(#[from] LogitsFileError),
}
