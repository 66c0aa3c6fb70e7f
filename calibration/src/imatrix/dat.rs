//! Importance matrices in llama.cpp's old binary format.
//!
//! All numbers are little-endian, integers i32. The file begins with the number of entries. An entry
//! is the length of a name and the name, a number of calls, a number of values and the values, f32:
//! means of squares times the number of calls. Newer files end with the number of chunks and with the
//! length of the text's name and the name. How many matrices the values are of is not said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Entry, ImatrixError, ImportanceMatrix};

/// Largest file that is read, in bytes: a model of 10^12 parameters has about 10^8 values.
const LARGEST: u64 = 1 << 31;

/// Most bytes of a name.
const LONGEST_NAME: usize = 4096;

/// Tokens of a call: the format does not say. It is what `llama-imatrix` takes if not told otherwise.
const CALL_TOKENS: u64 = 512;

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<ImportanceMatrix, ImatrixError> {
    let io = |source| ImatrixError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // Not by its length: a file may grow while it is read.
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(io)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > LARGEST) {
        return Err(ImatrixError::Malformed {
            path: path.to_owned(),
            offset: 0,
            what: "the file",
            expected: format!("at most {LARGEST} bytes"),
            found: "more".to_owned(),
        });
    }
    parse(path, &bytes)
}

/// The importances in `bytes`; `path` is for errors.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<ImportanceMatrix, ImatrixError> {
    let mut cursor = Cursor { path, bytes, offset: 0 };
    let count = cursor.count("the number of entries", 1, bytes.len() / 12)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let (name, entry, offset) = cursor.entry()?;
        if entries.contains_key(&name) {
            return Err(cursor.malformed(
                offset,
                "a name",
                "one of its own",
                format!("`{name}` again"),
            ));
        }
        entries.insert(name, entry);
    }
    let mut datasets = Vec::new();
    if cursor.offset < bytes.len() {
        cursor.count("the number of chunks", 0, usize::MAX)?;
    }
    if cursor.offset < bytes.len() {
        let length = cursor.count("the length of the text's name", 0, LONGEST_NAME)?;
        let name = String::from_utf8_lossy(cursor.take("the text's name", length)?).into_owned();
        datasets.extend((!name.is_empty()).then_some(name));
    }
    if cursor.offset < bytes.len() {
        let rest = format!("{} bytes more", bytes.len() - cursor.offset);
        return Err(cursor.malformed(cursor.offset, "the end of the file", "here", rest));
    }
    Ok(ImportanceMatrix { path: path.to_owned(), entries, datasets, chunk: None })
}

/// Bytes that are read front to back.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(
        &self,
        offset: usize,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ImatrixError {
        let (expected, found) = (expected.into(), found.into());
        ImatrixError::Malformed { path: self.path.to_owned(), offset, what, expected, found }
    }

    fn take(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], ImatrixError> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..count) else {
            let (expected, found) =
                (format!("{count} bytes"), format!("cut at {} bytes", rest.len()));
            return Err(self.malformed(self.offset, what, expected, found));
        };
        self.offset += count;
        Ok(taken)
    }

    fn integer(&mut self, what: &'static str) -> Result<i32, ImatrixError> {
        let bytes = self.take(what, 4)?;
        Ok(bytes.first_chunk().map_or(0, |&bytes| i32::from_le_bytes(bytes)))
    }

    /// An integer from `least` to `most`.
    fn count(
        &mut self,
        what: &'static str,
        least: usize,
        most: usize,
    ) -> Result<usize, ImatrixError> {
        let offset = self.offset;
        let found = self.integer(what)?;
        let count = usize::try_from(found).ok().filter(|count| (least..=most).contains(count));
        count.ok_or_else(|| {
            let expected = format!("from {least} to {most}");
            self.malformed(offset, what, expected, found.to_string())
        })
    }

    /// An entry's name, the entry, and where it begins.
    fn entry(&mut self) -> Result<(String, Entry, usize), ImatrixError> {
        let start = self.offset;
        let length = self.count("the length of a name", 1, LONGEST_NAME)?;
        let name = std::str::from_utf8(self.take("a name", length)?);
        let Ok(name) = name.map(str::to_owned) else {
            return Err(self.malformed(start + 4, "a name", "UTF-8", "other bytes"));
        };
        let calls = self.count("the number of calls", 0, usize::MAX)?;
        let values = self.count("the number of values", 1, self.bytes.len() / 4)?;
        let data = self.take("the values", values * 4)?;
        let calls = u64::try_from(calls).unwrap_or(u64::MAX);
        let mut mean_squares = Vec::with_capacity(values);
        for (index, &bytes) in data.as_chunks().0.iter().enumerate() {
            let found = f32::from_le_bytes(bytes);
            if !found.is_finite() || found < 0.0 {
                return Err(ImatrixError::Value {
                    path: self.path.to_owned(),
                    entry: name,
                    index,
                    found,
                    expected: "a finite number that is not negative",
                });
            }
            #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
            mean_squares.push((f64::from(found) / super::count(calls.max(1))) as f32);
        }
        let tokens = vec![calls.max(1).saturating_mul(CALL_TOKENS)];
        Ok((name, Entry { mean_squares, means: Vec::new(), tokens }, start))
    }
}
