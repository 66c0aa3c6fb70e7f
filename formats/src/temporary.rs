//! Files and folders under a temporary name beside their place, of which nothing stays behind.
//!
//! A name is `.tessera-HASH-RANDOM.part`: the hash is of the name that the file is to have, which may
//! itself be as long as the system allows. Whoever writes one holds a lock on it (`flock`), so that the
//! next who writes the same file can tell what a killed process left, and removes it.
//!
//! What this process has under such names is listed; a program that a signal ends calls [`remove_all`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir, TempPath};

use crate::escape::escaped_path;

/// What every name begins with.
const PREFIX: &str = ".tessera-";

/// What every name ends with.
const SUFFIX: &str = ".part";

/// Everything that this process has under a temporary name.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all files and folders that this process has under a temporary name, and lets none be made
/// after that: for a process that ends now.
pub fn remove_all() {
    let live = live();
    for path in &*live {
        // The one that does not fit fails, and there is nobody to tell.
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir_all(path);
    }
    std::mem::forget(live);
}

/// Why a file did not come to its place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something stands there.
    #[error("`{}` exists", escaped_path(path))]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`", escaped_path(path))]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

/// A name on the list.
#[derive(Debug)]
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        live().remove(&self.0);
    }
}

/// A file under a temporary name. Dropped before [`TemporaryFile::place`], it is gone.
#[derive(Debug)]
pub struct TemporaryFile {
    // Dropped, and so removed, before it leaves the list.
    file: NamedTempFile,
    _listed: Listed,
}

impl TemporaryFile {
    /// Makes an empty file in the folder of `path`, with the permissions that the user's umask gives
    /// any file, and removes what killed processes left of a file for that place.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let name = stem(path);
        remove_stale(path, &name);
        // The list is held meanwhile: a signal in between would miss the file.
        let mut live = live();
        let file = tempfile::Builder::new()
            .prefix(&name)
            .suffix(SUFFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path))?;
        live.insert(file.path().to_owned());
        drop(live);
        let _listed = Listed(file.path().to_owned());
        lock(file.as_file())?;
        Ok(TemporaryFile { file, _listed })
    }

    /// The file.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Syncs the file, moves it to `path`, which is in the same folder, in one step, and syncs the
    /// folder. What stands there is replaced only with `force`.
    ///
    /// # Errors
    /// If something stands there and `force` is not given, or the operating system refuses; the file is
    /// gone then.
    pub fn place(self, path: &Path, force: bool) -> Result<(), PlaceError> {
        self.as_file().sync_all().map_err(io_error("write", path))?;
        // The lock is held until nothing has the temporary name.
        let (_file, temporary) = self.file.into_parts();
        rename(temporary, path, force)
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A folder under a temporary name. Dropped, it is gone with all that is in it.
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    _listed: Listed,
    /// Locks it.
    _handle: File,
}

impl TemporaryFolder {
    /// Makes a folder in the folder of `path`, and removes what killed processes left of such a folder.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let name = stem(path);
        remove_stale(path, &name);
        let mut live = live();
        let made =
            tempfile::Builder::new().prefix(&name).suffix(SUFFIX).tempdir_in(folder(path))?;
        live.insert(made.path().to_owned());
        drop(live);
        let _listed = Listed(made.path().to_owned());
        let handle = File::open(made.path())?;
        lock(&handle)?;
        Ok(TemporaryFolder { folder: made, _listed, _handle: handle })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Moves a finished file to another place of the same file system in one step, and syncs both folders.
/// What stands there is replaced only with `force`; on an error the file stays where it was.
///
/// # Errors
/// If something stands there and `force` is not given, or the operating system refuses.
pub fn relocate(from: &Path, to: &Path, force: bool) -> Result<(), PlaceError> {
    let source = TempPath::try_from_path(from).map_err(io_error("find", from))?;
    let moved = if force { source.persist(to) } else { source.persist_noclobber(to) };
    if let Err(failure) = moved {
        // It is no temporary file: it is not to be removed with its handle.
        failure.path.keep().map_err(|failure| io_error("keep", from)(failure.error))?;
        return Err(placing(to)(failure.error));
    }
    sync_folder(folder(to))?;
    sync_folder(folder(from))
}

/// Removes a folder that served to make `path`, with all in it: in one step for whoever looks for it,
/// because it gets a temporary name first. The next who writes `path` removes what is left by a kill.
///
/// # Errors
/// Of the operating system.
pub fn discard_folder(folder: &Path, path: &Path) -> io::Result<()> {
    let discarded = folder.with_file_name(format!("{}discarded{SUFFIX}", stem(path)));
    match fs::remove_dir_all(&discarded) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => fs::rename(folder, &discarded)?,
    }
    fs::remove_dir_all(&discarded)
}

/// Syncs a folder, so that what was renamed in it stays so when the power fails.
///
/// # Errors
/// Of the operating system.
pub fn sync_folder(folder: &Path) -> Result<(), PlaceError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}

/// Whether a name is one that files of this module have.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// The folder that a file stands in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Bytes that whoever runs this may still write in a folder.
///
/// # Errors
/// Of the operating system.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

fn rename(file: TempPath, path: &Path, force: bool) -> Result<(), PlaceError> {
    let placed = if force { file.persist(path) } else { file.persist_noclobber(path) };
    placed.map_err(|failure| placing(path)(failure.error))?;
    sync_folder(folder(path))
}

fn placing(path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    move |error| match error.kind() {
        ErrorKind::AlreadyExists => PlaceError::Exists { path: path.to_owned() },
        _ => io_error("rename to", path)(error),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    move |source| PlaceError::Io { action, path: path.to_owned(), source }
}

/// What all temporary names for one place begin with.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_else(|| OsStr::new(""));
    let digest = Sha256::digest(name.as_encoded_bytes());
    digest.iter().take(6).fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}")) + "-"
}

/// Locks what was just made. Some file systems of networks have no locks.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(ErrorKind::ResourceBusy, "another process took the temporary file"))
        }
    }
}

/// Removes what nobody holds under temporary names for the place `path`. What cannot be removed is in
/// nobody's way: names are random.
fn remove_stale(path: &Path, stem: &str) {
    let Ok(entries) = fs::read_dir(folder(path)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        // Opening a pipe would wait for its writer, and a link leads elsewhere.
        if !(kind.is_file() || kind.is_dir()) || !name.starts_with(stem) || !name.ends_with(SUFFIX)
        {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name =
            |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_dropped_is_gone_and_what_is_placed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        let mut file = TemporaryFile::beside(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);

        let mut file = TemporaryFile::beside(&path).unwrap();
        file.write_all(b"two").unwrap();
        file.place(&path, false).unwrap();
        assert_eq!(names(folder.path()), ["pack"]);
        let mut file = TemporaryFile::beside(&path).unwrap();
        file.write_all(b"three").unwrap();
        assert!(matches!(file.place(&path, false), Err(PlaceError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mut file = TemporaryFile::beside(&path).unwrap();
        file.write_all(b"three").unwrap();
        file.place(&path, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(names(folder.path()), ["pack"]);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("pack"), folder.path().join("other"));
        let held = TemporaryFile::beside(&path).unwrap();
        let kept = TemporaryFolder::beside(&path).unwrap();
        let stale = |name: &str| folder.path().join(format!("{}{name}{SUFFIX}", stem(&path)));
        fs::write(stale("file"), b"left").unwrap();
        fs::create_dir(stale("folder")).unwrap();
        fs::write(stale("folder").join("inside"), b"left").unwrap();
        std::os::unix::fs::symlink("/dev/null", stale("link")).unwrap();
        // Of another place: nobody who writes this one knows.
        fs::write(folder.path().join(format!("{}x{SUFFIX}", stem(&other))), b"left").unwrap();

        let made = TemporaryFile::beside(&path).unwrap();
        assert!(!stale("file").exists() && !stale("folder").exists());
        assert!(stale("link").is_symlink());
        assert!(held.file.path().exists() && kept.path().exists());
        assert_eq!(names(folder.path()).len(), 5);
        drop((made, held, kept));
        assert_eq!(names(folder.path()).len(), 2);
        drop(TemporaryFile::beside(&other).unwrap());
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_moved_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), b"1").unwrap();
        fs::write(path("two"), b"2").unwrap();
        assert!(matches!(
            relocate(&path("one"), &path("two"), false),
            Err(PlaceError::Exists { .. })
        ));
        assert!(relocate(&path("one"), &path("none/three"), true).is_err());
        assert_eq!(names(folder.path()), ["one", "two"]);
        relocate(&path("one"), &path("two"), true).unwrap();
        assert_eq!(fs::read(path("two")).unwrap(), b"1");
        assert_eq!(names(folder.path()), ["two"]);
        assert!(relocate(&path("one"), &path("two"), true).is_err());
    }

    #[test]
    fn the_system_tells_how_much_is_free() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert!(free_bytes(&folder.path().join("none")).is_err());
    }
}
