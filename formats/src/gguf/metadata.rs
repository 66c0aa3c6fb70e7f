//! The key-values of a model, in file order.

use std::collections::HashMap;
use std::sync::Arc;

use super::value::{Array, Value};

/// Key-values in file order, with an index by key.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
    bytes: Arc<Vec<u8>>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(*self.index.get(key)?).map(|(_, value)| value)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key-value section of the file, verbatim.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Position of a key in file order.
    pub(super) fn index_of(&self, key: &str) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// Adds a key that is not there yet.
    pub(super) fn push(&mut self, key: String, value: Value) {
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
    }

    /// Gives the section to the arrays of strings that were read from it.
    pub(super) fn set_bytes(&mut self, bytes: Arc<Vec<u8>>) {
        for (_, value) in &mut self.entries {
            if let Value::Array(Array::Strings(strings)) = value {
                strings.set_bytes(&bytes);
            }
        }
        self.bytes = bytes;
    }
}
