//! What a tensor holds, and whether two hold the same bytes.

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Carried, Linear};

use crate::hash::{hash_tensor, hex};

/// Bytes of each tensor that are compared at a time.
const BLOCK: usize = 1 << 20;

/// What a tensor holds.
pub enum Content<'a> {
    /// Tiles of a pack.
    Linear(&'a PackReader, &'a Linear),
    /// ggml's blocks, in a GGUF file or carried by a pack.
    Blocks(Blocks<'a>),
}

/// A tensor of ggml's blocks.
pub struct Blocks<'a> {
    /// The type of its blocks.
    pub ggml_type: GgmlType,
    /// Number of elements.
    pub elements: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Where they are.
    pub place: Place<'a>,
}

/// Where blocks are.
pub enum Place<'a> {
    /// In a GGUF file.
    Gguf(&'a Gguf, &'a TensorInfo),
    /// In a pack.
    Pack(&'a PackReader, &'a Carried),
}

impl Blocks<'_> {
    /// Reads `buf.len()` bytes from byte `offset` on.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        match &self.place {
            Place::Gguf(gguf, tensor) => gguf.read_at(tensor, offset, buf)?,
            Place::Pack(pack, carried) => pack.read_tensor_at(&carried.name, offset, buf)?,
        }
        Ok(())
    }
}

/// Whether two tensors of one type and shape hold the same bytes. The digests that packs record
/// stand for what they carry.
pub fn equal(a: &Blocks<'_>, b: &Blocks<'_>) -> anyhow::Result<bool> {
    match (&a.place, &b.place) {
        (Place::Pack(_, a), Place::Pack(_, b)) => Ok(a.sha256 == b.sha256),
        (Place::Gguf(gguf, tensor), Place::Pack(_, carried))
        | (Place::Pack(_, carried), Place::Gguf(gguf, tensor)) => {
            Ok(hex(&hash_tensor(gguf, tensor, |_, _| Ok(()))?) == carried.sha256)
        }
        (Place::Gguf(..), Place::Gguf(..)) => equal_bytes(a, b),
    }
}

/// Compares bytes up to the first block of them that differs.
fn equal_bytes(a: &Blocks<'_>, b: &Blocks<'_>) -> anyhow::Result<bool> {
    if a.bytes != b.bytes {
        return Ok(false);
    }
    let length = BLOCK.min(usize::try_from(a.bytes)?);
    let (mut of_a, mut of_b) = (vec![0; length], vec![0; length]);
    let mut offset = 0;
    while offset < a.bytes {
        let left = usize::try_from(a.bytes - offset)?.min(length);
        let (of_a, of_b) = (&mut of_a[..left], &mut of_b[..left]);
        a.read_at(offset, of_a)?;
        b.read_at(offset, of_b)?;
        if of_a != of_b {
            return Ok(false);
        }
        offset += u64::try_from(left)?;
    }
    Ok(true)
}
