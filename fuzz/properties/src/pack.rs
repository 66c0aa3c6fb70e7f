//! Packs, their manifests and their indexes.

use std::path::Path;
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use tessera_formats::pack::PackReader;
use tessera_runtime::checkpoint::{Checkpoint, PackCheckpoint};
use tessera_runtime::simulator::Simulation;

use crate::changes::{Changes, Header};
use crate::input;
use crate::told::told;

/// Largest tensor whose rows are read, in elements.
const MOST_ELEMENTS: u64 = 1 << 20;

/// Any bytes as a pack of one file: an error, or a pack whose every tensor can be read, not a byte
/// more, and whose linears load or give an error.
pub fn pack(data: &[u8]) {
    let path = input::file("model.safetensors", data);
    open(&path, data.len() as u64);
}

/// A pack that `tessera convert` made of a small model (`examples/seeds.rs`).
static SMALL: LazyLock<Header> =
    LazyLock::new(|| Header::of(include_bytes!("../data/small.safetensors"), "tessera"));

/// The small pack with changes.
pub fn pack_structured(data: &[u8]) {
    if let Ok(changes) = Changes::arbitrary(&mut Unstructured::new(data)) {
        pack(&SMALL.changed(&changes));
    }
}

/// Any bytes as the manifest of a pack whose tensors are right.
pub fn pack_manifest(data: &[u8]) {
    if let Ok(manifest) = str::from_utf8(data) {
        pack(&SMALL.with_document(manifest));
    }
}

/// Any bytes as the index of a pack whose files are right.
pub fn pack_index(data: &[u8]) {
    input::fixed("small-00001-of-00002.safetensors", SHARDS[0]);
    input::fixed("small-00002-of-00002.safetensors", SHARDS[1]);
    let path = input::file("small.safetensors.index.json", data);
    open(&path, (SHARDS[0].len() + SHARDS[1].len()) as u64);
}

/// The small pack in two files.
const SHARDS: [&[u8]; 2] = [
    include_bytes!("../data/small-00001-of-00002.safetensors"),
    include_bytes!("../data/small-00002-of-00002.safetensors"),
];

/// Opens a pack of so many bytes, and reads all that it says it has.
pub fn open(path: &Path, bytes: u64) {
    let pack = match PackReader::open(path) {
        Ok(pack) => pack,
        Err(error) => {
            told(&error);
            return;
        }
    };
    for linear in pack.linears() {
        assert!(pack.linear(&linear.name).is_some());
        assert!(pack.input(&linear.input).is_some());
        let scales = pack.read_f32(&linear.scale).expect("checked when the pack was opened");
        assert!(!scales.is_empty());
        for segment in &linear.segments {
            pack.hash_tensor(&segment.tiles).expect("within the file");
        }
    }
    for tensor in pack.tensors() {
        assert!(tensor.bytes <= bytes);
        pack.hash_tensor(&tensor.name).expect("within the file");
        // And not a byte more.
        assert!(pack.read_tensor_at(&tensor.name, tensor.bytes, &mut [0]).is_err());
        assert!(pack.read_tensor_at(&tensor.name, u64::MAX, &mut [0]).is_err());
    }
    match PackCheckpoint::open(pack, Simulation::default()) {
        Ok(checkpoint) => load(&checkpoint),
        Err(error) => {
            told(&error);
        }
    }
}

/// Asks a pack for everything that the decoder asks for.
fn load(checkpoint: &PackCheckpoint) {
    for name in checkpoint.names() {
        let dims = checkpoint.dims(name).expect("it is named");
        let elements = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let _ = checkpoint.linear_bytes(name);
        match checkpoint.linear(name) {
            Ok(linear) => assert!(linear.k() > 0 && linear.n() > 0),
            Err(error) => {
                told(&error);
            }
        }
        if let Some(elements) = elements.filter(|elements| *elements <= MOST_ELEMENTS) {
            let mut out = vec![0.0; usize::try_from(elements).unwrap_or(0)];
            let _ = checkpoint.read_rows(name, 0, &mut out);
            let _ = checkpoint.read_rows(name, u64::MAX, &mut out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_pack_is_one() {
        let path = input::file("unchanged.safetensors", &SMALL.changed(&Changes::default()));
        let pack = PackReader::open(&path).unwrap();
        let names: Vec<String> = pack.linears().map(|linear| linear.name.clone()).collect();
        let checkpoint = PackCheckpoint::open(pack, Simulation::default()).unwrap();
        assert_eq!(names.len(), 7);
        assert!(names.iter().all(|name| checkpoint.linear(name).is_ok()));
    }
}
