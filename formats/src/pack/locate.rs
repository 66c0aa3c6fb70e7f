//! Which files make up the pack that a path means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::error::PackError;
use super::index::{Index, file_name, read_index};
use super::manifest::Shard;
use super::names;
use crate::temporary::folder;

/// What a path means.
pub(super) enum Located {
    /// A file that is a pack, or one shard of it.
    File(PathBuf),
    /// All files of a pack, and its index with the index's path.
    Indexed(Vec<PathBuf>, PathBuf, Index),
}

/// Finds the pack that `path` means: a file, an index, or a folder with exactly one pack.
pub(super) fn locate(path: &Path) -> Result<Located, PackError> {
    let kind = fs::metadata(path).map_err(PackError::io("open", path))?;
    if kind.is_dir() {
        return locate(&only_pack(path)?);
    }
    if !path.to_string_lossy().ends_with(names::INDEX_SUFFIX) {
        return Ok(Located::File(path.to_owned()));
    }
    let index = read_index(path)?;
    let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if files.is_empty() || files.len() > names::MOST_SHARDS as usize {
        return Err(PackError::Field {
            path: path.to_owned(),
            item: "weight_map".to_owned(),
            field: "number of files",
            expected: format!("1 to {}", names::MOST_SHARDS),
            found: files.len().to_string(),
        });
    }
    let files = files.into_iter().map(|file| folder(path).join(file)).collect();
    Ok(Located::Indexed(files, path.to_owned(), index))
}

/// Files of the pack to which the shard at `path` belongs. Its own name must be that of the
/// shard it says it is; the others' names derive from it. They are made one by one: a file may say that
/// there are a hundred thousand.
pub(super) fn siblings(
    path: &Path,
    shard: Shard,
) -> Result<impl Iterator<Item = PathBuf>, PackError> {
    let name = file_name(path)?;
    match names::parse_shard_file(name) {
        Some((stem, index, count)) if (index, count) == (shard.index, shard.count) => Ok((1
            ..=count)
            .map(move |index| path.with_file_name(names::shard_file(stem, index, count)))),
        _ => Err(PackError::Field {
            path: path.to_owned(),
            item: name.to_owned(),
            field: "file name",
            expected: names::shard_file("NAME", shard.index, shard.count),
            found: name.to_owned(),
        }),
    }
}

/// The pack in a folder: its file, or any shard of it.
fn only_pack(path: &Path) -> Result<PathBuf, PackError> {
    let read = PackError::io;
    let mut packs: BTreeMap<(String, u32), PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(read("read", path))? {
        let entry = entry.map_err(read("read", path))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.ends_with(names::SHARD_SUFFIX) {
            continue;
        }
        let pack = match names::parse_shard_file(name) {
            Some((stem, _, count)) => (stem.to_owned(), count),
            None => (name.to_owned(), 0),
        };
        packs.entry(pack).or_insert_with(|| entry.path());
    }
    let found = packs.len();
    match packs.into_values().next() {
        Some(pack) if found == 1 => Ok(pack),
        _ => Err(PackError::NotOnePack { path: path.to_owned(), found }),
    }
}
