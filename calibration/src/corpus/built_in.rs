//! The corpus that ships with the crate, for those who have no text of their own at hand.

use super::{Corpus, source};

/// The files of `corpus/`, whose `SOURCES.md` says where they come from.
const FILES: [&str; 24] = [
    include_str!("../../corpus/two-cities-1.txt"),
    include_str!("../../corpus/chat.txt"),
    include_str!("../../corpus/karenina-1.txt"),
    include_str!("../../corpus/code-mixed.txt"),
    include_str!("../../corpus/facts.txt"),
    include_str!("../../corpus/two-cities-2.txt"),
    include_str!("../../corpus/german.txt"),
    include_str!("../../corpus/french.txt"),
    include_str!("../../corpus/code-python.txt"),
    include_str!("../../corpus/maths.txt"),
    include_str!("../../corpus/two-cities-3.txt"),
    include_str!("../../corpus/numerics.txt"),
    include_str!("../../corpus/instructions.txt"),
    include_str!("../../corpus/karenina-2.txt"),
    include_str!("../../corpus/languages.txt"),
    include_str!("../../corpus/spanish.txt"),
    include_str!("../../corpus/code-rust.txt"),
    include_str!("../../corpus/two-cities-4.txt"),
    include_str!("../../corpus/tables.txt"),
    include_str!("../../corpus/letters.txt"),
    include_str!("../../corpus/karenina-3.txt"),
    include_str!("../../corpus/chinese.txt"),
    include_str!("../../corpus/rotation.txt"),
    include_str!("../../corpus/two-cities-5.txt"),
];

impl Corpus {
    /// A quarter of a megabyte of varied text that anyone may use and pass on: novels, dialogues,
    /// instructions, letters, code in a dozen languages, tables, mathematics, and text in two dozen
    /// natural languages.
    pub fn built_in() -> Self {
        let parts: Vec<&[u8]> = FILES.iter().map(|text| text.as_bytes()).collect();
        Corpus {
            documents: FILES.iter().map(|&text| text.to_owned()).collect(),
            sources: vec![source("tessera built-in corpus".to_owned(), &parts)],
        }
    }
}
