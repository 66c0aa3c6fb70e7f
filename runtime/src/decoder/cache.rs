//! Keys and values of the positions that a sequence has seen.

/// Keys and values of one layer of one sequence.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    length: usize,
    /// `[positions, kv_heads · key_length]`, after norm and RoPE.
    pub(super) keys: Vec<f32>,
    /// `[positions, kv_heads · value_length]`.
    pub(super) values: Vec<f32>,
}

impl LayerCache {
    /// No positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions seen.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no position has been seen.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn extend(&mut self, positions: usize, keys: &[f32], values: &[f32]) {
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
        self.length += positions;
    }
}

/// Consecutive positions of one sequence in a batch.
pub struct Sequence<'a> {
    /// Rows of the batch that are its; the first is at position `cache.len()`.
    pub tokens: usize,
    /// What it has seen before.
    pub cache: &'a mut LayerCache,
}
