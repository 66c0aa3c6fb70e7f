//! Typed reading of an architecture's keys, which remembers what was read.

use std::cell::RefCell;
use std::collections::HashSet;

use tessera_formats::gguf::{Array, Metadata, Value};

use super::ModelError;

/// The keys `ARCHITECTURE.*` of a model.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: String,
    read: RefCell<HashSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a Metadata, architecture: &str) -> Self {
        Keys { metadata, prefix: format!("{architecture}."), read: RefCell::default() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value of a key; that it was asked for is remembered.
    fn value(&self, key: &str) -> Option<&'a Value> {
        let full = self.full(key);
        let value = self.metadata.get(&full);
        self.read.borrow_mut().insert(full);
        value
    }

    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> ModelError {
        let full = self.full(key);
        let found = self.metadata.get(&full).map_or_else(|| "absent".to_owned(), Value::to_string);
        ModelError::Key { key: full, expected: expected.into(), found }
    }

    fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingKey { key: self.full(key) }
    }

    /// A count of at most `most`.
    pub(super) fn count(&self, key: &str, most: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .filter(|&value| value <= most)
            .map(Some)
            .ok_or_else(|| self.wrong(key, format!("a whole number of at most {most}")))
    }

    /// A count from 1 to `most` that must be there.
    pub(super) fn positive(&self, key: &str, most: usize) -> Result<usize, ModelError> {
        match self.count(key, most)? {
            None => Err(self.missing(key)),
            Some(0) => Err(self.wrong(key, format!("a whole number from 1 to {most}"))),
            Some(value) => Ok(value),
        }
    }

    /// A count from 1 to `most` for each layer: one for all, or an array.
    pub(super) fn per_layer(
        &self,
        key: &str,
        layers: usize,
        most: usize,
    ) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(Value::Array(array)) = self.value(key) else {
            let value = self.value(key).map(|_| self.positive(key, most)).transpose()?;
            return Ok(value.map(|value| vec![value; layers]));
        };
        let expected = || self.wrong(key, format!("{layers} whole numbers from 1 to {most}"));
        let values =
            array.to_u64s().filter(|values| values.len() == layers).ok_or_else(expected)?;
        let values = values.into_iter().map(|value| {
            usize::try_from(value)
                .ok()
                .filter(|value| (1..=most).contains(value))
                .ok_or_else(expected)
        });
        values.collect::<Result<_, _>>().map(Some)
    }

    /// A finite number.
    #[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let float = value.as_f64().map(|value| value as f32);
        let float = float.filter(|value| value.is_finite());
        float.map(Some).ok_or_else(|| self.wrong(key, "a finite number"))
    }

    /// A finite number above zero.
    pub(super) fn positive_float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.float(key)? {
            Some(value) if value <= 0.0 => Err(self.wrong(key, "above zero")),
            other => Ok(other),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// An array of as many booleans as there are layers.
    pub(super) fn bools(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(Value::Array(array)) = self.value(key) else { return Ok(None) };
        let values = match array {
            Array::Bool(values) => Some(values.clone()),
            _ => array.to_u64s().map(|values| values.into_iter().map(|value| value != 0).collect()),
        };
        let values = values.filter(|values| values.len() == layers);
        values.map(Some).ok_or_else(|| self.wrong(key, format!("an array of {layers} booleans")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(super) fn require<T>(&self, key: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.missing(key))
    }

    /// Accepts a key that changes nothing when it has the value that `harmless` takes.
    pub(super) fn accept(
        &self,
        key: &str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<(), ModelError> {
        match self.value(key) {
            Some(value) if !harmless(value) => Err(self.unknown(&self.full(key), value)),
            _ => Ok(()),
        }
    }

    /// Refuses keys of the architecture that nothing has read.
    pub(super) fn finish(&self) -> Result<(), ModelError> {
        let read = self.read.borrow();
        let unread = self
            .metadata
            .iter()
            .find(|(key, _)| key.starts_with(&self.prefix) && !read.contains(*key));
        match unread {
            Some((key, value)) => Err(self.unknown(key, value)),
            None => Ok(()),
        }
    }

    fn unknown(&self, key: &str, value: &Value) -> ModelError {
        ModelError::UnknownKey { key: key.to_owned(), value: value.to_string() }
    }
}
