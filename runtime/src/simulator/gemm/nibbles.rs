//! Four-bit weights: two to a byte, widened to the kernels' layout before they are used.
//!
//! A quad of a group is four pieces of 32 bytes. Byte i of a piece holds element i of the 64 that it
//! stands for in its low nibble and element i + 32 in its high one.

use super::{Isa, QUAD, QUAD_BYTES};

/// Bytes of a group's weights in one quad.
pub const NIBBLE_QUAD: usize = QUAD_BYTES / 2;

/// Bytes of a piece.
const PIECE: usize = 32;

/// Rows of a group in a piece, and half of them.
const PIECE_ROWS: usize = 2 * PIECE / QUAD;
const HALF_ROWS: usize = PIECE_ROWS / 2;

/// Writes a quad of a group: `row(n)` are the four nibbles of row n, the first in bits 0..3.
pub fn pack(quad: &mut [u8; NIBBLE_QUAD], row: impl Fn(usize) -> [u8; 2]) {
    let (fours, _) = quad.as_chunks_mut::<QUAD>();
    for (index, four) in fours.iter_mut().enumerate() {
        let n = index / HALF_ROWS * PIECE_ROWS + index % HALF_ROWS;
        *four = (spread(row(n)) | spread(row(n + HALF_ROWS)) << 4).to_le_bytes();
    }
}

/// Four nibbles to the low nibbles of four bytes.
fn spread(nibbles: [u8; 2]) -> u32 {
    let x = u32::from(u16::from_le_bytes(nibbles));
    let x = (x | x << 8) & 0x00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f
}

/// Widens quads of a group: `out` gets two bytes for each one.
///
/// # Panics
///
/// If `out` is not twice as long as `packed`.
pub fn unpack(isa: Isa, packed: &[u8], out: &mut [i8]) {
    assert_eq!(2 * packed.len(), out.len(), "two weights for each byte");
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::avx2::unpack_nibbles(packed, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => super::avx512::unpack_nibbles(packed, out),
        _ => widen(packed, out),
    }
}

/// What every instruction set compiles for itself.
#[inline(always)]
pub(super) fn widen(packed: &[u8], out: &mut [i8]) {
    let (pieces, _) = packed.as_chunks::<PIECE>();
    let (halves, _) = out.as_chunks_mut::<PIECE>();
    for (piece, halves) in pieces.iter().zip(halves.chunks_exact_mut(2)) {
        if let [low, high] = halves {
            for ((low, high), byte) in low.iter_mut().zip(high).zip(piece) {
                // Sign extension without shifts of signed bytes, which vectors do not have.
                *low = ((byte & 15) ^ 8).wrapping_sub(8).cast_signed();
                *high = ((byte >> 4) ^ 8).wrapping_sub(8).cast_signed();
            }
        }
    }
}
