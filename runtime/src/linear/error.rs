//! What can go wrong with a linear.

use tessera_formats::escape::Escaped;
use thiserror::Error;

/// Why a linear could not be applied.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinearError {
    /// Rows or outputs of another length than the linear's.
    #[error("`{}` has {what} of {expected}, and was given {found}", Escaped(name))]
    Length {
        /// The linear.
        name: String,
        /// What has the wrong length.
        what: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// An expert that does not exist, or a linear without experts asked for one, or with experts
    /// asked for none.
    #[error("`{}` has no expert {expert:?}", Escaped(name))]
    Expert {
        /// The linear.
        name: String,
        /// The expert asked for.
        expert: Option<usize>,
    },
    /// A row with a value that is not finite, which has no integers.
    #[error(
        "the input of `{}` has a value that is not finite ({value}) in row {row}: the model is \
         damaged, or overflows",
        Escaped(name)
    )]
    NotFinite {
        /// The linear.
        name: String,
        /// The row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// Weights of a type that cannot be dequantized.
    #[error("`{}` has type {ggml_type}, which cannot be dequantized", Escaped(name))]
    Type {
        /// The linear.
        name: String,
        /// Its type.
        ggml_type: &'static str,
    },
    /// A tensor that is not there.
    #[error("the model has no tensor `{}` with the rows asked for", Escaped(name))]
    Missing {
        /// The tensor.
        name: String,
    },
    /// Weights could not be read or decoded.
    #[error("`{}`", Escaped(name))]
    Weights {
        /// The linear.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device failed.
    #[error("`{}` on {device}", Escaped(name))]
    Device {
        /// The linear.
        name: String,
        /// The device.
        device: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
