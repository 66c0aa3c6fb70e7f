//! The host's part of a linear on the NPU: rows become operands, an engine's sums become outputs.
//!
//! It is the same for the chip and for the simulator, which differ in who multiplies. Rows are rotated
//! and quantized before, results are scaled and added after,
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
mod isa;
mod rescale;
mod results;
mod rows;

pub use activation::{ActivationScale, LinearInput};
pub(crate) use activation::{Operands, Plan, QuantizedRows, RotatedRows, RowScale};
pub(crate) use description::Shape;
pub use description::Weights;
pub use digits::Digits;
pub use error::WeightsError;
pub use isa::Isa;
pub use rescale::Overflow;
pub(crate) use rescale::Rescale;
pub use results::{EngineResults, EngineRows};
pub(crate) use rows::Rows;

/// Output channels that are worked on together.
pub const GROUP: usize = 64;

/// Sums of one row with the channels of a group.
pub type Sums = [i32; GROUP];
