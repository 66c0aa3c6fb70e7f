//! Files that a command reads: none of them gives way to what it writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;
use tessera_formats::escape::escaped_path;

/// Refuses an output that is one of the inputs, by whatever name, link or hard link. Inputs that are
/// not there are their readers' to refuse.
pub fn keep<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<()> {
    let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let Some(existing) = file(output) else { return Ok(()) };
    if inputs.into_iter().any(|input| file(input) == Some(existing)) {
        bail!("the output `{}` is an input", escaped_path(output));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_itself_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("input"), "precious").unwrap();
        fs::write(path("other"), "precious").unwrap();
        fs::hard_link(path("input"), path("hard")).unwrap();
        symlink("input", path("link")).unwrap();
        let inputs = [path("missing"), path("input")];
        let keeps = |output: &str| keep(&path(output), inputs.iter().map(|path| path.as_path()));
        for name in ["input", "hard", "link", "./input"] {
            assert!(keeps(name).unwrap_err().to_string().contains("is an input"), "{name}");
        }
        for name in ["other", "missing", "new"] {
            keeps(name).unwrap();
        }
    }
}
