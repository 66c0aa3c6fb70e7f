//! What statistics must be for anything to be computed from them.

use std::path::Path;

use half::bf16;
use rayon::prelude::*;

use super::error::StatisticsError;
use super::{ExpertStatistics, InputStatistics, Spread};
use crate::clip::TensorStatistics;

/// Most elements that an input's rows can have together: counts stay exact in f64, and sums of
/// counts in u64.
pub(crate) const MOST_ELEMENTS: u64 = 1 << 53;

/// An expectation of a value.
const NOT_NEGATIVE: &str = "a finite number that is not negative";

/// Tensors of all experts.
const EXPERT_SUM: &str = "experts.sum";
const EXPERT_SQUARES: &str = "experts.squares";
const EXPERT_HESSIAN: &str = "experts.hessian";

/// An input in a file, for errors.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    input: &'a str,
}

impl Place<'_> {
    fn field(
        self,
        field: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> StatisticsError {
        StatisticsError::Field {
            path: self.path.to_owned(),
            input: self.input.to_owned(),
            field,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    fn value(
        self,
        tensor: &'static str,
        (index, found): (usize, f64),
        expected: &'static str,
    ) -> StatisticsError {
        let (path, input) = (self.path.to_owned(), self.input.to_owned());
        StatisticsError::Value { path, input, tensor, index, found, expected }
    }

    /// `values` must be empty or `length` long, and all be allowed.
    fn all(
        self,
        tensor: &'static str,
        values: &[f64],
        length: usize,
        negative: bool,
    ) -> Result<(), StatisticsError> {
        if !values.is_empty() && values.len() != length {
            return Err(self.field(tensor, format!("of {length} elements"), values.len()));
        }
        let expected = if negative { "a finite number" } else { NOT_NEGATIVE };
        let wrong = |value: &f64| !value.is_finite() || (*value < 0.0 && !negative);
        match values.iter().position(wrong) {
            Some(index) => Err(self.value(tensor, (index, values[index]), expected)),
            None => Ok(()),
        }
    }

    fn scalar(self, field: &'static str, value: f64) -> Result<(), StatisticsError> {
        if value.is_finite() && value >= 0.0 {
            return Ok(());
        }
        Err(self.field(field, NOT_NEGATIVE, value))
    }

    fn spread(
        self,
        field: &'static str,
        spread: &Spread,
        tokens: u64,
    ) -> Result<(), StatisticsError> {
        let Spread { count, sum, least, greatest } = *spread;
        let finite = [sum, least, greatest].iter().all(|x| x.is_finite() && *x >= 0.0);
        if finite && count <= tokens && least <= greatest && (count > 0 || sum == 0.0) {
            return Ok(());
        }
        let expected = format!("of at most {tokens} rows, in order and finite");
        Err(self.field(field, expected, format!("{spread:?}")))
    }

    fn histogram(
        self,
        field: &'static str,
        histogram: &TensorStatistics,
        elements: u64,
    ) -> Result<(), StatisticsError> {
        let count = histogram.count();
        if (count == 0 || count == elements) && histogram.amax().is_finite() {
            return Ok(());
        }
        let found = format!("of {count} elements up to {}", histogram.amax());
        Err(self.field(field, format!("of {elements} finite elements"), found))
    }

    fn square(
        self,
        tensor: &'static str,
        values: Option<&[f32]>,
        k: usize,
    ) -> Result<(), StatisticsError> {
        let Some(values) = values else { return Ok(()) };
        if Some(values.len()) != k.checked_mul(k) {
            return Err(self.field(tensor, format!("of {k} × {k} elements"), values.len()));
        }
        match values.par_iter().position_first(|value| !value.is_finite()) {
            Some(index) => {
                Err(self.value(tensor, (index, f64::from(values[index])), "a finite number"))
            }
            None => Ok(()),
        }
    }

    fn hessian(
        self,
        tensor: &'static str,
        hessian: Option<&[f32]>,
        k: usize,
    ) -> Result<(), StatisticsError> {
        self.square(tensor, hessian, k)?;
        let Some(hessian) = hessian else { return Ok(()) };
        let wrong = |row: usize| {
            let values = &hessian[row * k..(row + 1) * k];
            let wrong = |(column, value): (usize, &f32)| {
                !value.is_finite()
                    || (column == row && *value < 0.0)
                    || (column > row && hessian[column * k + row] != *value)
            };
            values.iter().enumerate().position(wrong).map(|c| row * k + c)
        };
        match (0..k).into_par_iter().find_map_first(wrong) {
            Some(index) => Err(self.value(
                tensor,
                (index, f64::from(hessian[index])),
                "finite, symmetric, and not negative on the diagonal",
            )),
            None => Ok(()),
        }
    }
}

impl InputStatistics {
    /// Refuses lengths that do not agree and values that no sum has; `path` is for the error.
    pub(super) fn check(&self, path: &Path) -> Result<(), StatisticsError> {
        let (k, place) = (self.k, Place { path, input: self.name() });
        if self.linears.is_empty() || self.linears.iter().any(String::is_empty) {
            return Err(place.field("linears", "one or more names", format!("{:?}", self.linears)));
        }
        let elements = u64::try_from(k).ok().and_then(|k| k.checked_mul(self.tokens));
        let Some(elements) = elements.filter(|&count| k > 0 && count <= MOST_ELEMENTS) else {
            let found = format!("{} rows of {k} channels", self.tokens);
            return Err(place.field("size", "1 to 2^53 elements", found));
        };
        place.histogram("magnitudes", &self.magnitudes, elements)?;
        place.histogram("rotated", &self.rotated, elements)?;
        place.all("sum", &self.sum, k, true)?;
        place.all("squares", &self.squares, k, false)?;
        place.all("robust_squares", &self.robust_squares, k, false)?;
        place.spread("rms", &self.rms, self.tokens)?;
        place.spread("crest", &self.crest, self.tokens)?;
        place.scalar("median rms", self.medians.rms)?;
        place.scalar("median crest", self.medians.crest)?;
        place.scalar("robust weight", self.robust_weight)?;
        if self.massive > self.tokens {
            let expected = format!("at most {} rows", self.tokens);
            return Err(place.field("massive", expected, self.massive));
        }
        place.hessian("hessian", self.hessian.as_deref(), k)?;
        place.all("reference_sum", &self.reference_sum, k, true)?;
        place.square("cross", self.cross.as_deref(), k)?;
        self.check_rows(place)?;
        self.check_experts(place)
    }

    fn check_rows(&self, place: Place<'_>) -> Result<(), StatisticsError> {
        if !self.rows.len().is_multiple_of(self.k) {
            let expected = format!("whole rows of {} channels", self.k);
            return Err(place.field("rows", expected, format!("{} values", self.rows.len())));
        }
        if u64::try_from(self.sampled()).map_or(true, |sampled| sampled > self.tokens) {
            let expected = format!("at most {} rows", self.tokens);
            return Err(place.field("rows", expected, self.sampled()));
        }
        let wrong = |x: &f32| !x.is_finite() || bf16::from_f32(*x).to_f32() != *x;
        match self.rows.iter().position(wrong) {
            Some(index) => {
                let found = (index, f64::from(self.rows[index]));
                Err(place.value("rows", found, "a finite number of BF16"))
            }
            None => Ok(()),
        }
    }

    fn check_experts(&self, place: Place<'_>) -> Result<(), StatisticsError> {
        let Some(first) = self.experts.first() else { return Ok(()) };
        let mut tokens = Some(0u64);
        for (position, expert) in self.experts.iter().enumerate() {
            let has = |of: &ExpertStatistics| {
                [!of.sum.is_empty(), !of.squares.is_empty(), of.hessian.is_some()]
            };
            if has(expert) != has(first) {
                return Err(place.field("experts", "all of one kind", "of several kinds"));
            }
            check_expert(place, expert, self.k)
                .map_err(|error| of_expert(error, position, self.k))?;
            tokens = tokens.and_then(|sum| sum.checked_add(expert.tokens));
        }
        if tokens == Some(self.tokens) {
            return Ok(());
        }
        let found = tokens.map_or("beyond 2^64".to_owned(), |sum| sum.to_string());
        Err(place.field("sum of the experts' rows", self.tokens.to_string(), found))
    }
}

fn check_expert(
    place: Place<'_>,
    expert: &ExpertStatistics,
    k: usize,
) -> Result<(), StatisticsError> {
    place.all(EXPERT_SUM, &expert.sum, k, true)?;
    place.all(EXPERT_SQUARES, &expert.squares, k, false)?;
    place.scalar("Hessian weight of an expert", expert.hessian_weight)?;
    place.hessian(EXPERT_HESSIAN, expert.hessian.as_deref(), k)
}

/// Indices of the tensors of all experts, where they were of one's.
fn of_expert(mut error: StatisticsError, expert: usize, k: usize) -> StatisticsError {
    if let StatisticsError::Value { tensor, index, .. } = &mut error {
        *index += expert * if *tensor == EXPERT_HESSIAN { k * k } else { k };
    }
    error
}
