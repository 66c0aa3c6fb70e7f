//! A file written under a temporary name, then moved to its place in one step.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::temporary::{PlaceError, TemporaryFile};

use crate::space;

/// A file under a temporary name beside its place. Dropped before [`NewFile::persist`], it leaves
/// nothing behind.
pub struct NewFile {
    path: PathBuf,
    file: TemporaryFile,
    written: AtomicU64,
}

impl NewFile {
    /// Begins the file of `bytes` bytes, all zero, that will stand at `path`.
    pub fn create(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let context = || format!("cannot create a file beside `{}`", escaped_path(path));
        space::check(path, bytes)?;
        let file = TemporaryFile::beside(path).with_context(context)?;
        file.as_file().set_len(bytes).with_context(context)?;
        Ok(NewFile { path: path.to_owned(), file, written: AtomicU64::new(0) })
    }

    /// Writes at `offset`. Safe from any thread; nothing may be written twice.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let context = || format!("cannot write `{}`", escaped_path(&self.path));
        self.file.as_file().write_all_at(bytes, offset).with_context(context)?;
        self.written.fetch_add(u64::try_from(bytes.len())?, Ordering::Relaxed);
        Ok(())
    }

    /// Syncs the file, of which `expected` bytes must have been written, moves it to its place in
    /// one step and syncs the folder. What stands there is replaced only with `force`.
    pub fn persist(self, expected: u64, force: bool) -> anyhow::Result<()> {
        let path = self.path;
        let written = self.written.into_inner();
        ensure!(
            written == expected,
            "`{}`: {written} bytes were written, not {expected}",
            escaped_path(&path),
        );
        self.file.place(&path, force).map_err(|error| match error {
            PlaceError::Exists { path } => {
                anyhow!(
                    "`{}` exists: choose another name, or `--force` to replace it",
                    escaped_path(&path)
                )
            }
            other => other.into(),
        })
    }
}
