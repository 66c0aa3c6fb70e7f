//! The NPU's arithmetic on the host, integer for integer.
//!
//! [`SimulatedLinear`] holds a linear's tiles and computes what the engine that the scheme names
//! would: exact sums of products of integers on `i8`; on `i4` also, narrowed to 16 bits at the end of
//! each segment; sums of 32 products, exact and rounded once, on `f16`. The host's part is the same
//! as on a board: rows are rotated and quantized before, results are scaled and added after,
//!
//! ```text
//! out[m, n] = Σ_s (f32(C_s[m, n])·s_a[m, s])·s_w[s, n] + c[n]    segments s ascending, in f32
//! ```
//!
//! where c, which few linears have, corrects the mean of what rounding did to outputs. Where a row's
//! integers have a zero point z, a segment adds
//!
//! ```text
//! (f32(C_s[m, n])·s_a[m, s])·s_w[s, n] + (z[m, s]·f32(Σ_k q_w[n, k]))·s_w[s, n]
//! ```
//!
//! in its place, the sum of the segment's weights exact, and taken when the linear is loaded. So every
//! bit depends on the weights and the row alone, not on threads or instruction sets.

mod activation;
mod description;
mod digits;
mod error;
mod gemm;
mod halves;
mod linear;
mod rescale;
mod rows;
mod weights;

pub use activation::{ActivationScale, SimulatedInput};
pub use description::Weights;
pub use digits::Digits;
pub use error::SimulatorError;
pub use linear::SimulatedLinear;
pub use rescale::Overflow;

/// What is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Weights and activations, as on the NPU.
    #[default]
    Integer,
    /// Weights alone: rotated activations stay f32, products are summed in f32.
    FloatActivations,
}

/// What the hardware leaves open, or the host chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// What is rounded.
    pub arithmetic: Arithmetic,
    /// What the i4 engine makes of sums beyond 16 bits.
    pub overflow: Overflow,
    /// Digits of w4a8 activations.
    pub digits: Digits,
}
