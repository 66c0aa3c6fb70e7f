//! The sign vector of an input: a documented stream, so that any tool can make the same one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Separates these keys from any other use of a seed.
const DOMAIN: &[u8] = b"tessera signs v1\0";

/// The `k` signs of an input, each 1.0 or -1.0.
///
/// The key is SHA-256 of `tessera signs v1`, a zero byte, the seed as 8 little-endian bytes and the
/// input's name in UTF-8. Bit `i` of the ChaCha8 keystream under that key (nonce and first block
/// counter zero; least significant bit of each byte first) gives sign `i`: 1 is +1, 0 is -1. So a
/// longer row of the same input starts with the signs of a shorter one.
pub fn signs(seed: u64, input: &str, k: usize) -> Vec<f32> {
    let key = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(seed.to_le_bytes())
        .chain_update(input)
        .finalize();
    let mut keystream = vec![0; k.div_ceil(8)];
    ChaCha8Rng::from_seed(key.into()).fill_bytes(&mut keystream);
    let bits = keystream.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    bits.take(k).map(|bit| if bit == 1 { 1.0 } else { -1.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `reference.py`, which shares no code with this crate.
    const REFERENCE: &[(u64, &str, usize, &str)] = &[
        (0, "blk.0.attn_input", 0, "-+++-+---+++-+--++-+-++-++++--+--+++--++-++-"),
        (1, "blk.0.attn_input", 0, "++--+----+++++--+-+-+--+-+--++--+-+--++----+"),
        (0, "blk.31.ffn_down", 0, "+-++-++-++-+--++-+-++-+-+--++--+++--++---+++"),
        (0, "blk.31.ffn_down", 4080, "+-++++--++-+-+++++-+-++-++-++++-+----+--++++"),
        (18446744073709551615, "größe", 18900, "+--+--++-+---+---+-+--+++++--+-----+++-+++-+"),
    ];

    fn picture(signs: &[f32]) -> String {
        signs.iter().map(|&sign| if sign == 1.0 { '+' } else { '-' }).collect()
    }

    #[test]
    fn signs_equal_the_independent_reference() {
        for &(seed, input, start, expected) in REFERENCE {
            let signs = signs(seed, input, start + expected.len());
            assert!(signs.iter().all(|sign| sign.abs() == 1.0));
            assert_eq!(picture(&signs[start..]), expected, "seed {seed} input {input}");
        }
    }

    #[test]
    fn a_longer_row_starts_with_the_signs_of_a_shorter_one() {
        let long = signs(1, "blk.0.attn_input", 1001);
        for k in [0, 1, 7, 8, 9, 512, 1000] {
            assert_eq!(signs(1, "blk.0.attn_input", k), long[..k]);
        }
    }
}
