//! Files made to break a reader, and what must come of each.
//!
//! A file has the number of its class, as on the page `docs/hostile-files.md`, and a name: that of
//! llama.cpp's own list (`tests/test-gguf.cpp`) where it is there.

pub mod headers;
pub mod hyperparameters;
pub mod keys;
pub mod limits;
pub mod tensors;
pub mod tokenizers;
pub mod weights;

#[path = "../../formats/tests/gguf/mod.rs"]
pub mod gguf;

use std::path::Path;

use crate::harness::model::Model;

/// What must come of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No command reads it: the header is refused at this byte.
    Refused(u64),
    /// `inspect` shows it, and not even the plan of a conversion is made.
    NotPlanned,
    /// Its weights are refused when they are read.
    NotConverted,
    /// A pack is made that `verify` accepts. It need not be a model that runs.
    Converted,
    /// The same, and `eval` refuses it for what the case is about.
    NotRun,
    /// The same, and `eval` runs it.
    Runs,
}

impl Verdict {
    /// The verdict in words, for the page.
    pub fn words(self) -> String {
        match self {
            Verdict::Refused(byte) => format!("refused at byte {byte}"),
            Verdict::NotPlanned => "shown, not planned".to_owned(),
            Verdict::NotConverted => "planned, not converted".to_owned(),
            Verdict::Converted => "converted".to_owned(),
            Verdict::NotRun => "converted, not run".to_owned(),
            Verdict::Runs => "converted, runs".to_owned(),
        }
    }
}

/// A file.
pub struct Case {
    /// Number of the class.
    pub class: u8,
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub verdict: Verdict,
    /// What the message of the first command that refuses it must say.
    pub words: &'static [&'static str],
    /// Options of `convert`.
    pub options: &'static [&'static str],
}

/// A file whose header is refused at byte `at`.
pub fn refused(
    class: u8,
    name: &'static str,
    bytes: Vec<u8>,
    at: u64,
    words: &'static [&'static str],
) -> Case {
    Case { class, name, bytes, verdict: Verdict::Refused(at), words, options: &[] }
}

/// A file that some command refuses, or none.
pub fn case(
    class: u8,
    name: &'static str,
    bytes: Vec<u8>,
    verdict: Verdict,
    words: &'static [&'static str],
) -> Case {
    Case { class, name, bytes, verdict, words, options: &[] }
}

/// All files.
pub fn all() -> Vec<Case> {
    let groups = [
        headers::cases(),
        keys::cases(),
        tensors::cases(),
        hyperparameters::cases(),
        tokenizers::cases(),
        weights::cases(),
    ];
    groups.into_iter().flatten().collect()
}

/// The bytes of a model.
pub fn bytes_of(model: &Model) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::read(model.write(folder.path(), "model.gguf")).unwrap()
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
