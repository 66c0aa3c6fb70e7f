//! What is done to a row of weights before it is quantized.

use std::sync::Arc;

use tessera_calibration::rk_llama;
use tessera_runtime::rotation::Rotation;

/// Equalization, signs and rotation of one input, on the weights' side: a row w becomes
/// R·(w ⊘ v), where the input x becomes R·(v ⊙ x).
pub struct RowTransform {
    /// 1/v, one value per column; absent when all are 1.
    inverse: Option<Vec<f32>>,
    rotation: Arc<Rotation>,
    /// Whether the transform is rk-llama.cpp's own, without normalization.
    unnormalized: bool,
}

impl RowTransform {
    /// The transform of an input with the vector v.
    pub fn new(vector: Option<&[f32]>, rotation: Arc<Rotation>, unnormalized: bool) -> Self {
        let inverse = vector.map(|vector| vector.iter().map(|v| 1.0 / v).collect());
        RowTransform { inverse, rotation, unnormalized }
    }

    /// Length of the rotated row.
    pub fn size(&self) -> usize {
        self.rotation.size()
    }

    /// Values of scratch that `apply` needs.
    pub fn scratch_len(&self) -> usize {
        self.rotation.scratch_len()
    }

    /// Factor from scales of the transformed row to scales of the normalized rotation.
    pub fn scale_factor(&self) -> f32 {
        if self.unnormalized { rk_llama::scale_factor(self.size()) } else { 1.0 }
    }

    /// Transforms the row in place; what lies beyond its length must be zero.
    pub fn apply(&self, row: &mut [f32], scratch: &mut [f32]) {
        let row = &mut row[..self.rotation.size()];
        match (&self.inverse, self.unnormalized) {
            (Some(inverse), true) => rk_llama::transform(row, inverse),
            (Some(inverse), false) => self.rotation.apply_scaled(row, inverse, scratch),
            (None, _) => self.rotation.apply(row, scratch),
        }
    }
}
