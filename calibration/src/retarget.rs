//! Weights for the inputs that a quantized model gives, instead of those that the model was trained on.
//!
//! Behind quantized layers, and with activations rounded, a linear reads x̃ where the model's own
//! reads x. The weights whose outputs are nearest to W·x, in the mean square, are W·C·H⁻¹ with
//! C = E\[x·x̃ᵀ\] and H = E\[x̃·x̃ᵀ\] (the normal equations; GPTAQ, Li et al. 2025, arXiv 2504.02692,
//! solves the same problem column by column). Rounded activations add noise that is white after a
//! rotation and not correlated with x: its mean square is added to H's diagonal.
//! All of it fits the calibration text more closely than others, so that only a part of the way is
//! gone.

use rayon::prelude::*;
use thiserror::Error;

use crate::gptq::cholesky::LowerTriangle;
use crate::hessian::HessianBlock;

/// Right-hand sides that are solved for together.
const PANEL: usize = 64;

/// The matrix that rows of weights are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct Retarget {
    k: usize,
    /// M, `[k, k]`, row-major: a row w becomes w·M.
    matrix: Vec<f32>,
}

/// Why there is no such matrix.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RetargetError {
    /// The moments are not of one input.
    #[error("the cross moments have {found} elements: second moments of {k} columns need k²")]
    Shape {
        /// Columns of the second moments.
        k: usize,
        /// Elements of the cross moments.
        found: usize,
    },
    /// The second moments cannot be those of any data.
    #[error(
        "the second moments of the quantized input are not positive definite: observe it again"
    )]
    NotPositiveDefinite,
}

impl Retarget {
    /// `M = (1 − part)·I + part·(C + damping·I)·(H + (noise + damping)·I)⁻¹` for cross moments
    /// C = E\[x·x̃ᵀ\], `[k, k]` row-major, second moments H of x̃, and the mean square `noise` that
    /// rounding adds to an element of x̃. Damping draws M towards I. `part` is from 0 to 1.
    ///
    /// # Errors
    ///
    /// If shapes do not agree or H, with the noise, is not positive definite.
    pub fn new(
        cross: &[f64],
        hessian: &HessianBlock,
        (noise, damping): (f64, f64),
        part: f64,
    ) -> Result<Self, RetargetError> {
        let k = hessian.columns.len();
        if cross.len() != k * k || hessian.values.len() != k * k {
            return Err(RetargetError::Shape { k, found: cross.len() });
        }
        let mut factor = LowerTriangle::new(k, |row, column| {
            let value = hessian.values[column * k + row];
            if row == column { value + noise + damping } else { value }
        });
        factor.factor(0.0).map_err(|_| RetargetError::NotPositiveDefinite)?;
        let mut matrix = vec![0.0f32; k * k];
        matrix.par_chunks_mut(PANEL * k).enumerate().for_each(|(panel, out)| {
            let first = panel * PANEL;
            let rows = out.len() / k;
            let mut solution: Vec<[f64; PANEL]> = (0..k)
                .map(|column| {
                    let mut lanes = [0.0; PANEL];
                    for (lane, value) in lanes[..rows].iter_mut().enumerate() {
                        *value = cross[(first + lane) * k + column];
                        if first + lane == column {
                            *value += damping;
                        }
                    }
                    lanes
                })
                .collect();
            solve(&factor, &mut solution);
            for (lane, out) in out.chunks_exact_mut(k).enumerate() {
                for (column, (out, solution)) in out.iter_mut().zip(&solution).enumerate() {
                    let identity = if column == first + lane { 1.0 } else { 0.0 };
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "rounding to f32 is wanted"
                    )]
                    {
                        *out = ((1.0 - part) * identity + part * solution[lane]) as f32;
                    }
                }
            }
        });
        Ok(Retarget { k, matrix })
    }

    /// Rows `[m, k]` of rotated weights, multiplied by M. The same bits on every machine.
    ///
    /// # Panics
    ///
    /// If the rows are not whole.
    pub fn apply(&self, rows: &[f32]) -> Vec<f32> {
        assert!(rows.len().is_multiple_of(self.k.max(1)), "whole rows");
        let mut out = vec![0.0f32; rows.len()];
        for (column, m) in self.matrix.chunks_exact(self.k.max(1)).enumerate() {
            for (row, out) in rows.chunks_exact(self.k).zip(out.chunks_exact_mut(self.k)) {
                let weight = row[column];
                out.iter_mut().zip(m).for_each(|(out, m)| *out += weight * m);
            }
        }
        out
    }
}

/// Solves L·Lᵀ·z = b for right-hand sides side by side, in place.
fn solve(factor: &LowerTriangle, values: &mut [[f64; PANEL]]) {
    let subtract = |value: &mut [f64; PANEL], factor: f64, other: &[f64; PANEL]| {
        value.iter_mut().zip(other).for_each(|(value, other)| *value -= factor * other);
    };
    for i in 0..values.len() {
        let (before, own) = values.split_at_mut(i);
        let (pivot, row) = factor.row(i).split_last().unwrap_or((&1.0, &[]));
        for (factor, other) in row.iter().zip(before) {
            subtract(&mut own[0], *factor, other);
        }
        own[0].iter_mut().for_each(|value| *value /= pivot);
    }
    for i in (0..values.len()).rev() {
        let (before, own) = values.split_at_mut(i);
        let (pivot, row) = factor.row(i).split_last().unwrap_or((&1.0, &[]));
        own[0].iter_mut().for_each(|value| *value /= pivot);
        for (factor, other) in row.iter().zip(before) {
            subtract(other, *factor, &own[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Second moments of rows, and of pairs of rows.
    fn moments(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
        let count = (a.len() / k) as f64;
        let mut out = vec![0.0; k * k];
        for (a, b) in a.chunks_exact(k).zip(b.chunks_exact(k)) {
            for (i, a) in a.iter().enumerate() {
                for (j, b) in b.iter().enumerate() {
                    out[i * k + j] += a * b / count;
                }
            }
        }
        out
    }

    proptest! {
        /// No weights near the found ones have outputs nearer to the wanted ones.
        #[test]
        fn outputs_come_as_near_as_they_can(
            k in 1usize..90,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
            };
            let x: Vec<f64> = (0..3 * k * k + k).map(|_| next()).collect();
            let seen: Vec<f64> = x.iter().map(|x| 0.9 * x + 0.3 * next()).collect();
            let hessian = HessianBlock { columns: 0..k, values: moments(&seen, &seen, k) };
            let retarget = Retarget::new(&moments(&x, &seen, k), &hessian, (0.0, 0.0), 1.0).unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
            let w: Vec<f32> = (0..k).map(|_| next() as f32).collect();
            let error = |found: &[f64]| -> f64 {
                x.chunks_exact(k)
                    .zip(seen.chunks_exact(k))
                    .map(|(x, seen)| {
                        let wanted: f64 = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
                        let found: f64 = found.iter().zip(seen).map(|(w, x)| w * x).sum();
                        (wanted - found).powi(2)
                    })
                    .sum()
            };
            let found: Vec<f64> = retarget.apply(&w).into_iter().map(f64::from).collect();
            let least = error(&found);
            for _ in 0..4 {
                let other: Vec<f64> = found.iter().map(|w| w + 0.01 * next()).collect();
                prop_assert!(error(&other) >= least * (1.0 - 1e-4));
            }
        }
    }

    #[test]
    fn no_part_of_the_way_changes_nothing_and_equal_inputs_need_none() {
        let k = 5;
        let x: Vec<f64> = (0..40).map(|i| f64::from((i * 7) % 11) - 5.0).collect();
        let values = moments(&x, &x, k);
        let hessian = HessianBlock { columns: 0..k, values: values.clone() };
        let row = [1.0f32, -2.0, 0.5, 3.0, 0.25];
        assert_eq!(Retarget::new(&values, &hessian, (1e-3, 1e-3), 0.0).unwrap().apply(&row), row);
        let same = Retarget::new(&values, &hessian, (0.0, 0.0), 1.0).unwrap().apply(&row);
        assert!(row.iter().zip(same).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn what_fits_no_data_is_refused() {
        let hessian = HessianBlock { columns: 0..1, values: vec![-1.0] };
        let error = Retarget::new(&[1.0], &hessian, (0.0, 0.0), 1.0).unwrap_err();
        assert_eq!(error, RetargetError::NotPositiveDefinite);
        assert!(Retarget::new(&[1.0, 2.0], &hessian, (0.0, 0.0), 1.0).is_err());
    }
}
