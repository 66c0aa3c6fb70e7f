//! A file written under a temporary name, then moved to its place in one step.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, ensure};
use tempfile::NamedTempFile;
use tessera_formats::escape::escaped_path;

/// The folder that a file stands in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file under a temporary name beside its place. Dropped before [`NewFile::persist`], it leaves
/// nothing behind.
pub struct NewFile {
    path: PathBuf,
    file: NamedTempFile,
    written: AtomicU64,
}

impl NewFile {
    /// Begins the file of `bytes` bytes, all zero, that will stand at `path`.
    pub fn create(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let context = || format!("cannot create a file beside `{}`", escaped_path(path));
        let file = tempfile::Builder::new()
            .prefix(".tessera-")
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path))
            .with_context(context)?;
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
        let context = || format!("cannot write `{}`", escaped_path(&path));
        self.file.as_file().sync_all().with_context(context)?;
        let file = self.file.into_temp_path();
        let placed = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        placed.map_err(|failure| match failure.error.kind() {
            ErrorKind::AlreadyExists => {
                anyhow!(
                    "`{}` exists: choose another name, or `--force` to replace it",
                    escaped_path(&path)
                )
            }
            _ => anyhow!(failure.error)
                .context(format!("cannot rename to `{}`", escaped_path(&path))),
        })?;
        let folder = folder(&path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync `{}`", escaped_path(folder)))
    }
}
