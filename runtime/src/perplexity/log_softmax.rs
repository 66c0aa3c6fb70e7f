//! Log-probabilities of a row of logits, in f64.

use thiserror::Error;

/// Partial sums of a row: element i goes to sum i mod 8, so that the compiler may use vectors and
/// every machine adds in the same order.
const LANES: usize = 8;

/// A logit that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("the logit of token {token} is {value}")]
pub struct NotFinite {
    /// The token.
    pub token: usize,
    /// Its logit.
    pub value: f32,
}

/// A row of finite logits with the logarithm of its softmax's denominator.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax<'a> {
    logits: &'a [f32],
    max: f32,
    top: usize,
    ln_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    /// Reads the logits of a vocabulary, at least one.
    ///
    /// # Errors
    ///
    /// If one of them is not finite; the first such is named. A row of none is refused the same way.
    pub fn new(logits: &'a [f32]) -> Result<Self, NotFinite> {
        if !all_finite(logits) || logits.is_empty() {
            let found = logits.iter().enumerate().find(|(_, value)| !value.is_finite());
            let (token, &value) = found.unwrap_or((0, &f32::NAN));
            return Err(NotFinite { token, value });
        }
        let (max, top) = top(logits);
        let ln_sum = libm::log(sum(logits, |logit| exp(logit - f64::from(max))));
        Ok(LogSoftmax { logits, max, top, ln_sum })
    }

    /// The logits.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// The greatest logit.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// The most probable token, the first of equals.
    pub fn top(&self) -> usize {
        self.top
    }

    /// ln Σ exp(logit − max).
    pub fn ln_sum(&self) -> f64 {
        self.ln_sum
    }

    /// Negative log-likelihood of a token.
    ///
    /// # Panics
    ///
    /// If the vocabulary has no such token.
    pub fn nll(&self, token: usize) -> f64 {
        f64::from(self.max) - f64::from(self.logits[token]) + self.ln_sum
    }

    /// KL divergence of this row from a reference, Σ p_ref (ln p_ref − ln p), in nats. Never below
    /// 0, and 0 for a row and itself.
    ///
    /// # Panics
    ///
    /// If the rows have different lengths.
    pub fn kld(&self, reference: &LogSoftmax<'_>) -> f64 {
        let (max, max_ref) = (f64::from(self.max), f64::from(reference.max));
        let term = |logit_ref: f64, logit: f64| {
            let (shifted_ref, shifted) = (logit_ref - max_ref, logit - max);
            exp(shifted_ref) * (shifted_ref - shifted)
        };
        let sum = sum_pairs(reference.logits, self.logits, |&a, &b| term(a.into(), b.into()));
        let mean = sum / libm::exp(reference.ln_sum);
        (mean + (self.ln_sum - reference.ln_sum)).max(0.0)
    }
}

/// The greatest of finite values and its first place.
pub(super) fn top(values: &[f32]) -> (f32, usize) {
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks.iter().map(<[f32; LANES]>::as_slice).chain([rest]) {
        for (greatest, &value) in greatest.iter_mut().zip(chunk) {
            *greatest = if value > *greatest { value } else { *greatest };
        }
    }
    let max = greatest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (max, values.iter().position(|&value| value == max).unwrap_or(0))
}

fn all_finite(values: &[f32]) -> bool {
    let infinite = f32::INFINITY.to_bits();
    values.iter().fold(0, |most, value| most.max(value.abs().to_bits())) < infinite
}

fn sum(values: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += term(value.into());
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += term(value.into());
    }
    total(sums)
}

/// Σ term(a, b) over rows of one length.
pub(super) fn sum_pairs<A, B>(a: &[A], b: &[B], term: impl Fn(&A, &B) -> f64) -> f64 {
    assert_eq!(a.len(), b.len(), "rows of one vocabulary");
    let mut sums = [0.0; LANES];
    let (chunks_a, rest_a) = a.as_chunks::<LANES>();
    let (chunks_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in chunks_a.iter().zip(chunks_b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += term(a, b);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *sum += term(a, b);
    }
    total(sums)
}

fn total([a, b, c, d, e, f, g, h]: [f64; LANES]) -> f64 {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// eˣ for x of at most 1, within 1e-14 of its value; for x below −708, e⁻⁷⁰⁸.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; eʳ is the sum of its Taylor series to the 12th power. There
/// is no branch and no table, so that a loop over it becomes vectors.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    /// 1.5·2⁵²: a sum with it has the nearest integer in its lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2, cut to 32 bits so that products with n are exact, and what is left of it.
    const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const BIAS: u64 = 1023 << 52;
    let x = if x < -708.0 { -708.0 } else { x };
    let rounded = x * std::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut series = 1.0 / 479_001_600.0;
    for coefficient in [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * r + coefficient;
    }
    series * f64::from_bits((rounded.to_bits() << 52).wrapping_add(BIAS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_is_exact_to_fourteen_digits() {
        let mut worst = 0.0f64;
        for i in 0..=200_000 {
            let x = 1.0 - f64::from(i) * (709.0 / 200_000.0);
            let expected = libm::exp(x);
            worst = worst.max((exp(x) - expected).abs() / expected);
        }
        assert!(worst < 2e-15, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), exp(-708.0));
        assert!(exp(f64::NEG_INFINITY) < 1e-307);
    }

    #[test]
    fn the_top_is_the_first_of_equals() {
        for length in [1, 7, 8, 9, 40] {
            for place in 0..length {
                let mut logits = vec![-2.0f32; length];
                logits[place..].fill(3.0);
                let row = LogSoftmax::new(&logits).unwrap();
                assert_eq!((row.top(), row.max()), (place, 3.0));
            }
        }
    }

    #[test]
    fn log_probabilities_of_known_rows() {
        // Equal logits: 1/n each, whatever their size. Others: by hand.
        for (logits, token, nll) in [
            (vec![0.0f32; 4], 2, 4f64.ln()),
            (vec![3e38; 10], 9, 10f64.ln()),
            (vec![-3e38; 10], 0, 10f64.ln()),
            (vec![0.0, f32::ln(3.0)], 0, 4f64.ln()),
            (vec![7.5], 0, 0.0),
            (vec![0.0, -1000.0], 1, 1000.0),
            (vec![3e38, -3e38], 1, 6e38),
        ] {
            let row = LogSoftmax::new(&logits).unwrap();
            let found = row.nll(token);
            assert!((found - nll).abs() <= 1e-7 * nll.max(1.0), "{logits:?}: {found} {nll}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_named() {
        for (place, value) in [(0, f32::NAN), (8, f32::INFINITY), (12, f32::NEG_INFINITY)] {
            let mut logits = vec![0.5; 13];
            logits[place] = value;
            logits[12] = f32::NEG_INFINITY;
            let error = LogSoftmax::new(&logits).unwrap_err();
            assert_eq!(error.token, place);
            assert_eq!(error.value.to_bits(), value.to_bits());
        }
        assert!(LogSoftmax::new(&[]).is_err());
    }

    proptest! {
        #[test]
        fn divergences_are_those_of_the_definition(
            rows in prop::collection::vec((-30.0f32..30.0, -30.0f32..30.0), 1..70),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let (row_a, row_b) = (LogSoftmax::new(&a).unwrap(), LogSoftmax::new(&b).unwrap());
            prop_assert_eq!(row_a.kld(&row_a), 0.0);
            prop_assert!(row_a.kld(&row_b) >= 0.0);
            let probabilities: f64 = (0..a.len()).map(|i| (-row_a.nll(i)).exp()).sum();
            prop_assert!((probabilities - 1.0).abs() < 1e-12);
            let expected: f64 = (0..a.len())
                .map(|i| (-row_b.nll(i)).exp() * (row_a.nll(i) - row_b.nll(i)))
                .sum();
            prop_assert!((row_a.kld(&row_b) - expected).abs() < 1e-12 * expected.max(1.0));
        }
    }
}
