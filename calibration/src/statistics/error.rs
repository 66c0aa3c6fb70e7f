//! What can be wrong with statistics.

use tessera_formats::escape::Escaped;
use thiserror::Error;

/// Why statistics cannot be taken, written, read or merged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// An input that no statistics can be of.
    #[error("the input of `{}` has {what}", Escaped(.input))]
    Input {
        /// Name of its first linear.
        input: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Rows of another length, or of another expert.
    #[error("the input of `{}` has {found}, expected {expected}", Escaped(.input))]
    Rows {
        /// Name of its first linear.
        input: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An activation is NaN or infinite.
    #[error("the input of `{}` is {value} in channel {channel} of row {row}", Escaped(.input))]
    NotFinite {
        /// Name of its first linear.
        input: String,
        /// Row, counted over all that came.
        row: u64,
        /// Channel.
        channel: usize,
        /// The value.
        value: f32,
    },
    /// The machine has too little memory.
    #[error("no memory for the Hessian of the input of `{}`: {bytes} bytes", Escaped(.input))]
    Memory {
        /// Name of its first linear.
        input: String,
        /// Bytes asked for.
        bytes: u128,
    },
}
