//! The decoder: one graph for every model and every device, run layer by layer.

mod attention;
mod cache;
mod experts;
mod feed_forward;
mod functions;
mod head;
mod layer;
mod norm;
mod observer;
mod self_attention;
mod weights;

pub use cache::{LayerCache, Sequence};
pub use head::Head;
pub use layer::Layer;
pub use observer::Observer;

use crate::checkpoint::Checkpoint;
use crate::model::{Hyperparameters, ModelError, names};
use weights::Loader;

/// A model that can be run: its graph, and where its weights are. Weights are loaded layer by layer,
/// by whoever runs it, so that a model need not fit in memory.
pub struct Decoder<'a> {
    checkpoint: &'a dyn Checkpoint,
    model: Hyperparameters,
}

impl<'a> Decoder<'a> {
    /// Checks that the graph is known, every key heeded and every tensor used. Weights are not read.
    ///
    /// # Errors
    ///
    /// If the architecture, a key or a tensor is not known, is missing, or contradicts another.
    pub fn new(checkpoint: &'a dyn Checkpoint) -> Result<Self, ModelError> {
        Self::for_context(checkpoint, 0)
    }

    /// The same for runs of up to `context` positions: models with two sets of RoPE factors take
    /// those for long contexts when it exceeds their original context.
    ///
    /// # Errors
    ///
    /// As [`Decoder::new`].
    pub fn for_context(checkpoint: &'a dyn Checkpoint, context: usize) -> Result<Self, ModelError> {
        let model = Hyperparameters::read(checkpoint, context)?;
        let loader = Loader::new(checkpoint);
        head::declare(&loader, &model)?;
        for layer in 0..model.layers {
            layer::declare(&loader, &model, layer)?;
        }
        loader.finish()?;
        Ok(Decoder { checkpoint, model })
    }

    /// The graph.
    pub fn model(&self) -> &Hyperparameters {
        &self.model
    }

    /// Names of the linears of a layer.
    pub fn layer_linears(&self, index: usize) -> Vec<String> {
        self.layer_inputs(index).into_iter().flatten().collect()
    }

    /// Names of the linears of a layer, those that share an input together, as an
    /// [observer](Observer) sees them; the inputs in the order in which rows pass through.
    pub fn layer_inputs(&self, index: usize) -> Vec<Vec<String>> {
        layer::inputs(self.checkpoint, &self.model, index)
    }

    /// Shape of a linear in GGUF's order, `[k, n]` or `[k, n, experts]`; `None` if there is none.
    pub fn linear_dims(&self, name: &str) -> Option<Vec<u64>> {
        self.checkpoint.dims(name)
    }

    /// Name of the head's linear.
    pub fn head_linear(&self) -> &'static str {
        head::linear(self.checkpoint)
    }

    /// Bytes that a layer's linears take when they are loaded.
    pub fn layer_bytes(&self, index: usize) -> u64 {
        self.layer_linears(index).iter().map(|name| self.checkpoint.loaded_bytes(name)).sum()
    }

    /// Bytes that the head takes when it is loaded.
    pub fn head_bytes(&self) -> u64 {
        self.checkpoint.loaded_bytes(self.head_linear())
    }

    /// The residual stream of tokens before the first layer, `[tokens, width]`.
    ///
    /// # Errors
    ///
    /// If a token is not in the vocabulary or its embedding cannot be read.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let Hyperparameters { width, vocabulary, embedding_scale, .. } = self.model;
        let mut hidden = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(hidden.chunks_exact_mut(width)) {
            if usize::try_from(token).is_ok_and(|token| token >= vocabulary) {
                return Err(ModelError::Token { token, vocabulary });
            }
            self.checkpoint.read_rows(names::EMBEDDING, token.into(), row)?;
            if embedding_scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= embedding_scale);
            }
        }
        Ok(hidden)
    }

    /// Loads a layer.
    ///
    /// # Errors
    ///
    /// If its weights cannot be read.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn layer(&self, index: usize) -> Result<Layer, ModelError> {
        Layer::load(self.checkpoint, &self.model, index)
    }

    /// What the head's linear reads of rows `[m, width]` of the residual stream, `[m, width]`. The head
    /// need not be loaded.
    ///
    /// # Errors
    ///
    /// If the final norm cannot be read.
    ///
    /// # Panics
    ///
    /// If `hidden` is not a whole number of rows.
    pub fn head_input(&self, hidden: &[f32]) -> Result<Vec<f32>, ModelError> {
        head::input(self.checkpoint, &self.model, hidden)
    }

    /// Loads the final norm and the head.
    ///
    /// # Errors
    ///
    /// If their weights cannot be read.
    pub fn head(&self) -> Result<Head, ModelError> {
        Head::load(self.checkpoint, &self.model)
    }
}
