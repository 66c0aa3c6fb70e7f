//! Small files that are read whole: none but regular ones, and not a byte more than they may have.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use tessera_formats::escape::escaped_path;

/// The bytes of a file that may have `limit` of them. `kind` is what the error calls it: "recipe".
///
/// # Errors
///
/// If it cannot be read, is no regular file, or has more, also where it grows while it is read.
pub fn bytes(path: &Path, kind: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let context = || format!("{kind} `{}`", escaped_path(path));
    // Asked before opening: opening a pipe waits for its writer.
    let metadata = fs::metadata(path).with_context(context)?;
    ensure!(!metadata.is_dir(), "{kind} `{}` is a directory", escaped_path(path));
    ensure!(metadata.is_file(), "{kind} `{}` is not a regular file", escaped_path(path));
    let too_long = |found: u64| {
        format!(
            "{kind} `{}` has {found} bytes, more than the {limit} it may have",
            escaped_path(path)
        )
    };
    ensure!(metadata.len() <= limit, too_long(metadata.len()));
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).with_context(context)?;
    let found = u64::try_from(bytes.len())?;
    ensure!(found <= limit, too_long(found));
    Ok(bytes)
}

/// The text of such a file.
///
/// # Errors
///
/// As [`bytes`], and if it is not UTF-8.
pub fn text(path: &Path, kind: &str, limit: u64) -> anyhow::Result<String> {
    let context = || format!("{kind} `{}`", escaped_path(path));
    let bytes = bytes(path, kind, limit)?;
    String::from_utf8(bytes).map_err(|error| error.utf8_error()).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_more_bytes_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "four").unwrap();
        assert_eq!(text(&path, "text", 4).unwrap(), "four");
        let error = text(&path, "text", 3).unwrap_err().to_string();
        assert!(error.ends_with("has 4 bytes, more than the 3 it may have"), "{error}");
        fs::write(&path, b"\xff").unwrap();
        let error = format!("{:#}", text(&path, "text", 4).unwrap_err());
        assert!(error.contains("invalid utf-8"), "{error}");
    }

    #[test]
    fn devices_and_folders_are_not_read() {
        for (path, what) in [("/dev/zero", "not a regular file"), ("/dev", "a directory")] {
            let error = bytes(Path::new(path), "text", 4).unwrap_err().to_string();
            assert_eq!(error, format!("text `{path}` is {what}"));
        }
    }

    /// The system says that such a file has no bytes, and gives as many as there are.
    #[test]
    fn a_file_that_says_it_is_empty_is_cut_all_the_same() {
        let path = Path::new("/proc/self/status");
        if path.exists() {
            assert!(bytes(path, "text", 8).unwrap_err().to_string().contains("has 9 bytes"));
        }
    }
}
