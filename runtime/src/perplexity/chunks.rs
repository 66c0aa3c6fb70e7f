//! A text's tokens, cut into the chunks that are scored.

use std::ops::Range;

use thiserror::Error;

/// Why tokens cannot be cut into chunks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChunksError {
    /// A context that leaves no token to score.
    #[error("a context of {context} tokens leaves none to score: at least {least} are needed")]
    Context {
        /// Tokens of a chunk.
        context: usize,
        /// The fewest there can be.
        least: usize,
    },
    /// Fewer tokens than two chunks.
    #[error(
        "a context of {context} needs a text of at least {needed} tokens, and this one has {found}"
    )]
    TooShort {
        /// Tokens of a chunk.
        context: usize,
        /// Tokens needed: two chunks.
        needed: usize,
        /// Tokens there are.
        found: usize,
    },
    /// No chunk was asked for.
    #[error("0 chunks leave nothing to score")]
    NoChunks,
    /// Tokens that are not a whole number of chunks, where they must be.
    #[error("{found} tokens are no whole number of chunks of {context}")]
    NotWhole {
        /// Tokens of a chunk.
        context: usize,
        /// Tokens there are.
        found: usize,
    },
}

/// Tokens in chunks of `context`, of which the second half is scored.
///
/// In a chunk, the logits at the positions `context / 2 .. context - 1` are scored, each against the
/// token that follows. The first token is replaced by the beginning-of-sequence token where the
/// tokenizer adds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<u32>,
    context: usize,
    bos: Option<u32>,
}

impl Chunks {
    /// The shortest context of which a token is scored.
    pub const SHORTEST_CONTEXT: usize = 3;

    /// Cuts the tokens of a text, with those that the tokenizer adds to a text, into chunks of
    /// `context`; at most `limit` of them, what is over is dropped. `bos` is the token that replaces
    /// the first of every chunk, for tokenizers that add one.
    ///
    /// # Errors
    ///
    /// If the text is shorter than two chunks, whatever the limit, the context shorter than
    /// [`Self::SHORTEST_CONTEXT`], or the limit 0.
    pub fn new(
        tokens: &[u32],
        context: usize,
        limit: Option<usize>,
        bos: Option<u32>,
    ) -> Result<Self, ChunksError> {
        check_context(context)?;
        let needed = context.saturating_mul(2);
        if tokens.len() < needed {
            return Err(ChunksError::TooShort { context, needed, found: tokens.len() });
        }
        let count = (tokens.len() / context).min(limit.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(ChunksError::NoChunks);
        }
        Ok(Chunks { tokens: tokens[..count * context].to_vec(), context, bos })
    }

    /// Tokens that are cut already, such as those of a logits file: any whole number of chunks.
    ///
    /// # Errors
    ///
    /// If they are no whole number of chunks, or none, or the context is shorter than
    /// [`Self::SHORTEST_CONTEXT`].
    pub fn of_whole(
        tokens: Vec<u32>,
        context: usize,
        bos: Option<u32>,
    ) -> Result<Self, ChunksError> {
        check_context(context)?;
        if tokens.is_empty() {
            return Err(ChunksError::NoChunks);
        }
        if !tokens.len().is_multiple_of(context) {
            return Err(ChunksError::NotWhole { context, found: tokens.len() });
        }
        Ok(Chunks { tokens, context, bos })
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Number of chunks, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens of all chunks as the text has them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What a model reads for chunk `index`: its tokens, the first replaced.
    ///
    /// # Panics
    ///
    /// If there is no such chunk.
    pub fn input(&self, index: usize) -> Vec<u32> {
        let mut input = self.chunk(index).to_vec();
        if let (Some(first), Some(bos)) = (input.first_mut(), self.bos) {
            *first = bos;
        }
        input
    }

    /// Positions in a chunk of the logits that are scored.
    pub fn scored(&self) -> Range<usize> {
        self.context / 2..self.context - 1
    }

    /// For each scored position of chunk `index`, the token that follows.
    ///
    /// # Panics
    ///
    /// If there is no such chunk.
    pub fn labels(&self, index: usize) -> &[u32] {
        &self.chunk(index)[self.context / 2 + 1..]
    }

    /// The largest token that a model reads or is scored on.
    pub fn largest_token(&self) -> u32 {
        self.tokens.iter().copied().chain(self.bos).max().unwrap_or(0)
    }

    fn chunk(&self, index: usize) -> &[u32] {
        &self.tokens[index * self.context..(index + 1) * self.context]
    }
}

fn check_context(context: usize) -> Result<(), ChunksError> {
    let least = Chunks::SHORTEST_CONTEXT;
    if context < least { Err(ChunksError::Context { context, least }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_as_llama_perplexity_cuts_them() {
        let tokens: Vec<u32> = (100..123).collect();
        let chunks = Chunks::new(&tokens, 6, None, Some(1)).unwrap();
        // 23 tokens are 3 chunks of 6; the logits at 3 and 4 predict the tokens at 4 and 5.
        assert_eq!((chunks.len(), chunks.scored()), (3, 3..5));
        assert_eq!(chunks.tokens(), &tokens[..18]);
        assert_eq!(chunks.input(1), [1, 107, 108, 109, 110, 111]);
        assert_eq!(chunks.labels(1), [110, 111]);
        assert_eq!(chunks.largest_token(), 117);

        let odd = Chunks::new(&tokens, 7, Some(2), None).unwrap();
        assert_eq!((odd.len(), odd.scored()), (2, 3..6));
        assert_eq!(odd.input(1), [107, 108, 109, 110, 111, 112, 113]);
        assert_eq!(odd.labels(1), [111, 112, 113]);
        assert_eq!(Chunks::of_whole(odd.tokens().to_vec(), 7, None), Ok(odd));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let tokens = [5; 20];
        let new = |context, limit| Chunks::new(&tokens, context, limit, None).map(|_| ());
        assert_eq!(new(10, None), Ok(()));
        assert_eq!(
            new(11, Some(1)),
            Err(ChunksError::TooShort { context: 11, needed: 22, found: 20 })
        );
        assert_eq!(
            new(usize::MAX, None),
            Err(ChunksError::TooShort { context: usize::MAX, needed: usize::MAX, found: 20 })
        );
        assert_eq!(new(2, None), Err(ChunksError::Context { context: 2, least: 3 }));
        assert_eq!(new(3, Some(0)), Err(ChunksError::NoChunks));
        let whole = |tokens| Chunks::of_whole(tokens, 6, None).map(|_| ());
        assert_eq!(whole(vec![0; 20]), Err(ChunksError::NotWhole { context: 6, found: 20 }));
        assert_eq!(whole(vec![]), Err(ChunksError::NoChunks));
        assert_eq!(whole(vec![0; 6]), Ok(()));
    }
}
