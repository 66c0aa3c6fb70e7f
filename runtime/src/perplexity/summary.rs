//! The statistics of a text, by the names that llama-perplexity prints them under.

use serde::Serialize;

use super::statistics::{Difference, TokenStatistics};

/// A mean, or what is computed from means, and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error; 0 for fewer than two tokens.
    pub error: f64,
}

/// Where the values of all tokens lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Mean.
    pub mean: Estimate,
    /// Greatest.
    pub maximum: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// 99 %.
    pub p99: f64,
    /// 95 %.
    pub p95: f64,
    /// 90 %.
    pub p90: f64,
    /// 75 %.
    pub p75: f64,
    /// Median.
    pub median: f64,
    /// 25 %.
    pub p25: f64,
    /// 10 %.
    pub p10: f64,
    /// 5 %.
    pub p5: f64,
    /// 1 %.
    pub p1: f64,
    /// 0.1 %.
    pub p0_1: f64,
    /// Least.
    pub minimum: f64,
}

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Tokens scored.
    pub tokens: usize,
    /// Perplexity, e to the mean negative log-likelihood.
    pub ppl: Estimate,
    /// Against the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// How a model's predictions of a text differ from a reference's. Errors of what compares the two are
/// of paired values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Perplexity of the reference.
    pub ppl_ref: Estimate,
    /// Correlation of the negative log-likelihoods, −1 to 1; 0 if those of either do not vary.
    pub correlation: f64,
    /// ln(PPL / PPL_ref).
    pub ln_ratio: Estimate,
    /// PPL / PPL_ref.
    pub ratio: Estimate,
    /// PPL − PPL_ref.
    pub difference: Estimate,
    /// KL divergence, in nats.
    pub kld: Distribution,
    /// Δp, probability of the token less the reference's: a fraction, not in percent.
    pub delta_p: Distribution,
    /// Root of the mean square of Δp: a fraction.
    pub rms_delta_p: Estimate,
    /// Share of the tokens whose most probable token is the reference's: a fraction.
    pub same_top: Estimate,
}

impl Summary {
    /// The statistics of tokens in the order of the text; with a comparison if every one of them has
    /// a difference. `None` for no tokens.
    pub fn new(tokens: &[TokenStatistics]) -> Option<Self> {
        if tokens.is_empty() {
            return None;
        }
        let nll: Vec<f64> = tokens.iter().map(|token| token.nll).collect();
        let differences: Option<Vec<Difference>> =
            tokens.iter().map(|token| token.difference).collect();
        let ppl = exponential(mean(&nll));
        let comparison = differences.map(|differences| Comparison::new(&nll, &differences));
        Some(Summary { tokens: tokens.len(), ppl, comparison })
    }
}

impl Comparison {
    fn new(nll: &[f64], differences: &[Difference]) -> Self {
        let of =
            |value: fn(&Difference) -> f64| differences.iter().map(value).collect::<Vec<f64>>();
        let (nll_ref, delta_p) = (of(|token| token.nll_ref), of(|token| token.delta_p));
        let (ln_ppl, ln_ppl_ref) = (mean(nll), mean(&nll_ref));
        let (ppl, ppl_ref) = (exponential(ln_ppl), exponential(ln_ppl_ref));
        let covariance = covariance(nll, &nll_ref);
        let scale = ln_ppl.error * ln_ppl_ref.error;
        // The standard error of the paired differences is √(σ² + σ_ref² − 2 cov) of their means.
        let paired: Vec<f64> =
            nll.iter().zip(&nll_ref).map(|(nll, reference)| nll - reference).collect();
        let ln_ratio = mean(&paired);
        let (a, b) = (ppl.error, ppl_ref.error);
        let variance = a * a + b * b - 2.0 * ppl.value * ppl_ref.value * covariance;
        let difference =
            Estimate { value: ppl.value - ppl_ref.value, error: variance.max(0.0).sqrt() };
        let squares = mean(&delta_p.iter().map(|delta| delta * delta).collect::<Vec<f64>>());
        let rms = squares.value.sqrt();
        let same_top = mean(&of(|token| f64::from(u8::from(token.same_top))));
        Comparison {
            ppl_ref,
            correlation: if scale > 0.0 { covariance / scale } else { 0.0 },
            ln_ratio,
            ratio: exponential(ln_ratio),
            difference,
            kld: Distribution::new(&of(|token| token.kld)),
            delta_p: Distribution::new(&delta_p),
            rms_delta_p: Estimate {
                value: rms,
                error: if rms > 0.0 { 0.5 / rms * squares.error } else { 0.0 },
            },
            same_top,
        }
    }
}

impl Distribution {
    fn new(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |fraction| percentile(&sorted, fraction);
        Distribution {
            mean: mean(values),
            maximum: at(1.0),
            p99_9: at(0.999),
            p99: at(0.99),
            p95: at(0.95),
            p90: at(0.9),
            p75: at(0.75),
            median: at(0.5),
            p25: at(0.25),
            p10: at(0.1),
            p5: at(0.05),
            p1: at(0.01),
            p0_1: at(0.001),
            minimum: at(0.0),
        }
    }
}

/// The value at a fraction of the sorted ones, interpolated between neighbours.
///
/// llama-perplexity computes the place in f32, which at 10⁴ tokens is off by up to 0.0005 of the
/// distance between two neighbours; this is the exact one.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts below 2^53; a floor between 0 and the last index"
)]
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len() - 1;
    let place = fraction * last as f64;
    let low = (place.floor() as usize).min(last);
    let (below, above) = (sorted[low], sorted[(low + 1).min(last)]);
    let part = place - low as f64;
    // Exact at both ends and monotone between, whatever is rounded.
    if part == 0.0 { below } else { (below + part * (above - below)).clamp(below, above) }
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn count(values: &[f64]) -> f64 {
    values.len() as f64
}

/// The mean and its standard error √(variance / (n − 1)), the variance being divided by n.
fn mean(values: &[f64]) -> Estimate {
    let value = values.iter().sum::<f64>() / count(values);
    Estimate { value, error: covariance(values, values).sqrt() }
}

/// Covariance of the means of two paired samples.
fn covariance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() < 2 {
        return 0.0;
    }
    let n = count(a);
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let products = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b));
    products.sum::<f64>() / n / (n - 1.0)
}

/// e to an estimate.
fn exponential(of: Estimate) -> Estimate {
    let value = libm::exp(of.value);
    Estimate { value, error: value * of.error }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(nll: f64, nll_ref: f64, kld: f64) -> TokenStatistics {
        let delta_p = (-nll).exp() - (-nll_ref).exp();
        let difference = Difference { nll_ref, kld, delta_p, same_top: kld < 1.0 };
        TokenStatistics { nll, difference: Some(difference) }
    }

    #[test]
    fn a_model_and_itself_do_not_differ() {
        let tokens: Vec<_> =
            (0..50).map(|i| f64::from(i) * 0.1).map(|x| token(x, x, 0.0)).collect();
        let summary = Summary::new(&tokens).unwrap();
        let comparison = summary.comparison.unwrap();
        assert_eq!(comparison.ppl_ref, summary.ppl);
        assert_eq!(comparison.ln_ratio, Estimate::default());
        assert_eq!(comparison.ratio, Estimate { value: 1.0, error: 0.0 });
        assert_eq!(comparison.difference.value, 0.0);
        assert!(comparison.difference.error < 1e-6 && comparison.rms_delta_p.value == 0.0);
        assert!((comparison.correlation - 1.0).abs() < 1e-12);
        assert_eq!(comparison.same_top, Estimate { value: 1.0, error: 0.0 });
    }

    #[test]
    fn few_tokens_have_no_error() {
        assert_eq!(Summary::new(&[]), None);
        let one = Summary::new(&[token(1.0, 2.0, 0.25)]).unwrap();
        assert_eq!(one.ppl, Estimate { value: libm::exp(1.0), error: 0.0 });
        let comparison = one.comparison.unwrap();
        assert_eq!((comparison.correlation, comparison.kld.p0_1), (0.0, 0.25));
        let mixed = [token(1.0, 2.0, 0.25), TokenStatistics { nll: 1.0, difference: None }];
        assert_eq!(Summary::new(&mixed).unwrap().comparison, None);
    }

    #[test]
    fn json_has_no_value_that_is_not_a_number() {
        for tokens in [vec![token(1.0, 1.0, 0.0)], vec![token(0.5, 1.5, 0.1); 30]] {
            let json = serde_json::to_string(&Summary::new(&tokens).unwrap()).unwrap();
            assert!(json.contains(r#""p99_9":"#) && !json.contains("null"), "{json}");
        }
    }

    proptest! {
        #[test]
        fn percentiles_are_in_order(values in prop::collection::vec(-1e3f64..1e3, 1..300)) {
            let d = Distribution::new(&values);
            let ordered = [
                d.minimum, d.p0_1, d.p1, d.p5, d.p10, d.p25, d.median, d.p75, d.p90, d.p95, d.p99,
                d.p99_9, d.maximum,
            ];
            prop_assert!(ordered.is_sorted(), "{ordered:?}");
            prop_assert!(values.contains(&d.minimum) && values.contains(&d.maximum));
            prop_assert!(d.minimum - 1e-9 <= d.mean.value && d.mean.value <= d.maximum + 1e-9);
        }

        #[test]
        fn errors_are_those_of_paired_values(
            pairs in prop::collection::vec((0.0f64..9.0, 0.0f64..9.0), 2..100),
        ) {
            let tokens: Vec<_> = pairs.iter().map(|&(a, b)| token(a, b, 0.0)).collect();
            let summary = Summary::new(&tokens).unwrap();
            let comparison = summary.comparison.unwrap();
            let (a, b) = (summary.ppl.error / summary.ppl.value,
                comparison.ppl_ref.error / comparison.ppl_ref.value);
            let expected = a * a + b * b - 2.0 * a * b * comparison.correlation;
            prop_assert!((comparison.ln_ratio.error.powi(2) - expected).abs() < 1e-9);
            prop_assert!(comparison.correlation.abs() < 1.0 + 1e-9);
            prop_assert!((comparison.ratio.value * comparison.ppl_ref.value - summary.ppl.value).abs()
                < 1e-9 * summary.ppl.value);
        }
    }
}
