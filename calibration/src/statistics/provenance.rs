//! Where statistics come from.

use serde::{Deserialize, Serialize};

use super::StatisticsError;

/// A file of the model that was observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// File name without its folders.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
}

/// A text that the model ran over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// File name without its folders, or what the text is called.
    pub name: String,
    /// Length in bytes; 0 where it is not known.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hexadecimal; empty where it is not known.
    pub sha256: String,
}

/// What was collected, where it was left to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionOptions {
    /// Whether Hessians were collected.
    pub hessians: bool,
    /// Most channels of an input with a Hessian.
    pub hessian_limit: u64,
    /// Most bytes of the experts' Hessians of one input.
    pub expert_hessian_bytes: u64,
    /// Sampled rows of an input.
    pub rows: u64,
    /// Sampled rows of an input that has too many channels for a Hessian.
    pub rows_large: u64,
    /// What the states passed through before the input that was observed: `float`, or the name of a
    /// recipe.
    pub prefix: String,
}

/// Where statistics come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Files of the model; empty where they are not known.
    pub model: Vec<FileDigest>,
    /// The model's architecture, as its `general.architecture` says.
    pub architecture: String,
    /// Texts, in the order they were given.
    pub data: Vec<DataSource>,
    /// Tokens that the model ran over.
    pub tokens: u64,
    /// Tokens of a window.
    pub context: u64,
    /// Seed of the choice of windows and of sampled rows.
    pub seed: u64,
    /// Version of tessera.
    pub tool: String,
    /// What was collected.
    pub options: CollectionOptions,
}

impl Provenance {
    /// Refuses statistics of another model: files must have the same content, whatever they are
    /// called. Statistics that do not know their model, as importance matrices do not, pass.
    ///
    /// # Errors
    ///
    /// If the model is another one.
    pub fn check_model(&self, model: &[FileDigest]) -> Result<(), StatisticsError> {
        if self.model.is_empty() || self.same_model(model) {
            return Ok(());
        }
        Err(StatisticsError::OtherModel { expected: files(&self.model), found: files(model) })
    }

    /// Whether the model's files have the content of these.
    pub(super) fn same_model(&self, model: &[FileDigest]) -> bool {
        let same = |a: &FileDigest, b: &FileDigest| (a.bytes, &a.sha256) == (b.bytes, &b.sha256);
        self.model.len() == model.len() && self.model.iter().zip(model).all(|(a, b)| same(a, b))
    }
}

/// Files, for errors: the first of them, and how many there are.
pub(super) fn files(model: &[FileDigest]) -> String {
    let Some(first) = model.first() else { return "an unknown model".to_owned() };
    let hash: String = first.sha256.chars().take(12).collect();
    let more = match model.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("`{}` ({} bytes, SHA-256 {hash}…){more}", first.name, first.bytes)
}
