//! Rows that an engine multiplies, and what it makes of them, before anything is rescaled.

use half::f16;

/// Rows of operands, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineRows {
    /// Of an integer engine.
    Integers {
        /// `[rows, k]`.
        values: Vec<i8>,
        /// Length of a row.
        k: usize,
    },
    /// Of the float engine.
    Halves {
        /// `[rows, k]`.
        values: Vec<f16>,
        /// Length of a row.
        k: usize,
    },
}

impl EngineRows {
    /// Length of a row.
    pub fn k(&self) -> usize {
        match self {
            EngineRows::Integers { k, .. } | EngineRows::Halves { k, .. } => *k,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            EngineRows::Integers { values, k } => values.len() / k.max(&1),
            EngineRows::Halves { values, k } => values.len() / k.max(&1),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Results of an engine, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineResults {
    /// Of an integer engine: i32, or i16 made as wide.
    Integers {
        /// `[rows, n]`.
        values: Vec<i32>,
        /// Channels of a row.
        n: usize,
    },
    /// Of the float engine.
    Floats {
        /// `[rows, n]`.
        values: Vec<f32>,
        /// Channels of a row.
        n: usize,
    },
}
