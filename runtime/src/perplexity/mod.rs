//! How well a model predicts a text: the method, the statistics and the logits file of
//! llama-perplexity (llama.cpp, `tools/perplexity/perplexity.cpp`).
//!
//! Tokens are cut into chunks of a context; in each, the second half is scored ([`Chunks`]). A row
//! of logits and the token that follows give a [`TokenStatistics`], on its own or against a row of a
//! reference model; all of them, in the order of the text, give a [`Summary`]. [`Evaluation`] runs
//! models over the chunks, a layer at a time, without ever holding the logits of more than a block
//! of rows.

mod chunks;
pub mod evaluate;
mod log_softmax;
pub mod logits_file;
mod statistics;
mod summary;

pub use chunks::{Chunks, ChunksError};
pub use evaluate::{
    Evaluation, EvaluationError, Outcome, Participant, Progress, Reference, Report,
};
pub use log_softmax::{LogSoftmax, NotFinite};
pub use logits_file::{LogitsFile, LogitsFileError, LogitsFileWriter, StoredRow};
pub use statistics::{Difference, ReferenceRow, TokenStatistics};
pub use summary::{Comparison, Distribution, Estimate, Summary};
