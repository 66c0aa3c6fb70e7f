//! A shard that an earlier run finished, checked to its last byte before it is relied on.

use std::collections::HashMap;
use std::path::Path;

use super::error::PackError;
use super::header::LENGTH_BYTES;
use super::manifest::Manifest;
use super::reader::{ShardFile, hash_range, open_shard};
use super::writer::FinishedShard;
use crate::escape::Escaped;

impl FinishedShard {
    /// Opens a shard of which only the header's SHA-256, hexadecimal, is known, and compares all its
    /// bytes with the hashes there are: the header with that one, tensors with those in the header.
    ///
    /// # Errors
    /// [`PackError::Digest`] if something is not what was written, and all that can be wrong with a
    /// shard of a pack.
    pub fn reopen(path: &Path, header_sha256: &str) -> Result<(Self, Manifest), PackError> {
        let (shard, tensors) = open_shard(path)?;
        let found = header_hash(&shard)?;
        let differs = |what: String| PackError::Digest { path: path.to_owned(), what };
        if found != header_sha256 {
            return Err(differs("header".to_owned()));
        }
        let recorded = digests(&shard);
        for tensor in &tensors {
            let offset = shard.data_start() + tensor.begin;
            let found = hash_range(shard.file(), offset, tensor.end - tensor.begin)
                .map_err(PackError::io("read", path))?;
            if recorded.get(tensor.name.as_str()) != Some(&found.as_str()) {
                return Err(differs(format!("tensor `{}`", Escaped(&tensor.name))));
            }
        }
        let finished = FinishedShard {
            path: path.to_owned(),
            bytes: shard.bytes(),
            header_sha256: found,
            tensors,
        };
        Ok((finished, shard.manifest().clone()))
    }

    /// SHA-256 of the header of the shard at `path`, hexadecimal.
    ///
    /// # Errors
    /// If it is no shard of a pack.
    pub fn hash_header(path: &Path) -> Result<String, PackError> {
        header_hash(&open_shard(path)?.0)
    }
}

/// SHA-256 of the header as it stands in the file, hexadecimal.
fn header_hash(shard: &ShardFile) -> Result<String, PackError> {
    hash_range(shard.file(), LENGTH_BYTES, shard.data_start() - LENGTH_BYTES)
        .map_err(PackError::io("read", shard.path()))
}

/// SHA-256 of each tensor of a shard, by name.
fn digests(shard: &ShardFile) -> HashMap<&str, &str> {
    let manifest = shard.manifest();
    let segments = manifest.linears.iter().flat_map(|linear| &linear.segments);
    let tiles = segments.map(|segment| (segment.tiles.as_str(), segment.sha256.as_str()));
    let carried = manifest.carried.iter().map(|tensor| (tensor.name.as_str(), &*tensor.sha256));
    let others = manifest.digests.iter().map(|(name, digest)| (name.as_str(), digest.as_str()));
    tiles.chain(carried).chain(others).collect()
}
