//! Tensor infos: names, shapes, types, and where the data is.

use std::collections::HashSet;

use super::cursor::{Cursor, Fault, Stop};
use super::error::{GgufError, Problem, Subject};
use super::source::Source;
use crate::ggml::GgmlType;

/// Bytes that a tensor name may have: `GGML_MAX_NAME` of llama.cpp is 64 with the final NUL.
/// stable-diffusion.cpp builds ggml with 128 and writes diffusion models with longer names, such
/// as `model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_q.weight`; llama.cpp
/// refuses them, and so does this reader.
pub const LONGEST_TENSOR_NAME: u64 = 63;

/// Tensors that a model may have. A mixture of 61 × 256 experts with a tensor per expert has
/// 47,000.
pub const MOST_TENSORS: u64 = 1 << 18;

/// Dimensions that a tensor may have, `GGML_MAX_DIMS`.
pub(super) const MOST_DIMENSIONS: u32 = 4;

/// Bytes of the smallest tensor info: length of the name, one byte of name, number of
/// dimensions, one dimension, type, offset.
pub(super) const LEAST_INFO: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name; may hold control characters, print it through [`crate::escape::Escaped`].
    pub name: String,
    /// The type of its blocks.
    pub ggml_type: GgmlType,
    /// Elements along each axis, 1 to 4 of them, none 0; the first is K, the length of a row,
    /// whose elements are adjacent.
    pub dims: Vec<u64>,
    /// Where the data begins, in bytes from the start of its file.
    pub offset: u64,
    /// Bytes of the data, without padding.
    pub bytes: u64,
    /// Position of its file in [`super::Gguf::shards`].
    pub shard: usize,
}

impl TensorInfo {
    /// Number of elements, the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.dims.iter().fold(1, |product: u64, dim| product.saturating_mul(*dim))
    }

    /// Bytes of a row of `dims[0]` elements.
    pub fn row_bytes(&self) -> u64 {
        self.dims.first().and_then(|row| self.ggml_type.row_bytes(*row)).unwrap_or(0)
    }
}

/// A size in bytes rounded up to a multiple of a power of two.
pub(super) fn padded(bytes: u64, alignment: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(alignment)
}

/// Bytes of a tensor, after every check of shape and type that needs no file.
pub(super) fn checked_bytes(ty: GgmlType, dims: &[u64]) -> Result<u64, Problem> {
    if dims.is_empty() || dims.len() as u64 > u64::from(MOST_DIMENSIONS) {
        return Err(Problem::Dimensions { found: u32::try_from(dims.len()).unwrap_or(u32::MAX) });
    }
    if let Some(axis) = dims.iter().position(|dim| *dim == 0) {
        return Err(Problem::ZeroDimension { axis });
    }
    let elements = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    if elements.is_none_or(|elements| i64::try_from(elements).is_err()) {
        return Err(Problem::Elements { dims: dims.to_vec() });
    }
    let [row, rows @ ..] = dims else { return Err(Problem::Dimensions { found: 0 }) };
    let block = ty.block_elements() as u64;
    if !row.is_multiple_of(block) {
        return Err(Problem::Row { ty: ty.name(), found: *row, expected: block });
    }
    rows.iter()
        .try_fold(ty.row_bytes(*row).ok_or(Problem::Bytes)?, |bytes, dim| bytes.checked_mul(*dim))
        .ok_or(Problem::Bytes)
}

/// A tensor info as it is in the file.
struct RawInfo {
    name: String,
    /// Where `name` is in the file.
    name_at: u64,
    ggml_type: GgmlType,
    dims: Vec<u64>,
    bytes: u64,
    /// From the start of the data.
    offset: u64,
    /// Where `offset` is in the file.
    offset_at: u64,
}

/// The tensors of one file and where its data begins.
pub(super) struct Tensors {
    pub(super) infos: Vec<TensorInfo>,
    /// Byte of the file.
    pub(super) data_start: u64,
}

/// Reads `count` tensor infos and checks that their data is in the file, without gaps.
pub(super) fn read_tensors(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u64,
    shard: usize,
) -> Result<Tensors, GgufError> {
    let source = cursor.source();
    let mut raw = Vec::new();
    for index in 0..count {
        raw.push(read_info(cursor, index)?);
    }
    let header_end = cursor.offset();
    check_names(source, &raw)?;
    let malformed = |offset, subject, problem| GgufError::Malformed {
        path: source.path().to_owned(),
        offset,
        subject,
        problem,
    };
    let data_start = padded(header_end, alignment)
        .ok_or_else(|| malformed(header_end, Subject::Data, Problem::Bytes))?;
    if raw.is_empty() {
        check_end(source, header_end, data_start)?;
        return Ok(Tensors { infos: Vec::new(), data_start });
    }
    let (mut infos, mut running, mut data_end) = (Vec::with_capacity(raw.len()), 0, data_start);
    for info in raw {
        let here = |problem| {
            malformed(info.offset_at, Subject::Tensor { name: info.name.clone() }, problem)
        };
        if info.offset != running {
            return Err(here(Problem::Offset { found: info.offset, expected: running }));
        }
        let next = padded(info.bytes, alignment).and_then(|bytes| bytes.checked_add(running));
        let offset = data_start.checked_add(running);
        let end = offset.and_then(|offset| offset.checked_add(info.bytes));
        let (Some(next), Some(offset), Some(end)) = (next, offset, end) else {
            return Err(here(Problem::Bytes));
        };
        if end > source.len() {
            return Err(here(Problem::DataPastEnd { expected: end, found: source.len() }));
        }
        (running, data_end) = (next, end);
        infos.push(TensorInfo {
            name: info.name,
            ggml_type: info.ggml_type,
            dims: info.dims,
            offset,
            bytes: info.bytes,
            shard,
        });
    }
    check_end(source, data_end, data_start.saturating_add(running))?;
    Ok(Tensors { infos, data_start })
}

/// Refuses two tensors of one name.
fn check_names(source: &Source, infos: &[RawInfo]) -> Result<(), GgufError> {
    let mut seen = HashSet::with_capacity(infos.len());
    match infos.iter().enumerate().find(|(_, info)| !seen.insert(info.name.as_str())) {
        None => Ok(()),
        Some((index, info)) => Err(GgufError::Malformed {
            path: source.path().to_owned(),
            offset: info.name_at,
            subject: Subject::TensorName { index: index as u64 },
            problem: Problem::Duplicate { name: info.name.clone() },
        }),
    }
}

/// Checks that the file ends with the data. Writers may leave the last padding out.
fn check_end(source: &Source, end: u64, padded_end: u64) -> Result<(), GgufError> {
    if source.len() <= padded_end {
        return Ok(());
    }
    Err(GgufError::Malformed {
        path: source.path().to_owned(),
        offset: padded_end,
        subject: Subject::Data,
        problem: Problem::Trailing { found: source.len().saturating_sub(end) },
    })
}

fn read_info(cursor: &mut Cursor<'_>, index: u64) -> Result<RawInfo, GgufError> {
    let (source, name_at) = (cursor.source(), cursor.offset());
    let name = cursor
        .name(LONGEST_TENSOR_NAME)
        .map_err(|stop| stop.of(source, || Subject::TensorName { index }))?
        .to_owned();
    read_shape(cursor, &name, name_at)
        .map_err(|stop| stop.of(source, || Subject::Tensor { name: name.clone() }))
}

/// Everything of a tensor info but the name.
fn read_shape(cursor: &mut Cursor<'_>, name: &str, name_at: u64) -> Result<RawInfo, Stop> {
    let shape_at = cursor.offset();
    let found = cursor.u32()?;
    if !(1..=MOST_DIMENSIONS).contains(&found) {
        return Err(Fault::new(shape_at, Problem::Dimensions { found }).into());
    }
    let dims_at = cursor.offset();
    let dims = (0..found).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
    let type_at = cursor.offset();
    let found = cursor.u32()?;
    let ggml_type = GgmlType::from_id(found).ok_or_else(|| {
        let problem = match GgmlType::removed_name(found) {
            Some(name) => Problem::RemovedType { found, name },
            None => Problem::UnknownType { found },
        };
        Fault::new(type_at, problem)
    })?;
    let bytes = checked_bytes(ggml_type, &dims).map_err(|problem| Fault::new(dims_at, problem))?;
    let offset_at = cursor.offset();
    let offset = cursor.u64()?;
    Ok(RawInfo { name: name.to_owned(), name_at, ggml_type, dims, bytes, offset, offset_at })
}
