//! The header of a shard: safetensors' JSON, written deterministically and read strictly.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::error::PackError;
use super::manifest::{FORMAT, Manifest, VERSION_MAJOR, VERSION_MINOR};
use super::names;

/// The data section of a shard begins at a multiple of it, in bytes: a page, so that it can be
/// mapped or read with direct I/O, and a multiple of the tile.
pub const DATA_ALIGNMENT: u64 = 4096;

/// Longest header that a safetensors reader accepts, in bytes.
pub const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes before the header: its length, u64 little-endian.
pub(super) const LENGTH_BYTES: u64 = 8;

/// Key of the manifest in `__metadata__`.
const MANIFEST_KEY: &str = "tessera";

/// A tensor of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name, unique in the pack.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, slowest dimension first.
    pub shape: Vec<u64>,
    /// First byte, from the start of the data section.
    pub begin: u64,
    /// End, from the start of the data section.
    pub end: u64,
}

/// Bytes of a tensor; `None` if 64 bits cannot hold the number, or an element is not whole bytes.
pub fn tensor_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let bits = u64::try_from(dtype.bitsize()).ok()?;
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    bits.is_multiple_of(8).then(|| elements.checked_mul(bits / 8)).flatten()
}

/// Bytes of the header that a manifest and its tensors need, without padding.
///
/// A writer that does not know its results yet passes [`Manifest::widest`] and the layout it has
/// planned, and gives the answer to [`super::ShardWriter::create`].
pub fn header_bytes(manifest: &Manifest, tensors: &[TensorEntry]) -> Result<u64, PackError> {
    let header = encode(Path::new(""), manifest, tensors)?;
    u64::try_from(header.len()).map_err(|_| PackError::overflow(Path::new(""), "header"))
}

/// The header's JSON: the manifest first, then the tensors in the order given.
pub(super) fn encode(
    path: &Path,
    manifest: &Manifest,
    tensors: &[TensorEntry],
) -> Result<Vec<u8>, PackError> {
    let malformed =
        |error: serde_json::Error| PackError::Manifest { path: path.into(), reason: text(&error) };
    let manifest = serde_json::to_string(manifest).map_err(malformed)?;
    serde_json::to_vec(&Header { manifest: &manifest, tensors }).map_err(malformed)
}

struct Header<'a> {
    manifest: &'a str,
    tensors: &'a [TensorEntry],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry(names::HEADER_METADATA, &Single(MANIFEST_KEY, self.manifest))?;
        for tensor in self.tensors {
            map.serialize_entry(
                &tensor.name,
                &Raw {
                    dtype: tensor.dtype,
                    shape: tensor.shape.clone(),
                    data_offsets: (tensor.begin, tensor.end),
                },
            )?;
        }
        map.end()
    }
}

/// A map of one string to another.
struct Single<'a>(&'a str, &'a str);

impl Serialize for Single<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.0, self.1)?;
        map.end()
    }
}

/// A tensor as the header has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// SHA-256 of a header as it stands in a file, hexadecimal.
pub(super) fn digest(header: &[u8]) -> String {
    Sha256::digest(header).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A parsed header.
pub(super) struct Parsed {
    /// Tensors in data order: contiguous from 0, sizes equal to type times shape.
    pub tensors: Vec<TensorEntry>,
    /// The manifest, of a version that is read; nothing else in it is checked yet.
    pub manifest: Manifest,
}

/// Parses the JSON of a header. The official parser must accept it; beyond it, a name that
/// occurs twice, a field that is unknown and bytes before the brace are refused.
pub(super) fn parse(path: &Path, header: &[u8]) -> Result<Parsed, PackError> {
    let malformed = |reason: String| PackError::Header { path: path.into(), reason };
    if header.first() != Some(&b'{') {
        return Err(malformed("does not begin with `{`".to_owned()));
    }
    let _accepted: Metadata =
        serde_json::from_slice(header).map_err(|error| malformed(text(&error)))?;
    let Strict { mut tensors, manifest } =
        serde_json::from_slice(header).map_err(|error| malformed(text(&error)))?;
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    let manifest = manifest.ok_or_else(|| PackError::NotAPack { path: path.into() })?;
    Ok(Parsed { tensors, manifest: parse_manifest(path, &manifest)? })
}

/// Parses a manifest, its version first: another version may have other fields.
fn parse_manifest(path: &Path, json: &str) -> Result<Manifest, PackError> {
    #[derive(Deserialize)]
    struct Probe {
        format: String,
        version: [u32; 2],
    }
    let malformed =
        |error: serde_json::Error| PackError::Manifest { path: path.into(), reason: text(&error) };
    let Probe { format, version } = serde_json::from_str(json).map_err(malformed)?;
    check_version(path, &format, version)?;
    serde_json::from_str(json).map_err(malformed)
}

/// Refuses another format, another major version and a newer minor one.
pub(super) fn check_version(path: &Path, format: &str, found: [u32; 2]) -> Result<(), PackError> {
    if format != FORMAT {
        return Err(PackError::Field {
            path: path.into(),
            item: "manifest".to_owned(),
            field: "format",
            expected: FORMAT.to_owned(),
            found: format.to_owned(),
        });
    }
    let supported = [VERSION_MAJOR, VERSION_MINOR];
    if found[0] != supported[0] || found[1] > supported[1] {
        return Err(PackError::Version { path: path.into(), found, supported });
    }
    Ok(())
}

/// The entries of a header, each name once.
struct Strict {
    tensors: Vec<TensorEntry>,
    manifest: Option<String>,
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Strict;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a safetensors header")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut strict = Strict { tensors: Vec::new(), manifest: None };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == names::HEADER_METADATA {
                        strict.manifest = map.next_value::<Unique>()?.0;
                    } else {
                        let Raw { dtype, shape, data_offsets: (begin, end) } = map.next_value()?;
                        strict.tensors.push(TensorEntry {
                            name: name.clone(),
                            dtype,
                            shape,
                            begin,
                            end,
                        });
                    }
                    if let Some(name) = seen.replace(name) {
                        return Err(de::Error::custom(format!("duplicate key `{name}`")));
                    }
                }
                Ok(strict)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// `__metadata__`: the manifest, if there is one; each key once.
struct Unique(Option<String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Unique;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut manifest = None;
                let mut seen = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if key == MANIFEST_KEY {
                        manifest = Some(value);
                    }
                    if let Some(key) = seen.replace(key) {
                        return Err(de::Error::custom(format!("duplicate key `{key}`")));
                    }
                }
                Ok(Unique(manifest))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn text(error: &serde_json::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_tensors() {
        for (dtype, shape, bytes) in [
            (Dtype::F32, &[2, 3][..], Some(24)),
            (Dtype::BF16, &[5], Some(10)),
            (Dtype::U8, &[], Some(1)),
            (Dtype::I8, &[0, 7], Some(0)),
            (Dtype::F4, &[2], None),
            (Dtype::U8, &[1 << 32, 1 << 32], None),
            (Dtype::F32, &[1 << 62], None),
        ] {
            assert_eq!(tensor_bytes(dtype, shape), bytes, "{dtype} {shape:?}");
        }
    }
}
