//! Writing one shard: a streaming safetensors writer in constant memory.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::Dtype;

use super::agree;
use super::check;
use super::error::PackError;
use super::header::{self, DATA_ALIGNMENT, LENGTH_BYTES, LONGEST_HEADER, TensorEntry};
use super::manifest::Manifest;
use super::names;
use crate::temporary::{TemporaryFile, relocate};

/// Writes one shard into a temporary file beside its final place. Dropped before
/// [`SealedShard::persist`], it leaves nothing behind.
///
/// The data section is allocated piece by piece, front to back; pieces may be written in any
/// order and from several threads. Tiles are allocated first, then F32, then F16 and BF16, then
/// U8: so every tensor is aligned without filler.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    file: TemporaryFile,
    data_start: u64,
    allocated: u64,
    written: AtomicU64,
    tensors: Vec<TensorEntry>,
    names: HashSet<String>,
}

impl ShardWriter {
    /// Begins the shard that will stand at `path`, with at least `header_reserve` bytes for its
    /// header (see [`super::header_bytes`]); the data section begins at the next multiple of
    /// [`DATA_ALIGNMENT`]. Whether something stands at `path` is asked when it is persisted.
    pub fn create(path: &Path, header_reserve: u64) -> Result<Self, PackError> {
        if path.file_name().is_none() {
            return Err(PackError::FileName {
                path: path.to_owned(),
                name: path.to_string_lossy().into_owned(),
            });
        }
        let data_start = header_reserve
            .checked_add(LENGTH_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(DATA_ALIGNMENT))
            .filter(|start| start - LENGTH_BYTES <= LONGEST_HEADER)
            .ok_or_else(|| PackError::HeaderReserve {
                path: path.to_owned(),
                needed: header_reserve,
                reserved: LONGEST_HEADER,
            })?;
        let file =
            TemporaryFile::beside(path).map_err(PackError::io("create a file beside", path))?;
        Ok(ShardWriter {
            path: path.to_owned(),
            file,
            data_start,
            allocated: 0,
            written: AtomicU64::new(0),
            tensors: Vec::new(),
            names: HashSet::new(),
        })
    }

    /// Where the shard will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the data section allocated so far.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Appends `bytes` to the data section and returns the offset of the first, from the
    /// section's start. Every allocated byte must be written and belong to one tensor.
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, PackError> {
        let offset = self.allocated;
        self.allocated = offset
            .checked_add(bytes)
            .filter(|end| {
                end.checked_add(self.data_start).is_some_and(|end| i64::try_from(end).is_ok())
            })
            .ok_or_else(|| PackError::overflow(&self.path, "data section"))?;
        Ok(offset)
    }

    /// Writes at `offset` of the data section, within what is allocated. Safe from any thread;
    /// concurrent writes must not overlap.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), PackError> {
        let length = u64::try_from(bytes.len())
            .map_err(|_| PackError::overflow(&self.path, "data section"))?;
        self.check_range("data section", offset, length)?;
        self.file
            .as_file()
            .write_all_at(bytes, self.data_start + offset)
            .map_err(PackError::io("write", &self.path))?;
        self.written.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the bytes from `offset` on, as many as type and shape need, the tensor `name`.
    pub fn describe(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        offset: u64,
    ) -> Result<(), PackError> {
        let bytes = header::tensor_bytes(dtype, shape)
            .ok_or_else(|| PackError::overflow(&self.path, name))?;
        self.check_range(name, offset, bytes)?;
        if name == names::HEADER_METADATA || !self.names.insert(name.to_owned()) {
            return Err(PackError::Duplicate {
                path: self.path.clone(),
                list: "header",
                name: name.to_owned(),
            });
        }
        self.tensors.push(TensorEntry {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            begin: offset,
            end: offset + bytes,
        });
        Ok(())
    }

    /// Allocates, writes and describes a tensor whose bytes are at hand.
    pub fn append(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        bytes: &[u8],
    ) -> Result<(), PackError> {
        let expected = header::tensor_bytes(dtype, shape)
            .ok_or_else(|| PackError::overflow(&self.path, name))?;
        if u64::try_from(bytes.len()) != Ok(expected) {
            return Err(PackError::Tensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: format!("{expected} bytes for {dtype} {shape:?}"),
                found: format!("{} bytes", bytes.len()),
            });
        }
        let offset = self.allocate(expected)?;
        self.describe(name, dtype, shape, offset)?;
        self.write_at(offset, bytes)
    }

    /// Completes the file: checks that tensors cover the data without hole or overlap and are
    /// what the manifest says, writes the header. The shard stands nowhere yet; several
    /// can be sealed first and persisted together.
    pub fn seal(mut self, manifest: &Manifest) -> Result<SealedShard, PackError> {
        self.tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
        self.check_cover()?;
        let written = self.written.load(Ordering::Relaxed);
        if written < self.allocated {
            return Err(PackError::Unwritten {
                path: self.path,
                expected: self.allocated,
                found: written,
            });
        }
        check::shard(&self.path, manifest, &self.tensors, self.data_start)?;
        if manifest.shard.is_none() {
            let shape = |name: &str| {
                self.tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &*tensor.shape)
            };
            agree::pack(&[(self.path.as_path(), manifest)], shape)?;
        }

        let reserved = self.data_start - LENGTH_BYTES;
        let mut header = header::encode(&self.path, manifest, &self.tensors)?;
        let space = usize::try_from(reserved).ok().filter(|&space| header.len() <= space);
        let Some(space) = space else {
            return Err(PackError::HeaderReserve {
                path: self.path,
                needed: u64::try_from(header.len()).unwrap_or(u64::MAX),
                reserved,
            });
        };
        header.resize(space, b' ');

        let bytes = self.data_start + self.allocated;
        let file = self.file.as_file();
        file.write_all_at(&reserved.to_le_bytes(), 0)
            .and_then(|()| file.write_all_at(&header, LENGTH_BYTES))
            .and_then(|()| file.set_len(bytes))
            .map_err(PackError::io("write", &self.path))?;
        let header_sha256 = header::digest(&header);
        let shard = FinishedShard { path: self.path, bytes, header_sha256, tensors: self.tensors };
        Ok(SealedShard { file: self.file, shard })
    }

    /// [`Self::seal`], then [`SealedShard::persist`] without replacing anything.
    pub fn finish(self, manifest: &Manifest) -> Result<FinishedShard, PackError> {
        self.seal(manifest)?.persist(false)
    }

    fn check_range(&self, item: &str, offset: u64, bytes: u64) -> Result<(), PackError> {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.allocated) {
            return Ok(());
        }
        Err(PackError::Range {
            path: self.path.clone(),
            item: item.to_owned(),
            offset,
            bytes,
            available: self.allocated,
        })
    }

    /// Tensors, sorted, must lie end to end over all that is allocated.
    fn check_cover(&self) -> Result<(), PackError> {
        let mut covered = 0;
        for tensor in &self.tensors {
            if tensor.begin < covered {
                return Err(PackError::Overlap {
                    path: self.path.clone(),
                    tensor: tensor.name.clone(),
                    offset: tensor.begin,
                    end: covered,
                });
            }
            if tensor.begin > covered {
                return Err(self.hole(covered, tensor.begin));
            }
            covered = tensor.end;
        }
        if covered < self.allocated {
            return Err(self.hole(covered, self.allocated));
        }
        Ok(())
    }

    fn hole(&self, offset: u64, end: u64) -> PackError {
        PackError::Hole { path: self.path.clone(), offset, end }
    }
}

/// A complete shard that does not stand in its place yet. Dropped, it is gone.
#[derive(Debug)]
pub struct SealedShard {
    file: TemporaryFile,
    shard: FinishedShard,
}

impl SealedShard {
    /// SHA-256 of its header, hexadecimal.
    pub fn header_sha256(&self) -> &str {
        &self.shard.header_sha256
    }

    /// Moves the shard to its place in one step and syncs the folder. What stands there is
    /// replaced only with `force`.
    pub fn persist(self, force: bool) -> Result<FinishedShard, PackError> {
        self.file.place(&self.shard.path, force)?;
        Ok(self.shard)
    }

    /// The same to another place of the same file system, where it waits for the other shards.
    pub fn set_aside(mut self, path: &Path) -> Result<FinishedShard, PackError> {
        self.shard.path = path.to_owned();
        self.persist(true)
    }
}

/// A shard that stands somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedShard {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its header, hexadecimal. The header has those of all tensors.
    pub header_sha256: String,
    /// Its tensors, in data order.
    pub tensors: Vec<TensorEntry>,
}

impl FinishedShard {
    /// Moves the shard to another place of the same file system in one step. What stands there is
    /// replaced only with `force`; on an error it stays where it was.
    pub fn move_to(&mut self, path: &Path, force: bool) -> Result<(), PackError> {
        relocate(&self.path, path, force)?;
        self.path = path.to_owned();
        Ok(())
    }
}
