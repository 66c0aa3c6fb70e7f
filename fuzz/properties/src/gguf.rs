//! GGUF files.

use arbitrary::{Arbitrary, Unstructured};
use tessera_formats::gguf::{Gguf, Metadata};

use crate::gguf_bytes::File;
use crate::input;
use crate::told::{message, told};

/// Any bytes as a GGUF file: an error, or a model whose every tensor can be read and not a byte more.
pub fn gguf(data: &[u8]) {
    let path = input::file("model.gguf", data);
    let gguf = match Gguf::open(&path) {
        Ok(gguf) => gguf,
        Err(error) => {
            told(&error);
            return;
        }
    };
    for (key, value) in gguf.metadata().iter() {
        assert_eq!(
            gguf.metadata().get(key).map(|value| value.value_type()),
            Some(value.value_type())
        );
        message(&value.to_string());
    }
    let _ = gguf.architecture();
    // The section of keys is one by itself.
    let again = Metadata::parse(&path, gguf.metadata_bytes().to_vec());
    let again = again.expect("the section was read from a file");
    assert!(again.iter().map(|(key, _)| key).eq(gguf.metadata().iter().map(|(key, _)| key)));

    let mut bytes = [0; 64];
    for tensor in gguf.tensors() {
        assert!(gguf.tensor(&tensor.name).is_some());
        assert!(tensor.bytes <= data.len() as u64);
        // What the header promises is there: the first and the last bytes can be read.
        let length = usize::try_from(tensor.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let last = tensor.bytes - length as u64;
        for offset in [0, last] {
            gguf.read_at(tensor, offset, &mut bytes[..length]).expect("within the tensor");
        }
        // And not a byte more.
        assert!(gguf.read_at(tensor, tensor.bytes, &mut bytes[..1]).is_err());
        assert!(gguf.read_at(tensor, u64::MAX, &mut bytes[..1]).is_err());
    }
    gguf.check_unchanged().expect("nobody wrote to it");
}

/// The same of files that are described, not spelt: most of them are right but for one thing.
pub fn gguf_structured(data: &[u8]) {
    if let Ok(file) = File::arbitrary(&mut Unstructured::new(data)) {
        gguf(&file.bytes());
    }
}
