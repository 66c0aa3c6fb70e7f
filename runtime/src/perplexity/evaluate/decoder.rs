//! The decoder as a model that is run a layer at a time.

use super::{LayeredModel, LoadedHead, LoadedLayer, ModelFailure};
use crate::decoder::{Decoder, LayerCache, Sequence};
use crate::model::{FeedForward, LayerShape};

impl LayeredModel for Decoder<'_> {
    fn layers(&self) -> usize {
        self.model().layers
    }

    fn width(&self) -> usize {
        self.model().width
    }

    fn vocabulary(&self) -> usize {
        self.model().vocabulary
    }

    fn layer_bytes(&self, index: usize) -> u64 {
        Decoder::layer_bytes(self, index)
    }

    fn head_bytes(&self) -> u64 {
        Decoder::head_bytes(self)
    }

    fn scratch_bytes(&self, chunks: usize, context: usize) -> u64 {
        let width = self.model().width;
        let values = self.model().shapes.iter().map(|shape| values_of_a_row(shape, width));
        let rows = (chunks as u64).saturating_mul(context as u64);
        rows.saturating_mul(4).saturating_mul(values.max().unwrap_or(0))
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelFailure> {
        Ok(Decoder::embed(self, tokens)?)
    }

    fn layer(&self, index: usize) -> Result<LoadedLayer<'_>, ModelFailure> {
        let layer = Decoder::layer(self, index)?;
        let width = self.model().width;
        Ok(Box::new(move |hidden, chunks| {
            let tokens = hidden.len() / width / chunks;
            let mut caches = vec![LayerCache::new(); chunks];
            let mut sequences: Vec<_> =
                caches.iter_mut().map(|cache| Sequence { tokens, cache }).collect();
            Ok(layer.forward(hidden, &mut sequences, None)?)
        }))
    }

    fn head(&self) -> Result<LoadedHead<'_>, ModelFailure> {
        let head = Decoder::head(self)?;
        Ok(Box::new(move |hidden| Ok(head.forward(hidden, None)?)))
    }
}

/// Values that a layer holds for a row at a time, at most: the larger of what attention and the FFN
/// hold, each with its normalized input, its output and what a device makes of its inputs.
fn values_of_a_row(shape: &LayerShape, width: usize) -> u64 {
    let attention = &shape.attention;
    let queries = attention.heads * (attention.key_length + attention.value_length);
    let cached = attention.kv_heads * (attention.key_length + attention.value_length);
    let inner = match &shape.feed_forward {
        FeedForward::Dense { width } => *width,
        FeedForward::Experts(experts) => experts.used.saturating_mul(experts.width),
    };
    // Queries, and their rotation or quantization; keys and values before and in the cache. Gate, up,
    // what they give and its rotation.
    let attention = 2 * (queries as u64) + 2 * (cached as u64);
    let feed_forward = 4 * (inner as u64);
    4 * (width as u64) + attention.max(feed_forward)
}
