//! The signs of a tensor: drawn by MT19937 from a hash of its name.

use rand_mt::Mt;

/// `std::hash<std::string>` of libstdc++ on a 64-bit machine: its `_Hash_bytes`, a Murmur variant
/// over little-endian words, with the seed that the library passes.
pub fn name_hash(name: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let fold = |x: u64| x ^ (x >> 47);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, &b| word << 8 | u64::from(b));

    // `usize` is never wider than `u64`; the length is hashed modulo 2^64.
    let length = name.len() as u64;
    let mut hash = SEED ^ length.wrapping_mul(MULTIPLIER);
    let mut words = name.chunks_exact(8);
    for bytes in words.by_ref() {
        let mixed = fold(word(bytes).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ mixed).wrapping_mul(MULTIPLIER);
    }
    if !words.remainder().is_empty() {
        hash = (hash ^ word(words.remainder())).wrapping_mul(MULTIPLIER);
    }
    fold(fold(hash).wrapping_mul(MULTIPLIER))
}

/// The first `count` signs (−1.0 or +1.0) of the tensor called `name`, in order of k.
///
/// MT19937 is seeded with the low 32 bits of [`name_hash`]. The original draws each sign with
/// `std::uniform_int_distribution<int>(0, 1)`, which in libstdc++ since GCC 11 is the top bit of
/// one output: 0 gives −1.
pub fn signs(name: &str, count: usize) -> Vec<f32> {
    let [a, b, c, d, ..] = name_hash(name.as_bytes()).to_le_bytes();
    let mut generator = Mt::new(u32::from_le_bytes([a, b, c, d]));
    (0..count).map(|_| if generator.next_u32() >> 31 == 0 { -1.0 } else { 1.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors made by g++ 12.2; `tests/golden/rk_llama.json` has more, and longer ones.
    #[test]
    fn names_give_the_signs_of_libstdcxx() {
        let cases = [
            ("blk.0.attn_q.weight", 0x3877_1636_bce5_a702, "---++---++-++---------++--+-+++-"),
            ("blk.0.ffn_down.weight", 0xac38_1732_02bd_7abb, "--++-+--++---+-----+-+++-+-++--+"),
            ("output.weight", 0x3ba5_a682_1b65_11e0, "-++---+-------+++-++-+---+-+-+--"),
            ("token_embd.weight", 0xad04_5d15_402c_08d3, "---+----+--++++-++--+----+--++-+"),
        ];
        for (name, hash, expected) in cases {
            assert_eq!(name_hash(name.as_bytes()), hash, "{name}");
            let drawn: String =
                signs(name, 32).iter().map(|&s| if s < 0.0 { '-' } else { '+' }).collect();
            assert_eq!(drawn, expected, "{name}");
        }
    }
}
