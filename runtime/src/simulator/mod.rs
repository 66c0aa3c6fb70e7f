//! The NPU's arithmetic on the host, integer for integer.
//!
//! [`SimulatedLinear`] holds a linear's tiles and computes what the engine that the scheme names
//! would: exact sums of products of integers on `i8`; on `i4` also, narrowed to 16 bits at the end of
//! each segment; sums of 32 products, exact and rounded once, on `f16`. What the host does before and
//! after is that of [`host`](crate::host), as on a board.

mod gemm;
pub(crate) mod halves;
mod linear;
mod products;
mod rows;
mod weights;

pub use linear::SimulatedLinear;
pub use products::products;

use crate::host::{Digits, Overflow};

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
