//! The shape of a linear, and the rows and outputs that fit it.

use super::{Activations, LinearError};

/// A linear's name and the shape of its weights, `[experts, n, k]`.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub name: String,
    pub experts: Option<usize>,
    pub n: usize,
    pub k: usize,
}

impl Shape {
    /// Whether a linear of this shape can be applied to `x`.
    pub fn check_plain(&self, x: &Activations<'_>, out: &[f32]) -> Result<(), LinearError> {
        if self.experts.is_some() {
            return Err(LinearError::Expert { name: self.name.clone(), expert: None });
        }
        self.check_lengths(x, x.rows(), out)
    }

    /// Whether an expert of this shape can be applied to some rows of `x`.
    pub fn check_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &[f32],
    ) -> Result<(), LinearError> {
        if self.experts.is_none_or(|experts| expert >= experts) {
            return Err(LinearError::Expert { name: self.name.clone(), expert: Some(expert) });
        }
        if let Some(&row) = rows.iter().find(|&&row| row >= x.rows()) {
            return Err(self.length("rows to choose from", x.rows(), row));
        }
        self.check_lengths(x, rows.len(), out)
    }

    fn check_lengths(
        &self,
        x: &Activations<'_>,
        rows: usize,
        out: &[f32],
    ) -> Result<(), LinearError> {
        if x.k() != self.k {
            return Err(self.length("rows", self.k, x.k()));
        }
        if rows.checked_mul(self.n) != Some(out.len()) {
            return Err(self.length("outputs", rows.saturating_mul(self.n), out.len()));
        }
        Ok(())
    }

    fn length(&self, what: &'static str, expected: usize, found: usize) -> LinearError {
        LinearError::Length { name: self.name.clone(), what, expected, found }
    }
}
