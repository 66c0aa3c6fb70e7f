//! GGUF models made for a test.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, GgufWriter, Value};

/// A model under construction: keys, and F32 tensors with their values.
#[derive(Clone, Default)]
pub struct Model {
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, GgmlType, Vec<u64>, Vec<u8>)>,
}

impl Model {
    /// An empty model of architecture `llama`.
    pub fn new() -> Self {
        Model::default().key("general.architecture", "llama")
    }

    /// The model in a file.
    pub fn read(path: &Path) -> Self {
        let gguf = Gguf::open(path).unwrap();
        let keys = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone()));
        let tensors = gguf.tensors().iter().map(|tensor| {
            let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
            gguf.read_at(tensor, 0, &mut bytes).unwrap();
            (tensor.name.clone(), tensor.ggml_type, tensor.dims.clone(), bytes)
        });
        Model { keys: keys.collect(), tensors: tensors.collect() }
    }

    /// The carried model with two experts in place of each FFN, a token's both: the layer's own and
    /// the next layer's.
    pub fn with_experts(path: &Path) -> Self {
        let dense = Model::read(path);
        let mut model = dense.clone().key("llama.expert_count", 2u32);
        model = model.key("llama.expert_used_count", 2u32);
        let layers: u32 = 5;
        for layer in 0..layers {
            for matrix in ["gate", "up", "down"] {
                let of = |layer: u32| {
                    let name = format!("blk.{}.ffn_{matrix}.weight", layer % layers);
                    dense.tensors.iter().find(|tensor| tensor.0 == name).unwrap()
                };
                let ((name, ty, dims, own), (.., next)) = (of(layer), of(layer + 1));
                let experts = name.replace(".weight", "_exps.weight");
                let bytes = [&own[..], next].concat();
                model = model.without(name).bytes(&experts, *ty, &[dims[0], dims[1], 2], bytes);
            }
            model = model.bell(&format!("blk.{layer}.ffn_gate_inp.weight"), &[64, 2], 0.1);
        }
        model
    }

    /// The model in a file, all tensors as F32.
    pub fn floats(path: &Path) -> Self {
        let mut model = Model::read(path);
        for (_, ty, dims, bytes) in &mut model.tensors {
            let count = usize::try_from(dims.iter().product::<u64>()).unwrap();
            let mut values = vec![0.0; count];
            tessera_formats::ggml::dequantize(*ty, bytes, &mut values).unwrap();
            (*ty, *bytes) = (GgmlType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect());
        }
        model
    }

    /// The values of an F32 tensor, which must be there.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors.iter().find(|tensor| tensor.0 == name).unwrap();
        assert_eq!(tensor.1, GgmlType::F32, "{name}");
        tensor.3.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// With every value of an F32 tensor, which must be there, replaced by what `f` makes of its index
    /// and itself.
    pub fn map(mut self, name: &str, f: impl Fn(usize, f32) -> f32) -> Self {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap();
        assert_eq!(tensor.1, GgmlType::F32, "{name}");
        let values = tensor.3.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        tensor.3 = values.enumerate().flat_map(|(i, value)| f(i, value).to_le_bytes()).collect();
        self
    }

    /// With a key, in place of another value that it had.
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(other, _)| other == key) {
            Some((_, before)) => *before = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| tensor.0 == name)
    }

    /// Without a tensor, which must be there.
    pub fn without(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.0 != name);
        assert_eq!(self.tensors.len() + 1, before, "{name}");
        self
    }

    /// With an F32 tensor, `dims` as in the file: K first.
    pub fn tensor(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(name, GgmlType::F32, dims, bytes)
    }

    /// With an F32 tensor of bell-shaped values of standard deviation `spread`.
    pub fn bell(self, name: &str, dims: &[u64], spread: f32) -> Self {
        let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31) + u32::from(byte));
        let values = bell(usize::try_from(dims.iter().product::<u64>()).unwrap(), seed, spread);
        self.tensor(name, dims, &values)
    }

    /// With a tensor of any type.
    pub fn bytes(mut self, name: &str, ty: GgmlType, dims: &[u64], bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), ty, dims.to_vec(), bytes));
        self
    }

    /// Writes `FOLDER/NAME`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        self.write_part(&path, 0..self.tensors.len(), &[]);
        path
    }

    /// Writes the model as `count` files and returns the first.
    pub fn write_split(&self, folder: &Path, stem: &str, count: u16) -> PathBuf {
        let path = |number| folder.join(format!("{stem}-{:05}-of-{count:05}.gguf", number + 1));
        let all = self.tensors.len();
        for number in 0..count {
            let part = |number| all * usize::from(number) / usize::from(count);
            let keys = [
                ("split.no", Value::U16(number)),
                ("split.count", Value::U16(count)),
                ("split.tensors.count", Value::I32(i32::try_from(all).unwrap())),
            ];
            self.write_part(&path(number), part(number)..part(number + 1), &keys);
        }
        path(0)
    }

    fn write_part(&self, path: &Path, tensors: std::ops::Range<usize>, more: &[(&str, Value)]) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.metadata(key, value.clone()).unwrap();
        }
        for (key, value) in more {
            writer.metadata(*key, value.clone()).unwrap();
        }
        let tensors = &self.tensors[tensors];
        for (name, ty, dims, _) in tensors {
            writer.tensor(name, *ty, dims).unwrap();
        }
        let mut file = BufWriter::new(File::create(path).unwrap());
        writer.write_header(&mut file).unwrap();
        for (_, _, _, bytes) in tensors {
            file.write_all(bytes).unwrap();
            writer.write_padding(u64::try_from(bytes.len()).unwrap(), &mut file).unwrap();
        }
        file.flush().unwrap();
    }
}

/// `count` values of a bell-shaped distribution, the same for the same seed.
pub fn bell(count: usize, seed: u32, spread: f32) -> Vec<f32> {
    let mut state = u64::from(seed) | 1 << 40;
    (0..count)
        .map(|_| {
            // The sum of four 16-bit pieces of a xorshift number.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let pieces: u16 = 4;
            let sum: u64 = (0..pieces).map(|piece| state >> (16 * piece) & 0xffff).sum();
            #[expect(clippy::cast_precision_loss, reason = "18 bits")]
            let centred = sum as f32 / 65536.0 - 2.0;
            centred * spread * 1.732
        })
        .collect()
}
