//! Writing GGUF files: a header in one piece, then each tensor's data and padding.

use std::collections::HashSet;
use std::io::{self, Write};

use thiserror::Error;

use super::error::Problem;
use super::header::{ALIGNMENT, DEFAULT_ALIGNMENT, LONGEST_KEY, check_alignment};
use super::tensor::{LONGEST_TENSOR_NAME, TensorInfo, checked_bytes, padded};
use super::value::{Array, Value};
use crate::escape::Escaped;
use crate::ggml::GgmlType;

/// Why a key or a tensor cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A key breaks a rule of the format.
    #[error("key `{}`: {problem}", Escaped(key))]
    Key {
        /// The key.
        key: String,
        /// The rule.
        problem: Problem,
    },
    /// A tensor breaks a rule of the format.
    #[error("tensor `{}`: {problem}", Escaped(tensor))]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The rule.
        problem: Problem,
    },
    /// The data handed over is not of the tensor's size.
    #[error("tensor `{}`: {found} bytes of data, must be {expected}", Escaped(tensor))]
    DataLength {
        /// The tensor.
        tensor: String,
        /// Bytes handed over.
        found: u64,
        /// Bytes of the tensor.
        expected: u64,
    },
    /// The output failed.
    #[error("cannot write: {0}")]
    Io(#[from] io::Error),
}

/// Collects key-values and tensors, then writes the header.
///
/// ```
/// # use tessera_formats::{ggml::GgmlType, gguf::GgufWriter};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut writer = GgufWriter::new();
/// writer.metadata("general.architecture", "llama")?;
/// writer.tensor("output.weight", GgmlType::Q8_0, &[64, 3])?;
/// let mut file = Vec::new();
/// writer.write_header(&mut file)?;
/// for tensor in writer.tensors() {
///     assert_eq!(tensor.offset, file.len() as u64);
///     file.resize(file.len() + 64 / 32 * 34 * 3, 0); // the data
///     writer.write_padding(tensor.bytes, &mut file)?;
/// }
/// assert_eq!(file.len() as u64, writer.file_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct GgufWriter {
    version: u32,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    /// Keys given so far.
    keys: HashSet<String>,
    /// Names of the tensors.
    names: HashSet<String>,
    /// Bytes of all tensors, without padding.
    data_bytes: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// A writer of an empty file of version 3.
    pub fn new() -> Self {
        Self {
            version: 3,
            metadata: Vec::new(),
            tensors: Vec::new(),
            keys: HashSet::new(),
            names: HashSet::new(),
            data_bytes: 0,
        }
    }

    /// A writer of an empty file of version 2, which differs in the number only.
    pub fn version_2() -> Self {
        Self { version: 2, ..Self::new() }
    }

    /// Adds a key. `general.alignment`, a u32, sets the alignment of the whole file.
    pub fn metadata(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Value>,
    ) -> Result<&mut Self, WriteError> {
        let (key, value) = (key.into(), value.into());
        let checked = check_name(&key, LONGEST_KEY, &self.keys).and_then(|()| match &value {
            Value::U32(found) if key == ALIGNMENT => check_alignment(*found).map(|_| ()),
            other if key == ALIGNMENT => Err(Problem::AlignmentType { found: other.type_name() }),
            _ => Ok(()),
        });
        if let Err(problem) = checked {
            return Err(WriteError::Key { key, problem });
        }
        self.keys.insert(key.clone());
        self.metadata.push((key, value));
        Ok(self)
    }

    /// Adds a tensor. `dims` as in the file: the first is K, the length of a row.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        ty: GgmlType,
        dims: &[u64],
    ) -> Result<&mut Self, WriteError> {
        let name = name.into();
        let checked = check_name(&name, LONGEST_TENSOR_NAME, &self.names)
            .and_then(|()| checked_bytes(ty, dims))
            .and_then(|bytes| {
                // A quarter of the range leaves room for paddings and the header.
                let total = self.data_bytes.checked_add(bytes);
                let total = total.filter(|total| *total <= u64::MAX / 4).ok_or(Problem::Bytes)?;
                Ok((bytes, total))
            });
        match checked {
            Err(problem) => Err(WriteError::Tensor { tensor: name, problem }),
            Ok((bytes, total)) => {
                self.names.insert(name.clone());
                self.data_bytes = total;
                let (dims, ggml_type) = (dims.to_vec(), ty);
                self.tensors.push(TensorInfo { name, ggml_type, dims, offset: 0, bytes, shard: 0 });
                Ok(self)
            }
        }
    }

    /// Alignment of the tensor data, in bytes.
    pub fn alignment(&self) -> u64 {
        self.metadata
            .iter()
            .find(|(key, _)| key == ALIGNMENT)
            .and_then(|(_, value)| value.as_u64())
            .unwrap_or(DEFAULT_ALIGNMENT)
    }

    /// The tensors, with the place of their data in the file.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let mut offset = self.header_bytes();
        let place = |tensor: &TensorInfo| {
            let placed = TensorInfo { offset, ..tensor.clone() };
            offset = offset.saturating_add(self.padded(tensor.bytes));
            placed
        };
        self.tensors.iter().map(place).collect()
    }

    /// Bytes of the header with its padding: where the tensor data begins.
    pub fn header_bytes(&self) -> u64 {
        self.padded(self.unpadded_header().len() as u64)
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let data = self.tensors.iter().map(|tensor| self.padded(tensor.bytes));
        self.header_bytes().saturating_add(data.fold(0, u64::saturating_add))
    }

    /// Bytes of padding that follow `bytes` bytes of data.
    pub fn padding_after(&self, bytes: u64) -> u64 {
        self.padded(bytes).saturating_sub(bytes)
    }

    /// Writes the header and its padding.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let header = self.unpadded_header();
        out.write_all(&header)?;
        self.write_padding(header.len() as u64, out)
    }

    /// Writes the padding that follows `bytes` bytes of data.
    pub fn write_padding(&self, bytes: u64, out: &mut impl Write) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), self.padding_after(bytes)), out).map(|_| ())
    }

    /// Writes a whole file of small tensors, asking `data` for the bytes of each.
    pub fn write(
        &self,
        out: &mut impl Write,
        mut data: impl FnMut(&TensorInfo) -> Vec<u8>,
    ) -> Result<(), WriteError> {
        self.write_header(out)?;
        for tensor in self.tensors() {
            let bytes = data(&tensor);
            let (found, expected) = (bytes.len() as u64, tensor.bytes);
            if found != expected {
                return Err(WriteError::DataLength { tensor: tensor.name, found, expected });
            }
            out.write_all(&bytes)?;
            self.write_padding(expected, out)?;
        }
        Ok(())
    }

    fn padded(&self, bytes: u64) -> u64 {
        padded(bytes, self.alignment()).unwrap_or(u64::MAX)
    }

    fn unpadded_header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            out.extend(value.value_type().id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            let dimensions = u32::try_from(tensor.dims.len()).unwrap_or_default();
            out.extend(dimensions.to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ggml_type.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = offset.saturating_add(self.padded(tensor.bytes));
        }
        out
    }
}

fn check_name(name: &str, limit: u64, taken: &HashSet<String>) -> Result<(), Problem> {
    let found = name.len() as u64;
    if name.is_empty() {
        Err(Problem::Empty)
    } else if found > limit {
        Err(Problem::TooLong { found, limit })
    } else if let Some(at) = name.find('\0') {
        Err(Problem::Nul { at: at as u64 })
    } else if taken.contains(name) {
        Err(Problem::Duplicate { name: name.to_owned() })
    } else {
        Ok(())
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => put_string(out, value),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    array.iter().for_each(|element| put_value(out, &element));
}
