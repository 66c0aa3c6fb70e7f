//! The input as a file: readers take paths, because a model may span several files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    /// One folder per thread, in memory where the system offers that and nobody says otherwise.
    static FOLDER: TempDir = {
        let in_memory = if std::env::var_os("TMPDIR").is_none() {
            tempfile::tempdir_in("/dev/shm").ok()
        } else {
            None
        };
        in_memory.or_else(|| tempfile::tempdir().ok()).expect("a temporary folder")
    };
}

/// Writes `data` to a file of that name and returns its path.
pub fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = path(name);
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a file for the input");
    file.write_all(data).expect("room for the input");
    path
}

/// The path of a file of that name, whether there is one or not.
pub fn path(name: &str) -> PathBuf {
    FOLDER.with(|folder| folder.path().join(name))
}

/// Writes a file that is the same for all inputs, once.
pub fn fixed(name: &str, data: &[u8]) -> PathBuf {
    let path = path(name);
    if !Path::exists(&path) { file(name, data) } else { path }
}
