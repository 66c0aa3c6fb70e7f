//! Merging neighbours, best pair first: the engine of both kinds of tokenizer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A piece of the text: bytes `start..end`, and its token if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub start: u32,
    pub end: u32,
    pub token: Option<u32>,
    previous: u32,
    next: u32,
}

impl Symbol {
    fn is_merged(&self) -> bool {
        self.start == self.end
    }
}

/// No neighbour.
const NONE: u32 = u32::MAX;

/// A pair that can be merged: ordered by rank, then from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Where `right` ended when the pair was found; later it may have grown.
    end: u32,
    token: u32,
}

/// Symbols of one text and the pairs among them. Kept between texts for its memory.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Begins a new text.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.candidates.clear();
    }

    /// Appends a symbol of `bytes` bytes, at least 1. A text has less than 2^32 - 1 bytes.
    pub(super) fn push(&mut self, bytes: u32, token: Option<u32>) {
        let start = self.symbols.last().map_or(0, |last| last.end);
        let index = u32::try_from(self.symbols.len()).unwrap_or(NONE);
        let previous = index.checked_sub(1).unwrap_or(NONE);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let end = start.saturating_add(bytes);
        self.symbols.push(Symbol { start, end, token, previous, next: NONE });
    }

    /// Merges pairs of neighbours, lowest rank first and leftmost first among equals, until there
    /// are none. `pair` says the rank and the token of two neighbours, if they can be merged.
    ///
    /// Every merge adds at most two pairs, so the time is n log n in the symbols.
    pub(super) fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for (left, neighbours) in (0..).zip(self.symbols.windows(2)) {
            if let [first, second] = neighbours
                && let Some((rank, token)) = pair(first, second)
            {
                let candidate = Candidate { rank, left, right: first.next, end: second.end, token };
                self.candidates.push(Reverse(candidate));
            }
        }
        while let Some(Reverse(candidate)) = self.candidates.pop() {
            let Some((left, next)) = self.join(&candidate) else { continue };
            self.consider(left.previous, candidate.left, &pair);
            self.consider(candidate.left, next, &pair);
        }
    }

    /// Merges a pair if it is still as it was found. Returns the new symbol and what follows it.
    fn join(&mut self, candidate: &Candidate) -> Option<(Symbol, u32)> {
        let right = self.get(candidate.right)?;
        let left = self.get(candidate.left)?;
        if left.is_merged() || right.is_merged() || right.end != candidate.end {
            return None;
        }
        let joined =
            Symbol { end: right.end, token: Some(candidate.token), next: right.next, ..left };
        *self.get_mut(candidate.left)? = joined;
        self.get_mut(candidate.right)?.start = right.end;
        if let Some(next) = self.get_mut(right.next) {
            next.previous = candidate.left;
        }
        Some((joined, right.next))
    }

    fn consider(
        &mut self,
        left: u32,
        right: u32,
        pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (Some(first), Some(second)) = (self.get(left), self.get(right)) else { return };
        if let Some((rank, token)) = pair(&first, &second) {
            self.candidates.push(Reverse(Candidate { rank, left, right, end: second.end, token }));
        }
    }

    fn get(&self, index: u32) -> Option<Symbol> {
        self.symbols.get(usize::try_from(index).ok()?).copied()
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Symbol> {
        self.symbols.get_mut(usize::try_from(index).ok()?)
    }

    /// What is left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> + '_ {
        self.symbols.iter().filter(|symbol| !symbol.is_merged())
    }
}
