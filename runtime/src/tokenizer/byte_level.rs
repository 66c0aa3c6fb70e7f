//! Byte-level BPE, from merges: what `tokenizer.ggml.model` calls `gpt2`.

use std::collections::HashMap;

use super::TokenizerError;
use super::keys::{Keys, MERGES};
use super::merge::Merger;
use super::pretokenizer::Pretokenizer;
use super::vocabulary::Vocabulary;

/// Merges, bytes and the rule for words.
#[derive(Debug)]
pub(super) struct ByteLevel {
    pretokenizer: Pretokenizer,
    /// Rank and resulting token of two tokens.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Token of each byte.
    bytes: Vec<Option<u32>>,
    /// Tokens by their bytes, where words that are tokens are not merged.
    words: HashMap<Box<[u8]>, u32>,
}

impl ByteLevel {
    pub(super) fn new(
        keys: Keys<'_>,
        vocabulary: &Vocabulary<'_>,
        pretokenizer: Pretokenizer,
    ) -> Result<Self, TokenizerError> {
        let list = keys.texts(MERGES)?;
        let mut merges = HashMap::with_capacity(list.len());
        for (index, merge) in list.iter().enumerate() {
            let form = || TokenizerError::MergeForm { index, merge: merge.to_owned() };
            // The first text may begin with a space, but is not empty.
            let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let (first, second) =
                space.and_then(|at| merge.split_at_checked(at)).ok_or_else(form)?;
            let second = second.strip_prefix(' ').filter(|text| !text.is_empty());
            let second = second.ok_or_else(form)?;
            let token = |text: &str| {
                vocabulary.token(text).ok_or_else(|| TokenizerError::MergeToken {
                    index,
                    merge: merge.to_owned(),
                    text: text.to_owned(),
                })
            };
            let pair = (token(first)?, token(second)?);
            let joined = token(&format!("{first}{second}"))?;
            let rank = u32::try_from(index).unwrap_or(u32::MAX);
            merges.entry(pair).or_insert((rank, joined));
        }
        let bytes = (0..=u8::MAX)
            .map(|byte| vocabulary.token(char_of(byte).encode_utf8(&mut [0; 4])))
            .collect();
        let mut words = HashMap::new();
        if pretokenizer.ignore_merges {
            words = vocabulary
                .iter()
                .filter(|(_, text, _)| !text.is_empty())
                .filter_map(|(token, text, _)| Some((bytes_of(text)?.into(), token)))
                .collect();
        }
        Ok(Self { pretokenizer, merges, bytes, words })
    }

    /// Calls `word` with every word of a text without special tokens.
    pub(super) fn cut<'t>(&self, text: &'t str, word: impl FnMut(&'t str)) {
        self.pretokenizer.cut(text, word);
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(
        &self,
        word: &str,
        merger: &mut Merger,
        output: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        if let Some(&token) = self.words.get(word.as_bytes()) {
            output.push(token);
            return Ok(());
        }
        merger.clear();
        for &byte in word.as_bytes() {
            merger.push(1, self.bytes.get(usize::from(byte)).copied().flatten());
        }
        merger.merge(|left, right| self.merges.get(&(left.token?, right.token?)).copied());
        for symbol in merger.symbols() {
            // Only single bytes have no token.
            let byte = || usize::try_from(symbol.start).ok().and_then(|at| word.as_bytes().get(at));
            let missing = || TokenizerError::Byte { byte: byte().copied().unwrap_or_default() };
            output.push(symbol.token.ok_or_else(missing)?);
        }
        Ok(())
    }
}

/// The character that stands for a byte in the texts of tokens: printable Latin-1 bytes stand for
/// themselves, the others for U+0100 and on (GPT-2's `bytes_to_unicode`).
fn char_of(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0..=b' ' => shifted(u32::from(byte)),
        0x7F..=0xA0 => shifted(u32::from(byte) - 0x7F + 33),
        0xAD => shifted(67),
    }
}

fn shifted(position: u32) -> char {
    char::from_u32(0x100 + position).unwrap_or_default()
}

/// The byte that a character stands for.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes of a token's text, if all its characters stand for bytes.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

/// The bytes of a token's text; characters that stand for no byte are kept as they are.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stand_for_bytes_one_to_one() {
        let mut characters: Vec<char> = (0..=u8::MAX).map(char_of).collect();
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        // Values of GPT-2's encoder.json: space, line feed, DEL, no-break space, soft hyphen.
        let shown = [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0x7F, 'ġ'), (0xA0, 'ł'), (0xAD, 'Ń'), (0, 'Ā')];
        for (byte, character) in shown {
            assert_eq!(char_of(byte), character);
        }
        characters.sort_unstable();
        characters.dedup();
        assert_eq!(characters.len(), 256);
        assert_eq!(byte_of('Ń'), Some(0xAD));
        assert_eq!(byte_of('ń'), None);
    }
}
