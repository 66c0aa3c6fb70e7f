//! The new file: where it may stand, and how it is written.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, bail, ensure};
use tempfile::NamedTempFile;
use tessera_formats::gguf::Gguf;

/// Refuses an output that cannot be a model, that is an input, or that exists.
pub fn check(output: &Path, gguf: &Gguf, force: bool) -> anyhow::Result<()> {
    ensure!(
        output.extension().is_some_and(|extension| extension == "gguf"),
        "the output `{}` must be called NAME.gguf",
        output.display(),
    );
    let folder = folder(output);
    ensure!(folder.is_dir(), "the folder `{}` does not exist", folder.display());
    match output.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("`{}`", output.display())),
    }
    // A link that leads nowhere has no metadata; a link of either kind leads to the same file.
    if let Ok(existing) = fs::metadata(output) {
        ensure!(!existing.is_dir(), "the output `{}` is a folder", output.display());
        for shard in gguf.shards() {
            let input = fs::metadata(shard.path())
                .with_context(|| format!("`{}`", shard.path().display()))?;
            if (existing.dev(), existing.ino()) == (input.dev(), input.ino()) {
                bail!("the output `{}` is the input", output.display());
            }
        }
    }
    ensure!(
        force,
        "`{}` exists: choose another name, or `--force` to replace it",
        output.display()
    );
    Ok(())
}

fn folder(path: &Path) -> &Path {
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
        let context = || format!("cannot create a file beside `{}`", path.display());
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
        let context = || format!("cannot write `{}`", self.path.display());
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
            path.display(),
        );
        let context = || format!("cannot write `{}`", path.display());
        self.file.as_file().sync_all().with_context(context)?;
        let file = self.file.into_temp_path();
        let placed = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        placed.map_err(|failure| match failure.error.kind() {
            ErrorKind::AlreadyExists => {
                anyhow!(
                    "`{}` exists: choose another name, or `--force` to replace it",
                    path.display()
                )
            }
            _ => anyhow!(failure.error).context(format!("cannot rename to `{}`", path.display())),
        })?;
        let folder = folder(&path);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync `{}`", folder.display()))
    }
}
