//! Where the rotated model will stand, and what must not stand there already.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::gguf::Gguf;
use tessera_formats::temporary::folder;

/// Refuses an output that cannot be a model, that is an input, or that exists.
pub fn check(output: &Path, gguf: &Gguf, force: bool) -> anyhow::Result<()> {
    ensure!(
        output.extension().is_some_and(|extension| extension == "gguf"),
        "the output `{}` must be called NAME.gguf",
        escaped_path(output),
    );
    let folder = folder(output);
    ensure!(folder.is_dir(), "the folder `{}` does not exist", escaped_path(folder));
    match output.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("`{}`", escaped_path(output))),
    }
    // A link that leads nowhere has no metadata; a link of either kind leads to the same file.
    if let Ok(existing) = fs::metadata(output) {
        ensure!(!existing.is_dir(), "the output `{}` is a folder", escaped_path(output));
        for shard in gguf.shards() {
            let input = fs::metadata(shard.path())
                .with_context(|| format!("`{}`", escaped_path(shard.path())))?;
            if (existing.dev(), existing.ino()) == (input.dev(), input.ino()) {
                bail!("the output `{}` is the input", escaped_path(output));
            }
        }
    }
    ensure!(
        force,
        "`{}` exists: choose another name, or `--force` to replace it",
        escaped_path(output)
    );
    Ok(())
}
