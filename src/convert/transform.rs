//! What is done to a row of weights before it is quantized.

use std::sync::Arc;

use tessera_calibration::rk_llama;
use tessera_runtime::rotation::Rotation;

/// Equalization, signs and rotation of one input, on the weights' side: a row w becomes
/// R·(w ⊘ v), where the input x becomes R·(v ⊙ x).
pub enum RowTransform {
    /// Ours.
    Rotation {
        /// 1/v, one value per column; absent when all are 1.
        inverse: Option<Vec<f32>>,
        /// R.
        rotation: Arc<Rotation>,
    },
    /// rk-llama.cpp's own, which is not normalized.
    RkLlama(rk_llama::Transform),
}

impl RowTransform {
    /// Ours, with the vector v.
    pub fn new(vector: Option<&[f32]>, rotation: Arc<Rotation>) -> Self {
        let inverse = vector.map(|vector| vector.iter().map(|v| 1.0 / v).collect());
        RowTransform::Rotation { inverse, rotation }
    }

    /// Length of the transformed row.
    pub fn size(&self) -> usize {
        match self {
            RowTransform::Rotation { rotation, .. } => rotation.size(),
            RowTransform::RkLlama(transform) => transform.size(),
        }
    }

    /// Values of scratch that `apply` needs.
    pub fn scratch_len(&self) -> usize {
        match self {
            RowTransform::Rotation { rotation, .. } => rotation.scratch_len(),
            RowTransform::RkLlama(_) => 0,
        }
    }

    /// The scale that a pack stores for a row that was quantized with `scale`.
    pub fn pack_scale(&self, scale: f32) -> f32 {
        match self {
            RowTransform::Rotation { .. } => scale,
            RowTransform::RkLlama(transform) if transform.is_identity() => scale,
            RowTransform::RkLlama(transform) => rk_llama::pack_scale(scale, transform.size()),
        }
    }

    /// Transforms the row in place; what lies beyond its length must be zero.
    pub fn apply(&self, row: &mut [f32], scratch: &mut [f32]) {
        let row = &mut row[..self.size()];
        match self {
            RowTransform::Rotation { inverse: Some(inverse), rotation } => {
                rotation.apply_scaled(row, inverse, scratch);
            }
            RowTransform::Rotation { inverse: None, rotation } => rotation.apply(row, scratch),
            RowTransform::RkLlama(transform) => transform.apply(row),
        }
    }
}
