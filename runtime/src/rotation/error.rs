//! What can be wrong with a rotation.

use tessera_formats::escape::Escaped;
use thiserror::Error;

/// Why a rotation cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RotationError {
    /// A row of no elements.
    #[error("a row of 0 elements cannot be rotated")]
    Empty,
    /// The row is longer than this machine can address.
    #[error("a row of {k} elements is too long to be rotated")]
    TooLong {
        /// Length of the row.
        k: u64,
    },
    /// `k` is not the order of a Paley matrix times a power of two.
    #[error("there is no Paley × Sylvester matrix of order {k} with a factor of at most {limit}")]
    NoPaley {
        /// Length of the row.
        k: usize,
        /// Largest order of a factor.
        limit: usize,
    },
    /// The dense factor would be too large.
    #[error("a dense factor of order {order} is above the limit of {limit}")]
    FactorTooLarge {
        /// Order of the factor.
        order: u64,
        /// Largest order of a factor.
        limit: usize,
    },
    /// The manifest names a construction that is not known.
    #[error("unknown construction `{}` of a rotation's factor", Escaped(kind))]
    UnknownFactor {
        /// Its name.
        kind: String,
    },
    /// The construction has no matrix of the manifest's order.
    #[error("there is no {kind} matrix of order {order}")]
    NoFactor {
        /// Name of the construction.
        kind: &'static str,
        /// Order in the manifest.
        order: u64,
    },
    /// The lengths in the manifest do not fit each other.
    #[error(
        "a rotation of {k} elements in {size} does not fit blocks of {factor} × {sylvester} elements"
    )]
    Shape {
        /// Length of the row.
        k: u64,
        /// Length of the rotated row.
        size: u64,
        /// Order of the Sylvester matrix.
        sylvester: u64,
        /// Order of the dense factor, 1 when there is none.
        factor: u64,
    },
    /// The stored factor has another number of elements than its order asks for.
    #[error("the stored factor has {found} elements, expected {expected}")]
    FactorLength {
        /// Square of the order.
        expected: usize,
        /// Elements in the tensor.
        found: usize,
    },
    /// The stored factor is not the matrix its name stands for.
    #[error("the stored {kind} factor of order {order} has a wrong value at element {index}")]
    FactorValue {
        /// Name of the construction.
        kind: &'static str,
        /// Its order.
        order: usize,
        /// Row-major index of the first wrong element.
        index: usize,
    },
}
