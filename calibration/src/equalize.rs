//! The diagonal that balances a linear's input channels against its weights' columns.
//!
//! A rotation spreads rounding errors evenly over a row, so a linear's output error is proportional
//! to the energy of its rotated weights times that of its rotated input. With x divided by a diagonal
//! D and W's columns multiplied by it, which changes nothing in exact arithmetic, that is
//! `(Σ_k w_k² D_k²) · (Σ_k x_k² / D_k²)`, least (Cauchy-Schwarz) where
//! `D_k² = rms(x_k) / rms(w_k)`: SmoothQuant's migration with α = ½, here the optimum and no
//! heuristic. Where x is the output of a norm, its energy is known without data ([`diagonal`]): the
//! norm's output before gain and bias has about unit variance in each channel, so
//! `rms(x_k) ≈ sqrt(γ_k² + β_k²)`. Where it was observed, [`diagonal_observed`] takes it as it is, and
//! [`gain`] tells beforehand what a diagonal is worth.

use thiserror::Error;

/// Bounds of a diagonal's elements: a channel is not divided by less than the first, or more than the
/// second. They admit ratios of 2^16 between the rms of x and of W, either way, from the mean ratio;
/// beyond that a channel is broken rather than out of balance.
pub const RANGE: (f32, f32) = (1.0 / 256.0, 256.0);

/// Why no diagonal can be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EqualizeError {
    /// A vector is not as long as the columns are many.
    #[error("{what} has {found} elements, but its linears have {expected} input channels")]
    Length {
        /// `gain`, `bias`, `x_rms` or `diagonal`.
        what: &'static str,
        /// Input channels.
        expected: usize,
        /// Elements.
        found: usize,
    },
}

/// Energy of each column over the rows of all linears that share an input.
///
/// Sums are in f64, in the order of the rows; partial sums of fixed panels, merged in the panels'
/// order, give the same bits however the work is divided.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnEnergy {
    sums: Vec<f64>,
    rows: u64,
}

impl ColumnEnergy {
    /// Of no rows of length `k`.
    pub fn new(k: usize) -> Self {
        ColumnEnergy { sums: vec![0.0; k], rows: 0 }
    }

    /// Length of a row.
    pub fn k(&self) -> usize {
        self.sums.len()
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows, of length k each, one after another in `rows`. What is left over after whole rows
    /// is not read.
    pub fn add_rows(&mut self, rows: &[f32]) {
        if self.sums.is_empty() {
            return;
        }
        for row in rows.chunks_exact(self.sums.len()) {
            for (sum, &w) in self.sums.iter_mut().zip(row) {
                let w = f64::from(w);
                *sum += w * w;
            }
            self.rows += 1;
        }
    }

    /// Adds the sums of `other`, of the same k.
    pub fn merge(&mut self, other: &ColumnEnergy) {
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum += other;
        }
        self.rows += other.rows;
    }

    /// Root mean square of each column; zeros where there are no rows.
    pub fn rms(&self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "rows stay below 2^53")]
        let rows = self.rows.max(1) as f64;
        self.sums.iter().map(|sum| (sum / rows).sqrt()).collect()
    }
}

/// `D_k = sqrt(rms(x_k) / rms(W[:,k]))` with `rms(x_k) = sqrt(γ_k² + β_k²)`, one per input channel.
///
/// `gain` is the preceding norm's γ as it multiplies (with 1 added, where the model stores γ - 1),
/// `bias` its β if it has one, `column_rms` what [`ColumnEnergy::rms`] gives. The diagonal is
/// normalized to a geometric mean of 1 and then clamped to [`RANGE`]. A channel whose input or whose
/// column is zero, or not finite, stays at 1 and has no part in the mean. Every element is finite and
/// positive.
pub fn diagonal(
    gain: &[f32],
    bias: Option<&[f32]>,
    column_rms: &[f64],
) -> Result<Vec<f32>, EqualizeError> {
    let expected = column_rms.len();
    check("gain", gain.len(), expected)?;
    check("bias", bias.map_or(expected, <[f32]>::len), expected)?;
    let biases = bias.unwrap_or_default().iter().copied().chain(std::iter::repeat(0.0));
    let input = gain.iter().zip(biases).map(|(&gain, bias)| {
        let (gain, bias) = (f64::from(gain), f64::from(bias));
        (gain * gain + bias * bias).sqrt()
    });
    Ok(balanced(input, column_rms, Exponents::default()))
}

/// Powers of the rms that make a diagonal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponents {
    /// Of the input's.
    pub input: f64,
    /// Of the reciprocal of the column's.
    pub weight: f64,
}

/// ½ and ½, the optimum of a rotated quantizer.
impl Default for Exponents {
    fn default() -> Self {
        Exponents { input: 0.5, weight: 0.5 }
    }
}

/// `D_k = rms(x_k)^a / rms(W[:,k])^b` with the exponents a and b, of an input that was observed:
/// `x_rms` is the root mean square of each of its channels.
///
/// Normalized and clamped as [`diagonal`] is, which see also for channels that are zero or not finite.
pub fn diagonal_observed(
    x_rms: &[f64],
    column_rms: &[f64],
    exponents: Exponents,
) -> Result<Vec<f32>, EqualizeError> {
    check("x_rms", x_rms.len(), column_rms.len())?;
    Ok(balanced(x_rms.iter().copied(), column_rms, exponents))
}

/// What becomes of the error of the output, as a mean square, where an input is equalized by
/// `diagonal` and rotated rather than rotated alone: `(Σ w_k² D_k²)·(Σ x_k²/D_k²)` over `Σ w_k²·Σ x_k²`.
///
/// Below 1 where the diagonal is worth its place; 1 of a diagonal of ones, and where nothing is known.
/// Channels that are not finite, and elements of the diagonal that are not finite and positive, are
/// left out.
pub fn gain(x_rms: &[f64], column_rms: &[f64], diagonal: &[f32]) -> Result<f64, EqualizeError> {
    check("x_rms", x_rms.len(), column_rms.len())?;
    check("diagonal", diagonal.len(), column_rms.len())?;
    let channels: Vec<[f64; 3]> = x_rms
        .iter()
        .zip(column_rms)
        .zip(diagonal)
        .map(|((&x, &w), &d)| [x, w, f64::from(d)])
        .filter(|[x, w, d]| x.is_finite() && w.is_finite() && d.is_finite() && *d > 0.0)
        .collect();
    // In units of the largest, so that no square overflows.
    let greatest = |of: fn(&[f64; 3]) -> f64| {
        channels.iter().map(of).fold(0.0, |greatest: f64, value| greatest.max(value.abs()))
    };
    let (x_unit, w_unit) = (greatest(|c| c[0]), greatest(|c| c[1]));
    let [mut x_sum, mut w_sum, mut x_divided, mut w_multiplied] = [0.0; 4];
    for [x, w, d] in &channels {
        let (x, w) = (x / x_unit, w / w_unit);
        x_sum += x * x;
        w_sum += w * w;
        x_divided += (x / d) * (x / d);
        w_multiplied += (w * d) * (w * d);
    }
    let ratio = (w_multiplied / w_sum) * (x_divided / x_sum);
    Ok(if ratio.is_finite() { ratio } else { 1.0 })
}

fn check(what: &'static str, found: usize, expected: usize) -> Result<(), EqualizeError> {
    if found == expected { Ok(()) } else { Err(EqualizeError::Length { what, expected, found }) }
}

/// The normalized and clamped diagonal of an input's and columns' rms.
fn balanced(
    input: impl Iterator<Item = f64>,
    column_rms: &[f64],
    exponents: Exponents,
) -> Vec<f32> {
    let logarithms: Vec<Option<f64>> = input
        .zip(column_rms)
        .map(|(input, &column)| {
            let alive = [input, column].iter().all(|rms| rms.is_finite() && *rms > 0.0);
            let logarithm =
                exponents.input * libm::log(input) - exponents.weight * libm::log(column);
            (alive && logarithm.is_finite()).then_some(logarithm)
        })
        .collect();
    let (sum, alive) = logarithms
        .iter()
        .flatten()
        .fold((0.0, 0.0), |(sum, alive), logarithm| (sum + logarithm, alive + 1.0));
    let mean = if alive > 0.0 { sum / alive } else { 0.0 };
    let clamped = |logarithm: f64| {
        let exact = libm::exp(logarithm - mean).clamp(f64::from(RANGE.0), f64::from(RANGE.1));
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
        {
            exact as f32
        }
    };
    logarithms.into_iter().map(|logarithm| logarithm.map_or(1.0, clamped)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The factor of the output error that D decides.
    fn product(diagonal: &[f64], input: &[f64], column: &[f64]) -> f64 {
        let weights: f64 = diagonal.iter().zip(column).map(|(d, w)| (d * w).powi(2)).sum();
        let inputs: f64 = diagonal.iter().zip(input).map(|(d, x)| (x / d).powi(2)).sum();
        weights * inputs
    }

    fn widened(diagonal: &[f32]) -> Vec<f64> {
        diagonal.iter().map(|&d| f64::from(d)).collect()
    }

    proptest! {
        #[test]
        fn no_other_diagonal_is_better(
            channels in prop::collection::vec((0.01f32..50.0, -5.0f32..5.0, 0.001f64..3.0), 2..80),
            noise in prop::collection::vec(-1.0f64..1.0, 80),
            strength in 0.001f64..1.0,
        ) {
            let gain: Vec<f32> = channels.iter().map(|c| c.0).collect();
            let bias: Vec<f32> = channels.iter().map(|c| c.1).collect();
            let column: Vec<f64> = channels.iter().map(|c| c.2).collect();
            let input: Vec<f64> =
                channels.iter().map(|c| f64::from(c.0).hypot(f64::from(c.1))).collect();
            let found = diagonal(&gain, Some(&bias), &column).unwrap();
            let best = widened(&found);
            let least = product(&best, &input, &column);
            // The bound of Cauchy and Schwarz is reached.
            let bound: f64 = input.iter().zip(&column).map(|(x, w)| x * w).sum::<f64>().powi(2);
            prop_assert!((least / bound - 1.0).abs() < 1e-5);
            let other: Vec<f64> =
                best.iter().zip(&noise).map(|(d, n)| d * (strength * n).exp()).collect();
            prop_assert!(product(&other, &input, &column) >= least * (1.0 - 1e-5));
            let mean: f64 = best.iter().map(|d| d.ln()).sum::<f64>() / best.len() as f64;
            prop_assert!(mean.abs() < 1e-6);
        }

        #[test]
        fn any_input_gives_finite_positive_elements(
            gain in prop::collection::vec(any::<f32>(), 40),
            bias in prop::collection::vec(any::<f32>(), 40),
            column in prop::collection::vec(any::<f64>(), 40),
        ) {
            for d in diagonal(&gain, Some(&bias), &column).unwrap() {
                prop_assert!((RANGE.0..=RANGE.1).contains(&d));
            }
        }
    }

    proptest! {
        #[test]
        fn observed_channels_reach_the_bound(
            channels in prop::collection::vec((0.01f64..50.0, 0.001f64..3.0), 2..80),
            input in 0.0f64..1.0,
            weight in 0.0f64..1.0,
        ) {
            let (x, w): (Vec<f64>, Vec<f64>) = channels.iter().copied().unzip();
            let best = diagonal_observed(&x, &w, Exponents::default()).unwrap();
            let predicted = gain(&x, &w, &best).unwrap();
            let ones = vec![1.0; x.len()];
            let ratio = product(&widened(&best), &x, &w) / product(&ones, &x, &w);
            prop_assert!((predicted / ratio - 1.0).abs() < 1e-9);
            prop_assert!(predicted <= 1.0 + 1e-6);
            let other = diagonal_observed(&x, &w, Exponents { input, weight }).unwrap();
            prop_assert!(gain(&x, &w, &other).unwrap() >= predicted * (1.0 - 1e-5));
            // Of norm gains alone, the same as without data.
            let norm: Vec<f32> = (1u8..).map(f32::from).take(x.len()).collect();
            let exact: Vec<f64> = norm.iter().copied().map(f64::from).collect();
            prop_assert_eq!(
                diagonal_observed(&exact, &w, Exponents::default()).unwrap(),
                diagonal(&norm, None, &w).unwrap()
            );
        }

        #[test]
        fn any_observation_gives_finite_elements_and_gains(
            x in prop::collection::vec(any::<f64>(), 20),
            w in prop::collection::vec(any::<f64>(), 20),
            d in prop::collection::vec(any::<f32>(), 20),
            input: f64,
            weight in -10.0f64..10.0,
        ) {
            let found = diagonal_observed(&x, &w, Exponents { input, weight }).unwrap();
            prop_assert!(found.iter().all(|d| (RANGE.0..=RANGE.1).contains(d)));
            prop_assert!(gain(&x, &w, &found).unwrap() > 0.0);
            prop_assert!(gain(&x, &w, &d).unwrap().is_finite());
        }
    }

    #[test]
    fn gains_of_nothing_are_one() {
        assert_eq!(gain(&[], &[], &[]), Ok(1.0));
        assert_eq!(gain(&[0.0, 0.0], &[1.0, 2.0], &[1.0, 1.0]), Ok(1.0));
        assert_eq!(gain(&[3.0, 1e300], &[1e-300, 2.0], &[1.0, 1.0]), Ok(1.0));
        let nan = f64::NAN;
        assert_eq!(gain(&[nan, 1.0, 1.0], &[1.0, 1.0, nan], &[9.0, 2.0, 9.0]), Ok(1.0));
        let dead = diagonal_observed(
            &[4.0, 0.0, 1.0, nan, 1.0],
            &[1.0, 1.0, 0.0, 1.0, 4.0],
            Exponents::default(),
        );
        assert_eq!(dead, Ok(vec![2.0, 1.0, 1.0, 1.0, 0.5]));
        let error = gain(&[1.0], &[1.0], &[]).unwrap_err();
        assert_eq!(error, EqualizeError::Length { what: "diagonal", expected: 1, found: 0 });
        assert!(diagonal_observed(&[1.0], &[], Exponents::default()).is_err());
    }

    #[test]
    fn outlier_gains_are_repaired() {
        // 1 % of the gains × 50 and the columns divided by 50, as in a model with outlier channels:
        // the product is that of the model without them.
        let k = 1000;
        let gain: Vec<f32> = (0..k).map(|i| if i % 100 == 0 { 50.0 } else { 1.0 }).collect();
        let input = widened(&gain);
        let column: Vec<f64> = input.iter().map(|g| 0.02 / g).collect();
        let ones = vec![1.0; k];
        let healthy = product(&ones, &ones, &vec![0.02; k]);
        let damaged = product(&ones, &input, &column);
        let repaired = product(&widened(&diagonal(&gain, None, &column).unwrap()), &input, &column);
        assert!(damaged > 20.0 * healthy);
        assert!((repaired / healthy - 1.0).abs() < 1e-5);
    }

    #[test]
    fn dead_channels_are_neutral() {
        let gain = [4.0, 0.0, 1.0, -4.0, f32::NAN, 1e30];
        let column = [1.0, 1.0, 0.0, 1.0, 1.0, 1e-9];
        let found = diagonal(&gain, None, &column).unwrap();
        assert_eq!(found[1..3], [1.0, 1.0]);
        assert_eq!(found[4..], [1.0, RANGE.1]);
        assert_eq!(found[0], found[3]);
        assert_eq!(diagonal(&[0.0; 3], None, &[0.0; 3]).unwrap(), [1.0; 3]);
        assert!(diagonal(&[], None, &[]).unwrap().is_empty());
    }

    #[test]
    fn lengths_must_agree() {
        let error = diagonal(&[1.0], None, &[1.0, 1.0]).unwrap_err();
        assert_eq!(error.to_string(), "gain has 1 elements, but its linears have 2 input channels");
        let error = diagonal(&[1.0; 2], Some(&[0.0; 3]), &[1.0, 1.0]).unwrap_err();
        assert_eq!(error, EqualizeError::Length { what: "bias", expected: 2, found: 3 });
    }

    #[test]
    fn energies_add_by_panel() {
        let rows: Vec<f32> = (0..60u8).map(|i| f32::from(i) * 0.37 - 9.0).collect();
        let (k, panel) = (6, 12);
        let mut whole = ColumnEnergy::new(k);
        for part in rows.chunks(panel) {
            let mut partial = ColumnEnergy::new(k);
            partial.add_rows(part);
            whole.merge(&partial);
        }
        assert_eq!((whole.k(), whole.rows()), (k, 10));
        for (column, rms) in whole.rms().into_iter().enumerate() {
            let exact: f64 =
                rows.iter().skip(column).step_by(k).map(|&w| f64::from(w).powi(2)).sum();
            assert!((rms - (exact / 10.0).sqrt()).abs() < 1e-12);
        }
        assert_eq!(ColumnEnergy::new(2).rms(), [0.0, 0.0]);
    }
}
