//! Typed reading of the tokenizer's keys.

use tessera_formats::gguf::{Array, Metadata, Strings, Value};

use super::TokenizerError;

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// The keys of a model.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub &'a Metadata);

impl<'a> Keys<'a> {
    fn wrong(key: &'static str, expected: &str, value: &Value) -> TokenizerError {
        TokenizerError::Key { key, expected: expected.to_owned(), found: value.to_string() }
    }

    /// A text, which may be absent.
    pub(super) fn text(self, key: &'static str) -> Result<Option<&'a str>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| Self::wrong(key, "a text", value))
    }

    /// True, false or absent.
    pub(super) fn switch(self, key: &'static str) -> Result<Option<bool>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| Self::wrong(key, "true or false", value))
    }

    /// Texts, which must be there.
    pub(super) fn texts(self, key: &'static str) -> Result<&'a Strings, TokenizerError> {
        let value = self.0.get(key).ok_or(TokenizerError::MissingKey { key })?;
        value.as_strings().ok_or_else(|| Self::wrong(key, "an array of texts", value))
    }

    /// A token below `tokens`, which may be absent.
    pub(super) fn token(
        self,
        key: &'static str,
        tokens: usize,
    ) -> Result<Option<u32>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let id = value.as_u64().ok_or_else(|| Self::wrong(key, "the number of a token", value))?;
        let in_range = |&token: &u32| usize::try_from(token).is_ok_and(|token| token < tokens);
        let token = u32::try_from(id).ok().filter(in_range);
        token.map(Some).ok_or(TokenizerError::TokenId { key, id, tokens })
    }

    /// The type of each of `tokens` tokens, if the model says them.
    pub(super) fn types(self, tokens: usize) -> Result<Option<Vec<i64>>, TokenizerError> {
        let Some(value) = self.0.get(TYPES) else { return Ok(None) };
        let types = value.as_array().and_then(|array| {
            array.iter().map(|element| element.as_i64()).collect::<Option<Vec<_>>>()
        });
        let types = types.ok_or_else(|| Self::wrong(TYPES, "an array of whole numbers", value))?;
        same_length(TYPES, types.len(), tokens)?;
        Ok(Some(types))
    }

    /// The score of each of `tokens` tokens.
    #[expect(clippy::cast_precision_loss, reason = "scores that are integers are small ranks")]
    pub(super) fn scores(self, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
        let value = self.0.get(SCORES).ok_or(TokenizerError::MissingKey { key: SCORES })?;
        let scores = match value {
            Value::Array(Array::F32(scores)) => scores.clone(),
            Value::Array(Array::I32(scores)) => scores.iter().map(|&score| score as f32).collect(),
            _ => return Err(Self::wrong(SCORES, "an array of f32", value)),
        };
        same_length(SCORES, scores.len(), tokens)?;
        Ok(scores)
    }
}

fn same_length(key: &'static str, found: usize, tokens: usize) -> Result<(), TokenizerError> {
    if found == tokens { Ok(()) } else { Err(TokenizerError::Length { key, found, tokens }) }
}
