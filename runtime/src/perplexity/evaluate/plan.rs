//! How many chunks, rows and heads are in memory at a time.

use std::ops::Range;

use super::{EvaluationError, LayeredModel};
use crate::perplexity::Chunks;

/// Rows that a layer reads in a call, where chunks are short enough.
const ROWS_OF_A_CALL: usize = 1024;
/// Rows whose logits are in memory at a time, at most.
const ROWS_OF_A_BLOCK: usize = 256;
/// Rows that a head reads in a call, at least: a device may take another path for very few.
pub(super) const LEAST_ROWS_OF_A_BLOCK: usize = 8;
/// Share of the budget for logits, as long as it is enough for a row.
const LOGITS_SHARE: u64 = 8;

/// What is in memory at a time. It changes no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Chunks that pass through all layers together.
    pub(super) group: usize,
    /// Chunks that pass through a layer in a call.
    pub(super) call: usize,
    /// Rows of logits.
    pub(super) block: usize,
    /// Models whose heads are loaded together, beside the reference's.
    pub(super) heads: Vec<Range<usize>>,
}

impl Plan {
    /// The plan for a reference, if a model is one, and models over `chunks` within `budget` bytes.
    pub(super) fn new(
        chunks: &Chunks,
        reference: Option<&dyn LayeredModel>,
        models: &[&dyn LayeredModel],
        budget: u64,
    ) -> Result<Self, EvaluationError> {
        let all = || reference.into_iter().chain(models.iter().copied());
        let scored = bytes_of_rows(chunks.scored().len());
        let whole = bytes_of_rows(chunks.context());
        let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0, u64::saturating_add);
        let widest = all().map(|model| model.width() as u64).max().unwrap_or(0);
        let row_of_logits = all().map(|model| bytes_of_rows(model.vocabulary())).max().unwrap_or(0);

        // Per chunk: what its heads will read, for every model, and what passes through layers.
        let kept = sum(&mut all().map(|model| scored.saturating_mul(model.width() as u64)));
        let flowing = whole.saturating_mul(widest);
        let layers = |call: usize| {
            let layer_and_scratch = |model: &dyn LayeredModel| {
                let largest = (0..model.layers()).map(|index| model.layer_bytes(index)).max();
                let scratch = model.scratch_bytes(call, chunks.context());
                largest.unwrap_or(0).saturating_add(scratch)
            };
            all().map(layer_and_scratch).max().unwrap_or(0)
        };
        let head_ref = reference.map_or(0, LayeredModel::head_bytes);
        let heads: Vec<u64> = models.iter().map(|model| model.head_bytes()).collect();
        let largest_head = heads.iter().copied().max().unwrap_or(0);
        // A row of the reference's logits and one of the model's.
        let logits = |block: usize| row_of_logits.saturating_mul(2).saturating_mul(block as u64);

        let group_bytes = |group: usize, per_chunk: u64| per_chunk.saturating_mul(group as u64);
        let in_layers = |group: usize, call: usize| {
            group_bytes(group, kept.saturating_add(flowing)).saturating_add(layers(call))
        };
        let in_heads = |group: usize, heads: u64, block: usize| {
            let loaded = head_ref.saturating_add(heads).saturating_add(logits(block));
            group_bytes(group, kept).saturating_add(loaded)
        };
        let needed = in_layers(1, 1).max(in_heads(1, largest_head, LEAST_ROWS_OF_A_BLOCK));
        if needed > budget {
            return Err(EvaluationError::Budget { context: chunks.context(), needed, budget });
        }

        let mut block = usize::try_from(budget / LOGITS_SHARE / logits(1).max(1))
            .unwrap_or(ROWS_OF_A_BLOCK)
            .clamp(LEAST_ROWS_OF_A_BLOCK, ROWS_OF_A_BLOCK);
        while in_heads(1, largest_head, block) > budget {
            block = (block / 2).max(LEAST_ROWS_OF_A_BLOCK);
        }
        let most = (ROWS_OF_A_CALL / chunks.context()).clamp(1, chunks.len());
        let call = (1..=most)
            .rev()
            .find(|&call| in_layers(call, call).max(in_heads(call, largest_head, block)) <= budget)
            .unwrap_or(1);
        // With all heads at once the reference's logits are computed once.
        let all_heads = sum(&mut heads.iter().copied());
        let together =
            if in_heads(call, all_heads, block) <= budget { all_heads } else { largest_head };
        let fits =
            |group: usize| in_layers(group, call).max(in_heads(group, together, block)) <= budget;
        let (mut low, mut high) = (call, chunks.len());
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        // As few groups, of the same size.
        let group = chunks.len().div_ceil(chunks.len().div_ceil(low));
        let call = call.min(group);
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut loaded = 0u64;
        for (index, &head) in heads.iter().enumerate() {
            loaded = loaded.saturating_add(head);
            match batches.last_mut() {
                Some(batch) if in_heads(group, loaded, block) <= budget => batch.end = index + 1,
                _ => {
                    batches.push(index..index + 1);
                    loaded = head;
                }
            }
        }
        Ok(Plan { group, call, block, heads: batches })
    }
}

/// Bytes of so many f32.
fn bytes_of_rows(values: usize) -> u64 {
    (values as u64).saturating_mul(4)
}
