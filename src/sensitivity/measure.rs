//! What demoting linears does to the logits: hidden states pass the model's own layers but for one.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rayon::prelude::*;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::decoder::{Decoder, Head, Layer, LayerCache, Sequence};
use tessera_runtime::linear::Linear;
use tessera_runtime::perplexity::{Chunks, LogSoftmax};

use crate::models::mixed::Mixed;

/// Rows that pass through a layer in a call, where chunks are short enough.
const ROWS_OF_A_CALL: usize = 1024;

/// Linears in place of the model's own, by name: all of one layer, or the head's.
pub type Replacements = HashMap<String, Arc<dyn Linear>>;

/// KL divergence of logits from the model's own, over all scored tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean, in nats.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
}

/// A model over a text, and how far it has come.
pub struct Measurement<'a> {
    decoder: &'a Decoder<'a>,
    checkpoint: &'a dyn Checkpoint,
    chunks: &'a Chunks,
    memory_budget: u64,
    /// Hidden states before layer `layer`, `[chunks · context, width]`.
    states: Vec<f32>,
    layer: usize,
    /// Those after the last layer.
    last: Vec<f32>,
}

impl<'a> Measurement<'a> {
    /// Runs the model's own layers once.
    pub fn new(
        decoder: &'a Decoder<'a>,
        checkpoint: &'a dyn Checkpoint,
        chunks: &'a Chunks,
        memory_budget: u64,
        step: &mut dyn FnMut(),
    ) -> anyhow::Result<Self> {
        let mut states = Vec::new();
        for index in 0..chunks.len() {
            states.extend(decoder.embed(&chunks.input(index))?);
        }
        let mut last = states.clone();
        for index in 0..decoder.model().layers {
            let layer = decoder.layer(index).with_context(|| format!("layer {index}"))?;
            pass(&layer, chunks, &mut last).with_context(|| format!("layer {index}"))?;
            step();
        }
        Ok(Measurement { decoder, checkpoint, chunks, memory_budget, states, layer: 0, last })
    }

    /// Takes the states on to `layer`, through the model's own layers.
    pub fn advance(&mut self, layer: usize) -> anyhow::Result<()> {
        while self.layer < layer {
            let own = self.decoder.layer(self.layer)?;
            pass(&own, self.chunks, &mut self.states)?;
            self.layer += 1;
        }
        Ok(())
    }

    /// The divergences where linears of the layer that states have come to, or of the head behind the
    /// last one, are replaced: of each of `candidates`, on its own.
    pub fn divergences(
        &self,
        candidates: &[Replacements],
        step: &mut dyn FnMut(),
    ) -> anyhow::Result<Vec<Divergence>> {
        if self.layer == self.decoder.model().layers {
            return self.of_heads(candidates, step);
        }
        let bytes = (self.states.len() as u64 * 4).max(1);
        // Half for streams; layers and logits take the rest.
        let together =
            usize::try_from((self.memory_budget / 2 / bytes).max(1)).unwrap_or(usize::MAX);
        let mut found = Vec::with_capacity(candidates.len());
        for candidates in candidates.chunks(together) {
            let mut streams = Vec::with_capacity(candidates.len());
            for replaced in candidates {
                let mixed = Mixed::new(self.checkpoint, replaced);
                let decoder = Decoder::for_context(&mixed, self.chunks.context())?;
                let mut stream = self.states.clone();
                pass(&decoder.layer(self.layer)?, self.chunks, &mut stream)?;
                step();
                streams.push(stream);
            }
            for index in self.layer + 1..self.decoder.model().layers {
                let layer = self.decoder.layer(index)?;
                for stream in &mut streams {
                    pass(&layer, self.chunks, stream)?;
                    step();
                }
            }
            let head = self.decoder.head()?;
            let streams: Vec<_> = streams.iter().map(|stream| (stream.as_slice(), &head)).collect();
            found.extend(self.compare(&head, &streams)?);
        }
        Ok(found)
    }

    fn of_heads(
        &self,
        candidates: &[Replacements],
        step: &mut dyn FnMut(),
    ) -> anyhow::Result<Vec<Divergence>> {
        let own = self.decoder.head()?;
        let mut found = Vec::with_capacity(candidates.len());
        for replaced in candidates {
            let mixed = Mixed::new(self.checkpoint, replaced);
            let head = Decoder::for_context(&mixed, self.chunks.context())?.head()?;
            found.extend(self.compare(&own, &[(&self.last, &head)])?);
            step();
        }
        Ok(found)
    }

    /// Divergences of what heads make of streams from what the model's own makes of its own states.
    fn compare(&self, own: &Head, streams: &[(&[f32], &Head)]) -> anyhow::Result<Vec<Divergence>> {
        let mut klds: Vec<Vec<f64>> = vec![Vec::new(); streams.len()];
        let width = self.decoder.model().width;
        for chunk in 0..self.chunks.len() {
            let start = chunk * self.chunks.context();
            let scored = self.chunks.scored();
            let rows = (start + scored.start) * width..(start + scored.end) * width;
            let reference = own.forward(&self.last[rows.clone()], None)?;
            for ((stream, head), klds) in streams.iter().zip(&mut klds) {
                let logits = head.forward(&stream[rows.clone()], None)?;
                let vocabulary = self.decoder.model().vocabulary;
                let pairs = reference.par_chunks_exact(vocabulary);
                let of_rows: Result<Vec<f64>, _> = pairs
                    .zip(logits.par_chunks_exact(vocabulary))
                    .map(|(reference, row)| {
                        Ok(LogSoftmax::new(row)?.kld(&LogSoftmax::new(reference)?))
                    })
                    .collect();
                let of_rows = of_rows.map_err(|_: tessera_runtime::perplexity::NotFinite| {
                    anyhow!("chunk {chunk} of the text gives logits that are not finite")
                })?;
                klds.extend(of_rows);
            }
        }
        Ok(klds.iter().map(|klds| Divergence::of(klds)).collect())
    }
}

impl Divergence {
    #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
    fn of(klds: &[f64]) -> Self {
        let n = klds.len().max(1) as f64;
        let mean = klds.iter().sum::<f64>() / n;
        let squares: f64 = klds.iter().map(|kld| (kld - mean) * (kld - mean)).sum();
        let error = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Divergence { mean, error }
    }
}

/// Takes states of all chunks through a layer, in place.
fn pass(layer: &Layer, chunks: &Chunks, states: &mut [f32]) -> anyhow::Result<()> {
    let context = chunks.context();
    let row = states.len() / (chunks.len() * context);
    let call = (ROWS_OF_A_CALL / context).max(1);
    for part in states.chunks_mut(call * context * row) {
        let count = part.len() / (context * row);
        let mut caches = vec![LayerCache::new(); count];
        let mut sequences: Vec<_> =
            caches.iter_mut().map(|cache| Sequence { tokens: context, cache }).collect();
        layer.forward(part, &mut sequences, None)?;
    }
    Ok(())
}

/// Layer passes that candidates take, `(candidates of each layer, the head's last)`: what
/// [`Measurement::divergences`] reports.
pub fn passes(candidates: &[usize]) -> u64 {
    let layers = candidates.len().saturating_sub(1);
    let of =
        |(layer, &count): (usize, &usize)| (count * (layers - layer.min(layers)).max(1)) as u64;
    candidates.iter().enumerate().map(of).sum()
}
