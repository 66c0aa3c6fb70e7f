//! The index of a pack of several files, as Hugging Face writes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::PackError;
use super::header::LONGEST_HEADER;
use super::names;
use super::writer::FinishedShard;
use crate::temporary::TemporaryFile;

/// An index: which file holds which tensor.
#[derive(Serialize, Deserialize)]
pub(super) struct Index {
    metadata: IndexMetadata,
    /// Tensor name to file name.
    pub weight_map: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct IndexMetadata {
    /// Bytes of all tensors.
    total_size: u64,
}

/// Path of shard `index` (1-based) of `count` of the pack `out` (`NAME.safetensors`): `out`
/// itself when there is only one, else `NAME-00001-of-0000N.safetensors`.
///
/// # Errors
/// [`PackError::FileName`] if `out` has no UTF-8 file name, [`PackError::Field`] if `index` is 0
/// or greater than `count`, or `count` is greater than [`names::MOST_SHARDS`].
pub fn shard_path(out: &Path, index: u32, count: u32) -> Result<PathBuf, PackError> {
    if index == 0 || index > count || count > names::MOST_SHARDS {
        return Err(PackError::Field {
            path: out.to_owned(),
            item: "shard".to_owned(),
            field: "index",
            expected: format!("1 to {count} of at most {}", names::MOST_SHARDS),
            found: index.to_string(),
        });
    }
    if count == 1 {
        return Ok(out.to_owned());
    }
    Ok(out.with_file_name(names::shard_file(stem(out)?, index, count)))
}

/// Path of the index of the pack `out`: `NAME.safetensors.index.json`.
pub fn index_path(out: &Path) -> Result<PathBuf, PackError> {
    Ok(out.with_file_name(format!("{}{}", stem(out)?, names::INDEX_SUFFIX)))
}

/// Writes the index of the finished shards of the pack `out`, atomically, and returns its path.
/// Something that stands there is replaced only with `force`.
pub fn write_index(
    out: &Path,
    shards: &[FinishedShard],
    force: bool,
) -> Result<PathBuf, PackError> {
    let path = index_path(out)?;
    let mut index =
        Index { metadata: IndexMetadata { total_size: 0 }, weight_map: BTreeMap::new() };
    for shard in shards {
        let file = file_name(&shard.path)?;
        for tensor in &shard.tensors {
            index.metadata.total_size = index
                .metadata
                .total_size
                .checked_add(tensor.end - tensor.begin)
                .ok_or_else(|| PackError::overflow(&path, "total_size"))?;
            if index.weight_map.insert(tensor.name.clone(), file.to_owned()).is_some() {
                return Err(PackError::Duplicate {
                    path: path.clone(),
                    list: "weight_map",
                    name: tensor.name.clone(),
                });
            }
        }
    }
    let mut json = serde_json::to_vec_pretty(&index)
        .map_err(|error| PackError::Manifest { path: path.clone(), reason: error.to_string() })?;
    json.push(b'\n');
    let mut file =
        TemporaryFile::beside(&path).map_err(PackError::io("create a file beside", &path))?;
    file.write_all(&json).map_err(PackError::io("write", &path))?;
    file.place(&path, force)?;
    Ok(path)
}

/// Reads an index, of at most [`LONGEST_HEADER`] bytes. File names in it are plain.
pub(super) fn read_index(path: &Path) -> Result<Index, PackError> {
    let length = std::fs::metadata(path).map_err(PackError::io("read", path))?;
    if !length.is_file() {
        return Err(PackError::NotAFile { path: path.to_owned() });
    }
    let too_long =
        |found| PackError::HeaderLength { path: path.to_owned(), found, limit: LONGEST_HEADER };
    if length.len() > LONGEST_HEADER {
        return Err(too_long(length.len()));
    }
    let mut json = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(LONGEST_HEADER + 1).read_to_end(&mut json))
        .map_err(PackError::io("read", path))?;
    if u64::try_from(read).map_or(true, |read| read > LONGEST_HEADER) {
        return Err(too_long(length.len()));
    }
    let index: Index = serde_json::from_slice(&json)
        .map_err(|error| PackError::Header { path: path.to_owned(), reason: error.to_string() })?;
    for name in index.weight_map.values() {
        if !names::is_plain_file_name(name) {
            return Err(PackError::FileName { path: path.to_owned(), name: name.clone() });
        }
    }
    Ok(index)
}

/// UTF-8 name of a file.
pub(super) fn file_name(path: &Path) -> Result<&str, PackError> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| PackError::FileName {
        path: path.to_owned(),
        name: path.to_string_lossy().into_owned(),
    })
}

/// Name of a pack's file without `.safetensors`.
fn stem(out: &Path) -> Result<&str, PackError> {
    let name = file_name(out)?;
    Ok(name.strip_suffix(names::SHARD_SUFFIX).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_shards() {
        let out = Path::new("dir/model.w8a8.safetensors");
        for (index, count, path) in [
            (1, 1, Some("dir/model.w8a8.safetensors")),
            (2, 3, Some("dir/model.w8a8-00002-of-00003.safetensors")),
            (0, 3, None),
            (4, 3, None),
            (1, 100_000, None),
        ] {
            assert_eq!(shard_path(out, index, count).ok(), path.map(PathBuf::from));
        }
        assert!(shard_path(Path::new("/"), 1, 2).is_err());
        assert_eq!(
            index_path(out).ok(),
            Some(PathBuf::from("dir/model.w8a8.safetensors.index.json"))
        );
    }
}
