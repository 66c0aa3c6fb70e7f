//! Runs a model over a text, layer by layer, and takes the statistics of every linear's input.
//!
//! The hidden states of all chunks pass a layer before the next one is loaded, so that one layer's
//! weights and one layer's statistics are in memory at a time. States stay in memory, or in a file
//! where the budget is too small for them. With a work folder, the states and the statistics of every
//! finished layer are on disk, and a run that was interrupted goes on after the last of them.
//!
//! Statistics depend on the model, the chunks and the options alone: not on the budget, the number of
//! threads, or interruptions.

mod error;
mod observer;
mod plan;
mod run;
mod states;
#[cfg(test)]
mod tests;
mod work;

use std::path::Path;

pub use error::CollectError;
use tessera_runtime::decoder::{Decoder, Layer};

use crate::statistics::{InputStatistics, ObservationOptions, Provenance, Statistics, concatenate};

/// Why a [`Prefix`] failed.
pub type PrefixFailure = Box<dyn std::error::Error + Send + Sync>;

/// What hidden states pass through in place of a model's own layers, so that a layer is observed on
/// what the quantized layers before it give.
pub trait Prefix: Sync {
    /// A layer whose linears are quantized as far as their inputs are in `observed`, which has the
    /// first of the layer's inputs, or all of them: the layer that states pass on through, then.
    /// `None` for the model's own.
    ///
    /// # Errors
    ///
    /// Whatever keeps the layer from being made.
    fn layer(
        &self,
        index: usize,
        observed: &[InputStatistics],
    ) -> Result<Option<Layer>, PrefixFailure>;
}

/// What is to be observed.
pub struct Collection<'a> {
    /// The model, in floats.
    pub decoder: &'a Decoder<'a>,
    /// The text: chunks of equal length, each read on its own from position 0.
    pub chunks: &'a [Vec<u32>],
    /// What is taken.
    pub options: ObservationOptions,
    /// Most bytes for weights, hidden states and statistics at a time. What a prefix takes is not
    /// known here.
    pub memory_budget_bytes: u64,
    /// A folder for the states and statistics of finished layers, which is made.
    pub work: Option<&'a Path>,
    /// Whether to go on after the layers that the folder has, if there is one.
    pub resume: bool,
    /// Where the statistics come from: recorded, and compared before a run goes on.
    pub provenance: Provenance,
    /// What states pass through after a layer was observed; the model's own layer without it.
    pub prefix: Option<&'a dyn Prefix>,
}

/// How far a collection is, in units of work that take about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Work that is done.
    pub done: u64,
    /// All work that was left at the start.
    pub total: u64,
}

impl Collection<'_> {
    /// Runs the model over all chunks and returns the statistics of all inputs, which with Hessians may
    /// take more memory than the budget: [`Self::write`] never has all of them in memory. A work folder
    /// is removed in the end.
    ///
    /// # Errors
    ///
    /// If there are no chunks, the budget is too small, the work folder exists or is another run's, the
    /// model cannot be run, an activation is not finite, or the system refuses.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Statistics, CollectError> {
        let collected = run::run(self, progress)?;
        let mut inputs = collected.inputs;
        for part in &collected.parts {
            inputs.extend(Statistics::read(part)?.inputs);
        }
        if let Some(work) = collected.work {
            work.remove()?;
        }
        Ok(Statistics { provenance: self.provenance.clone(), inputs })
    }

    /// The same, with the statistics written to `output` as they are made, replacing what stands there.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn write(
        &self,
        output: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), CollectError> {
        let collected = run::run(self, progress)?;
        let Some(work) = collected.work else {
            let inputs = collected.inputs;
            let statistics = Statistics { provenance: self.provenance.clone(), inputs };
            return Ok(statistics.write(output)?);
        };
        // In the work folder first: what an interruption leaves is found there.
        let whole = work.whole();
        concatenate(&collected.parts, &self.provenance, &whole)?;
        work::replace(&whole, output)?;
        work.remove()
    }
}
