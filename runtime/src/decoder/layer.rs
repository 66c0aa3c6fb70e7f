//! One layer: norms, attention, FFN, residuals.

use super::cache::Sequence;
use super::experts::{self, MixtureOfExperts};
use super::feed_forward::{self, GatedFfn};
use super::norm::Norm;
use super::observer::{Observer, Stop, Tap};
use super::self_attention::{self, SelfAttention};
use super::weights::Loader;
use crate::checkpoint::Checkpoint;
use crate::linear::Activations;
use crate::model::{FeedForward, Hyperparameters, ModelError, names};

/// A layer, its weights loaded.
pub struct Layer {
    width: usize,
    residual_scale: f32,
    attention: Block<SelfAttention>,
    feed_forward: Block<Ffn>,
}

/// A part of a layer with the norms around it.
struct Block<T> {
    before: Option<Norm>,
    part: T,
    after: Option<Norm>,
}

enum Ffn {
    Dense(GatedFfn),
    Experts(Box<MixtureOfExperts>),
}

/// Norms around attention and around the FFN.
const NORMS: [(&str, &str); 2] = [
    ("attn_norm.weight", "post_attention_norm.weight"),
    ("ffn_norm.weight", "post_ffw_norm.weight"),
];

/// Declares a layer's tensors.
pub(super) fn declare(
    loader: &Loader<'_>,
    model: &Hyperparameters,
    layer: usize,
) -> Result<(), ModelError> {
    for (before, after) in NORMS {
        if model.norms_before {
            loader.require(&names::layer(layer, before), &[model.width])?;
        }
        if model.norms_after {
            loader.require(&names::layer(layer, after), &[model.width])?;
        }
    }
    self_attention::declare(loader, model, layer)?;
    match &model.shapes[layer].feed_forward {
        FeedForward::Dense { width } => {
            feed_forward::declare(loader, model.width, layer, (*width, ""))
        }
        FeedForward::Experts(experts) => experts::declare(loader, model, experts, layer),
    }
}

/// Names of a layer's linears, those that share an input together.
pub(super) fn inputs(
    checkpoint: &dyn Checkpoint,
    model: &Hyperparameters,
    layer: usize,
) -> Vec<Vec<String>> {
    let mut inputs = self_attention::inputs(checkpoint, layer);
    inputs.extend(match model.shapes[layer].feed_forward {
        FeedForward::Dense { .. } => feed_forward::inputs(checkpoint, layer, ""),
        FeedForward::Experts(_) => experts::inputs(checkpoint, layer),
    });
    inputs
}

impl Layer {
    pub(super) fn load(
        checkpoint: &dyn Checkpoint,
        model: &Hyperparameters,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let norm = |exists: bool, tensor: &str| {
            let name = names::layer(layer, tensor);
            exists.then(|| Norm::load(checkpoint, &name, model.norm_epsilon)).transpose()
        };
        let ffn = match model.shapes[layer].feed_forward {
            FeedForward::Dense { .. } => {
                Ffn::Dense(GatedFfn::load(checkpoint, model.activation, layer, "")?)
            }
            FeedForward::Experts(shape) => {
                Ffn::Experts(Box::new(MixtureOfExperts::load(checkpoint, model, shape, layer)?))
            }
        };
        let [(before_attention, after_attention), (before_ffn, after_ffn)] = NORMS;
        Ok(Layer {
            width: model.width,
            residual_scale: model.residual_scale,
            attention: Block {
                before: norm(model.norms_before, before_attention)?,
                part: SelfAttention::load(checkpoint, model, layer)?,
                after: norm(model.norms_after, after_attention)?,
            },
            feed_forward: Block {
                before: norm(model.norms_before, before_ffn)?,
                part: ffn,
                after: norm(model.norms_after, after_ffn)?,
            },
        })
    }

    /// Takes rows of the residual stream, those of all sequences one after the other
    /// `[Σ tokens, width]`, through the layer, in place. Their keys and values join the caches. Where the
    /// observer is [satisfied](Observer::is_satisfied) they come no further, and are of no use after.
    ///
    /// # Errors
    ///
    /// If a linear fails.
    ///
    /// # Panics
    ///
    /// If `hidden` has not as many rows as the sequences have tokens.
    pub fn forward(
        &self,
        hidden: &mut [f32],
        sequences: &mut [Sequence<'_>],
        observer: Option<&dyn Observer>,
    ) -> Result<(), ModelError> {
        let tokens: usize = sequences.iter().map(|sequence| sequence.tokens).sum();
        assert_eq!(hidden.len(), tokens * self.width, "a row for each token");
        if tokens == 0 {
            return Ok(());
        }
        let tap = Tap(observer);
        match self.pass(hidden, sequences, tap) {
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Satisfied) | Ok(()) => Ok(()),
        }
    }

    fn pass(
        &self,
        hidden: &mut [f32],
        sequences: &mut [Sequence<'_>],
        tap: Tap<'_>,
    ) -> Result<(), Stop> {
        self.attention.add(hidden, self.residual_scale, |attention, x| {
            attention.forward(x, self.width, sequences, tap)
        })?;
        self.feed_forward.add(hidden, self.residual_scale, |ffn, x| {
            let x = Activations::new(x, self.width);
            match ffn {
                Ffn::Dense(ffn) => ffn.forward(&x, tap),
                Ffn::Experts(experts) => experts.forward(&x, tap),
            }
        })
    }
}

impl<T> Block<T> {
    /// `hidden += scale · after(part(before(hidden)))`.
    fn add(
        &self,
        hidden: &mut [f32],
        scale: f32,
        run: impl FnOnce(&T, &[f32]) -> Result<Vec<f32>, Stop>,
    ) -> Result<(), Stop> {
        let mut out = match &self.before {
            Some(norm) => run(&self.part, &norm.of(hidden))?,
            None => run(&self.part, hidden)?,
        };
        if let Some(norm) = &self.after {
            norm.apply(&mut out);
        }
        hidden.iter_mut().zip(out).for_each(|(hidden, out)| *hidden += scale * out);
        Ok(())
    }
}
