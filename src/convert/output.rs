//! Where the pack will stand, and what must not stand there already.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::Gguf;
use tessera_formats::pack;
use tessera_formats::temporary;

use super::{Request, partial};

/// Refuses an output that cannot be a pack, that is an input, or that exists.
pub fn check(request: &Request<'_>, gguf: &Gguf) -> anyhow::Result<()> {
    let output = request.output;
    ensure!(
        output.extension().is_some_and(|extension| extension == "safetensors"),
        "the output `{}` must be called NAME.safetensors",
        escaped_path(output),
    );
    let name = output.file_name().unwrap_or_default();
    ensure!(
        name.to_str().is_some(),
        "the output `{}` has a name that is not UTF-8, as names of packs are",
        escaped_path(output),
    );
    let folder = temporary::folder(output);
    ensure!(folder.is_dir(), "the folder `{}` does not exist", escaped_path(folder));
    // The index of an interrupted run is looked at when it is known what else of it stands.
    let index = (!partial::exists(output)).then(|| pack::index_path(output)).transpose()?;
    let paths: Vec<_> = [output.to_owned()].into_iter().chain(index).collect();
    check_files(request, gguf, &paths, &[])
}

/// Refuses files of a pack that cannot be written, that are an input, or that exist but for those that
/// an interrupted run put in their places.
pub fn check_files(
    request: &Request<'_>,
    gguf: &Gguf,
    paths: &[PathBuf],
    placed: &[&Path],
) -> anyhow::Result<()> {
    for path in paths.iter().filter(|path| !placed.contains(&path.as_path())) {
        match path.symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("`{}`", escaped_path(path))),
        }
        // A link that leads nowhere has no metadata; a link of either kind leads to the same file.
        if let Ok(existing) = fs::metadata(path) {
            ensure!(!existing.is_dir(), "the output `{}` is a folder", escaped_path(path));
            for shard in gguf.shards() {
                let input = fs::metadata(shard.path())
                    .with_context(|| format!("`{}`", escaped_path(shard.path())))?;
                if (existing.dev(), existing.ino()) == (input.dev(), input.ino()) {
                    bail!("the output `{}` is the input", escaped_path(path));
                }
            }
        }
        if !request.force && !request.dry_run {
            bail!(
                "`{}` exists: choose another name, or `--force` to replace it",
                escaped_path(path)
            );
        }
    }
    Ok(())
}

/// Removes what is left of the pack that a new one replaces: the index of a pack that was in
/// several files, or the one file of a pack that is in several now.
pub fn remove_replaced(output: &Path, written: &[PathBuf]) -> anyhow::Result<()> {
    for path in [output.to_owned(), pack::index_path(output)?] {
        if !written.contains(&path)
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("`{}`", escaped_path(path)));
        }
    }
    Ok(())
}

/// The name of a source file as a manifest records it: a plain one, whatever the system allows.
pub fn recorded_name(path: &Path) -> String {
    const LONGEST: usize = 255;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut recorded = String::new();
    for character in name.chars() {
        let plain = !matches!(character, '/' | '\\' | ':') && !character.is_ascii_control();
        let character = if plain { character } else { '_' };
        if recorded.len() + character.len_utf8() > LONGEST {
            break;
        }
        recorded.push(character);
    }
    recorded
}

/// Refuses a carried tensor that has the name of a tensor that the pack makes itself.
pub fn check_names(gguf: &Gguf, plan: &super::Plan) -> anyhow::Result<()> {
    use std::collections::HashSet;
    use tessera_formats::pack::names;

    let linears: HashSet<&str> = plan.linears.iter().map(|linear| linear.name.as_str()).collect();
    let mut made: HashSet<String> =
        [names::GGUF_METADATA, names::GOLDEN_INPUTS, names::HEADER_METADATA]
            .into_iter()
            .map(str::to_owned)
            .chain(plan.linears.iter().map(|linear| names::scale(&linear.name)))
            .collect();
    for input in &plan.inputs {
        made.insert(names::vector(&input.name));
        made.extend(input.rotation.to_manifest().factor.map(|factor| factor.tensor));
    }
    for &index in &plan.carried {
        let name = gguf.tensors()[index].name.as_str();
        let of_tiles = name.rsplit_once(".tiles").is_some_and(|(linear, segment)| {
            let number = segment.strip_prefix('.').is_some_and(|n| n.parse::<usize>().is_ok());
            linears.contains(linear) && (segment.is_empty() || number)
        });
        ensure!(
            !of_tiles && !made.contains(name),
            "the model has a tensor `{}`, and the pack would have another of that name",
            Escaped(name),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_formats::pack::names::is_plain_file_name;

    #[test]
    fn recorded_names_are_plain() {
        for (name, expected) in [
            ("dir/model.gguf", "model.gguf"),
            ("llama3:8b.gguf", "llama3_8b.gguf"),
            ("a\\b\n\u{7f}.gguf", "a_b__.gguf"),
        ] {
            let recorded = recorded_name(Path::new(name));
            assert_eq!(recorded, expected);
            assert!(is_plain_file_name(&recorded));
        }
        let long = "ü".repeat(200);
        assert!(is_plain_file_name(&recorded_name(Path::new(&long))));
    }
}
