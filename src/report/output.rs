//! The two files of a report: where they may stand, and how they get there.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use tessera_formats::temporary;

use crate::new_file::NewFile;
use tessera_formats::escape::escaped_path;

/// Puts `files`, each a name and its content, into `folder`, which is made where it is missing. A file
/// that is there with the same content stays as it is; one with another is replaced only with `force`.
/// Nothing is moved to its place before all is written.
pub fn put(folder: &Path, files: &[(&str, String)], force: bool) -> anyhow::Result<()> {
    let made = make(folder)?;
    let result = place(folder, files, force);
    if made && result.is_err() {
        // It is empty, unless someone else has put something there.
        let _ = fs::remove_dir(folder);
    }
    result
}

/// Makes the folder; whether it was missing.
fn make(folder: &Path) -> anyhow::Result<bool> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            ensure!(folder.is_dir(), "the output `{}` is not a folder", escaped_path(folder));
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("the folder `{}` does not exist", escaped_path(temporary::folder(folder)))
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot make the folder `{}`", escaped_path(folder)))
        }
    }
}

fn place(folder: &Path, files: &[(&str, String)], force: bool) -> anyhow::Result<()> {
    let mut written = Vec::new();
    for (name, content) in files {
        let path = folder.join(name);
        if stands(&path, content, force)? {
            continue;
        }
        let bytes = u64::try_from(content.len())?;
        let file = NewFile::create(&path, bytes)?;
        file.write_at(0, content.as_bytes())?;
        written.push((file, bytes));
    }
    written.into_iter().try_for_each(|(file, bytes)| file.persist(bytes, force))
}

/// Whether a file has its content already. An error if it has another that may not be replaced.
fn stands(path: &Path, content: &str, force: bool) -> anyhow::Result<bool> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("`{}`", escaped_path(path))),
    };
    ensure!(!metadata.is_dir(), "the output `{}` is a folder", escaped_path(path));
    if metadata.is_file() && metadata.len() == u64::try_from(content.len())? {
        let existing =
            fs::read(path).with_context(|| format!("cannot read `{}`", escaped_path(path)))?;
        if existing == content.as_bytes() {
            return Ok(true);
        }
    }
    ensure!(
        force,
        "`{}` exists: choose another folder, or `--force` to replace it",
        escaped_path(path),
    );
    Ok(false)
}
