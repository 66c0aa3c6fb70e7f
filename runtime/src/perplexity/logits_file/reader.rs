//! Reads a logits file, row by row.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{HEADER_BYTES, LogitsFileError, MAGIC, StoredRow, row_bytes, rows_per_chunk};
use crate::perplexity::Chunks;

/// Bytes of a token.
const TOKEN_BYTES: u64 = 4;

/// An open logits file whose length is what its header asks for.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: File,
    context: usize,
    vocabulary: usize,
    tokens: Vec<u32>,
    rows: u64,
    row_bytes: u64,
    rows_at: u64,
}

impl LogitsFile {
    /// Opens a file, and reads its header and its tokens.
    ///
    /// # Errors
    ///
    /// If it is no logits file, is incomplete or too long, has counts that cannot be, or tokens
    /// outside its vocabulary.
    pub fn open(path: &Path) -> Result<Self, LogitsFileError> {
        let io = LogitsFileError::io;
        // Before it is opened: opening a FIFO waits for a writer.
        if !std::fs::metadata(path).map_err(io("open", path))?.is_file() {
            return Err(LogitsFileError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io("open", path))?;
        let length = file.metadata().map_err(io("open", path))?.len();
        let mut magic = [0; MAGIC.len()];
        let start = &mut magic[..usize::try_from(length).unwrap_or(usize::MAX).min(MAGIC.len())];
        file.read_exact_at(start, 0).map_err(io("read", path))?;
        if *start != MAGIC {
            let found = String::from_utf8_lossy(start).into_owned();
            return Err(LogitsFileError::Magic { path: path.to_owned(), found });
        }
        let wrong_length =
            |expected| LogitsFileError::Length { path: path.to_owned(), expected, found: length };
        if length < HEADER_BYTES {
            return Err(wrong_length(HEADER_BYTES));
        }
        let count = |field, offset, least: u32| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, offset).map_err(io("read", path))?;
            let found = i32::from_le_bytes(bytes);
            u32::try_from(found).ok().filter(|&count| count >= least).ok_or_else(|| {
                LogitsFileError::Field {
                    path: path.to_owned(),
                    field,
                    offset,
                    expected: format!("at least {least}"),
                    found: found.to_string(),
                }
            })
        };
        let least = u32::try_from(Chunks::SHORTEST_CONTEXT).unwrap_or(u32::MAX);
        let context = u64::from(count("the context", 8, least)?);
        let vocabulary = u64::from(count("the vocabulary", 12, 1)?);
        let chunks = u64::from(count("the number of chunks", 16, 1)?);
        let row_bytes = row_bytes(vocabulary);
        // Counts of 31 bits each: two multiply within 62 bits.
        let token_bytes = (context * chunks).checked_mul(TOKEN_BYTES);
        let rows_bytes = (rows_per_chunk(context) * chunks).checked_mul(row_bytes);
        let rows_at = token_bytes.and_then(|bytes| bytes.checked_add(HEADER_BYTES));
        let expected = rows_at.zip(rows_bytes).and_then(|(at, bytes)| at.checked_add(bytes));
        let (Some(rows_at), true) = (rows_at, expected == Some(length)) else {
            return Err(wrong_length(expected.unwrap_or(u64::MAX)));
        };
        let size = |field, size: u64| {
            usize::try_from(size).map_err(|_| LogitsFileError::Field {
                path: path.to_owned(),
                field,
                offset: 8,
                expected: "less than this machine's address space".to_owned(),
                found: size.to_string(),
            })
        };
        let mut bytes = vec![0; size("the size of all tokens", rows_at - HEADER_BYTES)?];
        file.read_exact_at(&mut bytes, HEADER_BYTES).map_err(io("read", path))?;
        let tokens: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().map(|&token| u32::from_le_bytes(token)).collect();
        if let Some((index, &token)) =
            (0u64..).zip(&tokens).find(|&(_, &token)| u64::from(token) >= vocabulary)
        {
            return Err(LogitsFileError::Field {
                path: path.to_owned(),
                field: "a token",
                offset: HEADER_BYTES + index * TOKEN_BYTES,
                expected: format!("less than the vocabulary of {vocabulary}"),
                found: token.to_string(),
            });
        }
        Ok(LogitsFile {
            path: path.to_owned(),
            file,
            context: size("the context", context)?,
            vocabulary: size("the vocabulary", vocabulary)?,
            tokens,
            rows: rows_per_chunk(context),
            row_bytes,
            rows_at,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens of all chunks as the text has them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Checks that the file is of these chunks, or of more of the same text, and of this vocabulary.
    ///
    /// # Errors
    ///
    /// If not; what differs first is named.
    pub fn check(&self, chunks: &Chunks, vocabulary: usize) -> Result<(), LogitsFileError> {
        let other = |what, expected: usize, found: usize| LogitsFileError::OtherRun {
            path: self.path.clone(),
            what,
            expected: expected as u64,
            found: found as u64,
        };
        if chunks.context() != self.context {
            return Err(other("a context of", chunks.context(), self.context));
        }
        if vocabulary != self.vocabulary {
            return Err(other("a vocabulary of", vocabulary, self.vocabulary));
        }
        if chunks.len() > self.chunks() {
            return Err(other("a number of chunks of", chunks.len(), self.chunks()));
        }
        let pairs = chunks.tokens().iter().zip(&self.tokens);
        match pairs.enumerate().find(|(_, (expected, found))| expected != found) {
            None => Ok(()),
            Some((index, (&expected, &found))) => Err(LogitsFileError::OtherText {
                path: self.path.clone(),
                index,
                offset: HEADER_BYTES + TOKEN_BYTES * index as u64,
                expected,
                found,
            }),
        }
    }

    /// Reads the log-probabilities of a scored position, counted from the first scored one of chunk
    /// `chunk`.
    ///
    /// # Errors
    ///
    /// If there is no such row, it cannot be read, or holds what cannot be log-probabilities.
    pub fn row(&self, chunk: usize, position: usize) -> Result<StoredRow, LogitsFileError> {
        let (chunk, position) = (chunk as u64, position as u64);
        let outside = |what, expected, found| LogitsFileError::Rows {
            path: self.path.clone(),
            what,
            expected,
            found,
        };
        let chunks = self.chunks() as u64;
        if chunk >= chunks {
            return Err(outside("chunks", chunks, chunk.saturating_add(1)));
        }
        if position >= self.rows {
            return Err(outside("rows of a chunk", self.rows, position.saturating_add(1)));
        }
        let offset = self.rows_at + (chunk * self.rows + position) * self.row_bytes;
        let mut bytes = vec![0; usize::try_from(self.row_bytes).unwrap_or(0)];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(LogitsFileError::io("read", &self.path))?;
        let row = StoredRow::from_bytes(&bytes, self.vocabulary)
            .ok_or_else(|| outside("tokens of a row", self.vocabulary as u64, 0))?;
        match row.problem() {
            None => Ok(row),
            Some((field, at, expected, found)) => Err(LogitsFileError::Field {
                path: self.path.clone(),
                field,
                offset: offset + at,
                expected: expected.to_owned(),
                found: found.to_string(),
            }),
        }
    }
}
