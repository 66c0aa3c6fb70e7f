//! A right safetensors file with a few things of its document, its header or its bytes changed.
//!
//! The document is the JSON that packs and statistics files have in the header's metadata.

use arbitrary::Arbitrary;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::hostile::{Hostile, Rarely};

/// Bytes of the header's length.
const LENGTH: usize = 8;

/// Changes of a file.
#[derive(Arbitrary, Debug, Default)]
pub struct Changes {
    document: Vec<(Vec<u8>, Edit)>,
    tensors: Vec<(Vec<u8>, Edit)>,
    /// Tensor, byte, value; its digest in a manifest is put right.
    data: Vec<(u8, u16, u8)>,
    length: Rarely<Hostile>,
    missing: Rarely<u16>,
    trailing: Rarely<u8>,
}

/// What is done to a value of a JSON document.
#[derive(Arbitrary, Debug)]
enum Edit {
    Number(Hostile),
    Signed(i64),
    Float(f64),
    Text(String),
    Name(u8),
    Null,
    Remove,
    Twice,
    Nested(u8),
    Switch(bool),
}

/// Texts that fields of a document may have.
const TEXTS: [&str; 16] = [
    "w4a4",
    "w4a8",
    "w8a8",
    "w16a16",
    "tensor",
    "channel",
    "gptq",
    "nearest",
    "paley1",
    "paley2",
    "hartley",
    "Q8_0",
    "F32",
    "rk3588",
    "",
    "\u{1b}]8;;x\u{7}",
];

/// A header taken apart, and the bytes that it is of.
#[derive(Clone)]
pub struct Header {
    tensors: Map<String, Value>,
    /// The document's key in the metadata.
    key: &'static str,
    document: Value,
    data: Vec<u8>,
}

impl Header {
    /// Of a file that is right.
    pub fn of(file: &[u8], key: &'static str) -> Self {
        let length: [u8; LENGTH] = file[..LENGTH].try_into().expect("a length");
        let length = usize::try_from(u64::from_le_bytes(length)).expect("a short header");
        let (json, data) = file[LENGTH..].split_at(length);
        let mut tensors: Map<String, Value> = serde_json::from_slice(json).expect("a header");
        let metadata = tensors.remove("__metadata__").expect("metadata");
        let document = metadata.get(key).and_then(Value::as_str).expect("a document");
        let document = serde_json::from_str(document).expect("a document");
        Header { tensors, key, document, data: data.to_vec() }
    }

    /// The file with another document.
    pub fn with_document(&self, document: &str) -> Vec<u8> {
        self.file(document, &Changes::default())
    }

    /// The file with changes.
    pub fn changed(&self, changes: &Changes) -> Vec<u8> {
        let mut header = self.clone();
        changes.apply(&mut header);
        header.file(&header.document.to_string(), changes)
    }

    fn file(&self, document: &str, changes: &Changes) -> Vec<u8> {
        let metadata = serde_json::json!({ self.key: document }).to_string();
        let tensors = Value::Object(self.tensors.clone()).to_string();
        let rest = tensors.strip_prefix('{').unwrap_or("}");
        let comma = if rest == "}" { "" } else { "," };
        let mut json = format!("{{\"__metadata__\":{metadata}{comma}{rest}").into_bytes();
        let padded = (json.len() + LENGTH).next_multiple_of(4096) - LENGTH;
        json.resize(padded, b' ');
        let mut out = changes.length.or(json.len() as u64).to_le_bytes().to_vec();
        out.extend(json);
        out.extend(&self.data);
        out.resize(out.len() + usize::from(changes.trailing.0.unwrap_or(0)), 0);
        let missing = usize::from(changes.missing.0.unwrap_or(0));
        out.truncate(out.len().saturating_sub(missing));
        out
    }
}

impl Changes {
    fn apply(&self, header: &mut Header) {
        for (tensor, at, value) in self.data.iter().take(8) {
            write(header, *tensor, *at, *value);
        }
        for (path, edit) in self.document.iter().take(8) {
            edit.apply(&mut header.document, path);
        }
        let mut tensors = Value::Object(std::mem::take(&mut header.tensors));
        for (path, edit) in self.tensors.iter().take(8) {
            edit.apply(&mut tensors, path);
        }
        if let Value::Object(tensors) = tensors {
            header.tensors = tensors;
        }
    }
}

/// Changes a byte of a tensor, and the digest that a manifest has of it.
fn write(header: &mut Header, tensor: u8, at: u16, value: u8) {
    let Some(name) = header.tensors.keys().nth(usize::from(tensor) % header.tensors.len().max(1))
    else {
        return;
    };
    let name = name.clone();
    let offset = |index: usize| {
        let offsets = header.tensors.get(&name)?.get("data_offsets")?;
        usize::try_from(offsets.get(index)?.as_u64()?).ok()
    };
    let (Some(begin), Some(end)) = (offset(0), offset(1)) else { return };
    let Some(bytes) = header.data.get_mut(begin..end).filter(|bytes| !bytes.is_empty()) else {
        return;
    };
    let length = bytes.len();
    bytes[usize::from(at) % length] = value;
    let digest: String = Sha256::digest(&*bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = Value::String(digest);
    let manifest = &mut header.document;
    if let Some(found) = manifest.get_mut("digests").and_then(|digests| digests.get_mut(&name)) {
        *found = digest;
        return;
    }
    let list = |value: Option<&mut Value>| value.and_then(Value::as_array_mut).map(std::mem::take);
    let mut carried = list(manifest.get_mut("carried")).unwrap_or_default();
    let mut linears = list(manifest.get_mut("linears")).unwrap_or_default();
    for entry in &mut carried {
        if entry["name"] == name.as_str() {
            entry["sha256"] = digest.clone();
        }
    }
    for segment in
        linears.iter_mut().filter_map(|linear| linear["segments"].as_array_mut()).flatten()
    {
        if segment["tiles"] == name.as_str() {
            segment["sha256"] = digest.clone();
        }
    }
    manifest["carried"] = Value::Array(carried);
    manifest["linears"] = Value::Array(linears);
}

impl Edit {
    /// Does it to the value that a path leads to: each byte chooses an element or a field.
    fn apply(&self, document: &mut Value, path: &[u8]) {
        let Some((step, rest)) = path.split_first() else {
            self.replace(document);
            return;
        };
        let step = usize::from(*step);
        match document {
            Value::Array(elements) if !elements.is_empty() => {
                let index = step % elements.len();
                match (self, rest) {
                    (Self::Remove, []) => drop(elements.remove(index)),
                    (Self::Twice, []) => {
                        let copy = elements[index].clone();
                        elements.insert(index, copy);
                    }
                    _ => self.apply(&mut elements[index], rest),
                }
            }
            Value::Object(fields) if !fields.is_empty() => {
                let key = fields.keys().nth(step % fields.len()).cloned().unwrap_or_default();
                match (self, rest) {
                    (Self::Remove, []) => drop(fields.remove(&key)),
                    (Self::Twice, []) => {
                        let copy = fields.get(&key).cloned().unwrap_or_default();
                        fields.insert(format!("{key} "), copy);
                    }
                    (Self::Name(name), []) => {
                        let value = fields.remove(&key).unwrap_or_default();
                        fields.insert(format!("{key}{name}"), value);
                    }
                    _ => match fields.get_mut(&key) {
                        Some(value) => self.apply(value, rest),
                        None => self.replace(document),
                    },
                }
            }
            _ => self.replace(document),
        }
    }

    fn replace(&self, value: &mut Value) {
        *value = match self {
            Self::Number(number) => match value.as_u64() {
                // Near what stands there, as often as not.
                Some(found) if number.0 % 2 == 1 => Value::from(found.wrapping_add(number.0 >> 1)),
                _ => Value::from(number.0),
            },
            Self::Signed(number) => Value::from(*number),
            Self::Float(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
            Self::Name(index) => Value::from(TEXTS[usize::from(*index) % TEXTS.len()]),
            Self::Null | Self::Remove => Value::Null,
            Self::Twice => Value::Array(vec![value.clone(), value.clone()]),
            Self::Nested(depth) => {
                let mut nested = value.take();
                for _ in 0..*depth {
                    nested = Value::Array(vec![nested]);
                }
                nested
            }
            Self::Switch(on) => Value::from(*on),
        };
    }
}
