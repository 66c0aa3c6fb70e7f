//! Where statistics will stand, and what must not stand there already.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::gguf::Gguf;
use tessera_formats::temporary;

use super::Request;

/// End of a statistics file's name where nothing is said.
const SUFFIX: &str = ".stats.safetensors";

/// The file to write: as named, or in the current folder by the model's name.
pub fn resolve(request: &Request<'_>) -> anyhow::Result<PathBuf> {
    let output = match request.output {
        Some(output) => output.to_owned(),
        None => default_name(request.model),
    };
    check_name(&output)?;
    Ok(output)
}

/// `model.stats.safetensors` for `folder/model.gguf` and for `folder/model-00001-of-00003.gguf`.
fn default_name(model: &Path) -> PathBuf {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let whole = stem.rsplit_once("-of-").and_then(|(rest, count)| {
        let (whole, number) = rest.rsplit_once('-')?;
        (is_number(number) && is_number(count)).then_some(whole)
    });
    format!("{}{SUFFIX}", whole.unwrap_or(stem)).into()
}

/// The folder for what is not finished, beside the output.
pub fn work_folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Refuses names that no statistics file has, and folders that do not exist.
pub fn check_name(output: &Path) -> anyhow::Result<()> {
    ensure!(
        output.extension().is_some_and(|extension| extension == "safetensors"),
        "the output `{}` must be called NAME.safetensors",
        escaped_path(output),
    );
    let folder = temporary::folder(output);
    ensure!(folder.is_dir(), "the folder `{}` does not exist", escaped_path(folder));
    Ok(())
}

/// Refuses an output that is an input, or that exists.
pub fn check(request: &Request<'_>, gguf: &Gguf, output: &Path) -> anyhow::Result<()> {
    if let Ok(existing) = fs::metadata(output) {
        let inputs = gguf.shards().iter().map(|shard| shard.path());
        for input in inputs.chain(request.dataset.iter().map(PathBuf::as_path)) {
            let input =
                fs::metadata(input).with_context(|| format!("`{}`", escaped_path(input)))?;
            if (existing.dev(), existing.ino()) == (input.dev(), input.ino()) {
                bail!("the output `{}` is an input", escaped_path(output));
            }
        }
    }
    check_existing(output, request.force)
}

/// Refuses an output that exists, unless it is to be replaced.
pub fn check_existing(output: &Path, force: bool) -> anyhow::Result<()> {
    match output.symlink_metadata() {
        Ok(existing) => {
            ensure!(!existing.is_dir(), "the output `{}` is a folder", escaped_path(output));
            ensure!(
                force,
                "`{}` exists: choose another name, or `--force` to replace it",
                escaped_path(output),
            );
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("`{}`", escaped_path(output))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_called_after_the_model() {
        for (model, expected) in [
            ("folder/model.gguf", "model.stats.safetensors"),
            ("model-00002-of-00003.gguf", "model.stats.safetensors"),
            ("model-2-of-3.gguf", "model-2-of-3.stats.safetensors"),
            ("part-of-00003.gguf", "part-of-00003.stats.safetensors"),
            ("../model", "model.stats.safetensors"),
        ] {
            assert_eq!(default_name(Path::new(model)), Path::new(expected));
        }
        let work = work_folder(Path::new("a/b.safetensors"));
        assert_eq!(work, Path::new("a/b.safetensors.partial"));
    }
}
