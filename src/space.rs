//! Whether there is room for a file before hours go into it.

use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, anyhow};
use tessera_formats::escape::escaped_path;
use tessera_formats::temporary::{folder, free_bytes};

use crate::size;

/// Refuses to begin `bytes` bytes at `path` where the file system says that it has less room.
pub fn check(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let folder = folder(path);
    let free = free_bytes(folder).with_context(|| format!("`{}`", escaped_path(folder)))?;
    compare(&escaped_path(path), bytes, free)
}

fn compare(path: &str, bytes: u64, free: u64) -> anyhow::Result<()> {
    if bytes <= free {
        return Ok(());
    }
    let full = anyhow!(io::Error::from(ErrorKind::StorageFull));
    Err(full.context(format!(
        "`{path}` needs {}, and {} are free: free some space, or write to another disk",
        size::show(bytes),
        size::show(free),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        assert!(compare("a", 10, 10).is_ok());
        let error = compare("a", 3 << 30, 1 << 20).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("`a` needs 3.00 GiB, and 1.00 MiB are free"),
            "{error:#}"
        );
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        assert_eq!(kind, Some(ErrorKind::StorageFull));
    }
}
