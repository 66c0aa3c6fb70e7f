//! Any bytes as a GGUF file: an error or a model whose every tensor can be read, never a panic.

#![no_main]

mod input;

use libfuzzer_sys::fuzz_target;
use tessera_formats::gguf::Gguf;

fuzz_target!(|data: &[u8]| {
    let path = input::file("model.gguf", data);
    let Ok(gguf) = Gguf::open(&path) else { return };
    for (key, _) in gguf.metadata().iter() {
        assert!(gguf.metadata().get(key).is_some());
    }
    let mut bytes = [0; 64];
    for tensor in gguf.tensors() {
        assert!(gguf.tensor(&tensor.name).is_some());
        // What the header promises is there: the first and the last bytes can be read.
        let length = usize::try_from(tensor.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let last = tensor.bytes - length as u64;
        for offset in [0, last] {
            gguf.read_at(tensor, offset, &mut bytes[..length]).expect("within the tensor");
        }
        // And not a byte more.
        assert!(gguf.read_at(tensor, tensor.bytes, &mut bytes[..1]).is_err());
    }
});
