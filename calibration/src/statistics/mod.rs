//! What was observed of the linears' inputs while a model ran over a text.
//!
//! Statistics are of an input x as the model computes it, before any sign, diagonal or rotation: one
//! file serves every recipe, and what was observed of two texts is merged by adding.

mod accumulator;
mod check;
mod error;
pub mod file;
mod merge;
mod moments;
mod provenance;
mod sample;
mod spread;
#[cfg(test)]
mod tests;

pub use accumulator::{Accumulator, ObservationOptions};
pub use error::StatisticsError;
pub use file::{StatisticsFile, concatenate};
pub use merge::merge;
pub use provenance::{CollectionOptions, DataSource, FileDigest, Provenance};
pub use spread::{Medians, Spread};

pub(crate) use check::MOST_ELEMENTS;

use crate::clip::TensorStatistics;

/// Statistics of a model's inputs, and where they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Model, data and options.
    pub provenance: Provenance,
    /// One entry per input, in the order of the layers.
    pub inputs: Vec<InputStatistics>,
}

impl Statistics {
    /// What was observed of the input that the linear of that name reads.
    pub fn input_of(&self, linear: &str) -> Option<&InputStatistics> {
        self.inputs.iter().find(|input| input.linears.iter().any(|name| name == linear))
    }

    /// [`Provenance::check_model`].
    ///
    /// # Errors
    ///
    /// If the statistics are of another model.
    pub fn check_model(&self, model: &[FileDigest]) -> Result<(), StatisticsError> {
        self.provenance.check_model(model)
    }
}

/// What was observed of one input, by all linears that read it.
///
/// What a source does not know (an importance matrix has only squares) is empty or has a count of 0.
/// `w` is the weight of a row, [`Medians::weight`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputStatistics {
    /// Names of the linears that read it, at least one.
    pub linears: Vec<String>,
    /// Channels.
    pub k: usize,
    /// Rows seen; for expert linears a token counts once for each expert that it is routed to.
    pub tokens: u64,
    /// Histogram of |x|.
    pub magnitudes: TensorStatistics,
    /// Histogram of |R · (s ⊙ x)|, R the default rotation and s the signs of the seed and of the name
    /// of the first linear: what a rotated input looks like, for reports.
    pub rotated: TensorStatistics,
    /// Σ x per channel, `[k]` or empty.
    pub sum: Vec<f64>,
    /// Σ x² per channel, `[k]` or empty.
    pub squares: Vec<f64>,
    /// Root mean square of a row, over rows.
    pub rms: Spread,
    /// amax/rms of a row, over rows that are not zero.
    pub crest: Spread,
    /// Medians of rms and crest over the first rows, which the weights derive from.
    pub medians: Medians,
    /// Σ w x² per channel, `[k]` or empty.
    pub robust_squares: Vec<f64>,
    /// Σ w.
    pub robust_weight: f64,
    /// Massive rows: those with w < 1.
    pub massive: u64,
    /// A sample of rows, spread evenly over the text, `[sampled, k]`, row-major. Values are those of
    /// BF16.
    pub rows: Vec<f32>,
    /// Σ w x xᵀ, `[k, k]`, symmetric.
    pub hessian: Option<Vec<f32>>,
    /// Where the rows are those of a quantized model: Σ x of the model's own rows x at the same tokens,
    /// `[k]` or empty.
    pub reference_sum: Vec<f64>,
    /// Σ w x x̃ᵀ of the model's own rows x and of those observed, x̃, `[k, k]`.
    pub cross: Option<Vec<f32>>,
    /// One entry per expert; empty for plain linears.
    pub experts: Vec<ExpertStatistics>,
}

impl InputStatistics {
    /// Rows that must reach an expert for its own figures to be believed.
    pub const LEAST_EXPERT_TOKENS: u64 = 256;

    /// Number of rows in the sample.
    pub fn sampled(&self) -> usize {
        self.rows.len().checked_div(self.k).unwrap_or(0)
    }

    /// The name that errors call it by: that of its first linear.
    pub fn name(&self) -> &str {
        self.linears.first().map_or("", String::as_str)
    }

    /// Root mean square of each channel, `[k]`; none where squares are not known.
    pub fn channel_rms(&self) -> Option<Vec<f64>> {
        mean_roots(&self.squares, count(self.tokens))
    }

    /// Root mean square of each channel over weighted rows, `[k]`: massive rows count as if they were
    /// ordinary ones. As [`Self::channel_rms`] where rows were not weighted.
    pub fn robust_channel_rms(&self) -> Option<Vec<f64>> {
        mean_roots(&self.robust_squares, self.robust_weight).or_else(|| self.channel_rms())
    }
}

/// What was observed of an expert's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertStatistics {
    /// Rows that were routed to it.
    pub tokens: u64,
    /// Σ x per channel, `[k]` or empty.
    pub sum: Vec<f64>,
    /// Σ x² per channel, `[k]` or empty.
    pub squares: Vec<f64>,
    /// Σ w x xᵀ, `[k, k]`, symmetric.
    pub hessian: Option<Vec<f32>>,
    /// Σ w.
    pub hessian_weight: f64,
}

/// A count as f64: exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn count(count: u64) -> f64 {
    count as f64
}

fn mean_roots(squares: &[f64], weight: f64) -> Option<Vec<f64>> {
    (!squares.is_empty() && weight > 0.0)
        .then(|| squares.iter().map(|sum| (sum / weight).sqrt()).collect())
}
