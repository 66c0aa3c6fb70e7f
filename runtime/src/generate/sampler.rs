//! Choosing the next token from logits.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// Draws tokens, in llama.cpp's order: top-k, top-p, temperature.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the beginning of its seed's stream.
    pub fn new(sampling: Sampling) -> Self {
        Sampler { sampling, random: ChaCha8Rng::seed_from_u64(sampling.seed) }
    }

    /// The next token; `None` if there are no logits, or one of them is NaN.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let index =
            if self.sampling.temperature > 0.0 { self.draw(logits)? } else { argmax(logits)? };
        u32::try_from(index).ok()
    }

    fn draw(&mut self, logits: &[f32]) -> Option<usize> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let descending = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        if top_k > 0 && top_k < order.len() {
            order.select_nth_unstable_by(top_k, descending);
            order.truncate(top_k);
        }
        order.sort_unstable_by(descending);
        let first = *order.first()?;
        let largest = f64::from(logits[first]);
        if largest.is_infinite() {
            return Some(first);
        }
        let weight = |index: usize, temperature: f32| {
            ((f64::from(logits[index]) - largest) / f64::from(temperature)).exp()
        };
        if top_p < 1.0 {
            let total: f64 = order.iter().map(|&index| weight(index, 1.0)).sum();
            let mut sum = 0.0;
            let kept = order.iter().position(|&index| {
                sum += weight(index, 1.0);
                sum >= f64::from(top_p) * total
            });
            order.truncate(kept.map_or(order.len(), |last| last + 1));
        }
        let weights: Vec<f64> = order.iter().map(|&index| weight(index, temperature)).collect();
        let mut point = self.random.random::<f64>() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            point -= weight;
            point < 0.0
        });
        // Rounding can leave a point just beyond the last.
        order.get(chosen.unwrap_or(order.len() - 1)).copied()
    }
}

/// Index of the largest logit, the first of equal ones.
fn argmax(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, index| if logits[index] > logits[best] { index } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0u32; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / 20_000.0).collect()
    }

    #[test]
    fn draws_follow_the_distribution_that_is_left() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.125f32.ln(), 0.5f32.ln(), 0.125f32.ln(), 0.25f32.ln()];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };
        for (sampling, expected) in [
            (all, [0.125, 0.5, 0.125, 0.25]),
            (Sampling { top_k: 2, ..all }, [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]),
            // 0.5 + 0.25 reach 0.7; the first two stay.
            (Sampling { top_p: 0.7, ..all }, [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]),
            // Squared and normalized: 0.25, 0.0625, 0.015625 twice.
            (
                Sampling { temperature: 0.5, ..all },
                [1.0 / 22.0, 16.0 / 22.0, 1.0 / 22.0, 4.0 / 22.0],
            ),
            (Sampling::GREEDY, [0.0, 1.0, 0.0, 0.0]),
        ] {
            for (found, expected) in shares(sampling, &logits).iter().zip(expected) {
                assert!((found - expected).abs() < 0.012, "{sampling:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let sampling = Sampling { temperature: 1.3, top_k: 40, top_p: 0.95, seed: 3 };
        let draw = |sampling| {
            let mut sampler = Sampler::new(sampling);
            (0..50).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(sampling), draw(sampling));
        assert_ne!(draw(sampling), draw(Sampling { seed: 4, ..sampling }));
    }

    #[test]
    fn what_is_no_distribution_gives_no_token() {
        assert_eq!(Sampler::new(Sampling::GREEDY).sample(&[]), None);
        assert_eq!(Sampler::new(Sampling::GREEDY).sample(&[0.0, f32::NAN]), None);
        assert_eq!(Sampler::new(Sampling::GREEDY).sample(&[1.0, 3.0, 3.0]), Some(1));
        let drawing = Sampling { temperature: 1.0, top_k: 0, top_p: 0.9, seed: 1 };
        for (logits, expected) in [
            ([0.0, f32::INFINITY, 5.0], 1),
            ([f32::NEG_INFINITY; 3], 0),
            ([f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 1),
        ] {
            assert_eq!(Sampler::new(drawing).sample(&logits), Some(expected), "{logits:?}");
        }
    }
}
