//! The text that a model is observed over, as chunks of tokens.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use rayon::prelude::*;
use tessera_calibration::corpus::{Corpus, windows};
use tessera_calibration::statistics::DataSource;
use tessera_runtime::tokenizer::{Special, Tokenizer};

/// Which text is taken.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Files and folders; the text that is carried if there are none.
    pub dataset: &'a [PathBuf],
    /// Field of the lines of `.jsonl` files.
    pub field: Option<&'a str>,
    /// Tokens that are wanted.
    pub tokens: usize,
    /// Seed of the choice of chunks. With more tokens, the same come first.
    pub seed: u64,
}

/// Chunks, and where they come from.
pub struct Text {
    /// Tokens, all chunks of one length.
    pub chunks: Vec<Vec<u32>>,
    /// Files.
    pub sources: Vec<DataSource>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Reads the data, and chooses chunks of `context` tokens.
pub fn read(
    selection: Selection<'_>,
    tokenizer: &Tokenizer,
    context: usize,
) -> anyhow::Result<Text> {
    let wanted = selection.tokens;
    ensure!(wanted > 0, "`--tokens 0` leaves nothing to observe");
    let corpus = match selection.dataset {
        [] => Corpus::built_in(),
        paths => Corpus::read(paths, selection.field)?,
    };
    let special = Special { add: false, parse: false };
    let documents: Vec<Vec<u32>> = corpus
        .documents
        .par_iter()
        .map(|document| tokenizer.encode(document, special))
        .collect::<Result<_, _>>()
        .context("the data")?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let chunks = windows(&documents, context, wanted, bos, selection.seed);
    let there: usize = documents.iter().map(Vec::len).sum();
    ensure!(
        !chunks.is_empty(),
        "the data have {there} tokens, fewer than a chunk of {context}: give more, or ask for shorter \
         chunks with `--ctx`",
    );
    let found = chunks.len() * context;
    let mut warnings = Vec::new();
    if found < wanted {
        warnings.push(format!(
            "the data have {there} tokens, which make {} chunks of {context}: fewer than the {wanted} \
             tokens asked for",
            chunks.len(),
        ));
    }
    Ok(Text { chunks, sources: corpus.sources, warnings })
}
