//! Norms of rows and of heads.

use rayon::prelude::*;

use super::functions::rms_norm;
use super::weights::{Loader, read};
use crate::checkpoint::Checkpoint;
use crate::model::ModelError;

/// A root mean square norm of consecutive pieces, each as long as its gain.
pub(super) struct Norm {
    gain: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        name: &str,
        epsilon: f32,
    ) -> Result<Self, ModelError> {
        Ok(Norm { gain: read(checkpoint, name)?, epsilon })
    }

    /// Normalizes every piece in place.
    pub(super) fn apply(&self, values: &mut [f32]) {
        let length = self.gain.len();
        values.par_chunks_mut(length * 64).for_each(|rows| {
            rows.chunks_exact_mut(length).for_each(|row| rms_norm(row, &self.gain, self.epsilon));
        });
    }

    /// The pieces of `values`, normalized.
    pub(super) fn of(&self, values: &[f32]) -> Vec<f32> {
        let mut normalized = values.to_vec();
        self.apply(&mut normalized);
        normalized
    }
}

/// Declares a norm of queries or keys: over each head, or over all `heads` of them together.
pub(super) fn declare_head_norm(
    loader: &Loader<'_>,
    name: &str,
    length: usize,
    heads: usize,
) -> Result<(), ModelError> {
    let whole = length * heads;
    let over_all = loader.checkpoint.dims(name).is_some_and(|dims| dims == [whole as u64]);
    loader.require(name, &[if over_all { whole } else { length }])
}
