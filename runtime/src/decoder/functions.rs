//! Elementary functions of the graph: exponential, activations, softmax, norms, caps.
//!
//! Loops over them are compiled twice, for the baseline and for AVX2. Nothing is contracted or
//! reordered, so that both give the same bits.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls into code compiled for AVX2")
)]

use crate::model::Activation;

/// Calls `$body` as compiled for AVX2 where the processor has it.
macro_rules! widest {
    ($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) = $body:path) => {
        $(#[$doc])*
        pub(super) fn $name($($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide($($argument: $kind),*) {
                    $body($($argument),*);
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2.
                    return unsafe { wide($($argument),*) };
                }
            }
            $body($($argument),*);
        }
    };
}

widest! {
    /// `gate[i] = f(gate[i]) · up[i]`.
    fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) = gated_body
}

widest! {
    /// Softmax in place; a row of which every score is −∞ becomes zeros.
    fn softmax(scores: &mut [f32]) = softmax_body
}

widest! {
    /// Root mean square norm in place: x · gain / √(mean(x²) + ε) (Zhang and Sennrich, 2019).
    fn rms_norm(row: &mut [f32], gain: &[f32], epsilon: f32) = rms_norm_body
}

/// e^x, within 2 units in the last place; 0 below −87.3, and +∞ above 88.7. A NaN stays one.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial of degree 6 (Cephes' `expf`), times 2^n
/// by the exponent's bits. Plain arithmetic, so that loops over it vectorize.
#[expect(clippy::cast_possible_truncation, reason = "n is between −127 and 128")]
#[inline(always)]
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
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Beyond 9 the next f32 to tanh is ±1.
    let x = x.clamp(-9.0, 9.0);
    let e = exp(2.0 * x);
    if x.abs() < 0.3 {
        // e − 1 loses digits here: the series of tanh to x⁹.
        let s = x * x;
        let series = 17.0 / 315.0 - s * (62.0 / 2835.0);
        return x * (1.0 - s * (1.0 / 3.0 - s * (2.0 / 15.0 - s * series)));
    }
    (e - 1.0) / (e + 1.0)
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gated_body(activation: Activation, gate: &mut [f32], up: &[f32]) {
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

#[inline(always)]
fn softmax_body(scores: &mut [f32]) {
    const LANES: usize = 8;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (largest, &score) in largest.iter_mut().zip(chunk) {
            *largest = larger(*largest, score);
        }
    }
    let max = largest.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger);
    if max == f32::NEG_INFINITY && !scores.iter().any(|score| score.is_nan()) {
        return scores.fill(0.0);
    }
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

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "rounded once")]
#[inline(always)]
fn rms_norm_body(row: &mut [f32], gain: &[f32], epsilon: f32) {
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
            assert!((found - exact).abs() <= 1e-6 * exact.abs().max(1e-30), "{x}: {found} {exact}");
            x += 0.000_93;
        }
    }

    /// What is compiled for AVX2 gives the bits of the baseline.
    #[test]
    fn instruction_sets_give_the_same_bits() {
        for length in [1, 7, 8, 64, 333] {
            let noise = |seed: usize| -> Vec<f32> {
                (0..length).map(|i| ((i * 37 + seed * 11) % 101) as f32 * 0.13 - 6.0).collect()
            };
            let same = |wide: &dyn Fn(&mut [f32]), plain: &dyn Fn(&mut [f32])| {
                let (mut a, mut b) = (noise(1), noise(1));
                wide(&mut a);
                plain(&mut b);
                assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{length}");
            };
            let other = noise(2);
            same(&|x| softmax(x), &|x| softmax_body(x));
            same(&|x| rms_norm(x, &other, 1e-5), &|x| rms_norm_body(x, &other, 1e-5));
            for activation in [Activation::Silu, Activation::Gelu] {
                same(&|x| gated(activation, x, &other), &|x| gated_body(activation, x, &other));
            }
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
