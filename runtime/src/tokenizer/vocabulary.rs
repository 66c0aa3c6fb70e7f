//! The tokens of a model: text, kind, the special ones among them.

use std::collections::HashMap;

use super::TokenizerError;
use super::keys::{Keys, TOKENS};

/// Longest text of a token, in bytes. The longest in published vocabularies, rows of dashes and
/// spaces, have some hundred.
pub const LONGEST_TOKEN: usize = 16_384;

/// What a token is: a set, because llama.cpp adds to the type that the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub normal: bool,
    pub unknown: bool,
    pub control: bool,
    pub user_defined: bool,
    pub byte: bool,
    /// White space before the token belongs to it.
    pub strips_left: bool,
    /// White space after the token belongs to it.
    pub strips_right: bool,
}

impl Attributes {
    /// Numbers of `tokenizer.ggml.token_type`: 0 undefined, 1 normal, 2 unknown, 3 control, 4
    /// user-defined, 5 unused, 6 byte.
    fn of_type(number: i64) -> Option<Self> {
        let none = Self::default();
        match number {
            0 | 5 => Some(none),
            1 => Some(Self { normal: true, ..none }),
            2 => Some(Self { unknown: true, ..none }),
            3 => Some(Self { control: true, ..none }),
            4 => Some(Self { user_defined: true, ..none }),
            6 => Some(Self { byte: true, ..none }),
            _ => None,
        }
    }

    /// Found in a text before anything else is done with it.
    pub(super) fn is_special(self) -> bool {
        self.control || self.user_defined || self.unknown
    }

    /// Found in a text even when special tokens are not to be parsed.
    pub(super) fn is_always_parsed(self) -> bool {
        self.user_defined && !self.control && !self.unknown
    }
}

/// Texts and attributes of all tokens, `len` of each.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    pub texts: Vec<&'a str>,
    pub attributes: Vec<Attributes>,
    /// Token of a text. Tokens without text, which some files have, are not in it.
    pub tokens: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(keys: Keys<'a>) -> Result<Self, TokenizerError> {
        let strings = keys.texts(TOKENS)?;
        let wrong = |expected: &str, found: String| TokenizerError::Key {
            key: TOKENS,
            expected: expected.to_owned(),
            found,
        };
        if strings.is_empty() {
            return Err(wrong("an array of at least one token", "empty".to_owned()));
        }
        if u32::try_from(strings.len()).is_err() {
            return Err(wrong("an array of less than 2^32 tokens", strings.len().to_string()));
        }
        let mut tokens = HashMap::with_capacity(strings.len());
        for (token, text) in (0..).zip(strings.iter()) {
            if text.len() > LONGEST_TOKEN {
                return Err(TokenizerError::LongToken { token, bytes: text.len() });
            }
            if text.is_empty() {
                continue;
            }
            if let Some(first) = tokens.insert(text, token) {
                let text = text.to_owned();
                return Err(TokenizerError::DuplicateToken { text, first, second: token });
            }
        }
        let attributes = match keys.types(strings.len())? {
            None => vec![Attributes { normal: true, ..Attributes::default() }; strings.len()],
            Some(types) => {
                let attributes = (0..).zip(types).map(|(token, found)| {
                    Attributes::of_type(found).ok_or(TokenizerError::Type { token, found })
                });
                attributes.collect::<Result<_, _>>()?
            }
        };
        Ok(Self { texts: strings.iter().collect(), attributes, tokens })
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Numbers, texts and attributes in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str, Attributes)> + '_ {
        let tokens = (0..).zip(self.texts.iter().zip(&self.attributes));
        tokens.map(|(token, (text, attributes))| (token, *text, *attributes))
    }

    /// The token of a text.
    pub(super) fn token(&self, text: &str) -> Option<u32> {
        self.tokens.get(text).copied()
    }

    /// The attributes of a token.
    pub(super) fn attributes(&self, token: u32) -> Option<&Attributes> {
        self.attributes.get(usize::try_from(token).ok()?)
    }

    /// Changes the attributes of a token.
    pub(super) fn change(&mut self, token: u32, change: impl FnOnce(&mut Attributes)) {
        let index = usize::try_from(token).ok();
        if let Some(attributes) = index.and_then(|index| self.attributes.get_mut(index)) {
            change(attributes);
        }
    }
}

/// The byte of a text `<0xHH>`.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
