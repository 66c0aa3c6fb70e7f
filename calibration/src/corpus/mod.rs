//! Texts that a model is calibrated on.

mod built_in;
mod error;
mod jsonl;
mod windows;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use crate::statistics::DataSource;
pub use error::CorpusError;
pub use windows::windows;

/// Most bytes of all files together. Calibration takes a few hundred kilobytes of text; whoever names
/// more than this has named the wrong folder.
pub const LARGEST: u64 = 1 << 30;

/// Field of a JSONL object that holds the text, if not told otherwise.
pub const DEFAULT_FIELD: &str = "text";

/// Endings of the files that are taken from a folder.
const ENDINGS: [&str; 4] = ["txt", "md", "jsonl", "raw"];

/// Texts, in the order of their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Documents: whole files, or the lines of a JSONL file. None is empty or of spaces alone.
    pub documents: Vec<String>,
    /// The files that they come from.
    pub sources: Vec<DataSource>,
}

impl Corpus {
    /// Reads files and folders.
    ///
    /// A file that ends with `.jsonl` has one JSON object in a line, whose string `field` (by default
    /// `text`) is a document; any other file is a document. Of a folder, files that end with `.txt`,
    /// `.md`, `.jsonl` or `.raw` are taken, those of its folders too, sorted by their paths; hidden
    /// ones and links to folders are not.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is not UTF-8 or not JSONL, or there is no text at all.
    pub fn read(paths: &[PathBuf], field: Option<&str>) -> Result<Self, CorpusError> {
        let mut corpus = Corpus::default();
        let mut room = LARGEST;
        for path in paths {
            if metadata(path)?.is_dir() {
                for (name, path) in files(path)? {
                    corpus.add(name, &path, field, &mut room)?;
                }
            } else {
                let name = path.file_name().unwrap_or(path.as_os_str());
                corpus.add(name.to_string_lossy().into_owned(), path, field, &mut room)?;
            }
        }
        if corpus.documents.is_empty() {
            return Err(CorpusError::Empty { paths: paths.to_vec() });
        }
        Ok(corpus)
    }

    fn add(
        &mut self,
        name: String,
        path: &Path,
        field: Option<&str>,
        room: &mut u64,
    ) -> Result<(), CorpusError> {
        let bytes = contents(path, room)?;
        self.sources.push(source(name, &[&bytes]));
        let text = String::from_utf8(bytes).map_err(|error| CorpusError::NotUtf8 {
            path: path.to_owned(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        if has_ending(path, &["jsonl"]) {
            let field = field.unwrap_or(DEFAULT_FIELD);
            self.documents.extend(jsonl::documents(path, without_mark(&text), field)?);
        } else if !text.trim().is_empty() {
            self.documents.push(without_mark(&text).to_owned());
        }
        Ok(())
    }
}

/// What the provenance says of a text in parts.
fn source(name: String, parts: &[&[u8]]) -> DataSource {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let bytes = parts.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum();
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    DataSource { name, bytes, sha256 }
}

/// The text without a byte order mark.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn metadata(path: &Path) -> Result<fs::Metadata, CorpusError> {
    fs::metadata(path).map_err(CorpusError::io("read", path))
}

/// The bytes of a regular file, of which `room` are left.
fn contents(path: &Path, room: &mut u64) -> Result<Vec<u8>, CorpusError> {
    // Asked before opening: opening a pipe waits for its writer.
    if !metadata(path)?.is_file() {
        return Err(CorpusError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(CorpusError::io("read", path))?;
    // One byte more than there is room for, to notice that there is more.
    file.take(*room + 1).read_to_end(&mut bytes).map_err(CorpusError::io("read", path))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    *room = room
        .checked_sub(length)
        .ok_or_else(|| CorpusError::TooLarge { path: path.to_owned(), limit: LARGEST })?;
    Ok(bytes)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension()
        .and_then(|found| found.to_str())
        .is_some_and(|found| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
}

/// The texts in a folder: names from the folder on, and paths; sorted by name.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, CorpusError> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(CorpusError::io("list", &folder))? {
            let entry = entry.map_err(CorpusError::io("list", &folder))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().map_err(CorpusError::io("read", &path))?;
            let name_here = format!("{prefix}{name}");
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() {
                folders.push((format!("{name_here}/"), path));
            } else if has_ending(&path, &ENDINGS) && metadata(&path)?.is_file() {
                found.push((name_here, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
