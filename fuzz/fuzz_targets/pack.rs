//! Any bytes as a pack of one file: an error or a pack whose every tensor can be read, never a
//! panic.

#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tessera_formats::pack::PackReader;

fuzz_target!(|data: &[u8]| {
    let path = input::file("model.safetensors", data);
    let Ok(pack) = PackReader::open(&path) else { return };
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
        assert!(tensor.bytes <= data.len() as u64);
        pack.hash_tensor(&tensor.name).expect("within the file");
        // And not a byte more.
        assert!(pack.read_tensor_at(&tensor.name, tensor.bytes, &mut [0]).is_err());
    }
});
