//! The best of several sign vectors for an input.
//!
//! A rotation spreads whatever it is given evenly, but not all signs spread it equally well: of a few,
//! one can be chosen by what rounding costs with it. Candidates are numbered: trial 0 is the input's
//! own vector, as it is without any choice, and a pack records the number.

use std::ops::Range;

use rayon::prelude::*;
use tessera_runtime::quantize;
use tessera_runtime::rotation;

use crate::clip::{Calibrator, Scratch, channel_scale};
use crate::hessian::RotatedHessian;

/// Rows that are rounded, and then multiplied, together.
const PANEL: usize = 64;

/// A candidate that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its number.
    pub trial: u32,
    /// Its signs.
    pub signs: Vec<f32>,
    /// The costs of all candidates, in their order.
    pub costs: Vec<f64>,
}

/// The `k` signs of trial `trial` of an input, each 1.0 or -1.0.
///
/// Those of trial 0 are [`rotation::signs`] of the input's name. Those of trial n are the signs of the
/// name with a zero byte, `trial ` and n in decimal behind it.
pub fn candidate(seed: u64, input: &str, k: usize, trial: u32) -> Vec<f32> {
    match trial {
        0 => rotation::signs(seed, input, k),
        _ => rotation::signs(seed, &format!("{input}\0trial {trial}"), k),
    }
}

/// The candidate of least cost among trials 0 to `trials` - 1, at least one, the first of equal ones. A
/// cost that is not a number is above all.
///
/// # Errors
///
/// The first of `cost`, which is given each candidate's signs in turn.
pub fn choose<E>(
    seed: u64,
    input: &str,
    k: usize,
    trials: u32,
    mut cost: impl FnMut(&[f32]) -> Result<f64, E>,
) -> Result<Choice, E> {
    let signs = candidate(seed, input, k, 0);
    let least = cost(&signs)?;
    let mut best = Choice { trial: 0, signs, costs: vec![least] };
    let mut least = least;
    for trial in 1..trials {
        let signs = candidate(seed, input, k, trial);
        let found = cost(&signs)?;
        best.costs.push(found);
        if found.total_cmp(&least).is_lt() {
            least = found;
            (best.trial, best.signs) = (trial, signs);
        }
    }
    Ok(best)
}

/// What rounding to nearest costs at the output: `Σ e·H'·eᵀ` over `rows`, rotated rows of weights,
/// `[m, K]`, each rounded to integers of the `range` with a scale by `calibrator` in each segment.
///
/// A sample of a linear's rows is enough to compare vectors, and the energy of the output does not
/// depend on them, so that costs of one sample may be compared as they are.
///
/// # Panics
///
/// If the rows are not whole rows of `hessian.k()`.
pub fn rounding_cost(
    rows: &[f32],
    segments: &[Range<usize>],
    range: (i8, i8),
    calibrator: Calibrator,
    hessian: &RotatedHessian,
) -> f64 {
    let k = hessian.k();
    assert!(k > 0 && rows.len().is_multiple_of(k), "whole rows");
    let mut errors = vec![0.0; rows.len()];
    errors.par_chunks_mut(PANEL * k).zip(rows.par_chunks(PANEL * k)).for_each_init(
        || (Scratch::default(), vec![0; k]),
        |(scratch, integers), (errors, rows)| {
            for (errors, row) in errors.chunks_exact_mut(k).zip(rows.chunks_exact(k)) {
                for segment in segments {
                    let columns = segment.start.min(k)..segment.end.min(k);
                    let (row, errors) = (&row[columns.clone()], &mut errors[columns.clone()]);
                    let integers = &mut integers[columns];
                    let scale = channel_scale(row, range, calibrator, scratch);
                    quantize::quantize_row_within(row, scale, range, integers);
                    for ((error, w), &q) in errors.iter_mut().zip(row).zip(integers.iter()) {
                        *error = w - f32::from(q) * scale;
                    }
                }
            }
        },
    );
    hessian.forms(&errors).iter().sum()
}

#[cfg(test)]
mod tests {
    use tessera_runtime::rotation::Rotation;

    use super::*;
    use crate::gptq::tests::correlated;
    use crate::hessian::{self, of_rows};

    #[test]
    fn candidates_are_different_and_the_first_is_the_inputs_own() {
        let of = |trial| candidate(3, "blk.0.attn_input", 256, trial);
        assert_eq!(of(0), rotation::signs(3, "blk.0.attn_input", 256));
        for trial in 1..20 {
            let signs = of(trial);
            assert!(signs.iter().all(|sign| sign.abs() == 1.0));
            assert_eq!(signs, of(trial));
            for other in 0..trial {
                let agree = of(other).iter().zip(&signs).filter(|(a, b)| a == b).count();
                assert!((90..166).contains(&agree), "{trial}, {other}: {agree}");
            }
        }
    }

    #[test]
    fn the_least_cost_wins() {
        let run = |costs: &[f64]| {
            let mut given = costs.iter();
            let trials = u32::try_from(costs.len()).unwrap();
            choose(0, "x", 8, trials, |_| given.next().copied().ok_or("no more")).unwrap()
        };
        for (costs, trial) in [
            (&[1.0][..], 0),
            (&[2.0, 1.0, 1.0], 1),
            (&[f64::NAN, 3.0, 2.0, f64::NAN], 2),
            (&[f64::NAN, f64::NAN], 0),
            (&[0.5, f64::INFINITY], 0),
        ] {
            let choice = run(costs);
            assert_eq!((choice.trial, choice.costs.len()), (trial, costs.len()));
            assert_eq!(choice.signs, candidate(0, "x", 8, trial));
        }
        assert_eq!(choose(0, "x", 8, 0, |_| Ok::<_, ()>(1.0)).unwrap().costs, [1.0]);
        let failing =
            |signs: &[f32]| if signs == candidate(0, "x", 8, 0) { Ok(1.0) } else { Err(7) };
        assert_eq!(choose(0, "x", 8, 3, failing), Err(7));
    }

    /// With every vector the energy of the output is the same, and what rounding costs is not.
    #[test]
    fn costs_are_those_of_the_outputs() {
        let (k, m, tokens) = (96, 20, 300);
        let rotation = Rotation::hadamard(k).unwrap();
        let inputs = correlated(tokens, k, 1);
        let weights = correlated(m, k, 2);
        let moments = of_rows(&inputs, None, &Rotation::identity(k), k);
        #[expect(clippy::cast_possible_truncation, reason = "the statistics hold f32")]
        let sums: Vec<f32> =
            moments.blocks[0].values.iter().map(|&v| (v * tokens as f64) as f32).collect();
        let rotated = |rows: &[f32], vector: &[f32]| {
            let mut rows = rows.to_vec();
            let mut scratch = vec![0.0; rotation.scratch_len()];
            rows.chunks_mut(k).for_each(|row| rotation.apply_scaled(row, vector, &mut scratch));
            rows
        };
        let segments = [0..k / 2, k / 2..k + 5];
        let mut energies = Vec::new();
        let choice = choose(1, "x", k, 6, |signs| {
            let hessian = hessian::rotate(&sums, tokens as f64, Some(signs), &rotation);
            let rows = rotated(&weights, signs);
            energies.push(hessian.forms(&rows).iter().sum::<f64>());
            let cost = rounding_cost(&rows, &segments, (-8, 7), Calibrator::Mse, &hessian);
            // By the outputs themselves.
            let mut expected = 0.0;
            let x = rotated(&inputs, signs);
            for row in rows.chunks(k) {
                let mut errors = vec![0.0; k];
                for segment in [0..k / 2, k / 2..k] {
                    let part = &row[segment.clone()];
                    let scale =
                        channel_scale(part, (-8, 7), Calibrator::Mse, &mut Scratch::default());
                    for (error, w) in errors[segment].iter_mut().zip(part) {
                        *error = w - scale * (w / scale).round_ties_even().clamp(-8.0, 7.0);
                    }
                }
                for x in x.chunks(k) {
                    let output: f64 =
                        x.iter().zip(&errors).map(|(x, e)| f64::from(*x) * f64::from(*e)).sum();
                    expected += output * output / tokens as f64;
                }
            }
            assert!((cost / expected - 1.0).abs() < 1e-3, "{cost} {expected}");
            Ok::<_, ()>(cost)
        })
        .unwrap();
        assert!(energies.iter().all(|energy| (energy / energies[0] - 1.0).abs() < 1e-4));
        let least = choice.costs.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(choice.costs[choice.trial as usize], least);
        assert!(choice.costs.iter().any(|cost| cost / least > 1.05), "{:?}", choice.costs);
    }
}
