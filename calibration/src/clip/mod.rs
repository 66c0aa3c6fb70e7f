//! Clip thresholds and the scales that follow from them: one per row, or one per tensor.
//!
//! A row's scale is `clip / qmax`: magnitudes above the clip saturate, the others are rounded to
//! multiples of the scale. A lower clip rounds finer and saturates more; a [`Calibrator`] chooses.
//! Every choice is deterministic: the same row gives the same bits on any machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tessera_formats::escape::Escaped;
use tessera_runtime::quantize::{amax, scale_of};
use thiserror::Error;

pub mod histogram_kl;
mod percentile;
mod squared_error;
mod tensor;
mod weighted;

pub use tensor::TensorStatistics;

/// Percentile that `percentile` means when it is written without a number.
pub const DEFAULT_PERCENTILE: f64 = 99.9;

/// Rows whose amax is below this, 2^-100, are not clipped: the searches' factors would overflow f32.
const LEAST_AMAX: f32 = 1.0 / (1u128 << 100) as f32;

/// How a clip threshold is chosen. Written `amax`, `percentile:99.9`, `mse`, `kl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Calibrator {
    /// The largest magnitude: nothing saturates.
    #[default]
    Amax,
    /// The magnitude that this percentage of the magnitudes lie below, in (0, 100].
    Percentile(f64),
    /// The clip of least squared error.
    Mse,
    /// The clip whose quantized histogram is nearest in Kullback-Leibler divergence.
    Kl,
}

impl fmt::Display for Calibrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Calibrator::Amax => f.write_str("amax"),
            Calibrator::Percentile(percentile) => write!(f, "percentile:{percentile}"),
            Calibrator::Mse => f.write_str("mse"),
            Calibrator::Kl => f.write_str("kl"),
        }
    }
}

/// Why a text names no [`Calibrator`].
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum CalibratorError {
    /// No calibrator has that name.
    #[error("no calibrator is named `{}`: expected amax, percentile, mse or kl", Escaped(name))]
    Unknown {
        /// The text.
        name: String,
    },
    /// The number after `percentile:` is none, or not in (0, 100].
    #[error("percentile `{}` is not a number above 0 and at most 100", Escaped(found))]
    Percentile {
        /// The text after the colon.
        found: String,
    },
}

impl FromStr for Calibrator {
    type Err = CalibratorError;

    fn from_str(text: &str) -> Result<Self, CalibratorError> {
        match text {
            "amax" => Ok(Calibrator::Amax),
            "percentile" => Ok(Calibrator::Percentile(DEFAULT_PERCENTILE)),
            "mse" => Ok(Calibrator::Mse),
            "kl" => Ok(Calibrator::Kl),
            _ => match text.strip_prefix("percentile:") {
                Some(number) => match number.parse() {
                    Ok(value) if value > 0.0 && value <= 100.0 => Ok(Calibrator::Percentile(value)),
                    _ => Err(CalibratorError::Percentile { found: number.to_owned() }),
                },
                None => Err(CalibratorError::Unknown { name: text.to_owned() }),
            },
        }
    }
}

impl TryFrom<String> for Calibrator {
    type Error = CalibratorError;

    fn try_from(text: String) -> Result<Self, CalibratorError> {
        text.parse()
    }
}

impl From<Calibrator> for String {
    fn from(calibrator: Calibrator) -> String {
        calibrator.to_string()
    }
}

/// Memory that searches reuse from row to row; one per thread. It never changes a result.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    percentile: percentile::Scratch,
    squared_error: squared_error::Scratch,
    kl: histogram_kl::Scratch,
    weighted: weighted::Scratch,
}

/// The scale of one row (or of a segment of one) for integers from the first to the second, `qmax`, of
/// `range`: `clip / qmax`, by [`scale_of`], so 1.0 for an all-zero row and never nearer to zero than
/// [`MIN_SCALE`](tessera_runtime::quantize::MIN_SCALE). Of the range, either all magnitudes have both
/// signs, or the least integer is one more from zero than the greatest.
///
/// The row must be finite
/// ([`first_non_finite`](tessera_runtime::quantize::first_non_finite)); what another gives is
/// unspecified. Rows of amax below 2^-100 get [`Calibrator::Amax`]'s scale from all but
/// [`Calibrator::Percentile`].
///
/// * [`Calibrator::Percentile`]: the exact order statistic of index `floor(n · p / 100)`, at most
///   `n - 1`, of the n sorted magnitudes, without interpolation (the rule of rk-llama.cpp's p99.5).
///   Where it is 0 but the row is not, amax.
/// * [`Calibrator::Mse`]: the least `Σ (w - scale·q)²` over clips `amax · m/64`, the larger clip
///   where two are equal. Up to `qmax` 7: m = 64, 63, …, 8, every one evaluated; where the least
///   integer is further from zero than `qmax`, with either sign of the scale, which is negative where
///   the further level serves the row's positive side better. Above: m = 64, 63, …, 16, every fourth
///   and then the neighbours of the least; the error is nearly convex there.
/// * [`Calibrator::Kl`]: see [`histogram_kl`], on 2048 bins over `[0, amax]`.
pub fn channel_scale(
    row: &[f32],
    range: (i8, i8),
    calibrator: Calibrator,
    scratch: &mut Scratch,
) -> f32 {
    let (amax, qmax) = (amax(row), range.1);
    let searchable = amax >= LEAST_AMAX;
    let clip = match calibrator {
        Calibrator::Percentile(percentile) if amax > 0.0 => {
            percentile::clip(row, percentile, amax, &mut scratch.percentile)
        }
        Calibrator::Mse if searchable => {
            squared_error::clip(row, amax, range, &mut scratch.squared_error)
        }
        Calibrator::Kl if searchable => histogram_kl::clip(row, amax, qmax, &mut scratch.kl),
        _ => amax,
    };
    signed_scale_of(clip, qmax)
}

/// [`scale_of`] of a clip whose sign the scale is to have.
fn signed_scale_of(clip: f32, qmax: i8) -> f32 {
    scale_of(clip.abs(), qmax).copysign(clip)
}

/// The scale of one row (or of a segment of one) whose columns do not matter alike: least
/// `Σ h·(w - scale·q)²`, where h, the `importance` of a column, is the mean square of its input, as an
/// importance matrix or the diagonal of a Hessian has it. For inputs that are not rotated; a rotation
/// makes columns alike.
///
/// Over clips `amax · m/64`, the larger where two are equal: m = 64, 63, …, 8 up to `qmax` 7, above it
/// every fourth from 64 to 16 and then the neighbours of the least; signs as there. Where importances are negative or not finite, or all are zero, and where amax is
/// below 2^-100, that of [`Calibrator::Mse`].
///
/// # Panics
///
/// If `importance` is not as long as `row`.
pub fn channel_scale_weighted(
    row: &[f32],
    importance: &[f32],
    range: (i8, i8),
    scratch: &mut Scratch,
) -> f32 {
    assert_eq!(row.len(), importance.len(), "an importance for each column");
    let amax = amax(row);
    let usable = importance.iter().all(|h| h.is_finite() && *h >= 0.0)
        && importance.iter().any(|&h| h > 0.0);
    if !usable || amax < LEAST_AMAX {
        return channel_scale(row, range, Calibrator::Mse, scratch);
    }
    signed_scale_of(weighted::clip(row, importance, amax, range, &mut scratch.weighted), range.1)
}

#[cfg(test)]
pub(crate) mod tests;
