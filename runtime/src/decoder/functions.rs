//! Elementary functions of the graph: exponential, activations, softmax, norms, caps.

use crate::model::Activation;

/// e^x, within 2 units in the last place; 0 below −87.3, and +∞ above 88.7. A NaN stays one.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial of degree 6 (Cephes' `expf`), times 2^n
/// by the exponent's bits. Plain arithmetic, so that loops over it vectorize.
#[expect(clippy::cast_possible_truncation, reason = "n is between −127 and 128")]
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number: 1.5 · 2^23.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-88.0, 89.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let p = p * (r * r) + r + 1.0;
    // Two factors, so that neither exponent leaves its range: n is up to 129.
    let half = (n * 0.5) as i32;
    let power = |n: i32| f32::from_bits(((n + 127) << 23).cast_unsigned());
    let value = p * power(half) * power(n as i32 - half);
    if x < -87.3 { 0.0 } else { value }
}

/// tanh(x), by e^(2x).
#[inline]
pub(super) fn tanh(x: f32) -> f32 {
    // Beyond 9 the next f32 to tanh is ±1.
    let x = x.clamp(-9.0, 9.0);
    let e = exp(2.0 * x);
    if x.abs() < 0.05 {
        // e − 1 loses digits here: x − x³/3 + 2x⁵/15.
        let square = x * x;
        return x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0)));
    }
    (e - 1.0) / (e + 1.0)
}

/// 1 / (1 + e^−x).
#[inline]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `gate[i] = f(gate[i]) · up[i]`.
pub(super) fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    /// √(2/π).
    const ROOT: f32 = 0.797_884_6;
    match activation {
        Activation::Silu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate * sigmoid(*gate) * up;
            }
        }
        Activation::Gelu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                let x = *gate;
                *gate = 0.5 * x * (1.0 + tanh(ROOT * x * (1.0 + 0.044_715 * x * x))) * up;
            }
        }
    }
}

/// Softmax in place; a row of which every score is −∞ becomes zeros.
pub(super) fn softmax(scores: &mut [f32]) {
    let max = scores.iter().fold(f32::NEG_INFINITY, |max, &score| max.max(score));
    if max == f32::NEG_INFINITY {
        return scores.fill(0.0);
    }
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for score in rest {
        *score = exp(*score - max);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// Root mean square norm in place: x · gain / √(mean(x²) + ε) (Zhang and Sennrich, 2019).
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "rounded once")]
pub(super) fn rms_norm(row: &mut [f32], gain: &[f32], epsilon: f32) {
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x * x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(x * x)).sum();
    let mean = (sums.iter().sum::<f64>() + rest) / row.len() as f64;
    let scale = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
    row.iter_mut().zip(gain).for_each(|(x, gain)| *x = *x * scale * gain);
}

/// cap · tanh(x / cap), in place.
pub(super) fn soft_cap(values: &mut [f32], cap: f32) {
    values.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        let mut x = -87.0f32;
        while x < 88.7 {
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 2.5e-7, "{x}: {found} {exact}");
            x += 0.003_7;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tangents_keep_their_digits_near_zero() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let (found, exact) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((found - exact).abs() <= 4e-7 * exact.abs().max(1e-30), "{x}: {found} {exact}");
            x += 0.000_93;
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_masked_scores_at_zero() {
        let mut scores = [1.0, f32::NEG_INFINITY, 3.0, 2.0, -500.0, 0.5, 1.5, 2.5, 3.5, 1.0, 0.0];
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!((scores[1], scores[4]), (0.0, 0.0));
        assert!((scores[2] / scores[3] - std::f32::consts::E).abs() < 1e-5);
        let mut none = [f32::NEG_INFINITY; 3];
        softmax(&mut none);
        assert_eq!(none, [0.0; 3]);
    }
}
