//! Tokens at random, for measurements that need some.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// `count` tokens of a vocabulary, the same for the same seed; none if it has none.
pub fn random_tokens(seed: u64, count: usize, vocabulary: usize) -> Vec<u32> {
    let end = u32::try_from(vocabulary).unwrap_or(u32::MAX);
    if end == 0 {
        return Vec::new();
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_tokens() {
        let tokens = random_tokens(7, 1000, 40);
        assert_eq!(tokens, random_tokens(7, 1000, 40));
        assert_eq!(tokens[..10], random_tokens(7, 10, 40));
        assert_ne!(tokens, random_tokens(8, 1000, 40));
        for token in 0..40 {
            assert!(tokens.contains(&token), "{token}");
        }
        assert!(tokens.iter().all(|&token| token < 40));
        assert_eq!(random_tokens(7, 3, 0), [0u32; 0]);
    }
}
