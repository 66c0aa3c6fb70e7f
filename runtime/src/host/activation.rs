//! Rows of activations to the operands of an engine.
//!
//! A row x becomes x' = R·(v ⊙ x), zeros up to the end of the last segment, and in each segment
//! integers of its own scale: `q = clamp(round_half_even(x'·f32(1/scale)))`, or
//! `clamp(round_half_even((x' − zero)·f32(1/scale)))` where they have a zero point, as
//! [`quantize`](crate::quantize) has it, with the scale that [`ActivationScale`] says; what integers
//! stand for may be fitted to them. A segment of
//! zeros has zeros, and so have columns of padding in any case.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use rayon::prelude::*;
use tessera_formats::npu::Scheme;

use super::digits::Digits;
use crate::linear::{Activations, LinearError};
use crate::quantize::{self, Affine, Fit};
use crate::rotation::Rotation;

/// How the scale of a row's integers is chosen, in each segment.
#[derive(Clone, Debug, PartialEq)]
pub enum ActivationScale {
    /// From the row, over the segment's columns, padding excluded.
    Dynamic {
        /// c: magnitudes above c times the row's root mean square saturate
        /// ([`quantize::clip_by_rms`]); `None` where nothing is clipped.
        rms_clip: Option<f32>,
        /// With a zero point: the integers reach from the row's least to its greatest value
        /// ([`quantize::Affine`]). Otherwise `amax / qmax`, or `min(amax, c·rms) / qmax`.
        asymmetric: bool,
        /// With a zero point: how far the integers reach, and what they stand for, is fitted to the
        /// row ([`quantize::fit_row`]).
        fitted: bool,
    },
    /// `threshold / qmax` for every row, one threshold for each segment. Larger magnitudes saturate.
    Static(Vec<f32>),
}

impl Default for ActivationScale {
    /// `amax / qmax`: nothing is clipped, and there is no zero point.
    fn default() -> Self {
        ActivationScale::Dynamic { rms_clip: None, asymmetric: false, fitted: false }
    }
}

impl ActivationScale {
    /// Whether integers have a zero point.
    pub const fn is_asymmetric(&self) -> bool {
        matches!(self, ActivationScale::Dynamic { asymmetric: true, .. })
    }

    /// Whether range, scale and zero point are fitted to rows.
    const fn is_fitted(&self) -> bool {
        matches!(self, ActivationScale::Dynamic { fitted: true, .. })
    }

    /// Largest magnitude that keeps its value, of some columns of a row, those of a segment.
    fn threshold(&self, segment: usize, values: &[f32]) -> f32 {
        match self {
            ActivationScale::Dynamic { rms_clip: None, .. } => quantize::amax(values),
            ActivationScale::Dynamic { rms_clip: Some(factor), .. } => {
                quantize::clip_by_rms(values, *factor)
            }
            // Present: they were counted when the linear was made.
            ActivationScale::Static(thresholds) => {
                thresholds.get(segment).copied().unwrap_or_else(|| quantize::amax(values))
            }
        }
    }

    /// Least and greatest value that keep their values, of some columns of a row.
    fn extremes(&self, values: &[f32]) -> (f32, f32) {
        match self {
            ActivationScale::Dynamic { rms_clip: Some(factor), .. } => {
                quantize::extremes_clipped_by_rms(values, *factor)
            }
            _ => quantize::extremes(values),
        }
    }
}

/// What linears that read the same input share: how its rows are rotated.
#[derive(Debug)]
pub struct LinearInput {
    rotation: Arc<Rotation>,
    vector: Option<Vec<f32>>,
    plans: Mutex<Vec<Arc<Plan>>>,
}

impl LinearInput {
    /// An input of a rotation and, if not all ones, the vector v that rows are multiplied by before.
    /// Where the vector is not `rotation.k()` long, linears of this input are refused.
    pub fn new(rotation: Arc<Rotation>, vector: Option<Vec<f32>>) -> Self {
        LinearInput { rotation, vector, plans: Mutex::default() }
    }

    /// The rotation.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// The vector.
    pub fn vector(&self) -> Option<&[f32]> {
        self.vector.as_deref()
    }

    /// The plan of that scheme, those scales and those segments: one for all linears of this input
    /// that ask.
    pub(crate) fn plan(
        &self,
        scheme: Scheme,
        digits: Digits,
        activation: &ActivationScale,
        segments: &[Range<usize>],
    ) -> Arc<Plan> {
        // Only w4a8 has digits.
        let digits = if scheme == Scheme::W4A8 { digits } else { Digits::default() };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |plan: &&Arc<Plan>| {
            plan.scheme == scheme
                && plan.digits == digits
                && plan.activation == *activation
                && plan.segments == segments
        };
        if let Some(plan) = plans.iter().find(same) {
            return Arc::clone(plan);
        }
        let activation = activation.clone();
        let plan = Arc::new(Plan { scheme, digits, activation, segments: segments.to_vec() });
        plans.push(Arc::clone(&plan));
        plan
    }
}

/// How rows of an input are quantized.
#[derive(Debug)]
pub(crate) struct Plan {
    scheme: Scheme,
    digits: Digits,
    activation: ActivationScale,
    segments: Vec<Range<usize>>,
}

impl Plan {
    /// Rows of operands that a row of activations becomes.
    pub(crate) fn planes(&self) -> usize {
        if self.scheme == Scheme::W4A8 { 2 } else { 1 }
    }

    /// Worth of the first plane in units of the second; 0 where there is one.
    pub(crate) fn base(&self) -> i32 {
        if self.scheme == Scheme::W4A8 { self.digits.base().into() } else { 0 }
    }

    /// Largest integer of an activation.
    fn qmax(&self) -> i8 {
        match self.scheme {
            Scheme::W4A8 => self.digits.qmax(),
            Scheme::W4A4 => 7,
            Scheme::W8A8 | Scheme::W16A16 => 127,
        }
    }

    /// Whether integers have a zero point.
    pub(crate) fn is_asymmetric(&self) -> bool {
        self.activation.is_asymmetric()
    }

    /// Least and greatest integer of an activation with a zero point.
    fn range(&self) -> (i16, i16) {
        match self.scheme {
            Scheme::W4A8 => self.digits.range(),
            Scheme::W4A4 => (-8, 7),
            Scheme::W8A8 | Scheme::W16A16 => (-128, 127),
        }
    }

    /// Columns of all segments.
    pub(crate) fn k(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.end)
    }
}

/// Rotated rows, `[m, rotation.size()]`.
#[derive(Debug)]
pub(crate) struct RotatedRows {
    pub(crate) values: Vec<f32>,
    /// Held so that no other input can have its address while these rows are known by it.
    _input: Arc<LinearInput>,
}

impl RotatedRows {
    /// The rows of `x`, rotated once for all linears of the input.
    pub(crate) fn of(
        name: &str,
        input: &Arc<LinearInput>,
        x: &Activations<'_>,
    ) -> Result<Arc<Self>, LinearError> {
        x.prepared(Arc::as_ptr(input).addr(), |x| {
            let size = input.rotation.size();
            let mut values = vec![0.0; x.rows() * size];
            let not_finite =
                rows_in_order(&mut values, size, |row, out, scratch: &mut Vec<f32>| {
                    scratch.resize(input.rotation.scratch_len(), 0.0);
                    let source = x.row(row);
                    out[..source.len()].copy_from_slice(source);
                    match &input.vector {
                        Some(vector) => input.rotation.apply_scaled(out, vector, scratch),
                        None => input.rotation.apply(out, scratch),
                    }
                    let first = |row: &[f32]| quantize::first_non_finite(row).map(|at| row[at]);
                    first(source).or_else(|| first(out))
                });
            match not_finite {
                Some((row, value)) => {
                    Err(LinearError::NotFinite { name: name.to_owned(), row, value })
                }
                None => Ok(RotatedRows { values, _input: Arc::clone(input) }),
            }
        })
    }
}

/// Does `work` for each row, on all threads if there are several, and returns the first row, in
/// order, for which it gave something.
fn rows_in_order<S: Default + Send>(
    values: &mut [f32],
    length: usize,
    work: impl Fn(usize, &mut [f32], &mut S) -> Option<f32> + Sync,
) -> Option<(usize, f32)> {
    if values.len() == length {
        return work(0, values, &mut S::default()).map(|found| (0, found));
    }
    values
        .par_chunks_exact_mut(length)
        .enumerate()
        .map_init(S::default, |scratch, (row, values)| {
            work(row, values, scratch).map(|found| (row, found))
        })
        .reduce(|| None, |first, second| first.or(second))
}

/// What the integers of a row stand for in one segment: `scale·q + zero`.
pub(crate) type RowScale = Affine;

/// Where there is no zero point, and for segments of zeros.
const UNIT: RowScale = Affine { scale: 1.0, zero: 0.0 };

/// Rows as an engine multiplies them.
#[derive(Debug)]
pub(crate) struct QuantizedRows {
    pub(crate) operands: Operands,
    /// `[m, segments]`.
    pub(crate) scales: Vec<RowScale>,
    /// Held so that no other plan can have its address while these rows are known by it.
    _plan: Arc<Plan>,
}

/// Operands of all rows over all segments, K columns.
#[derive(Debug)]
pub(crate) enum Operands {
    /// `[m, planes, K]`.
    Integers(Vec<i8>),
    /// `[m, K]`.
    Halves(Vec<f16>),
}

impl QuantizedRows {
    /// The rows of `x`, quantized once for all linears of the plan.
    pub(crate) fn of(
        name: &str,
        input: &Arc<LinearInput>,
        plan: &Arc<Plan>,
        x: &Activations<'_>,
    ) -> Result<Arc<Self>, LinearError> {
        x.prepared(Arc::as_ptr(plan).addr(), |x| {
            let rotated = RotatedRows::of(name, input, x)?;
            Ok(QuantizedRows::new(&rotated.values, input.rotation.size(), plan))
        })
    }

    fn new(rotated: &[f32], size: usize, plan: &Arc<Plan>) -> Self {
        let (m, k, planes) = (rotated.len() / size, plan.k(), plan.planes());
        let segments = plan.segments.len();
        let mut scales = vec![UNIT; m * segments];
        let operands = if plan.scheme == Scheme::W16A16 {
            let mut values = vec![f16::ZERO; m * k];
            if m == 1 {
                halves_of_row(rotated, &plan.segments, &mut scales, &mut values);
            } else {
                let rows =
                    values.par_chunks_exact_mut(k).zip(scales.par_chunks_exact_mut(segments));
                rows.zip(rotated.par_chunks_exact(size)).for_each(|((values, scales), row)| {
                    halves_of_row(row, &plan.segments, scales, values);
                });
            }
            Operands::Halves(values)
        } else {
            let mut integers = vec![0; m * planes * k];
            if m == 1 {
                integers_of_row(rotated, plan, &mut scales, &mut integers);
            } else {
                let rows = integers.par_chunks_exact_mut(planes * k);
                let rows = rows.zip(scales.par_chunks_exact_mut(segments));
                rows.zip(rotated.par_chunks_exact(size)).for_each(|((integers, scales), row)| {
                    integers_of_row(row, plan, scales, integers);
                });
            }
            Operands::Integers(integers)
        };
        QuantizedRows { operands, scales, _plan: Arc::clone(plan) }
    }
}

/// Columns of a segment that the rotated row has; the others are padding.
fn present<'a>(row: &'a [f32], segment: &Range<usize>) -> &'a [f32] {
    &row[segment.start.min(row.len())..segment.end.min(row.len())]
}

fn integers_of_row(row: &[f32], plan: &Plan, scales: &mut [RowScale], planes: &mut [i8]) {
    let (first, second) = planes.split_at_mut(plan.k());
    if plan.is_asymmetric() {
        let range = plan.range();
        for (segment, scale) in plan.segments.iter().zip(scales) {
            let values = present(row, segment);
            let (least, greatest) = plan.activation.extremes(values);
            let Fit { grid, value } = match plan.activation.is_fitted() {
                true => quantize::fit_row(values, least, greatest, range),
                false => Fit::of(Affine::new(least, greatest, range)),
            };
            *scale = value;
            let integers = &mut first[segment.start..][..values.len()];
            quantize::quantize_row_affine(values, grid, range, integers);
            // Padding has digits of zero already. Nothing where there is one plane.
            let second = second.get_mut(segment.start..).unwrap_or_default();
            let digits = values.len().min(second.len());
            plan.digits.split_biased(&mut integers[..digits], &mut second[..digits]);
        }
        return;
    }
    for (index, (segment, scale)) in plan.segments.iter().zip(scales).enumerate() {
        let values = present(row, segment);
        scale.scale = quantize::scale_of(plan.activation.threshold(index, values), plan.qmax());
        let integers = &mut first[segment.start..][..values.len()];
        quantize::quantize_row(values, scale.scale, plan.qmax(), integers);
    }
    // Nothing where there is one plane.
    plan.digits.split(&mut first[..second.len()], second);
}

fn halves_of_row(row: &[f32], segments: &[Range<usize>], scales: &mut [RowScale], out: &mut [f16]) {
    for (segment, scale) in segments.iter().zip(scales) {
        let values = present(row, segment);
        scale.scale = quantize::f16_scale(quantize::amax(values));
        quantize::to_f16_row(values, scale.scale, &mut out[segment.start..][..values.len()]);
    }
}

#[cfg(test)]
mod tests;
