//! The input as a file: readers take paths, because a model may span several files.

use std::path::PathBuf;
use std::sync::LazyLock;

use tempfile::TempDir;

/// One folder per process, in memory where the system offers that.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
});

/// Writes `data` to a file of that name and returns its path.
pub fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    std::fs::write(&path, data).expect("room for the input");
    path
}
