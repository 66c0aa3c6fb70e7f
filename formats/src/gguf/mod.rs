//! Reading and writing GGUF.
//!
//! [`Gguf::open`] reads the header of a file, or of all files of a split model, and proves before
//! it returns that every tensor is in bounds; [`Gguf::read_at`] then reads parts of tensors by
//! position. Nothing is mapped, and weights are never held.
//!
//! The rules are those of ggml's `gguf.cpp` and of the specification (ggml, `docs/gguf.md`),
//! versions 2 and 3, little-endian. Where the two are lax the reader is strict, because bytes
//! that one reader sees and another does not are how files are tampered with:
//!
//! - strings are UTF-8; keys have 1 to 65,535 bytes, tensor names 1 to 63, neither has a NUL,
//!   none occurs twice (names that differ in case or Unicode form are different names);
//! - a bool is 0 or 1; `general.alignment` is a u32 and a power of two from 8 to 2^24;
//! - tensors have 1 to 4 dimensions, none of them 0, rows of whole blocks, fewer than 2^63
//!   elements, and begin where the padded tensor before them ends;
//! - the file ends with the last tensor, or with its padding;
//! - arrays of arrays are refused, as ggml does.
//!
//! The content of padding is not looked at. Every count is compared with the bytes that remain
//! before anything is reserved for it; beyond that hold the limits [`LARGEST_HEADER`],
//! [`MOST_KEYS`], [`MOST_TENSORS`] and [`MOST_SHARDS`].

mod brief;
mod cursor;
mod error;
mod header;
mod metadata;
mod source;
mod split;
mod tensor;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use self::cursor::Cursor;
use self::header::Header;
use self::source::Source;
use self::split::{ShardPaths, Split};
use self::tensor::{Tensors, read_tensors};
use crate::escape::Escaped;

pub use self::cursor::LARGEST_HEADER;
pub use self::error::{GgufError, Problem, SplitProblem, Subject};
pub use self::header::{
    DEFAULT_ALIGNMENT, LARGEST_ALIGNMENT, LONGEST_KEY, MOST_KEYS, SMALLEST_ALIGNMENT,
};
pub use self::metadata::Metadata;
pub use self::split::MOST_SHARDS;
pub use self::tensor::{LONGEST_TENSOR_NAME, MOST_TENSORS, TensorInfo};
pub use self::value::{Array, Strings, Value, ValueType};
pub use self::writer::{GgufWriter, WriteError};

/// Key of the architecture's name.
const ARCHITECTURE: &str = "general.architecture";

/// An open GGUF model: one file, or all files of a split one.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Position of each tensor in `tensors`.
    index: HashMap<String, usize>,
    shards: Vec<Shard>,
}

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    source: Source,
    alignment: u64,
    data_start: u64,
}

impl Shard {
    /// The path, as given or derived from the one given.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Length of the file at open, in bytes.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Whether the file has no bytes; never the case for an open model.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Alignment of the tensor data in this file, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where the tensor data begins, in bytes from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }
}

/// One file, read.
struct File {
    header: Header,
    split: Split,
    infos: Vec<TensorInfo>,
    shard: Shard,
}

impl File {
    /// Reads the header of a file. `position` is its place among the shards.
    fn open(path: &Path, position: usize) -> Result<Self, GgufError> {
        let source = Source::open(path)?;
        let mut cursor = Cursor::new(&source);
        let header = Header::read(&mut cursor)?;
        let split = Split::of(path, &header.metadata)?;
        let Tensors { infos, data_start } =
            read_tensors(&mut cursor, header.tensor_count, header.alignment, position)?;
        let shard = Shard { source, alignment: header.alignment, data_start };
        Ok(Self { header, split, infos, shard })
    }
}

impl Gguf {
    /// Opens a model and checks everything but the weights. If the file is a shard of a split
    /// model, all shards are opened, whichever was given.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let given = File::open(path, 0)?;
        if given.split.count == 1 {
            return Self::of_shards(given, None);
        }
        let paths = ShardPaths::matching(path, &given.split)?;
        paths.check_present()?;
        let given_split = given.split;
        let first = if given_split.number == 0 { given } else { File::open(&paths.path(0), 0)? };
        first.split.check_shard(first.shard.path(), 0, &given_split)?;
        Self::of_shards(first, Some(&paths))
    }

    /// The model of a first file and, if it is split, of the shards after it.
    fn of_shards(first: File, paths: Option<&ShardPaths>) -> Result<Self, GgufError> {
        let File { header, split, infos, shard } = first;
        let mut model = Self {
            version: header.version,
            metadata: header.metadata,
            tensors: Vec::new(),
            index: HashMap::new(),
            shards: Vec::new(),
        };
        model.append(shard, infos)?;
        if let Some(paths) = paths {
            for number in 1..split.count {
                let file = File::open(&paths.path(number), model.shards.len())?;
                file.split.check_shard(file.shard.path(), number, &split)?;
                model.check_same_architecture(&file)?;
                model.append(file.shard, file.infos)?;
            }
        }
        let found = model.tensors.len() as u64;
        match split.tensors {
            Some(expected) if expected != found => {
                Err(model.split_error(0, SplitProblem::Tensors { found, expected }))
            }
            _ => Ok(model),
        }
    }

    /// Adds the tensors of a shard.
    fn append(&mut self, shard: Shard, infos: Vec<TensorInfo>) -> Result<(), GgufError> {
        self.shards.push(shard);
        for info in infos {
            let here = info.shard;
            if self.tensors.len() as u64 == MOST_TENSORS {
                let problem = SplitProblem::TooManyTensors { limit: MOST_TENSORS };
                return Err(self.split_error(here, problem));
            }
            if let Some(other) = self.tensor(&info.name) {
                let other = self.shards.get(other.shard).map(|shard| shard.path().to_owned());
                let problem =
                    SplitProblem::Duplicate { tensor: info.name, other: other.unwrap_or_default() };
                return Err(self.split_error(here, problem));
            }
            self.index.insert(info.name.clone(), self.tensors.len());
            self.tensors.push(info);
        }
        Ok(())
    }

    /// Refuses a shard of another architecture. Shards after the first need not name theirs.
    fn check_same_architecture(&self, file: &File) -> Result<(), GgufError> {
        let show = |value: Option<&Value>| {
            value.map_or("absent".to_owned(), |value| match value.as_str() {
                Some(name) => format!("`{}`", Escaped(name)),
                None => value.type_name().to_owned(),
            })
        };
        let (found, expected) =
            (file.header.metadata.get(ARCHITECTURE), self.metadata.get(ARCHITECTURE));
        if found.is_none() || found == expected {
            return Ok(());
        }
        Err(GgufError::Split {
            path: file.shard.path().to_owned(),
            problem: SplitProblem::Key {
                key: ARCHITECTURE,
                found: show(found),
                expected: show(expected),
            },
        })
    }

    fn split_error(&self, shard: usize, problem: SplitProblem) -> GgufError {
        GgufError::Split { path: self.path_of(shard), problem }
    }

    /// The path of a shard, for errors.
    fn path_of(&self, shard: usize) -> PathBuf {
        self.shards.get(shard).map(|shard| shard.path().to_owned()).unwrap_or_default()
    }

    /// The version of the format, 2 or 3, of the first file.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the tensor data in the first file, in bytes. Other shards may have their own.
    pub fn alignment(&self) -> u64 {
        self.shards.first().map_or(DEFAULT_ALIGNMENT, Shard::alignment)
    }

    /// The key-values of the first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The key-value section of the first file, verbatim.
    pub fn metadata_bytes(&self) -> &[u8] {
        self.metadata.bytes()
    }

    /// All tensors, in the order of the shards and of each shard's infos.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// The files, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The value of `general.architecture`.
    pub fn architecture(&self) -> Result<&str, GgufError> {
        let path = || self.path_of(0);
        let key = || ARCHITECTURE.to_owned();
        let value = self
            .metadata
            .get(ARCHITECTURE)
            .ok_or_else(|| GgufError::MissingKey { path: path(), key: key() })?;
        value.as_str().ok_or_else(|| GgufError::KeyType {
            path: path(),
            key: key(),
            expected: ValueType::String.name(),
            found: value.type_name(),
        })
    }

    /// Fills `buf` with the bytes of a tensor from byte `offset` of its data.
    ///
    /// Reads are positioned: any number of threads may read at once.
    pub fn read_at(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), GgufError> {
        let length = buf.len() as u64;
        let end = offset.checked_add(length).filter(|end| *end <= tensor.bytes);
        let at = tensor.offset.checked_add(offset);
        match (self.shards.get(tensor.shard), at, end) {
            (Some(shard), Some(at), Some(_)) => {
                shard.source.read_exact_at(buf, at, Some(&tensor.name))
            }
            _ => Err(GgufError::OutOfRange {
                path: self.path_of(tensor.shard),
                tensor: tensor.name.clone(),
                offset,
                length,
                bytes: tensor.bytes,
            }),
        }
    }

    /// Checks that no file has been written to, replaced or removed since it was opened: its
    /// length, modification time and, on Unix, inode. To be called after the last read.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        self.shards.iter().try_for_each(|shard| shard.source.check_unchanged())
    }
}
