//! SentencePiece's BPE, from scores: what `tokenizer.ggml.model` calls `llama`.

use std::collections::HashMap;

use super::TokenizerError;
use super::keys::Keys;
use super::merge::{Merger, Symbol};
use super::vocabulary::{Vocabulary, byte_of};

/// What stands for a space in the texts of tokens.
pub(super) const SPACE: &str = "\u{2581}";

/// Texts, scores and byte tokens.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Rank and token by text: the higher the score, the lower the rank.
    tokens: HashMap<Box<str>, (u32, u32)>,
    longest: usize,
    /// Whether spaces only begin tokens, so that no merge goes beyond the word that follows one.
    words: bool,
    unknown: Option<u32>,
    /// Token of each byte.
    bytes: Vec<Option<u32>>,
    pub add_space_prefix: bool,
}

impl SentencePiece {
    pub(super) fn new(
        keys: Keys<'_>,
        vocabulary: &Vocabulary<'_>,
        add_space_prefix: bool,
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let scores = keys.scores(vocabulary.len())?;
        for (token, score) in (0..).zip(&scores) {
            if score.is_nan() {
                return Err(TokenizerError::Score { token });
            }
        }
        let ranks = ranks(&scores);
        let mut tokens = HashMap::with_capacity(vocabulary.len());
        for ((token, text, _), rank) in vocabulary.iter().zip(ranks) {
            if !text.is_empty() {
                tokens.insert(Box::from(text), (rank, token));
            }
        }
        let longest = vocabulary.texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut bytes: Vec<Option<u32>> = vec![None; 256];
        for (token, text, _) in vocabulary.iter() {
            // Where there is no `<0xHH>`, a token whose whole text is the byte.
            let (byte, fallback) = match (byte_of(text), text.as_bytes()) {
                (Some(byte), _) if text == format!("<0x{byte:02X}>") => (byte, false),
                (None, [byte]) => (*byte, true),
                _ => continue,
            };
            if let Some(slot) = bytes.get_mut(usize::from(byte))
                && !(fallback && slot.is_some())
            {
                *slot = Some(token);
            }
        }
        let words = vocabulary.texts.iter().all(|text| next_word(text).is_none());
        Ok(Self { tokens, longest, words, unknown, bytes, add_space_prefix })
    }

    /// A text without special tokens as it is to be encoded. `first`: whether it begins the whole
    /// text, or follows a special token.
    pub(super) fn escape(&self, text: &str, first: bool) -> String {
        let prefix = if first && self.add_space_prefix { SPACE } else { "" };
        format!("{prefix}{}", text.replace(' ', SPACE))
    }

    /// Calls `word` with every part of an escaped text that can be encoded by itself.
    pub(super) fn cut<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let mut rest = text;
        while let Some((first, after)) =
            next_word(rest).filter(|_| self.words).and_then(|at| rest.split_at_checked(at))
        {
            word(first);
            rest = after;
        }
        word(rest);
    }

    /// Appends the tokens of a part of an escaped text.
    pub(super) fn encode(
        &self,
        text: &str,
        merger: &mut Merger,
        output: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        merger.clear();
        for character in text.chars() {
            let mut buffer = [0; 4];
            let known = self.tokens.get(&*character.encode_utf8(&mut buffer));
            // At most 4 bytes.
            let bytes = u32::try_from(character.len_utf8()).unwrap_or_default();
            merger.push(bytes, known.map(|(_, token)| *token));
        }
        let slice = |start: u32, end: u32| -> &str {
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            range.and_then(|(start, end)| text.get(start..end)).unwrap_or_default()
        };
        merger.merge(|left: &Symbol, right: &Symbol| {
            let joined = slice(left.start, right.end);
            if joined.len() > self.longest { None } else { self.tokens.get(joined).copied() }
        });
        for symbol in merger.symbols() {
            if let Some(token) = symbol.token {
                output.push(token);
                continue;
            }
            for &byte in slice(symbol.start, symbol.end).as_bytes() {
                let token = self.bytes.get(usize::from(byte)).copied().flatten().or(self.unknown);
                output.push(token.ok_or(TokenizerError::Byte { byte })?);
            }
        }
        Ok(())
    }
}

/// Where the first space is that follows something else.
fn next_word(text: &str) -> Option<usize> {
    let rest = text.trim_start_matches(SPACE);
    rest.find(SPACE).map(|at| text.len() - rest.len() + at)
}

/// The position of each score among the different scores, the highest first.
fn ranks(scores: &[f32]) -> Vec<u32> {
    // -0 and 0 are one score.
    let score = |index: usize| scores.get(index).map_or(0.0, |score| score + 0.0);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let mut ranks = vec![0; scores.len()];
    let (mut rank, mut previous) = (0, None);
    for index in order {
        if previous.is_some_and(|previous: f32| previous.total_cmp(&score(index)).is_ne()) {
            rank += 1;
        }
        previous = Some(score(index));
        if let Some(slot) = ranks.get_mut(index) {
            *slot = rank;
        }
    }
    ranks
}
