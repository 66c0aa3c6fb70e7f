//! What applies a linear: the interface between the decoder and a device.

mod activations;
#[cfg(feature = "candle")]
pub mod candle;
mod error;
pub mod float;
pub mod gemm;
pub mod ggml_rounding;
mod shape;

pub use activations::Activations;
pub use error::LinearError;

/// A weight matrix W `[n, k]` on a device, or E of them, ready to be applied.
///
/// Applying is the only thing that differs between devices: everything else of a model is computed
/// by the decoder, in f32, the same for all of them.
pub trait Linear: Send + Sync {
    /// Number of experts; `None` for a plain linear.
    fn experts(&self) -> Option<usize>;

    /// Output channels of a matrix.
    fn n(&self) -> usize;

    /// Input channels of a matrix.
    fn k(&self) -> usize;

    /// `out[m, n] = x[m, k] · Wᵀ` for a plain linear, row-major.
    ///
    /// # Errors
    ///
    /// If the lengths do not agree, the linear has experts, or the device fails.
    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError>;

    /// `out[i, n] = x[rows[i], k] · W_expertᵀ` for expert linears, row-major; `rows` ascend.
    ///
    /// # Errors
    ///
    /// If the lengths do not agree, there is no such expert or row, or the device fails.
    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError>;
}
