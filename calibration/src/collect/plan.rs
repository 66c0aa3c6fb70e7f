//! What is in memory at a time.

use tessera_runtime::perplexity::evaluate::LayeredModel;

use super::observer::{InputShape, head_input, inputs_of};
use super::{CollectError, Collection};
use crate::statistics::ObservationOptions;

/// Rows that pass through a layer in a call, where chunks are short enough. It does not depend on the
/// budget: in which order rows come to experts, and so the order of sums, follows from it.
const ROWS_OF_A_CALL: usize = 1024;

/// Bytes that a process takes whatever it does, and those of each of its threads: code, stacks, and
/// the panels of weights that a product dequantizes.
const PROCESS_BYTES: u64 = 24 << 20;
const THREAD_BYTES: u64 = 12 << 20;

/// What is in memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Chunks that pass through a layer in a call.
    pub(super) call: usize,
    /// Whether the states of all chunks are in memory. It changes no result.
    pub(super) states_in_memory: bool,
}

impl Plan {
    pub(super) fn new(collection: &Collection<'_>) -> Result<Self, CollectError> {
        let Collection { decoder, chunks, options, .. } = collection;
        let budget = collection.memory_budget_bytes;
        let context = chunks.first().map_or(0, Vec::len);
        let row = bytes(decoder.model().width);
        // Of the float model, too, where states pass quantized layers.
        let streams = if collection.prefix.is_some() { 2 } else { 1 };
        let states = row.saturating_mul(wide(context)).saturating_mul(wide(chunks.len()));
        let states = states.saturating_mul(streams);

        let most = chunks.len().max(1);
        let call = ROWS_OF_A_CALL.checked_div(context).unwrap_or(1).clamp(1, most);
        let threads = wide(rayon::current_num_threads());
        // A call's states, twice while those of an unchanged input are kept beside.
        let rows = wide(context).saturating_mul(wide(call)).saturating_mul(2 * row);
        let beside = sum([
            PROCESS_BYTES,
            THREAD_BYTES.saturating_mul(threads),
            LayeredModel::scratch_bytes(*decoder, call, context),
            rows,
        ]);
        let needed = beside.saturating_add(largest(collection, options)?);
        let without = ObservationOptions { hessians: false, ..options.clone() };
        let hessians = needed.saturating_sub(beside.saturating_add(largest(collection, &without)?));
        let with_states = needed.saturating_add(states);
        match collection.work {
            Some(_) if states <= budget / 2 && with_states <= budget => {
                Ok(Plan { call, states_in_memory: true })
            }
            Some(_) if needed <= budget => Ok(Plan { call, states_in_memory: false }),
            None if with_states <= budget => Ok(Plan { call, states_in_memory: true }),
            work => {
                let needed = if work.is_some() { needed } else { with_states };
                Err(CollectError::Budget { context, needed, hessians, budget })
            }
        }
    }
}

/// Bytes of the largest layer with its statistics, of the head's, or of an input while the file is put
/// together: then it is in memory with a copy of its Hessian.
fn largest(collection: &Collection<'_>, options: &ObservationOptions) -> Result<u64, CollectError> {
    let decoder = collection.decoder;
    let held = |input: &InputShape| options.memory(input.k, input.experts);
    let working = |input: &InputShape| ObservationOptions::working_memory(input.k, input.experts);
    let head = head_input(decoder);
    let mut largest = held(&head).saturating_add(working(&head));
    for layer in 0..decoder.model().layers {
        let inputs = inputs_of(decoder, layer)
            .map_err(|source| CollectError::Model { layer: Some(layer), source })?;
        let all = inputs.iter().map(held).chain([decoder.layer_bytes(layer)]);
        let all = sum(all.chain(inputs.iter().map(working).max()));
        let copied = inputs.iter().map(held).max().unwrap_or(0).saturating_mul(2);
        largest = largest.max(all).max(copied);
    }
    Ok(largest)
}

/// Bytes of so many f32.
fn bytes(values: usize) -> u64 {
    wide(values).saturating_mul(4)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn sum(values: impl IntoIterator<Item = u64>) -> u64 {
    values.into_iter().fold(0, u64::saturating_add)
}
