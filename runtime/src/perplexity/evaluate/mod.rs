//! Runs models over chunks, a layer at a time, and compares them with a reference.
//!
//! Chunks are worked in groups. For a group, each model's layers are loaded one after the other and
//! dropped, and the hidden states of all its chunks pass through; then heads turn the states of the
//! scored positions into logits, a block of rows at a time, the reference and the models side by
//! side. How many chunks, rows and heads that is follows from a memory budget, and changes no
//! result: each row is computed on its own, and by the same path, because a layer or a head is
//! never given fewer than eight rows (short of a context that has fewer).

mod decoder;
mod error;
mod heads;
mod plan;
mod run;

use std::path::PathBuf;

pub use error::EvaluationError;

use super::{Chunks, LogitsFile, Summary, TokenStatistics};

/// Why a model failed.
pub type ModelFailure = Box<dyn std::error::Error + Send + Sync>;

/// A loaded layer: passes hidden states `[chunks · context, width]` on, in place. Its second argument
/// is the number of chunks; each starts at position 0 and sees only itself.
pub type LoadedLayer<'a> = Box<dyn Fn(&mut [f32], usize) -> Result<(), ModelFailure> + 'a>;

/// A loaded head: logits `[m, vocabulary]` of hidden states `[m, width]`.
pub type LoadedHead<'a> = Box<dyn Fn(&[f32]) -> Result<Vec<f32>, ModelFailure> + 'a>;

/// A model that is run a layer at a time.
pub trait LayeredModel {
    /// Number of layers.
    fn layers(&self) -> usize;

    /// Values of a hidden state.
    fn width(&self) -> usize;

    /// Tokens of the vocabulary.
    fn vocabulary(&self) -> usize;

    /// Bytes of a layer while it is loaded.
    fn layer_bytes(&self, index: usize) -> u64;

    /// Bytes of the head while it is loaded.
    fn head_bytes(&self) -> u64;

    /// Bytes that a layer takes while it works on `chunks` of `context` tokens, beside their hidden
    /// states.
    fn scratch_bytes(&self, chunks: usize, context: usize) -> u64;

    /// Hidden states `[tokens, width]` that the first layer reads.
    ///
    /// # Errors
    ///
    /// If there is no such token, or its embedding cannot be read.
    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelFailure>;

    /// Loads a layer.
    ///
    /// # Errors
    ///
    /// If its weights cannot be read.
    fn layer(&self, index: usize) -> Result<LoadedLayer<'_>, ModelFailure>;

    /// Loads the head.
    ///
    /// # Errors
    ///
    /// If its weights cannot be read.
    fn head(&self) -> Result<LoadedHead<'_>, ModelFailure>;
}

/// A model in an evaluation.
#[derive(Clone)]
pub struct Participant<'a> {
    /// Its name in errors and in the report.
    pub name: String,
    /// The model.
    pub model: &'a dyn LayeredModel,
    /// Where its log-probabilities go, as a logits file; what stands there is replaced.
    pub save: Option<PathBuf>,
}

/// What models are compared with.
#[derive(Clone)]
pub enum Reference<'a> {
    /// A model, run beside them.
    Model(Participant<'a>),
    /// The log-probabilities of a file.
    File(&'a LogitsFile),
}

/// What is to be run.
#[derive(Clone)]
pub struct Evaluation<'a> {
    /// The text.
    pub chunks: &'a Chunks,
    /// Most bytes for hidden states, weights and logits at a time.
    pub memory_budget_bytes: u64,
    /// What models are compared with.
    pub reference: Option<Reference<'a>>,
    /// The models; none if the reference is a model.
    pub models: Vec<Participant<'a>>,
}

/// How far an evaluation is, in units of work that take about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Work that is done.
    pub done: u64,
    /// All work.
    pub total: u64,
}

/// What became of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The participant's name.
    pub name: String,
    /// The statistics of the text; for a reference without a comparison.
    pub summary: Summary,
    /// The statistics of every scored position, in the order of the text.
    pub tokens: Vec<TokenStatistics>,
    /// Seconds that its layers and its head took.
    pub seconds: f64,
}

/// What became of all models.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The reference, if it is a model.
    pub reference: Option<Outcome>,
    /// The models, in their order.
    pub models: Vec<Outcome>,
}

#[cfg(test)]
mod tests;
