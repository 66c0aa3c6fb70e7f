//! Text to tokens and back, with the tokenizer that a GGUF file carries in its keys.
//!
//! Two kinds of tokenizer are known by `tokenizer.ggml.model`: `llama`, which is SentencePiece's
//! BPE, and `gpt2`, which is byte-level BPE with one of the rules for words that
//! `tokenizer.ggml.pre` names. Tokens are those of llama.cpp, whose source is the definition of
//! these keys. Where it guesses, this refuses: an absent or unknown `tokenizer.ggml.pre`, scores
//! or types that are not one for each token, two tokens of one text, merges of texts that are not
//! tokens, ids that the vocabulary does not have.
//!
//! [`Tokenizer::decode`] gives back what was encoded. Unlike llama.cpp's detokenizer it does not
//! take away spaces before punctuation, and after BOS takes away the space that encoding added.

mod byte_level;
mod error;
mod keys;
mod merge;
mod partition;
mod pretokenizer;
mod sentencepiece;
mod special;
#[cfg(test)]
mod tests;
mod vocabulary;
mod words;

use std::borrow::Cow;

use tessera_formats::gguf::Metadata;

pub use self::error::TokenizerError;
pub use self::vocabulary::LONGEST_TOKEN;

use self::byte_level::ByteLevel;
use self::keys::{ADD_SPACE_PREFIX, Keys, MODEL, PRE};
use self::partition::{Part, Partition};
use self::pretokenizer::Pretokenizer;
use self::sentencepiece::SentencePiece;
use self::special::{Defaults, SpecialTokens};
use self::vocabulary::{Attributes, Vocabulary};
use self::words::Words;

/// Bytes of a text that are too many: SentencePiece makes three of a space.
const LONGEST_TEXT: usize = 1 << 30;

/// What to do with special tokens when a text is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Add the tokens that begin and end a text, as the model asks for.
    pub add: bool,
    /// Take texts like `<|im_end|>` for the special tokens that they name. Without it they are
    /// text like any other, save for user-defined tokens.
    pub parse: bool,
}

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
    /// Bytes of each token.
    pieces: Vec<Box<[u8]>>,
    attributes: Vec<Attributes>,
    special: SpecialTokens,
    /// Special tokens to find when they are parsed, and when not.
    all: Partition,
    always: Partition,
}

#[derive(Debug)]
enum Kind {
    SentencePiece(SentencePiece),
    ByteLevel(ByteLevel),
}

impl Tokenizer {
    /// Reads the tokenizer from a model's keys.
    pub fn new(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let keys = Keys(metadata);
        let model = keys.text(MODEL)?.ok_or(TokenizerError::MissingKey { key: MODEL })?;
        match model {
            "llama" => Self::sentencepiece(keys),
            "gpt2" => Self::byte_level(keys),
            _ => Err(TokenizerError::Model { name: model.to_owned() }),
        }
    }

    fn sentencepiece(keys: Keys<'_>) -> Result<Self, TokenizerError> {
        let mut vocabulary = Vocabulary::read(keys)?;
        let add_space_prefix = keys.switch(ADD_SPACE_PREFIX)?.unwrap_or(true);
        let defaults = Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), add_bos: true };
        let special = SpecialTokens::find(keys, &mut vocabulary, defaults)?;
        let kind = SentencePiece::new(keys, &vocabulary, add_space_prefix, special.unknown)?;
        let decode = |text: &str| text.replace(sentencepiece::SPACE, " ").into_bytes();
        Self::assemble(&vocabulary, special, Kind::SentencePiece(kind), decode)
    }

    fn byte_level(keys: Keys<'_>) -> Result<Self, TokenizerError> {
        let name = keys.text(PRE)?.ok_or(TokenizerError::MissingPretokenizer)?;
        let pretokenizer = Pretokenizer::new(name)?;
        let mut vocabulary = Vocabulary::read(keys)?;
        // Falcon's files name no tokens: the default is its `<|endoftext|>`, and nothing in
        // models that have a word there.
        let default = Some(11)
            .filter(|&token| vocabulary.attributes(token).is_some_and(|token| token.control));
        let defaults = Defaults {
            bos: default.filter(|_| pretokenizer.default_bos),
            eos: default,
            unknown: None,
            add_bos: pretokenizer.add_bos,
        };
        let special = SpecialTokens::find(keys, &mut vocabulary, defaults)?;
        let kind = ByteLevel::new(keys, &vocabulary, pretokenizer)?;
        Self::assemble(&vocabulary, special, Kind::ByteLevel(kind), byte_level::decode)
    }

    fn assemble(
        vocabulary: &Vocabulary<'_>,
        special: SpecialTokens,
        kind: Kind,
        decode: impl Fn(&str) -> Vec<u8>,
    ) -> Result<Self, TokenizerError> {
        let pieces = vocabulary.iter().map(|(token, text, attributes)| {
            if attributes.is_special() {
                Ok(text.as_bytes().into())
            } else if attributes.normal {
                Ok(decode(text).into())
            } else if attributes.byte {
                let byte = vocabulary::byte_of(text);
                let error = || TokenizerError::ByteToken { token, text: text.to_owned() };
                Ok(vec![byte.ok_or_else(error)?].into())
            } else {
                // Unused and undefined tokens stand for nothing.
                Ok(Box::default())
            }
        });
        Ok(Self {
            pieces: pieces.collect::<Result<_, _>>()?,
            attributes: vocabulary.attributes.clone(),
            all: Partition::new(vocabulary, Attributes::is_special),
            always: Partition::new(vocabulary, Attributes::is_always_parsed),
            kind,
            special,
        })
    }

    /// The tokens of a text.
    ///
    /// Fails for a byte that no token stands for (SentencePiece has an unknown token for these),
    /// and for texts of 1 GiB. Takes n log n time in the text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        if text.len() >= LONGEST_TEXT {
            return Err(TokenizerError::LongText { bytes: text.len() });
        }
        let partition = if special.parse { &self.all } else { &self.always };
        let parts = partition.cut(text);
        let texts = self.texts(text, &parts);
        let bos = self.bos().filter(|_| special.add && self.add_bos());
        let mut words = Words::new(bos.into_iter().collect());
        for (part, text) in parts.iter().zip(&texts) {
            match (part, &self.kind) {
                (Part::Token(token), _) => words.token(*token),
                (Part::Text(_), Kind::SentencePiece(kind)) => kind.cut(text, |word| {
                    words.word(word, |word, merger, output| kind.encode(word, merger, output));
                }),
                (Part::Text(_), Kind::ByteLevel(kind)) => kind.cut(text, |word| {
                    words.word(word, |word, merger, output| kind.encode(word, merger, output));
                }),
            }
        }
        let mut output = words.finish()?;
        output.extend(self.eos().filter(|_| special.add && self.add_eos()));
        Ok(output)
    }

    /// The text of each part as it is to be cut into words, nothing for a token.
    fn texts<'t>(&self, text: &'t str, parts: &[Part]) -> Vec<Cow<'t, str>> {
        let mut first = true;
        let texts = parts.iter().map(|part| {
            // Special tokens are valid UTF-8: cuts beside them are between characters.
            let (range, begins) = match part {
                Part::Token(_) => {
                    first = true;
                    return Cow::Borrowed("");
                }
                Part::Text(range) => (range.clone(), std::mem::take(&mut first)),
            };
            let text = text.get(range).unwrap_or_default();
            match &self.kind {
                Kind::SentencePiece(kind) => Cow::Owned(kind.escape(text, begins)),
                Kind::ByteLevel(_) => Cow::Borrowed(text),
            }
        });
        texts.collect()
    }

    /// The text of tokens, without the BOS and EOS that encoding adds, nor the space that it adds
    /// at the beginning. Bytes that are not UTF-8 become U+FFFD; tokens that the vocabulary does
    /// not have are left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut tokens = tokens;
        if let (true, Some(bos), [first, rest @ ..]) = (self.add_bos(), self.bos(), tokens)
            && *first == bos
        {
            tokens = rest;
        }
        if let (true, Some(eos), [rest @ .., last]) = (self.add_eos(), self.eos(), tokens)
            && *last == eos
        {
            tokens = rest;
        }
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend_from_slice(&self.piece(token));
        }
        let prefixed = matches!(&self.kind, Kind::SentencePiece(kind) if kind.add_space_prefix);
        let text = match bytes.split_first() {
            Some((b' ', rest)) if prefixed && !self.begins_special(tokens) => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(text).into_owned()
    }

    /// Whether tokens begin with a special one, which gets no space before it.
    fn begins_special(&self, tokens: &[u32]) -> bool {
        let first = tokens.first().and_then(|&token| usize::try_from(token).ok());
        let attributes = first.and_then(|first| self.attributes.get(first));
        attributes.is_some_and(|attributes| attributes.is_special())
    }

    /// The bytes of one token; they need not be UTF-8 by themselves. A control token gives its
    /// name. Nothing for an unused token and for one that the vocabulary does not have.
    pub fn piece(&self, token: u32) -> Cow<'_, [u8]> {
        let piece = usize::try_from(token).ok().and_then(|token| self.pieces.get(token));
        Cow::Borrowed(piece.map_or(&[], |piece| piece))
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token for what no other token stands for.
    pub fn unknown(&self) -> Option<u32> {
        self.special.unknown
    }

    /// Whether texts begin with BOS.
    pub fn add_bos(&self) -> bool {
        self.special.add_bos
    }

    /// Whether texts end with EOS.
    pub fn add_eos(&self) -> bool {
        self.special.add_eos
    }

    /// Whether a token ends generation: EOS, end of turn, end of message and the like.
    pub fn is_end(&self, token: u32) -> bool {
        self.special.ends.contains(&token)
    }

    /// Whether a token controls the model and is not part of a text for people.
    pub fn is_control(&self, token: u32) -> bool {
        let token = usize::try_from(token).ok().and_then(|token| self.attributes.get(token));
        token.is_some_and(|token| token.control || token.unknown)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are no tokens, which [`Tokenizer::new`] refuses.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}
