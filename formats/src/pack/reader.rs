//! Reading a pack: every header checked before anything in the pack is used.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use sha2::{Digest, Sha256};

use super::agree;
use super::check;
use super::error::PackError;
use super::header::{self, LENGTH_BYTES, LONGEST_HEADER, TensorEntry};
use super::index::{Index, file_name};
use super::locate::{Located, locate, siblings};
use super::manifest::{Carried, Input, Linear, Manifest};

/// Bytes read at once where a tensor is streamed.
const CHUNK_BYTES: usize = 1 << 20;

/// An open pack. Headers are in memory, tensors are read with positioned reads; every method may
/// be called from several threads.
///
/// Opening checks everything that headers can show: sizes, shapes, names, limits of the target,
/// agreement of shards. It does not read tensors: hashes are checked by whoever reads them, with
/// [`PackReader::hash_tensor`].
#[derive(Debug)]
pub struct PackReader {
    shards: Vec<ShardFile>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    linears: HashMap<String, (usize, usize)>,
    inputs: HashMap<String, (usize, usize)>,
}

/// One file of a pack.
#[derive(Debug)]
pub struct ShardFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    data_start: u64,
    manifest: Manifest,
}

impl ShardFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where its data section begins.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// A stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, slowest dimension first.
    pub shape: Vec<u64>,
    /// Its first byte, from the start of the file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Position of its file in [`PackReader::shards`].
    pub shard: usize,
}

impl PackReader {
    /// Opens the pack that `path` means: its file, its index, any of its shards, or a folder with
    /// exactly one pack in it.
    pub fn open(path: &Path) -> Result<Self, PackError> {
        let (files, index) = match locate(path)? {
            Located::Indexed(files, path, index) => (open_all(files)?, Some((path, index))),
            Located::File(path) => {
                let first = open_shard(&path)?;
                match first.0.manifest.shard {
                    None => (vec![first], None),
                    Some(shard) => (open_all(siblings(&path, shard)?)?, None),
                }
            }
        };
        let pack = Self::assemble(files)?;
        if let Some((path, index)) = index {
            pack.check_index(&path, &index)?;
        }
        Ok(pack)
    }

    /// Puts opened shards in order and checks them together.
    fn assemble(mut files: Vec<(ShardFile, Vec<TensorEntry>)>) -> Result<Self, PackError> {
        let index = |file: &ShardFile| file.manifest.shard.map_or(1, |shard| shard.index);
        let count = |file: &ShardFile| file.manifest.shard.map_or(1, |shard| shard.count);
        files.sort_by_key(|(file, _)| index(file));
        for ((file, _), expected) in files.iter().zip(1u32..) {
            let found = (index(file), count(file));
            if found.0 != expected || usize::try_from(found.1) != Ok(files.len()) {
                return Err(PackError::Field {
                    path: file.path.clone(),
                    item: "manifest".to_owned(),
                    field: "shard",
                    expected: format!("{expected} of {}", files.len()),
                    found: format!("{} of {}", found.0, found.1),
                });
            }
        }

        let mut pack = PackReader {
            shards: Vec::with_capacity(files.len()),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            linears: HashMap::new(),
            inputs: HashMap::new(),
        };
        for (shard, (file, entries)) in files.into_iter().enumerate() {
            for entry in entries {
                if pack.by_name.insert(entry.name.clone(), pack.tensors.len()).is_some() {
                    return Err(PackError::Duplicate {
                        path: file.path,
                        list: "header",
                        name: entry.name,
                    });
                }
                pack.tensors.push(TensorInfo {
                    offset: file.data_start + entry.begin,
                    bytes: entry.end - entry.begin,
                    name: entry.name,
                    dtype: entry.dtype,
                    shape: entry.shape,
                    shard,
                });
            }
            for (position, linear) in file.manifest.linears.iter().enumerate() {
                pack.linears.insert(linear.name.clone(), (shard, position));
            }
            for (position, input) in file.manifest.inputs.iter().enumerate() {
                pack.inputs.insert(input.name.clone(), (shard, position));
            }
            pack.shards.push(file);
        }
        let manifests: Vec<(&Path, &Manifest)> =
            pack.shards.iter().map(|shard| (shard.path(), shard.manifest())).collect();
        agree::pack(&manifests, |name| pack.tensor_info(name).map(|tensor| &*tensor.shape))?;
        Ok(pack)
    }

    /// The index must name exactly the tensors there are, in the files where they are.
    fn check_index(&self, path: &Path, index: &Index) -> Result<(), PackError> {
        for tensor in &self.tensors {
            let file = self.shards.get(tensor.shard).map(|shard| file_name(&shard.path));
            let listed = index.weight_map.get(&tensor.name);
            if listed.map(String::as_str) != file.transpose()? {
                return Err(PackError::Missing {
                    path: path.to_owned(),
                    tensor: tensor.name.clone(),
                });
            }
        }
        match index.weight_map.keys().find(|name| !self.by_name.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                Err(PackError::Unreferenced { path: path.to_owned(), tensor: name.clone() })
            }
        }
    }

    /// The files of the pack, in order.
    pub fn shards(&self) -> &[ShardFile] {
        &self.shards
    }

    /// Manifest of a shard, counted from 0. All agree in everything but `inputs`, `linears`,
    /// `carried` and `shard`.
    pub fn manifest(&self, shard: usize) -> Option<&Manifest> {
        self.shards.get(shard).map(ShardFile::manifest)
    }

    /// Linears of all shards, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.shards.iter().flat_map(|shard| &shard.manifest.linears)
    }

    /// Inputs of all shards, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.shards.iter().flat_map(|shard| &shard.manifest.inputs)
    }

    /// Carried tensors of all shards, in order.
    pub fn carried(&self) -> impl Iterator<Item = &Carried> {
        self.shards.iter().flat_map(|shard| &shard.manifest.carried)
    }

    /// The linear of that name.
    pub fn linear(&self, name: &str) -> Option<&Linear> {
        let &(shard, position) = self.linears.get(name)?;
        self.shards.get(shard)?.manifest.linears.get(position)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Input> {
        let &(shard, position) = self.inputs.get(name)?;
        self.shards.get(shard)?.manifest.inputs.get(position)
    }

    /// Stored tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The stored tensor of that name.
    pub fn tensor_info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).and_then(|&position| self.tensors.get(position))
    }

    /// Reads `buf.len()` bytes of a tensor, from its byte `offset` on.
    pub fn read_tensor_at(&self, name: &str, offset: u64, buf: &mut [u8]) -> Result<(), PackError> {
        let (tensor, shard) = self.find(name)?;
        let bytes = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if offset.checked_add(bytes).is_none_or(|end| end > tensor.bytes) {
            return Err(PackError::Range {
                path: shard.path.clone(),
                item: name.to_owned(),
                offset,
                bytes,
                available: tensor.bytes,
            });
        }
        shard
            .file
            .read_exact_at(buf, tensor.offset + offset)
            .map_err(PackError::io("read", &shard.path))
    }

    /// Reads a whole tensor of at most `limit` bytes.
    pub fn read_tensor(&self, name: &str, limit: u64) -> Result<Vec<u8>, PackError> {
        let (tensor, shard) = self.find(name)?;
        let bytes = usize::try_from(tensor.bytes).ok().filter(|_| tensor.bytes <= limit);
        let Some(bytes) = bytes else {
            return Err(PackError::TooLarge {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                bytes: tensor.bytes,
                limit,
            });
        };
        let mut data = vec![0; bytes];
        self.read_tensor_at(name, 0, &mut data)?;
        Ok(data)
    }

    /// Reads an F32 tensor, or a BF16 one, widened: scales, vectors, factors, corrections.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, PackError> {
        let (tensor, shard) = self.find(name)?;
        let values = |bytes: &[u8]| floats(tensor.dtype, bytes);
        if values(&[]).is_none() {
            return Err(PackError::Tensor {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                expected: format!("{} or {}", Dtype::F32, Dtype::BF16),
                found: tensor.dtype.to_string(),
            });
        }
        Ok(values(&self.read_tensor(name, u64::MAX)?).unwrap_or_default())
    }

    /// SHA-256 of a tensor's bytes, lower-case hexadecimal.
    pub fn hash_tensor(&self, name: &str) -> Result<String, PackError> {
        let (tensor, shard) = self.find(name)?;
        hash_range(&shard.file, tensor.offset, tensor.bytes)
            .map_err(PackError::io("read", &shard.path))
    }

    fn find(&self, name: &str) -> Result<(&TensorInfo, &ShardFile), PackError> {
        self.tensor_info(name)
            .and_then(|tensor| Some((tensor, self.shards.get(tensor.shard)?)))
            .ok_or_else(|| PackError::Missing {
                path: self.shards.first().map(|shard| shard.path.clone()).unwrap_or_default(),
                tensor: name.to_owned(),
            })
    }
}

/// The values of an F32 tensor, or of a BF16 one, widened; `None` of another type.
pub fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()),
        Dtype::BF16 => {
            let halves = bytes.as_chunks().0.iter().map(|&x| u32::from(u16::from_le_bytes(x)));
            Some(halves.map(|bits| f32::from_bits(bits << 16)).collect())
        }
        _ => None,
    }
}

/// SHA-256 of `bytes` bytes from `offset` on, lower-case hexadecimal.
pub(super) fn hash_range(file: &File, mut offset: u64, mut bytes: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(CHUNK_BYTES))];
    while bytes > 0 {
        let rest = usize::try_from(bytes).unwrap_or(usize::MAX);
        let (chunk, _) = buffer.split_at_mut(rest.min(CHUNK_BYTES));
        file.read_exact_at(chunk, offset)?;
        hash.update(&*chunk);
        let read = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        offset += read;
        bytes -= read;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn open_all(
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<Vec<(ShardFile, Vec<TensorEntry>)>, PackError> {
    paths.into_iter().map(|path| open_shard(&path)).collect()
}

/// Opens one file and checks its header against its manifest.
pub(super) fn open_shard(path: &Path) -> Result<(ShardFile, Vec<TensorEntry>), PackError> {
    let io = |action| PackError::io(action, path);
    // Asked before opening too: opening a pipe waits for its writer.
    let is_file = fs::metadata(path).map_err(io("open"))?.is_file();
    if !is_file {
        return Err(PackError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io("open"))?;
    let kind = file.metadata().map_err(io("open"))?;
    if !kind.is_file() {
        return Err(PackError::NotAFile { path: path.to_owned() });
    }
    let bytes = kind.len();
    let limit = LONGEST_HEADER.min(bytes.saturating_sub(LENGTH_BYTES));
    let mut length = [0; 8];
    if bytes >= LENGTH_BYTES {
        file.read_exact_at(&mut length, 0).map_err(io("read"))?;
    }
    let length = u64::from_le_bytes(length);
    let length = match usize::try_from(length) {
        Ok(possible) if (2..=limit).contains(&length) => possible,
        _ => return Err(PackError::HeaderLength { path: path.to_owned(), found: length, limit }),
    };
    let mut json = vec![0; length];
    file.read_exact_at(&mut json, LENGTH_BYTES).map_err(io("read"))?;
    let header::Parsed { tensors, manifest } = header::parse(path, &json)?;

    let data_start = LENGTH_BYTES + u64::try_from(length).unwrap_or(u64::MAX);
    let data = tensors.last().map_or(0, |tensor| tensor.end);
    let expected =
        data_start.checked_add(data).ok_or_else(|| PackError::overflow(path, "data section"))?;
    if expected != bytes {
        return Err(PackError::FileLength { path: path.to_owned(), expected, found: bytes });
    }
    check::shard(path, &manifest, &tensors, data_start)?;
    Ok((ShardFile { path: path.to_owned(), file, bytes, data_start, manifest }, tensors))
}
