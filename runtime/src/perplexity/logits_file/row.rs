//! A row of log-probabilities, to 16 bits.

use super::row_bytes;
use crate::perplexity::LogSoftmax;

/// Log-probabilities of a vocabulary as integers: ln p = scale · q + minimum, in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    scale: f32,
    minimum: f32,
    quants: Vec<u16>,
}

impl StoredRow {
    /// Log-probabilities further than this below the greatest are raised to it.
    pub const RANGE: f32 = 16.0;
    /// Most that the greatest log-probability may be above 0: what f32 rounds.
    const ROUNDING: f32 = 1e-3;

    /// Rounds the log-probabilities of a row as llama-perplexity does. Each is off by at most half
    /// the scale, itself at most 16 / 65535, and what f32 rounds, unless it was raised.
    pub fn encode(row: &LogSoftmax<'_>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 as the format has it")]
        let ln_sum = row.ln_sum() as f32;
        let max = row.max();
        let least = row.logits().iter().copied().fold(max, f32::min).max(max - Self::RANGE);
        let scale = (max - least) / 65535.0;
        let minimum = least - max - ln_sum;
        let inverse = 1.0 / scale;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, where the scale is too small to have an inverse"
        )]
        let quant = |logit: f32| {
            if scale > 0.0 && logit > least {
                (inverse * (logit - least)).round_ties_even() as u16
            } else {
                0
            }
        };
        let quants = row.logits().iter().map(|&logit| quant(logit)).collect();
        StoredRow { scale, minimum, quants }
    }

    /// Log-probabilities of the vocabulary.
    pub fn log_probabilities(&self) -> Vec<f32> {
        self.quants.iter().map(|&quant| self.scale * f32::from(quant) + self.minimum).collect()
    }

    /// Step between neighbouring log-probabilities.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Least log-probability.
    pub fn minimum(&self) -> f32 {
        self.minimum
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.quants.len()
    }

    /// Why the row cannot be log-probabilities: the field, its offset in the row, what it must be and
    /// what it is.
    pub(super) fn problem(&self) -> Option<(&'static str, u64, &'static str, f32)> {
        let most = self.quants.iter().copied().max().unwrap_or(0);
        let greatest = self.scale * f32::from(most) + self.minimum;
        if !self.scale.is_finite() || self.scale < 0.0 {
            Some(("the scale of a row", 0, "finite and not negative", self.scale))
        } else if !self.minimum.is_finite() {
            Some(("the minimum of a row", 4, "finite", self.minimum))
        } else if greatest.is_nan() || greatest > Self::ROUNDING {
            Some(("the greatest log-probability of a row", 0, "at most 0", greatest))
        } else {
            None
        }
    }

    /// The row of `vocabulary` tokens in its bytes; `None` if they are too few.
    pub(super) fn from_bytes(bytes: &[u8], vocabulary: usize) -> Option<Self> {
        let (scale, bytes) = bytes.split_first_chunk()?;
        let (minimum, bytes) = bytes.split_first_chunk()?;
        let (quants, _) = bytes.as_chunks::<2>();
        let quants = quants.get(..vocabulary)?.iter().map(|&quant| u16::from_le_bytes(quant));
        Some(StoredRow {
            scale: f32::from_le_bytes(*scale),
            minimum: f32::from_le_bytes(*minimum),
            quants: quants.collect(),
        })
    }

    /// Appends the row's bytes.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.extend(self.scale.to_le_bytes());
        bytes.extend(self.minimum.to_le_bytes());
        bytes.extend(self.quants.iter().flat_map(|quant| quant.to_le_bytes()));
        if !self.quants.len().is_multiple_of(2) {
            bytes.extend([0, 0]);
        }
        debug_assert_eq!((bytes.len() - start) as u64, row_bytes(self.quants.len() as u64));
    }
}
