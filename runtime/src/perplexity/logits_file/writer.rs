//! Writes a logits file, row by row, under a temporary name until it is complete.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tessera_formats::temporary::TemporaryFile;

use super::{LogitsFileError, MAGIC, StoredRow, rows_per_chunk};
use crate::perplexity::Chunks;

/// A logits file that is being written. Dropped before [`Self::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct LogitsFileWriter {
    path: PathBuf,
    file: BufWriter<TemporaryFile>,
    vocabulary: usize,
    expected: u64,
    written: u64,
}

impl LogitsFileWriter {
    /// Starts the file of these chunks under a temporary name in the folder of `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be created, or a count is too large for the format.
    pub fn create(
        path: &Path,
        chunks: &Chunks,
        vocabulary: usize,
    ) -> Result<Self, LogitsFileError> {
        let count = |what, found: usize| {
            i32::try_from(found).map_err(|_| LogitsFileError::TooLarge {
                path: path.to_owned(),
                what,
                found,
                most: usize::try_from(i32::MAX).unwrap_or(usize::MAX),
            })
        };
        let counts = [
            count("a context of", chunks.context())?,
            count("a vocabulary of", vocabulary)?,
            count("a number of chunks of", chunks.len())?,
        ];
        let mut header = MAGIC.to_vec();
        header.extend(counts.into_iter().flat_map(i32::to_le_bytes));
        header.extend(chunks.tokens().iter().flat_map(|token| token.to_le_bytes()));
        let file = TemporaryFile::beside(path)
            .map_err(LogitsFileError::io("create a file beside", path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&header).map_err(LogitsFileError::io("write", path))?;
        let expected = chunks.len() as u64 * rows_per_chunk(chunks.context() as u64);
        Ok(LogitsFileWriter { path: path.to_owned(), file, vocabulary, expected, written: 0 })
    }

    /// Appends the row of the next scored position.
    ///
    /// # Errors
    ///
    /// If it cannot be written, has another vocabulary, or is one too many.
    pub fn write_row(&mut self, row: &StoredRow) -> Result<(), LogitsFileError> {
        let rows = |what, expected, found| LogitsFileError::Rows {
            path: self.path.clone(),
            what,
            expected,
            found,
        };
        if row.vocabulary() != self.vocabulary {
            return Err(rows("tokens of a row", self.vocabulary as u64, row.vocabulary() as u64));
        }
        if self.written == self.expected {
            return Err(rows("rows", self.expected, self.expected + 1));
        }
        let mut bytes = Vec::with_capacity(2 * self.vocabulary + 10);
        row.append_to(&mut bytes);
        self.file.write_all(&bytes).map_err(LogitsFileError::io("write", &self.path))?;
        self.written += 1;
        Ok(())
    }

    /// Moves the complete file to its place. What stands there is replaced only with `force`.
    ///
    /// # Errors
    ///
    /// If rows are missing, or it cannot be written or moved; nothing is left behind then.
    pub fn finish(self, force: bool) -> Result<(), LogitsFileError> {
        let path = &self.path;
        if self.written != self.expected {
            return Err(LogitsFileError::Rows {
                path: path.clone(),
                what: "rows",
                expected: self.expected,
                found: self.written,
            });
        }
        let file = self
            .file
            .into_inner()
            .map_err(|failure| LogitsFileError::io("write", path)(failure.into_error()))?;
        Ok(file.place(path, force)?)
    }
}
