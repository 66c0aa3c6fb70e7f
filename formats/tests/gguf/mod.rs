//! GGUF files put together byte by byte, so that they can be wrong in any way.

/// Magic, version 3 and the counts: 24 bytes.
pub fn header(tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// A length and the bytes.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// A key, the type of its value, and the value.
pub fn key(name: &[u8], ty: u32, value: &[u8]) -> Vec<u8> {
    [&text(name), &ty.to_le_bytes()[..], value].concat()
}

/// A key of an array.
pub fn array(name: &[u8], ty: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    key(name, 9, &[&ty.to_le_bytes()[..], &count.to_le_bytes(), elements].concat())
}

/// A tensor info.
pub fn info(name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let count = u32::try_from(dims.len()).expect("few");
    info_of(&text(name), count, dims, ty, offset)
}

/// A tensor info with any number of dimensions declared, and any bytes as its name.
pub fn info_of(name: &[u8], count: u32, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [name, &count.to_le_bytes()].concat();
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(ty.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A file of keys, tensor infos and `data` bytes of data, aligned to 32.
pub fn file(keys: &[Vec<u8>], infos: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = header(infos.len() as u64, keys.len() as u64);
    bytes.extend(keys.concat());
    bytes.extend(infos.concat());
    if !infos.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.resize(bytes.len() + data, 0);
    }
    bytes
}
