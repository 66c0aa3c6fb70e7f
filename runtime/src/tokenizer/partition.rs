//! Finding special tokens in a text, the longest first.

use std::collections::HashMap;
use std::ops::Range;

use super::vocabulary::{Attributes, Vocabulary};

/// A part of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// Bytes to encode.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

/// Special tokens to be found in texts, as llama.cpp finds them: the longest ones first anywhere
/// in the text, then shorter ones in what is left.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Longest first.
    lengths: Vec<Length>,
}

/// The special tokens of one length.
#[derive(Debug)]
struct Length {
    bytes: usize,
    first: Box<[bool; 256]>,
    /// Tokens by the hash of their text.
    tokens: HashMap<u64, Vec<Special>>,
}

#[derive(Debug)]
struct Special {
    token: u32,
    text: Box<[u8]>,
    attributes: Attributes,
}

/// An occurrence of a special token.
struct Found<'a> {
    start: usize,
    special: &'a Special,
}

impl Partition {
    /// The special tokens that `wanted` takes.
    pub(super) fn new(vocabulary: &Vocabulary<'_>, wanted: impl Fn(Attributes) -> bool) -> Self {
        let mut by_length: HashMap<usize, Vec<Special>> = HashMap::new();
        for (token, text, attributes) in vocabulary.iter() {
            if !text.is_empty() && wanted(attributes) {
                let special = Special { token, text: text.as_bytes().into(), attributes };
                by_length.entry(text.len()).or_default().push(special);
            }
        }
        let mut lengths: Vec<Length> = by_length.into_iter().map(Length::new).collect();
        lengths.sort_by_key(|length| std::cmp::Reverse(length.bytes));
        Self { lengths }
    }

    /// Cuts a text at its special tokens. Takes time in the text times the number of different
    /// lengths of special tokens.
    pub(super) fn cut(&self, text: &str) -> Vec<Part> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut parts = vec![Part::Text(0..text.len())];
        for length in &self.lengths {
            if length.bytes <= text.len() {
                parts = length.cut(text.as_bytes(), parts);
            }
        }
        parts
    }
}

impl Length {
    fn new((bytes, specials): (usize, Vec<Special>)) -> Self {
        let mut first = Box::new([false; 256]);
        let mut tokens: HashMap<u64, Vec<Special>> = HashMap::new();
        for special in specials {
            if let Some(&byte) = special.text.first() {
                first[usize::from(byte)] = true;
            }
            tokens.entry(hash(&special.text)).or_default().push(special);
        }
        Self { bytes, first, tokens }
    }

    fn cut(&self, text: &[u8], parts: Vec<Part>) -> Vec<Part> {
        let mut cut = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Text(range) => self.cut_range(text, range, &mut cut),
                token @ Part::Token(_) => cut.push(token),
            }
        }
        cut
    }

    fn cut_range(&self, text: &[u8], range: Range<usize>, cut: &mut Vec<Part>) {
        let mut found = self.find(text, range.clone());
        if found.is_empty() {
            cut.push(Part::Text(range));
            return;
        }
        let end_of = |found: &Found<'_>| found.start + self.bytes;
        // Tokens of one length that overlap: the one with the lower number goes first.
        let overlap = found.windows(2).any(|pair| matches!(pair, [a, b] if b.start < end_of(a)));
        if overlap {
            found = self.choose(found);
        }
        let mut start = range.start;
        for found in &found {
            // White space that the token before has taken may reach into this one.
            if found.start < start {
                continue;
            }
            let mut left = found.start;
            if found.special.attributes.strips_left {
                while left > start && text.get(left - 1).is_some_and(|&byte| is_space(byte)) {
                    left -= 1;
                }
            }
            if left > start {
                cut.push(Part::Text(start..left));
            }
            cut.push(Part::Token(found.special.token));
            start = end_of(found);
            if found.special.attributes.strips_right {
                while start < range.end && text.get(start).is_some_and(|&byte| is_space(byte)) {
                    start += 1;
                }
            }
        }
        if start < range.end {
            cut.push(Part::Text(start..range.end));
        }
    }

    /// Occurrences in a range, at most one at a position, in order; they may overlap.
    fn find(&self, text: &[u8], range: Range<usize>) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        let Some(window) = text.get(range.clone()) else { return found };
        let leaving = (1..self.bytes).fold(1_u64, |power, _| power.wrapping_mul(BASE));
        let mut rolling = 0_u64;
        for (index, &byte) in window.iter().enumerate() {
            if let Some(left) = index.checked_sub(self.bytes) {
                let gone = window.get(left).map_or(0, |&byte| value(byte).wrapping_mul(leaving));
                rolling = rolling.wrapping_sub(gone);
            }
            rolling = rolling.wrapping_mul(BASE).wrapping_add(value(byte));
            let Some(start) = (index + 1).checked_sub(self.bytes) else { continue };
            if !window.get(start).is_some_and(|&byte| self.first[usize::from(byte)]) {
                continue;
            }
            let Some(specials) = self.tokens.get(&rolling) else { continue };
            let here = window.get(start..=index);
            if let Some(special) = specials.iter().find(|special| Some(&*special.text) == here) {
                found.push(Found { start: range.start + start, special });
            }
        }
        found
    }

    /// Of overlapping occurrences those of the lowest token, from left to right, then those of
    /// the next that do not overlap them.
    fn choose<'a>(&self, found: Vec<Found<'a>>) -> Vec<Found<'a>> {
        let mut order = found;
        order.sort_by_key(|found| (found.special.token, found.start));
        let mut starts = std::collections::BTreeSet::new();
        let mut chosen: Vec<Found<'a>> = Vec::new();
        for found in order {
            let from = (found.start + 1).saturating_sub(self.bytes);
            if starts.range(from..found.start + self.bytes).next().is_none() {
                starts.insert(found.start);
                chosen.push(found);
            }
        }
        chosen.sort_by_key(|found| found.start);
        chosen
    }
}

/// Base of the rolling hash. Occurrences are compared byte by byte, so that collisions cost time
/// only.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

fn value(byte: u8) -> u64 {
    u64::from(byte) + 1
}

fn hash(text: &[u8]) -> u64 {
    text.iter().fold(0, |hash, &byte| hash.wrapping_mul(BASE).wrapping_add(value(byte)))
}

/// White space as C's `isspace` has it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
