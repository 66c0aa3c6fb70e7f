//! What can be wrong with a tokenizer, or with a text for it.

use tessera_formats::escape::Escaped;
use thiserror::Error;

use super::pretokenizer;
use super::vocabulary::LONGEST_TOKEN;

/// Why a model's tokenizer cannot be used, or a text cannot be encoded.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key that the tokenizer needs is absent.
    #[error("the model has no key `{key}`: convert it again, with its tokenizer")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key has a type or a value that it cannot have.
    #[error("`{key}` is {found}, and must be {expected}")]
    Key {
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A kind of tokenizer that is not implemented.
    #[error(
        "the tokenizer `{}` (`tokenizer.ggml.model`) is not known: tessera has `llama` \
         (SentencePiece) and `gpt2` (byte-level BPE)",
        Escaped(name)
    )]
    Model {
        /// `tokenizer.ggml.model`.
        name: String,
    },
    /// A BPE tokenizer that does not say how text is cut before merging.
    #[error(
        "the model has no key `tokenizer.ggml.pre`, which says how its tokenizer cuts text into \
         words: convert the model again with a current converter, or set the key to one of {}",
        pretokenizer::known_names()
    )]
    MissingPretokenizer,
    /// A rule for cutting text that is not known.
    #[error(
        "`tokenizer.ggml.pre` is `{}`, a way to cut text into words that is not known: tessera \
         has {}",
        Escaped(name),
        pretokenizer::known_names()
    )]
    Pretokenizer {
        /// `tokenizer.ggml.pre`.
        name: String,
    },
    /// The pattern of a rule for cutting text could not be compiled.
    #[error("the pattern for `tokenizer.ggml.pre` does not compile: {reason}")]
    Pattern {
        /// What the regex engine says.
        reason: String,
    },
    /// Two arrays that must have one element for each token differ in length.
    #[error(
        "`{key}` has {found} elements for {tokens} tokens: convert the model again, its \
         tokenizer is damaged"
    )]
    Length {
        /// The key.
        key: &'static str,
        /// Its elements.
        found: usize,
        /// Elements of `tokenizer.ggml.tokens`.
        tokens: usize,
    },
    /// A token of a type that does not exist.
    #[error("token {token} has type {found} in `tokenizer.ggml.token_type`: types are 0 to 6")]
    Type {
        /// The token.
        token: u32,
        /// Its type.
        found: i64,
    },
    /// A token whose score is not a number.
    #[error("the score of token {token} in `tokenizer.ggml.scores` is not a number")]
    Score {
        /// The token.
        token: u32,
    },
    /// A token whose text is too long.
    #[error("token {token} has {bytes} bytes, and at most {LONGEST_TOKEN} are allowed")]
    LongToken {
        /// The token.
        token: u32,
        /// Bytes of its text.
        bytes: usize,
    },
    /// A text that stands for two tokens.
    #[error(
        "tokens {first} and {second} of `tokenizer.ggml.tokens` are both `{}`: which one a text \
         means is not defined",
        Escaped(text)
    )]
    DuplicateToken {
        /// Their text.
        text: String,
        /// The first of them.
        first: u32,
        /// The second.
        second: u32,
    },
    /// A token of byte type whose text is not `<0xHH>`.
    #[error("token {token} is `{}`, and must be `<0xHH>` as it stands for a byte", Escaped(text))]
    ByteToken {
        /// The token.
        token: u32,
        /// Its text.
        text: String,
    },
    /// A merge that is not two texts with a space between.
    #[error(
        "merge {index} of `tokenizer.ggml.merges` is `{}`, and must be two texts with a space \
         between them",
        Escaped(merge)
    )]
    MergeForm {
        /// Position in the list.
        index: usize,
        /// The merge.
        merge: String,
    },
    /// A merge of, or to, a text that no token has.
    #[error(
        "merge {index} of `tokenizer.ggml.merges` is `{}`, but `{}` is not a token: the \
         vocabulary and the merges are not of the same tokenizer",
        Escaped(merge),
        Escaped(text)
    )]
    MergeToken {
        /// Position in the list.
        index: usize,
        /// The merge.
        merge: String,
        /// The text that is not a token.
        text: String,
    },
    /// A special token that the vocabulary does not have.
    #[error(
        "`{key}` is {id}, and the vocabulary has {tokens} tokens: convert the model again, or \
         set the key to the right token"
    )]
    TokenId {
        /// The key.
        key: &'static str,
        /// Its value.
        id: u64,
        /// Tokens there are.
        tokens: usize,
    },
    /// A token is to be added to every text, but the model does not say which.
    #[error(
        "texts are to be given a token that the model does not name: set `{key}`, or \
         `{switch}` to false"
    )]
    NoToken {
        /// The key that would name it.
        key: &'static str,
        /// The key that asks for it.
        switch: &'static str,
    },
    /// A byte of the text that no token stands for.
    #[error("the vocabulary has no token for the byte 0x{byte:02X}: take it out of the text")]
    Byte {
        /// The byte.
        byte: u8,
    },
    /// A text of 1 GiB or more.
    #[error("a text of {bytes} bytes is too long to encode at once: cut it below 1 GiB")]
    LongText {
        /// Its bytes.
        bytes: usize,
    },
}
