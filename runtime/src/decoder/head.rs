//! From the residual stream to logits.

use super::functions::soft_cap;
use super::norm::Norm;
use super::observer::Observer;
use super::weights::{Loader, Projection, projection_of};
use crate::checkpoint::Checkpoint;
use crate::linear::Activations;
use crate::model::{Hyperparameters, ModelError, names};

/// The final norm and the output head, their weights loaded.
pub struct Head {
    width: usize,
    norm: Norm,
    projection: Projection,
    logit_scale: f32,
    logit_soft_cap: Option<f32>,
}

/// Name of the head's linear: its own, or the embedding that it shares.
pub(super) fn linear(checkpoint: &dyn Checkpoint) -> &'static str {
    let own = checkpoint.dims(names::HEAD).is_some();
    if own { names::HEAD } else { names::EMBEDDING }
}

/// Declares the tensors outside of layers.
pub(super) fn declare(loader: &Loader<'_>, model: &Hyperparameters) -> Result<(), ModelError> {
    loader.require(names::EMBEDDING, &[model.width, model.vocabulary])?;
    loader.require(names::HEAD_NORM, &[model.width])?;
    loader.declare(names::HEAD, &[model.width, model.vocabulary])?;
    loader.declare(names::HEAD_BIAS, &[model.vocabulary])?;
    for factors in [names::ROPE_FACTORS, names::ROPE_LONG, names::ROPE_SHORT] {
        let pairs = model.ropes.first().map_or(0, |rope| rope.frequencies.len());
        loader.declare(factors, &[pairs])?;
    }
    Ok(())
}

/// What the head's linear reads of rows of the residual stream.
pub(super) fn input(
    checkpoint: &dyn Checkpoint,
    model: &Hyperparameters,
    hidden: &[f32],
) -> Result<Vec<f32>, ModelError> {
    assert!(hidden.len().is_multiple_of(model.width), "whole rows of {} values", model.width);
    Ok(Norm::load(checkpoint, names::HEAD_NORM, model.norm_epsilon)?.of(hidden))
}

impl Head {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        model: &Hyperparameters,
    ) -> Result<Self, ModelError> {
        Ok(Head {
            width: model.width,
            norm: Norm::load(checkpoint, names::HEAD_NORM, model.norm_epsilon)?,
            projection: projection_of(checkpoint, linear(checkpoint).to_owned(), names::HEAD_BIAS)?,
            logit_scale: model.logit_scale,
            logit_soft_cap: model.logit_soft_cap,
        })
    }

    /// Logits `[m, vocabulary]` of rows `[m, width]` of the residual stream.
    ///
    /// # Errors
    ///
    /// If the linear fails.
    ///
    /// # Panics
    ///
    /// If `hidden` is not a whole number of rows.
    pub fn forward(
        &self,
        hidden: &[f32],
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<f32>, ModelError> {
        let normalized = self.norm.of(hidden);
        let x = Activations::new(&normalized, self.width);
        if let Some(observer) = observer {
            observer.observe(&[&self.projection.name], None, &x, None);
        }
        let mut logits = self.projection.apply(&x)?;
        if self.logit_scale != 1.0 {
            logits.iter_mut().for_each(|logit| *logit *= self.logit_scale);
        }
        if let Some(cap) = self.logit_soft_cap {
            soft_cap(&mut logits, cap);
        }
        Ok(logits)
    }
}
