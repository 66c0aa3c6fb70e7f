//! Where the rotated model will stand, and what must not stand there already.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use tessera_formats::gguf::Gguf;
use tessera_formats::temporary::folder;

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
