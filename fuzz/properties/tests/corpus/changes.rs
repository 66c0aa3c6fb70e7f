//! Changes of inputs as a fuzzer makes them, but the same ones every time.

use std::path::PathBuf;

/// Longest input that is changed: a change of a long one takes as long and says no more.
const LONGEST: usize = 64 << 10;

/// A generator of changes.
pub struct Changes(u64);

impl Changes {
    /// The changes for a target.
    pub fn new(target: &str) -> Self {
        Changes(
            target.bytes().fold(1, |state, byte| state.wrapping_mul(257).wrapping_add(byte.into())),
        )
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits");
        usize::try_from(self.number() % end).expect("below a usize")
    }

    /// One of the inputs with a few changes.
    pub fn next(&mut self, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        let index = self.below(corpus.len());
        let mut input = corpus[index].1.clone();
        input.truncate(LONGEST);
        for _ in 0..=self.below(3) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)]) {
        if input.is_empty() {
            input.push(self.number().to_le_bytes()[0]);
            return;
        }
        let at = self.below(input.len());
        match self.below(8) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = self.number().to_le_bytes()[0],
            2 => input.truncate(at),
            3 => {
                let end = input.len().min(at + 1 + self.below(16));
                input.drain(at..end);
            }
            4 => {
                let count = 1 + self.below(16);
                let bytes: Vec<u8> = (0..count).map(|_| self.number().to_le_bytes()[0]).collect();
                input.splice(at..at, bytes);
            }
            // A number of 8 bytes that is too large, at a place where one may stand.
            5 => {
                let numbers = [u64::MAX, 1 << 63, 1 << 32, 0, 1, u64::from(u32::MAX)];
                let number = numbers[self.below(numbers.len())];
                for (byte, value) in input[at & !3..].iter_mut().zip(number.to_le_bytes()) {
                    *byte = value;
                }
            }
            6 => {
                let end = input.len().min(at + 1 + self.below(64));
                let copy = input[at..end].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, copy);
            }
            _ => {
                let other = &corpus[self.below(corpus.len())].1;
                if !other.is_empty() {
                    let from = self.below(other.len());
                    let end = other.len().min(from + LONGEST);
                    input.truncate(at);
                    input.extend(&other[from..end]);
                }
            }
        }
    }
}
