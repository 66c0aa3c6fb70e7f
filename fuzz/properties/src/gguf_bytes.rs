//! Descriptions of GGUF files, right ones and wrong ones, and their bytes.

use arbitrary::Arbitrary;
use tessera_formats::ggml::GgmlType;

use crate::hostile::{Hostile, Rarely};

/// Bytes of padding and data that are written at most: what a file lacks is an error like any other.
const MOST_DATA: u64 = 1 << 17;

/// A GGUF file, of which any length, count or offset may be another than the right one.
#[derive(Arbitrary, Debug)]
pub struct File {
    magic: Rarely<[u8; 4]>,
    version: Rarely<u32>,
    alignment: Alignment,
    keys: Vec<KeyValue>,
    tensors: Vec<Tensor>,
    key_count: Rarely<Hostile>,
    tensor_count: Rarely<Hostile>,
    filling: u8,
    /// Bytes after the data, or cut off.
    trailing: Rarely<u8>,
    missing: Rarely<u16>,
}

#[derive(Arbitrary, Debug)]
enum Alignment {
    Absent,
    Power(u8),
    Number(Hostile),
    /// Of another type.
    Other(u64),
}

/// A key and its value.
#[derive(Arbitrary, Debug)]
pub struct KeyValue {
    key: Name,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Numbered(u8),
    Known(u8),
    Text(Text),
    /// As long as one may be, or nearly.
    Long(u8, Hostile),
}

/// Keys that readers look at.
const KNOWN: [&str; 12] = [
    "general.architecture",
    "general.alignment",
    "general.name",
    "general.file_type",
    "general.quantization_version",
    "split.no",
    "split.count",
    "split.tensors.count",
    "llama.block_count",
    "llama.embedding_length",
    "tokenizer.ggml.tokens",
    "tokenizer.chat_template",
];

impl Name {
    fn text(&self) -> Text {
        let right = |text: String| Text { text, length: Rarely(None) };
        match self {
            Self::Numbered(number) => right(format!("blk.{number}.weight")),
            Self::Known(index) => right(KNOWN[usize::from(*index) % KNOWN.len()].to_owned()),
            Self::Text(text) => text.clone(),
            Self::Long(letter, length) => {
                let letter = char::from(*letter & 0x7f);
                let length = usize::try_from(length.0 % (1 << 17)).unwrap_or(0);
                right(letter.to_string().repeat(length))
            }
        }
    }
}

/// A text and the length that the file says it has.
#[derive(Arbitrary, Clone, Debug)]
pub struct Text {
    text: String,
    length: Rarely<Hostile>,
}

impl Text {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.length.or(self.text.len() as u64).to_le_bytes());
        out.extend(self.text.as_bytes());
    }
}

/// A value of any type.
#[derive(Arbitrary, Debug)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    /// A bool, which should be 0 or 1.
    Bool(u8),
    Text(Text),
    Array(Elements),
    U64(u64),
    I64(i64),
    F64(f64),
    /// A type that may not exist.
    Other(u32, Vec<u8>),
}

/// Elements of an array.
#[derive(Arbitrary, Debug)]
pub struct Elements {
    kind: Kind,
    ty: Rarely<u32>,
    count: Rarely<Hostile>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    U8(Vec<u8>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Texts(Vec<Text>),
    U64(Vec<u64>),
    F64(Vec<f64>),
    Nested(Vec<Elements>),
    /// Arrays in arrays of one element, so many deep.
    Deep(u16),
}

impl Elements {
    /// Element type, count, elements.
    fn put(&self, out: &mut Vec<u8>) {
        let (ty, count) = match &self.kind {
            Kind::U8(elements) => (0, elements.len()),
            Kind::I16(elements) => (3, elements.len()),
            Kind::U32(elements) => (4, elements.len()),
            Kind::I32(elements) => (5, elements.len()),
            Kind::F32(elements) => (6, elements.len()),
            Kind::Bool(elements) => (7, elements.len()),
            Kind::Texts(elements) => (8, elements.len()),
            Kind::U64(elements) => (10, elements.len()),
            Kind::F64(elements) => (12, elements.len()),
            Kind::Nested(elements) => (9, elements.len()),
            Kind::Deep(_) => (9, 1),
        };
        out.extend(self.ty.0.unwrap_or(ty).to_le_bytes());
        out.extend(self.count.or(count as u64).to_le_bytes());
        match &self.kind {
            Kind::U8(elements) => out.extend(elements),
            Kind::I16(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::U32(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::I32(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::F32(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::Bool(elements) => elements.iter().for_each(|x| out.push(u8::from(*x))),
            Kind::Texts(elements) => elements.iter().for_each(|text| text.put(out)),
            Kind::U64(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::F64(elements) => elements.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Kind::Nested(elements) => elements.iter().for_each(|array| array.put(out)),
            Kind::Deep(depth) => {
                out.extend([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(usize::from(*depth)));
                out.extend(0u32.to_le_bytes());
                out.extend(0u64.to_le_bytes());
            }
        }
    }
}

impl Value {
    /// Texts of these texts.
    pub fn texts(texts: &[String]) -> Self {
        let text = |text: &String| Text { text: text.clone(), length: Rarely(None) };
        Self::array(Kind::Texts(texts.iter().map(text).collect()))
    }

    /// Signed integers.
    pub fn i32s(elements: Vec<i32>) -> Self {
        Self::array(Kind::I32(elements))
    }

    /// Floats.
    pub fn f32s(elements: Vec<f32>) -> Self {
        Self::array(Kind::F32(elements))
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(Text { text: text.to_owned(), length: Rarely(None) })
    }

    fn array(kind: Kind) -> Self {
        Self::Array(Elements { kind, ty: Rarely(None), count: Rarely(None) })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let ty = match self {
            Self::U8(_) => 0u32,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
            Self::Other(ty, _) => *ty,
        };
        out.extend(ty.to_le_bytes());
        match self {
            Self::U8(value) | Self::Bool(value) => out.push(*value),
            Self::I8(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Text(text) => text.put(out),
            Self::Array(elements) => elements.put(out),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
            Self::Other(_, bytes) => out.extend(bytes),
        }
    }
}

/// A key of that text with its value, as a section of keys has them.
pub fn put_key(out: &mut Vec<u8>, key: &str, value: &Value) {
    out.extend((key.len() as u64).to_le_bytes());
    out.extend(key.as_bytes());
    value.put(out);
}

#[derive(Arbitrary, Debug)]
struct Tensor {
    name: Name,
    ty: Type,
    dims: Vec<Dimension>,
    dim_count: Rarely<Hostile>,
    offset: Rarely<Hostile>,
}

#[derive(Arbitrary, Debug)]
enum Type {
    Known(u8),
    Id(u32),
}

#[derive(Arbitrary, Debug)]
enum Dimension {
    /// Whole blocks.
    Blocks(u8),
    Small(u8),
    Number(Rarely<Hostile>),
}

impl Tensor {
    fn ty(&self) -> Option<GgmlType> {
        match self.ty {
            Type::Known(index) => {
                GgmlType::ALL.get(usize::from(index) % GgmlType::ALL.len()).copied()
            }
            Type::Id(id) => GgmlType::from_id(id),
        }
    }

    fn dims(&self) -> Vec<u64> {
        let block = self.ty().map_or(1, |ty| ty.block_elements() as u64);
        let dims = self.dims.iter().take(6).enumerate().map(|(axis, dim)| match dim {
            Dimension::Blocks(count) if axis == 0 => (u64::from(*count % 4) + 1) * block,
            Dimension::Blocks(count) | Dimension::Small(count) => u64::from(*count % 4) + 1,
            Dimension::Number(number) => number.or(block),
        });
        let dims: Vec<u64> = dims.collect();
        if dims.is_empty() { vec![block] } else { dims }
    }

    /// Bytes of the data, if that is a number at all.
    fn bytes(&self) -> Option<u64> {
        let (ty, dims) = (self.ty()?, self.dims());
        let (row, rows) = dims.split_first()?;
        let row = ty.row_bytes(*row)?;
        rows.iter().try_fold(row, |bytes, dim| bytes.checked_mul(*dim))
    }
}

impl Alignment {
    /// The key's value, if there is one, and the alignment that data then has.
    fn value(&self) -> (Option<Value>, u64) {
        match self {
            Self::Absent => (None, 32),
            Self::Power(power) => {
                let alignment = 1u32 << (power % 26);
                (Some(Value::U32(alignment)), alignment.into())
            }
            Self::Number(number) => {
                let alignment = Rarely(Some(*number)).or_u32(0);
                (Some(Value::U32(alignment)), alignment.into())
            }
            Self::Other(elements) => (Some(Value::U64(*elements)), 32),
        }
    }
}

impl File {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.0.unwrap_or(*b"GGUF").to_vec();
        out.extend(self.version.0.unwrap_or(3).to_le_bytes());
        let (value, alignment) = self.alignment.value();
        let keys = self.keys.len() + usize::from(value.is_some());
        out.extend(self.tensor_count.or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.or(keys as u64).to_le_bytes());
        if let Some(value) = value {
            put_key(&mut out, "general.alignment", &value);
        }
        for KeyValue { key, value } in &self.keys {
            key.text().put(&mut out);
            value.put(&mut out);
        }
        let pad = |bytes: u64| bytes.checked_next_multiple_of(alignment.max(1)).unwrap_or(bytes);
        let mut offset = 0_u64;
        let mut end = 0_u64;
        for tensor in &self.tensors {
            tensor.name.text().put(&mut out);
            let dims = tensor.dims();
            let count = u32::try_from(dims.len()).unwrap_or(u32::MAX);
            out.extend(tensor.dim_count.or_u32(count).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            let id = match tensor.ty {
                Type::Known(_) => tensor.ty().map_or(0, GgmlType::id),
                Type::Id(id) => id,
            };
            out.extend(id.to_le_bytes());
            out.extend(tensor.offset.or(offset).to_le_bytes());
            end = offset.saturating_add(tensor.bytes().unwrap_or(0));
            offset = pad(end);
        }
        let header = out.len() as u64;
        let wanted = if self.tensors.is_empty() { 0 } else { pad(header).saturating_sub(header) };
        let wanted = wanted.saturating_add(end);
        let length = usize::try_from(wanted.min(MOST_DATA)).unwrap_or(0);
        out.resize(out.len() + length, self.filling);
        out.resize(out.len() + usize::from(self.trailing.0.unwrap_or(0)), self.filling);
        let missing = usize::from(self.missing.0.unwrap_or(0));
        out.truncate(out.len().saturating_sub(missing));
        out
    }
}
