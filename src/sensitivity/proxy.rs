//! A cheap estimate of what a scheme does to a linear: the error of its outputs on sampled rows.

use tessera_runtime::linear::{Activations, Linear, LinearError};

/// Matrices of a tensor of experts that are looked at, evenly spaced.
const EXPERTS: usize = 8;

/// Σ (y_q − y)² / Σ y² over the outputs of `rows`, `[m, k]`: the quadratic form tr(E·H·Eᵀ) over
/// tr(W·H·Wᵀ) with the second moments H of these rows, what the rounding of activations does included.
/// 0 where there is nothing to compare.
pub fn output_error(
    own: &dyn Linear,
    quantized: &dyn Linear,
    rows: &[f32],
) -> Result<f64, LinearError> {
    let (k, n) = (own.k(), own.n());
    let m = rows.len() / k.max(1);
    if m == 0 {
        return Ok(0.0);
    }
    let x = Activations::new(rows, k);
    let all: Vec<usize> = (0..m).collect();
    let (mut expected, mut found) = (vec![0.0; m * n], vec![0.0; m * n]);
    let (mut error, mut energy) = (0.0, 0.0);
    let experts = own.experts();
    let count = experts.unwrap_or(1);
    for expert in (0..count).step_by(count.div_ceil(EXPERTS).max(1)) {
        if experts.is_some() {
            own.apply_expert(expert, &x, &all, &mut expected)?;
            quantized.apply_expert(expert, &x, &all, &mut found)?;
        } else {
            own.apply(&x, &mut expected)?;
            quantized.apply(&x, &mut found)?;
        }
        for (&expected, &found) in expected.iter().zip(&found) {
            let (expected, found) = (f64::from(expected), f64::from(found));
            error += (found - expected) * (found - expected);
            energy += expected * expected;
        }
    }
    Ok(if energy > 0.0 { error / energy } else { 0.0 })
}

/// Spearman's rank correlation of pairs: Pearson's of their ranks, ties at the mean of theirs. `None`
/// for fewer than two, or where all of either are equal.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (a.len() > 1 && spread > 0.0).then(|| product(&a, &b) / spread)
}

/// Ranks from 1, the mean of theirs for equal values.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = |&&at: &&usize| values[at].total_cmp(&values[order[start]]).is_eq();
        let count = order[start..].iter().take_while(same).count();
        let rank = start as f64 + (count as f64 + 1.0) / 2.0;
        order[start..start + count].iter().for_each(|&at| ranks[at] = rank);
        start += count;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of `scipy.stats.spearmanr` 1.17.
    #[test]
    fn ranks_are_correlated_as_scipy_does() {
        let close = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        let pairs = [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0), (4.0, 8.0), (5.0, 7.0)];
        assert!(close(rank_correlation(&pairs), 0.820_782_681_668_123_4));
        let pairs = [(0.1, 3.0), (0.2, 1.0), (0.3, -4.0), (0.4, -4.5)];
        assert!(close(rank_correlation(&pairs), -1.0));
        let pairs = [(1.0, 2.0), (1.0, 3.0), (2.0, 1.0), (2.0, 5.0), (9.0, 4.0)];
        assert!(close(rank_correlation(&pairs), 0.368_932_393_686_310_9));
        assert_eq!(rank_correlation(&[(1.0, 2.0)]), None);
        assert_eq!(rank_correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
