//! Continuing a text, token by token.

mod random;
mod sampler;

pub use random::random_tokens;
pub use sampler::{Sampler, Sampling};

use crate::decoder::{Decoder, Head, Layer, LayerCache, Sequence};
use crate::model::ModelError;

/// Tokens of a prompt that go through the layers together where nothing else is said.
const BATCH: usize = 512;

/// A model and one sequence. Layers stay loaded as far as a budget holds them; the others are loaded
/// again for every batch of tokens.
pub struct Generator<'a> {
    decoder: &'a Decoder<'a>,
    layers: Vec<Option<Layer>>,
    head: Head,
    caches: Vec<LayerCache>,
    batch: usize,
}

impl<'a> Generator<'a> {
    /// Loads the head and as many layers as fit `budget` bytes beside it and the largest of the others;
    /// `progress` is told how many layers have been loaded.
    ///
    /// # Errors
    ///
    /// If weights cannot be read.
    pub fn new(
        decoder: &'a Decoder<'a>,
        budget: u64,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, ModelError> {
        let count = decoder.model().layers;
        let bytes: Vec<u64> = (0..count).map(|layer| decoder.layer_bytes(layer)).collect();
        let all = bytes.iter().fold(decoder.head_bytes(), |sum, &bytes| sum.saturating_add(bytes));
        // One layer passes through if not all of them fit.
        let passing = if all <= budget { 0 } else { bytes.iter().copied().max().unwrap_or(0) };
        let mut left = budget.saturating_sub(decoder.head_bytes()).saturating_sub(passing);
        let head = decoder.head()?;
        let mut layers = Vec::new();
        for (index, bytes) in bytes.into_iter().enumerate() {
            let fits = bytes <= left;
            left = if fits { left - bytes } else { 0 };
            layers.push(fits.then(|| decoder.layer(index)).transpose()?);
            progress(index + 1);
        }
        let caches = layers.iter().map(|_| LayerCache::new()).collect();
        Ok(Generator { decoder, layers, head, caches, batch: BATCH })
    }

    /// Has so many tokens of a prompt, at least one, go through the layers together.
    pub fn set_batch(&mut self, tokens: usize) {
        self.batch = tokens.max(1);
    }

    /// Begins the sequence anew, with no tokens.
    pub fn clear(&mut self) {
        self.caches.fill_with(LayerCache::new);
    }

    /// Layers that are loaded again for every batch of tokens.
    pub fn passing_layers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.is_none()).count()
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
        for batch in tokens.chunks(self.batch) {
            let mut hidden = self.decoder.embed(batch)?;
            for (index, cache) in self.caches.iter_mut().enumerate() {
                let mut sequences = [Sequence { tokens: batch.len(), cache }];
                match &self.layers[index] {
                    Some(layer) => layer.forward(&mut hidden, &mut sequences, None)?,
                    None => {
                        self.decoder.layer(index)?.forward(&mut hidden, &mut sequences, None)?
                    }
                }
            }
            last = hidden.split_off(hidden.len() - width);
        }
        if last.is_empty() {
            return Ok(last);
        }
        self.head.forward(&last, None)
    }
}
