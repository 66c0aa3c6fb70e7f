//! Continuing a text, token by token, with every layer in memory.

mod sampler;

pub use sampler::{Sampler, Sampling};

use crate::decoder::{Decoder, Head, Layer, LayerCache, Sequence};
use crate::model::ModelError;

/// Tokens of a prompt that go through the layers together.
const BATCH: usize = 512;

/// A model with all its weights loaded, and one sequence.
pub struct Generator<'a> {
    decoder: &'a Decoder<'a>,
    layers: Vec<Layer>,
    head: Head,
    caches: Vec<LayerCache>,
}

impl<'a> Generator<'a> {
    /// Loads every layer; `loaded` is told how many there are so far.
    ///
    /// # Errors
    ///
    /// If weights cannot be read.
    pub fn new(
        decoder: &'a Decoder<'a>,
        mut loaded: impl FnMut(usize),
    ) -> Result<Self, ModelError> {
        let mut layers = Vec::new();
        for index in 0..decoder.model().layers {
            layers.push(decoder.layer(index)?);
            loaded(index + 1);
        }
        let caches = layers.iter().map(|_| LayerCache::new()).collect();
        Ok(Generator { decoder, layers, head: decoder.head()?, caches })
    }

    /// Positions of the sequence so far.
    pub fn len(&self) -> usize {
        self.caches.first().map_or(0, LayerCache::len)
    }

    /// Whether the sequence has no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends tokens to the sequence, and gives the logits after the last; none for no tokens.
    ///
    /// # Errors
    ///
    /// If a token is not in the vocabulary, or a linear fails.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let width = self.decoder.model().width;
        let mut last = Vec::new();
        for batch in tokens.chunks(BATCH) {
            let mut hidden = self.decoder.embed(batch)?;
            for (layer, cache) in self.layers.iter().zip(&mut self.caches) {
                let mut sequences = [Sequence { tokens: batch.len(), cache }];
                layer.forward(&mut hidden, &mut sequences, None)?;
            }
            last = hidden.split_off(hidden.len() - width);
        }
        if last.is_empty() {
            return Ok(last);
        }
        self.head.forward(&last, None)
    }
}
