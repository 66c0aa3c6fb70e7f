//! What a scored position contributes: likelihood of its token, and the difference from a reference.

use super::log_softmax::{LogSoftmax, exp, sum_pairs, top};
use super::logits_file::StoredRow;

/// The row of a reference model that a row is compared with.
#[derive(Clone, Copy, Debug)]
pub enum ReferenceRow<'a> {
    /// The logits that the reference gives.
    Logits(&'a LogSoftmax<'a>),
    /// The log-probabilities of a logits file, to 16 bits.
    Stored(&'a StoredRow),
}

/// A scored position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenStatistics {
    /// Negative log-likelihood of the token that follows, in nats.
    pub nll: f64,
    /// How the row differs from the reference's.
    pub difference: Option<Difference>,
}

/// How a row differs from the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Negative log-likelihood of the token by the reference, in nats.
    pub nll_ref: f64,
    /// KL divergence from the reference, Σ p_ref (ln p_ref − ln p), in nats.
    pub kld: f64,
    /// Δp: the probability of the token less the reference's.
    pub delta_p: f64,
    /// Whether the most probable token is the reference's.
    pub same_top: bool,
}

impl TokenStatistics {
    /// The statistics of a row of logits whose text goes on with `label`.
    ///
    /// Against a stored row they follow llama-perplexity: tokens with a stored log-probability of at
    /// most −16 do not enter the divergence, and what is stored is not normalized again, so that the
    /// divergence of a single token has an error that grows with the vocabulary, and can fall below 0.
    ///
    /// # Panics
    ///
    /// If the vocabulary has no `label`, or the reference another vocabulary.
    pub fn new(row: &LogSoftmax<'_>, label: usize, reference: Option<ReferenceRow<'_>>) -> Self {
        let nll = row.nll(label);
        let difference = reference.map(|reference| {
            let (nll_ref, kld, top_ref) = match reference {
                ReferenceRow::Logits(reference) => {
                    (reference.nll(label), row.kld(reference), reference.top())
                }
                ReferenceRow::Stored(stored) => against_stored(row, label, stored),
            };
            Difference {
                nll_ref,
                kld,
                delta_p: libm::exp(-nll) - libm::exp(-nll_ref),
                same_top: row.top() == top_ref,
            }
        });
        TokenStatistics { nll, difference }
    }
}

/// Negative log-likelihood of the label, divergence and top of a stored row.
fn against_stored(row: &LogSoftmax<'_>, label: usize, stored: &StoredRow) -> (f64, f64, usize) {
    /// Log-probabilities that count.
    const LEAST: f32 = -16.0;
    let stored = stored.log_probabilities();
    let (max, ln_sum) = (f64::from(row.max()), row.ln_sum());
    let kld = sum_pairs(&stored, row.logits(), |&stored, &logit| {
        let (ln_p_ref, ln_p) = (f64::from(stored), f64::from(logit) - max - ln_sum);
        let term = exp(ln_p_ref) * (ln_p_ref - ln_p);
        if stored > LEAST { term } else { 0.0 }
    });
    (-f64::from(stored[label]), kld, top(&stored).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_known_probabilities() {
        // p = (1/2, 1/4, 1/4) against p_ref = (1/4, 1/4, 1/2): D = ¼ ln ½ + ½ ln 2 = ¼ ln 2.
        let logits = [0.0, -2f32.ln(), -2f32.ln()];
        let reference = [3.0 - 2f32.ln(), 3.0 - 2f32.ln(), 3.0];
        let (row, reference) =
            (LogSoftmax::new(&logits).unwrap(), LogSoftmax::new(&reference).unwrap());
        let alone = TokenStatistics::new(&row, 1, None);
        assert!((alone.nll - 4f64.ln()).abs() < 1e-7);
        assert_eq!(alone.difference, None);
        let stored = StoredRow::encode(&reference);
        for (reference, tolerance) in
            [(ReferenceRow::Logits(&reference), 1e-6), (ReferenceRow::Stored(&stored), 2e-5)]
        {
            let found = TokenStatistics::new(&row, 0, Some(reference)).difference.unwrap();
            assert!((found.nll_ref - 4f64.ln()).abs() < tolerance);
            assert!((found.kld - 0.25 * 2f64.ln()).abs() < tolerance);
            assert!((found.delta_p - 0.25).abs() < tolerance);
            assert!(!found.same_top);
        }
    }

    #[test]
    fn stored_tokens_at_the_floor_do_not_count() {
        // The floor is max − 16, less the normalizer: always at most −16.
        let reference = [0.0, -40.0, -17.0];
        let stored = StoredRow::encode(&LogSoftmax::new(&reference).unwrap());
        let row = LogSoftmax::new(&[0.0, -1000.0, -900.0]).unwrap();
        let found = TokenStatistics::new(&row, 0, Some(ReferenceRow::Stored(&stored)));
        assert!(found.difference.unwrap().kld.abs() < 1e-6);
    }
}
