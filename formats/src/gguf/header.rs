//! The header of one file: version, counts and key-values.

use std::path::Path;
use std::sync::Arc;

use super::cursor::{Cursor, Fault, LARGEST_HEADER, Stop};
use super::error::{GgufError, Problem, Subject};
use super::metadata::Metadata;
use super::source::Source;
use super::value::{Array, Strings, Value, ValueType};

/// Alignment of tensor data where `general.alignment` is absent, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The smallest `general.alignment`. The specification asks for a multiple of 8; ggml itself
/// takes 1, 2 and 4, but nothing writes them.
pub const SMALLEST_ALIGNMENT: u64 = 8;

/// The largest `general.alignment`: 16 MiB, the largest page of any machine that maps models.
pub const LARGEST_ALIGNMENT: u64 = 16 << 20;

/// Bytes that a key may have, a limit of the specification.
pub const LONGEST_KEY: u64 = 65_535;

/// Key-values that a file may have. Files in circulation have below 200.
pub const MOST_KEYS: u64 = 65_536;

/// Key of the alignment of tensor data.
pub(super) const ALIGNMENT: &str = "general.alignment";

const MAGIC: [u8; 4] = *b"GGUF";

/// Length of a key, one byte of key, type, one byte of value.
const LEAST_KEY_VALUE: u64 = 8 + 1 + 4 + 1;

/// Everything before the tensor infos.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) tensor_count: u64,
    pub(super) alignment: u64,
    pub(super) metadata: Metadata,
}

impl Header {
    /// Reads a header from byte 0; the cursor is left at the first tensor info.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        let source = cursor.source();
        let (version, tensor_count, key_count) =
            fixed_part(cursor).map_err(|stop| stop.of(source, || Subject::Header))?;
        cursor.cut();
        let (metadata, alignment) = read_metadata(cursor, Some(key_count))?;
        Ok(Self { version, tensor_count, alignment, metadata })
    }
}

impl Metadata {
    /// The key-values of a section that was taken from a file, as [`Gguf::metadata_bytes`] gives
    /// it, by the rules for files. `path` is the file that errors name; their offsets are within
    /// the section.
    ///
    /// # Errors
    ///
    /// If the bytes are anything but whole key-values.
    ///
    /// [`Gguf::metadata_bytes`]: super::Gguf::metadata_bytes
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, GgufError> {
        let source = Source::in_memory(path, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let (metadata, _) = read_metadata(&mut Cursor::of_bytes(&source, bytes), None)?;
        Ok(metadata)
    }
}

/// Version, number of tensors, number of key-values.
fn fixed_part(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), Stop> {
    let magic = cursor.array::<4>()?;
    let mut reversed = magic;
    reversed.reverse();
    if reversed == MAGIC {
        return Err(Fault::new(0, Problem::BigEndian).into());
    }
    if magic != MAGIC {
        return Err(Fault::new(0, Problem::Magic { found: magic }).into());
    }
    match cursor.u32()? {
        version @ (2 | 3) => {
            let tensors_at = cursor.offset();
            let tensors = cursor.u64()?;
            let keys_at = cursor.offset();
            let keys = cursor.u64()?;
            cursor.check_count(
                tensors,
                "tensors",
                super::tensor::LEAST_INFO,
                super::tensor::MOST_TENSORS,
                tensors_at,
            )?;
            cursor.check_count(keys, "key-values", LEAST_KEY_VALUE, MOST_KEYS, keys_at)?;
            Ok((version, tensors, keys))
        }
        // A small version with its bytes reversed.
        version if version != 0 && version & 0xffff == 0 => {
            Err(Fault::new(4, Problem::BigEndian).into())
        }
        found => Err(Fault::new(4, Problem::Version { found }).into()),
    }
}

/// The key-values, `key_count` of them or all there are, and the alignment that they set.
fn read_metadata(
    cursor: &mut Cursor<'_>,
    key_count: Option<u64>,
) -> Result<(Metadata, u64), GgufError> {
    let source = cursor.source();
    let mut metadata = Metadata::default();
    let mut offsets = Vec::new();
    let mut index = 0;
    while key_count.map_or(cursor.remaining() > 0, |count| index < count) {
        let subject = || Subject::Key { index };
        let offset = cursor.offset();
        let malformed = |problem| GgufError::Malformed {
            path: source.path().to_owned(),
            offset,
            subject: subject(),
            problem,
        };
        if index == MOST_KEYS {
            let (things, found, limit) = ("key-values", index + 1, MOST_KEYS);
            return Err(malformed(Problem::TooMany { things, found, limit }));
        }
        let key = cursor.name(LONGEST_KEY).map_err(|stop| stop.of(source, subject))?.to_owned();
        if metadata.get(&key).is_some() {
            return Err(malformed(Problem::Duplicate { name: key }));
        }
        offsets.push(cursor.offset());
        let value = read_value(cursor, &key)?;
        metadata.push(key, value);
        index += 1;
    }
    metadata.set_bytes(Arc::new(cursor.cut()));
    let alignment = alignment(&metadata).map_err(|problem| {
        let offset = metadata.index_of(ALIGNMENT).and_then(|index| offsets.get(index));
        GgufError::Malformed {
            path: source.path().to_owned(),
            offset: offset.copied().unwrap_or_default(),
            subject: Subject::Value { key: ALIGNMENT.to_owned() },
            problem,
        }
    })?;
    Ok((metadata, alignment))
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let source = cursor.source();
    let subject = || Subject::Value { key: key.to_owned() };
    match read_type(cursor).map_err(|stop| stop.of(source, subject))? {
        ValueType::Array => read_array(cursor, key),
        ty => read_scalar(cursor, ty).map_err(|stop| stop.of(source, subject)),
    }
}

fn read_type(cursor: &mut Cursor<'_>) -> Result<ValueType, Stop> {
    let offset = cursor.offset();
    let found = cursor.u32()?;
    ValueType::from_id(found).ok_or_else(|| Fault::new(offset, Problem::ValueType { found }).into())
}

fn read_scalar(cursor: &mut Cursor<'_>, ty: ValueType) -> Result<Value, Stop> {
    let offset = cursor.offset();
    Ok(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        ValueType::U32 => Value::U32(cursor.u32()?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        ValueType::Bool => match cursor.array()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [found] => return Err(Fault::new(offset, Problem::Bool { found }).into()),
        },
        ValueType::String => Value::String(cursor.string()?.to_owned()),
        ValueType::U64 => Value::U64(cursor.u64()?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        ValueType::Array => return Err(Fault::new(offset, Problem::NestedArray).into()),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let source = cursor.source();
    let subject = || Subject::Value { key: key.to_owned() };
    let (ty, count) = read_array_head(cursor).map_err(|stop| stop.of(source, subject))?;
    let array = match ty {
        ValueType::String => Array::Strings(read_strings(cursor, key, count)?),
        _ => read_elements(cursor, ty, count).map_err(|stop| stop.of(source, subject))?,
    };
    Ok(Value::Array(array))
}

/// Type and number of the elements; the number is one that the file has room for.
fn read_array_head(cursor: &mut Cursor<'_>) -> Result<(ValueType, u64), Stop> {
    let offset = cursor.offset();
    let ty = read_type(cursor)?;
    if ty == ValueType::Array {
        return Err(Fault::new(offset, Problem::NestedArray).into());
    }
    let offset = cursor.offset();
    let count = cursor.u64()?;
    let limit = LARGEST_HEADER;
    cursor.check_count(count, "array elements", ty.least_bytes(), limit, offset)?;
    Ok((ty, count))
}

fn read_strings(cursor: &mut Cursor<'_>, key: &str, count: u64) -> Result<Strings, GgufError> {
    let source = cursor.source();
    let mut starts = Vec::new();
    for index in 0..count {
        // The header's size limit keeps positions far below 32 bits.
        starts.push(u32::try_from(cursor.position()).unwrap_or(u32::MAX));
        cursor
            .string()
            .map_err(|stop| stop.of(source, || Subject::Element { key: key.to_owned(), index }))?;
    }
    starts.shrink_to_fit();
    Ok(Strings::of_starts(starts))
}

/// Elements of a fixed size.
fn read_elements(cursor: &mut Cursor<'_>, ty: ValueType, count: u64) -> Result<Array, Stop> {
    macro_rules! decoded {
        ($variant:ident $element:ty, $bytes:expr) => {{
            let (elements, _) = $bytes.as_chunks();
            Array::$variant(elements.iter().map(|e| <$element>::from_le_bytes(*e)).collect())
        }};
    }
    let offset = cursor.offset();
    // Cannot overflow: the count was checked against the bytes that remain.
    let bytes = cursor.take(count.saturating_mul(ty.least_bytes()))?;
    Ok(match ty {
        ValueType::U8 => Array::U8(bytes.to_vec()),
        ValueType::I8 => decoded!(I8 i8, bytes),
        ValueType::U16 => decoded!(U16 u16, bytes),
        ValueType::I16 => decoded!(I16 i16, bytes),
        ValueType::U32 => decoded!(U32 u32, bytes),
        ValueType::I32 => decoded!(I32 i32, bytes),
        ValueType::F32 => decoded!(F32 f32, bytes),
        ValueType::U64 => decoded!(U64 u64, bytes),
        ValueType::I64 => decoded!(I64 i64, bytes),
        ValueType::F64 => decoded!(F64 f64, bytes),
        ValueType::Bool => {
            if let Some((at, found)) = bytes.iter().enumerate().find(|(_, byte)| **byte > 1) {
                let problem = Problem::Bool { found: *found };
                let offset = offset.saturating_add(at as u64);
                return Err(Fault::new(offset, problem).into());
            }
            Array::Bool(bytes.iter().map(|byte| *byte == 1).collect())
        }
        // Neither has elements of a fixed size: the caller reads strings, and refuses arrays.
        ValueType::String | ValueType::Array => {
            return Err(Fault::new(offset, Problem::NestedArray).into());
        }
    })
}

/// Alignment of the tensor data, from the metadata.
fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(found)) => check_alignment(found),
        Some(value) => Err(Problem::AlignmentType { found: value.type_name() }),
    }
}

/// Whether an alignment is one that this reader takes.
pub(super) fn check_alignment(found: u32) -> Result<u64, Problem> {
    let alignment = u64::from(found);
    if found.is_power_of_two() && (SMALLEST_ALIGNMENT..=LARGEST_ALIGNMENT).contains(&alignment) {
        Ok(alignment)
    } else {
        Err(Problem::Alignment { found })
    }
}
