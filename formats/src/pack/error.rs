//! What can be wrong with a pack, or go wrong while one is written.

use std::io;
use std::path::{Path, PathBuf};

use crate::escape::Escaped;
use crate::temporary::PlaceError;

/// Why a pack was not read or written. Every variant that concerns a file names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", shown(.path))]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The output is there already.
    #[error("`{}` already exists", shown(.path))]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A pipe, a device or a folder stands where a file is expected.
    #[error("`{}` is not a regular file", shown(.path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// A folder that does not hold exactly one pack.
    #[error("folder `{}` holds {found} packs, expected one", shown(.path))]
    NotOnePack {
        /// The folder.
        path: PathBuf,
        /// Packs in it.
        found: usize,
    },
    /// A name that cannot be, or must not be, the name of a file of a pack.
    #[error("`{}` is no file name for `{}`", Escaped(.name), shown(.path))]
    FileName {
        /// The file that gives the name, or the path that lacks one.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A write or a tensor outside what was allocated, or a read outside a tensor.
    #[error(
        "bytes {offset}..{offset}+{bytes} of `{}` in `{}` are outside its {available} bytes",
        Escaped(.item),
        shown(.path)
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// Tensor, or `data section`.
        item: String,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A size that 64 bits cannot hold.
    #[error("the size of `{}` in `{}` overflows", Escaped(.item), shown(.path))]
    Overflow {
        /// The file.
        path: PathBuf,
        /// Tensor or other item.
        item: String,
    },
    /// Two tensors, or two entries of one list, of the same name.
    #[error("{list} in `{}` has `{}` twice", shown(.path), Escaped(.name))]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// `header`, or the list of the manifest.
        list: &'static str,
        /// The name.
        name: String,
    },
    /// Bytes of the data section that belong to no tensor.
    #[error("bytes {offset}..{end} of the data of `{}` belong to no tensor", shown(.path))]
    Hole {
        /// The file.
        path: PathBuf,
        /// First byte of the hole, in the data section.
        offset: u64,
        /// Its end.
        end: u64,
    },
    /// A tensor that begins before its predecessor ends.
    #[error(
        "tensor `{}` in `{}` begins at {offset}, before its predecessor's end at {end}",
        Escaped(.tensor),
        shown(.path)
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The later tensor.
        tensor: String,
        /// Its first byte, in the data section.
        offset: u64,
        /// Where the tensor before it ends.
        end: u64,
    },
    /// Fewer bytes were written than allocated.
    #[error("only {found} of {expected} allocated bytes of `{}` were written", shown(.path))]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// Bytes allocated.
        expected: u64,
        /// Bytes written.
        found: u64,
    },
    /// The header does not fit the space kept for it.
    #[error("the header of `{}` needs {needed} bytes, {reserved} are reserved", shown(.path))]
    HeaderReserve {
        /// The file.
        path: PathBuf,
        /// Bytes of the header.
        needed: u64,
        /// Bytes there are for it.
        reserved: u64,
    },
    /// A header length that is impossible for this file, or beyond the format's limit.
    #[error("header of `{}` claims {found} bytes, at most {limit} are possible", shown(.path))]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The claim.
        found: u64,
        /// Least of the format's limit and what the file has.
        limit: u64,
    },
    /// A header that is not that of a safetensors file.
    #[error("header of `{}` is malformed: {}", shown(.path), Escaped(.reason))]
    Header {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A safetensors file without a manifest.
    #[error("`{}` has no `tessera` manifest", shown(.path))]
    NotAPack {
        /// The file.
        path: PathBuf,
    },
    /// A manifest that cannot be parsed.
    #[error("manifest of `{}` is malformed: {}", shown(.path), Escaped(.reason))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A pack that this version of the tool does not read.
    #[error(
        "`{}` is a pack of format {}.{}, this tool reads {}.0 to {}.{}",
        shown(.path), .found[0], .found[1], .supported[0], .supported[0], .supported[1]
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version of the pack.
        found: [u32; 2],
        /// Newest version that is read.
        supported: [u32; 2],
    },
    /// A file shorter or longer than its header says.
    #[error("`{}` is {found} bytes long, its header says {expected}", shown(.path))]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Length by the header.
        expected: u64,
        /// Length.
        found: u64,
    },
    /// A field whose value the format forbids.
    #[error(
        "{field} of `{}` in `{}` is {}, expected {}",
        Escaped(.item), shown(.path), Escaped(.found), Escaped(.expected)
    )]
    Field {
        /// The file.
        path: PathBuf,
        /// Linear, input, carried tensor, or `manifest`.
        item: String,
        /// The field.
        field: &'static str,
        /// What the format demands.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A tensor whose type or shape is not what the manifest dictates.
    #[error(
        "tensor `{}` in `{}` is {}, expected {}",
        Escaped(.tensor), shown(.path), Escaped(.found), Escaped(.expected)
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Type and shape by the manifest.
        expected: String,
        /// Type and shape by the header.
        found: String,
    },
    /// A tensor that is named and not there.
    #[error("tensor `{}` is not in `{}`", Escaped(.tensor), shown(.path))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the manifest does not name.
    #[error("tensor `{}` in `{}` is not in the manifest", Escaped(.tensor), shown(.path))]
    Unreferenced {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose first byte is not where its type needs it.
    #[error(
        "tensor `{}` in `{}` begins at byte {offset}, not a multiple of {alignment}",
        Escaped(.tensor),
        shown(.path)
    )]
    Misaligned {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte in the file.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// Shards that do not belong together.
    #[error("`{}` and `{}` differ in {field}: shards of different packs", shown(.path), shown(.first))]
    Shards {
        /// A shard.
        path: PathBuf,
        /// The first shard.
        first: PathBuf,
        /// What differs.
        field: &'static str,
    },
    /// Bytes that are not those that were written.
    #[error("the {what} of `{}` does not have the recorded SHA-256", shown(.path))]
    Digest {
        /// The file.
        path: PathBuf,
        /// `header`, or a tensor.
        what: String,
    },
    /// A tensor larger than the caller is prepared to hold.
    #[error("tensor `{}` in `{}` has {bytes} bytes, limit {limit}", Escaped(.tensor), shown(.path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

impl PackError {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            PackError::Exists { .. } => Some("pass `--force` to replace it"),
            PackError::NotOnePack { .. } => Some("name the file of the pack instead of its folder"),
            PackError::NotAPack { .. } => Some("packs are written by `tessera convert`"),
            PackError::Version { found, supported, .. } => Some(if found[0] < supported[0] {
                "convert the model again"
            } else {
                "update the tool, or convert the model again with this one"
            }),
            PackError::FileLength { expected, found, .. } => Some(if found < expected {
                "the file was truncated: copy or download it again"
            } else {
                "something was appended to the file: copy or download it again"
            }),
            PackError::HeaderLength { .. } | PackError::Header { .. } => {
                Some("the file is damaged or not a safetensors file")
            }
            PackError::Shards { .. } => {
                Some("keep the shards of each conversion in a folder of their own")
            }
            PackError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space, or write to another disk")
            }
            _ => None,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError {
        move |source| PackError::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn overflow(path: &Path, item: &str) -> PackError {
        PackError::Overflow { path: path.to_owned(), item: item.to_owned() }
    }
}

impl From<PlaceError> for PackError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Exists { path } => PackError::Exists { path },
            PlaceError::Io { action, path, source } => PackError::Io { action, path, source },
        }
    }
}

/// A path, escaped: file names come from strangers too.
fn shown(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_file_reaches_a_terminal_unescaped() {
        let path = || PathBuf::from("a\x1b[2J");
        let name = || "x\x1b]52;c;AA\x07".to_owned();
        for error in [
            PackError::Header { path: path(), reason: name() },
            PackError::Manifest { path: path(), reason: name() },
            PackError::Unreferenced { path: path(), tensor: name() },
            PackError::Digest { path: path(), what: format!("tensor `{}`", Escaped(&name())) },
            PackError::FileName { path: path(), name: name() },
            PackError::Field {
                path: path(),
                item: name(),
                field: "k",
                expected: name(),
                found: name(),
            },
        ] {
            let message = error.to_string();
            assert!(!message.contains('\x1b') && !message.contains('\x07'), "{message}");
            assert!(message.contains("\\u{1b}"), "{message}");
        }
    }
}
