//! Plain floating-point numbers, one after the other.

use half::slice::HalfFloatSliceExt;

/// Halves that are converted at a time, through a buffer on the stack that is aligned.
const CHUNK: usize = 1024;

/// Little-endian binary32.
#[inline(always)]
pub(super) fn f32(src: &[u8], dst: &mut [f32]) {
    let (src, _) = src.as_chunks::<4>();
    for (src, dst) in src.iter().zip(dst) {
        *dst = f32::from_le_bytes(*src);
    }
}

/// Little-endian binary16. Signalling NaNs become quiet.
#[inline(always)]
pub(super) fn f16(src: &[u8], dst: &mut [f32]) {
    let (src, _) = src.as_chunks::<2>();
    let mut aligned = [half::f16::ZERO; CHUNK];
    for (src, dst) in src.chunks(CHUNK).zip(dst.chunks_mut(CHUNK)) {
        let aligned = &mut aligned[..src.len()];
        for (src, aligned) in src.iter().zip(&mut *aligned) {
            *aligned = half::f16::from_le_bytes(*src);
        }
        aligned.convert_to_f32_slice(dst);
    }
}

/// Little-endian bfloat16: the upper half of a binary32.
#[inline(always)]
pub(super) fn bf16(src: &[u8], dst: &mut [f32]) {
    let (src, _) = src.as_chunks::<2>();
    for (src, dst) in src.iter().zip(dst) {
        *dst = f32::from_bits(u32::from(u16::from_le_bytes(*src)) << 16);
    }
}
