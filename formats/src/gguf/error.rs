//! What can be wrong with a GGUF file, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::header::{DEFAULT_ALIGNMENT, LARGEST_ALIGNMENT, SMALLEST_ALIGNMENT};
use super::tensor::LONGEST_TENSOR_NAME;
use crate::escape::Escaped;

/// Why a GGUF file, or a part of it, cannot be read.
///
/// The message says where (file, byte, key or tensor), what was found and what was expected;
/// [`GgufError::hint`] says what to do. Names from the file are escaped in both.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The path cannot be looked at or opened.
    #[error("cannot open `{}`", shown(path))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is a directory, a FIFO, a device or a socket. It is never opened.
    #[error("`{}` is {found}, not a regular file", shown(path))]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is: "a directory", "a FIFO" and so on.
        found: &'static str,
    },
    /// The system failed to read bytes that are in the file.
    #[error("cannot read `{}` at byte {offset}{}", shown(path), of_tensor(tensor))]
    Read {
        /// The file.
        path: PathBuf,
        /// Byte of the file where the read began.
        offset: u64,
        /// The tensor being read, if any.
        tensor: Option<String>,
        /// What the system said.
        source: io::Error,
    },
    /// The file ended inside a read that its length at open allowed.
    #[error(
        "`{}` ended inside the {length} bytes at byte {offset}{}: it had {expected} bytes when \
         it was opened",
        shown(path),
        of_tensor(tensor)
    )]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Byte of the file where the read began.
        offset: u64,
        /// Bytes that were wanted.
        length: u64,
        /// The tensor being read, if any.
        tensor: Option<String>,
        /// Length of the file at open, in bytes.
        expected: u64,
    },
    /// The file is not the one that was opened.
    #[error(
        "`{}` changed while it was in use: its {property} is {found}, was {expected}",
        shown(path)
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs: "length", "modification time" or "identity".
        property: &'static str,
        /// What it was at open.
        expected: String,
        /// What it is now.
        found: String,
    },
    /// The bytes break a rule of the format.
    #[error("`{}`, byte {offset}, {subject}: {problem}", shown(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Byte of the file where the broken field begins.
        offset: u64,
        /// What was being read.
        subject: Subject,
        /// The rule that is broken.
        problem: Problem,
    },
    /// The shards of a split model do not belong together.
    #[error("`{}`: {problem}", shown(path))]
    Split {
        /// The shard.
        path: PathBuf,
        /// What is wrong with it.
        problem: SplitProblem,
    },
    /// A read outside of a tensor was asked for.
    #[error(
        "{length} bytes at byte {offset} of tensor `{}` were asked for, it has {bytes} in `{}`",
        Escaped(tensor),
        shown(path)
    )]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// First byte asked for, from the start of the tensor.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes of the tensor.
        bytes: u64,
    },
    /// A key that is needed is absent.
    #[error("`{}` has no key `{}`", shown(path), Escaped(key))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key has a value of another type than it must have.
    #[error("`{}`: key `{}` is {found}, must be {expected}", shown(path), Escaped(key))]
    KeyType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Type the key must have.
        expected: &'static str,
        /// Type of its value.
        found: &'static str,
    },
}

/// The part of a file that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// Magic, version and counts.
    Header,
    /// The name of a key-value pair.
    Key {
        /// Position of the pair in the file, from 0.
        index: u64,
    },
    /// The value of a key.
    Value {
        /// The key.
        key: String,
    },
    /// An element of an array.
    Element {
        /// The key of the array.
        key: String,
        /// Position of the element, from 0.
        index: u64,
    },
    /// The name of a tensor.
    TensorName {
        /// Position of the tensor in the file, from 0.
        index: u64,
    },
    /// A tensor's shape, type, offset or data.
    Tensor {
        /// The tensor.
        name: String,
    },
    /// The tensor data as a whole.
    Data,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Key { index } => write!(f, "name of key {index}"),
            Self::Value { key } => write!(f, "key `{}`", Escaped(key)),
            Self::Element { key, index } => {
                write!(f, "element {index} of key `{}`", Escaped(key))
            }
            Self::TensorName { index } => write!(f, "name of tensor {index}"),
            Self::Tensor { name } => write!(f, "tensor `{}`", Escaped(name)),
            Self::Data => f.write_str("tensor data"),
        }
    }
}

/// The rule of the format that a file breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The first four bytes are not `GGUF`.
    #[error("the file begins with `{}`, not with `GGUF`", Magic(*found))]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The magic or the version is byte-swapped.
    #[error("the file is big-endian, only little-endian GGUF is read")]
    BigEndian,
    /// A version that is not read.
    #[error("GGUF version {found} is not supported, versions 2 and 3 are")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// A field runs past the end of the file.
    #[error("{needed} bytes are needed, {remaining} remain in the file")]
    PastEnd {
        /// Bytes of the field.
        needed: u64,
        /// Bytes of the file from the field on.
        remaining: u64,
    },
    /// More things are declared than the rest of the file has room for.
    #[error(
        "{found} {things} are declared, the {remaining} bytes that remain hold {expected} at most"
    )]
    Count {
        /// What is counted.
        things: &'static str,
        /// The declared count.
        found: u64,
        /// The largest count the rest of the file has room for.
        expected: u64,
        /// Bytes of the file from the first of them on.
        remaining: u64,
    },
    /// More things are declared than this reader takes.
    #[error("{found} {things} are declared, at most {limit} are read")]
    TooMany {
        /// What is counted.
        things: &'static str,
        /// The declared count.
        found: u64,
        /// The reader's limit.
        limit: u64,
    },
    /// Keys and tensor infos together are larger than this reader takes.
    #[error("the header is larger than {limit} bytes")]
    HeaderTooLarge {
        /// The reader's limit in bytes.
        limit: u64,
    },
    /// A name is longer than the format allows.
    #[error("the name has {found} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes of the name.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A name has no characters.
    #[error("the name is empty")]
    Empty,
    /// A name has a NUL in it.
    #[error("the name has a NUL at its byte {at}")]
    Nul {
        /// Byte of the NUL within the name.
        at: u64,
    },
    /// A string is not UTF-8.
    #[error("the string is not UTF-8 at its byte {at}")]
    Utf8 {
        /// First wrong byte within the string.
        at: u64,
    },
    /// A name occurs twice.
    #[error("the name `{}` occurs a second time", Escaped(name))]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A value type that GGUF does not have.
    #[error("value type {found} is unknown, types are 0 to 12")]
    ValueType {
        /// The type id in the file.
        found: u32,
    },
    /// An array of arrays.
    #[error("an array of arrays is not read, ggml refuses it too")]
    NestedArray,
    /// A bool that is neither 0 nor 1.
    #[error("a bool is {found}, must be 0 or 1")]
    Bool {
        /// The byte in the file.
        found: u8,
    },
    /// `general.alignment` has another type than u32.
    #[error("the alignment is {found}, must be u32")]
    AlignmentType {
        /// Type of the value.
        found: &'static str,
    },
    /// An alignment that is not a power of two, or out of range.
    #[error(
        "the alignment {found} is not a power of two from {SMALLEST_ALIGNMENT} to \
         {LARGEST_ALIGNMENT}"
    )]
    Alignment {
        /// The alignment in the file.
        found: u32,
    },
    /// A tensor with no dimensions or more than four.
    #[error("the tensor has {found} dimensions, must have 1 to 4")]
    Dimensions {
        /// The count in the file.
        found: u32,
    },
    /// A dimension is zero.
    #[error("dimension {axis} is 0, a tensor without elements has nothing to convert")]
    ZeroDimension {
        /// Position of the dimension, from 0.
        axis: usize,
    },
    /// A dimension, or the product of all, is 2^63 or more.
    #[error("the shape {dims:?} has 2^63 elements or more")]
    Elements {
        /// Dimensions in file order.
        dims: Vec<u64>,
    },
    /// A type that ggml had once and removed.
    #[error("ggml type {found} ({name}) was removed from ggml")]
    RemovedType {
        /// The type id in the file.
        found: u32,
        /// What it was called.
        name: &'static str,
    },
    /// A type that ggml does not have.
    #[error("ggml type {found} is unknown")]
    UnknownType {
        /// The type id in the file.
        found: u32,
    },
    /// A row is not a whole number of blocks.
    #[error("a row of {found} elements is not a multiple of the {expected} of a {ty} block")]
    Row {
        /// Name of the ggml type.
        ty: &'static str,
        /// Elements of a row.
        found: u64,
        /// Elements of a block.
        expected: u64,
    },
    /// The size in bytes, padded to the alignment, or the sum of all does not fit 64 bits.
    #[error("the tensors' sizes add up to 2^64 bytes or more")]
    Bytes,
    /// The tensor does not begin where the one before it ends.
    #[error("the data offset is {found}, the padded end of the tensor before it is {expected}")]
    Offset {
        /// The offset in the file, from the start of the data.
        found: u64,
        /// The only offset allowed.
        expected: u64,
    },
    /// The data of a tensor runs past the end of the file.
    #[error("the data ends at byte {expected}, the file ends at byte {found}")]
    DataPastEnd {
        /// Byte of the file where the tensor's data ends.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The file goes on after the last tensor and its padding.
    #[error("{found} bytes follow the end of the last tensor")]
    Trailing {
        /// Bytes after the end.
        found: u64,
    },
}

/// Why files do not form one split model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SplitProblem {
    /// The file says that it is a shard and is not named as one.
    #[error(
        "the file is shard {number} of {count}, its name does not end in \
         `-{number:05}-of-{count:05}.gguf`"
    )]
    Name {
        /// Number of the shard, from 1.
        number: u64,
        /// Number of shards.
        count: u64,
    },
    /// A count of shards that is zero or more than is read.
    #[error("`split.count` is {found}, must be 1 to {limit}")]
    ShardCount {
        /// The count in the file.
        found: u64,
        /// The reader's limit.
        limit: u64,
    },
    /// Shards are absent.
    #[error("this shard, number {number} of {count}, is missing, as are {others} others")]
    Missing {
        /// Number of the first absent shard, from 1.
        number: u64,
        /// Number of shards.
        count: u64,
        /// Absent shards after it.
        others: u64,
    },
    /// A key of a shard has another value than the other shards ask for.
    #[error("`{key}` is {found}, must be {expected}")]
    Key {
        /// The key.
        key: &'static str,
        /// Its value, escaped, or "absent".
        found: String,
        /// The value it must have, escaped.
        expected: String,
    },
    /// The shards together have another number of tensors than declared.
    #[error("the shards have {found} tensors, `split.tensors.count` says {expected}")]
    Tensors {
        /// Tensors found.
        found: u64,
        /// Tensors declared.
        expected: u64,
    },
    /// Two shards have a tensor of the same name.
    #[error("tensor `{}` is in `{}` too", Escaped(tensor), shown(other))]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The shard that has it first.
        other: PathBuf,
    },
    /// The shards have more tensors than this reader takes.
    #[error("the shards have more than {limit} tensors")]
    TooManyTensors {
        /// The reader's limit.
        limit: u64,
    },
}

impl GgufError {
    /// What the user can do, where there is something.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::NotRegular { .. } => {
                "give the path of a GGUF file, streams cannot be read by position"
            }
            Self::Shrunk { .. } | Self::Changed { .. } => {
                "wait until nothing writes to the file, then start again"
            }
            Self::Malformed { problem, .. } => return problem.hint(),
            Self::Split { problem, .. } => problem.hint()?,
            Self::MissingKey { key, .. } if key == "general.architecture" => {
                "files without an architecture are not models, for example adapters or imatrix data"
            }
            _ => return None,
        };
        Some(Cow::Borrowed(hint))
    }
}

impl Problem {
    fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::Magic { .. } => {
                "this is not a GGUF file: convert the model with llama.cpp's convert_hf_to_gguf.py \
                 first"
            }
            Self::BigEndian => "rewrite the file with llama.cpp's gguf_convert_endian.py",
            Self::Version { found: 1 } => {
                "GGUF version 1 was dropped by llama.cpp too: convert the original model again"
            }
            Self::Version { .. } => "a newer release of this tool may read the file",
            Self::PastEnd { .. } | Self::Count { .. } | Self::DataPastEnd { .. } => {
                "the file is damaged or was not downloaded completely: compare its length and \
                 SHA-256 with the publisher's"
            }
            Self::TooLong { limit, .. } if *limit == LONGEST_TENSOR_NAME => {
                "llama.cpp refuses such names too; diffusion models written by \
                 stable-diffusion.cpp have them and are not supported"
            }
            Self::Alignment { .. } | Self::AlignmentType { .. } => {
                return Some(Cow::Owned(format!(
                    "remove `general.alignment` and write the file again with the default \
                     alignment of {DEFAULT_ALIGNMENT}"
                )));
            }
            Self::RemovedType { .. } => {
                "requantize the original model with a llama.cpp of today: ggml repacks at load time \
                 since it removed this type"
            }
            Self::UnknownType { .. } => {
                "the type may be newer than this tool, or belong to a fork of ggml"
            }
            Self::Trailing { .. } => {
                "the file has been appended to or joined with another: obtain it again from its \
                 publisher"
            }
            Self::ZeroDimension { .. } => "write the model again without its empty tensors",
            Self::Duplicate { .. } | Self::Offset { .. } | Self::Bool { .. } => {
                "the file was written by a faulty tool or tampered with: obtain it again from its \
                 publisher"
            }
            _ => return None,
        };
        Some(Cow::Borrowed(hint))
    }
}

impl SplitProblem {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Name { .. } => {
                "give all shards their original names, or merge them with \
                 `llama-gguf-split --merge`"
            }
            Self::Missing { .. } => "download all shards into one folder",
            Self::Key { .. } | Self::Tensors { .. } | Self::Duplicate { .. } => {
                "shards of different models or versions are mixed: download all of them again"
            }
            _ => return None,
        })
    }
}

/// Shows a path with what a terminal could misread escaped.
fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}

/// Shows the tensor that was being read.
fn of_tensor(tensor: &Option<String>) -> String {
    match tensor {
        Some(name) => format!(" of tensor `{}`", Escaped(name)),
        None => String::new(),
    }
}

/// Shows four bytes as characters where they are printable, as hexadecimal where not.
struct Magic([u8; 4]);

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'\\' | b'`' => write!(f, "\\x{byte:02x}"),
            b' '..=b'~' => write!(f, "{}", char::from(*byte)),
            _ => write!(f, "\\x{byte:02x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_place_and_escape_what_the_file_says() {
        let error = GgufError::Malformed {
            path: PathBuf::from("a\u{1b}[2J.gguf"),
            offset: 77,
            subject: Subject::Tensor { name: "x\u{1b}]52;c;AA\u{7}".to_owned() },
            problem: Problem::Offset { found: 32, expected: 0 },
        };
        assert_eq!(
            error.to_string(),
            "`a\\u{1b}[2J.gguf`, byte 77, tensor `x\\u{1b}]52;c;AA\\u{7}`: the data offset is 32, \
             the padded end of the tensor before it is 0"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("publisher")));
    }

    #[test]
    fn errors_are_small_enough_to_return() {
        assert!(size_of::<GgufError>() <= 128);
    }

    #[test]
    fn a_magic_is_printed_safely() {
        assert_eq!(Magic(*b"PK\x03\x1b").to_string(), "PK\\x03\\x1b");
    }
}
