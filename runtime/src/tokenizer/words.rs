//! The words of one text, each of them encoded once.

use std::collections::HashMap;
use std::ops::Range;

use super::TokenizerError;
use super::merge::Merger;

/// Tokens so far, and where in them each word was encoded first.
#[derive(Debug)]
pub(super) struct Words<'t> {
    places: HashMap<&'t str, Range<usize>>,
    merger: Merger,
    output: Result<Vec<u32>, TokenizerError>,
}

impl<'t> Words<'t> {
    /// Begins with the tokens of `output`.
    pub(super) fn new(output: Vec<u32>) -> Self {
        Self { places: HashMap::new(), merger: Merger::default(), output: Ok(output) }
    }

    /// Appends a token.
    pub(super) fn token(&mut self, token: u32) {
        if let Ok(output) = &mut self.output {
            output.push(token);
        }
    }

    /// Appends the tokens of a word, which `encode` appends if they are not known yet. After an
    /// error nothing is done.
    pub(super) fn word(
        &mut self,
        word: &'t str,
        encode: impl FnOnce(&str, &mut Merger, &mut Vec<u32>) -> Result<(), TokenizerError>,
    ) {
        let Ok(output) = &mut self.output else { return };
        if let Some(range) = self.places.get(word) {
            output.extend_from_within(range.clone());
            return;
        }
        let start = output.len();
        let result = encode(word, &mut self.merger, output);
        self.places.insert(word, start..output.len());
        if let Err(error) = result {
            self.output = Err(error);
        }
    }

    /// All tokens, or the first error.
    pub(super) fn finish(self) -> Result<Vec<u32>, TokenizerError> {
        self.output
    }
}
