//! Types with blocks of 256 elements whose groups have quantized scales of their own.
//!
//! Byte ranges of a block are those of ggml-common.h; products are formed in the order of
//! ggml-quants.c, first the scale of the group.

use super::groups::{iq4_levels, look_up};
use super::scale_at;

/// 16 bytes of scale (low nibble) and minimum (high), 64 bytes q, f16 d, f16 dmin; groups of 16.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], dst: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 80), scale_at(block, 82));
    let (qs, _) = block[16..80].as_chunks::<16>();
    let (dst, _) = dst.as_chunks_mut::<16>();
    for (group, dst) in dst.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(block[group] & 15), dmin * f32::from(block[group] >> 4));
        let (qs, shift) = (&qs[group / 8 * 2 + group % 2], group % 8 / 2 * 2);
        for (dst, q) in dst.iter_mut().zip(qs) {
            *dst = scale * f32::from(q >> shift & 3) - min;
        }
    }
}

/// 32 bytes of third bits, 64 bytes q, 16 scales of 6 bits in 12 bytes, f16 d; groups of 16. Where
/// the third bit is clear, 4 is subtracted.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], dst: &mut [f32; 256]) {
    let d = scale_at(block, 108);
    let (third, _) = block[..32].as_chunks::<16>();
    let (qs, _) = block[32..96].as_chunks::<16>();
    let scales = &block[96..108];
    let (dst, _) = dst.as_chunks_mut::<16>();
    for (group, dst) in dst.iter_mut().enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4).cast_signed() - 32);
        let (qs, shift) = (&qs[group / 8 * 2 + group % 2], group % 8 / 2 * 2);
        let (third, bit) = (&third[group % 2], group / 2);
        for ((dst, q), third) in dst.iter_mut().zip(qs).zip(third) {
            let q = q >> shift & 3 | (third >> bit & 1) << 2;
            *dst = scale * f32::from(q.cast_signed() - 4);
        }
    }
}

/// f16 d, f16 dmin, 8 scales and minima of 6 bits in 12 bytes, 128 bytes q; groups of 32.
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], dst: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let (scales, _) = block[4..16].as_chunks::<12>();
    let (qs, _) = block[16..].as_chunks::<32>();
    let (dst, _) = dst.as_chunks_mut::<32>();
    for (group, dst) in dst.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(group, &scales[0], d, dmin);
        let (qs, shift) = (&qs[group / 2], group % 2 * 4);
        for (dst, q) in dst.iter_mut().zip(qs) {
            *dst = scale * f32::from(q >> shift & 15) - min;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the 128 bytes q.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], dst: &mut [f32; 256]) {
    let (d, dmin) = (scale_at(block, 0), scale_at(block, 2));
    let (scales, _) = block[4..16].as_chunks::<12>();
    let (fifth, _) = block[16..48].as_chunks::<32>();
    let (qs, _) = block[48..].as_chunks::<32>();
    let (dst, _) = dst.as_chunks_mut::<32>();
    for (group, dst) in dst.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(group, &scales[0], d, dmin);
        let (qs, shift) = (&qs[group / 2], group % 2 * 4);
        for ((dst, q), fifth) in dst.iter_mut().zip(qs).zip(&fifth[0]) {
            *dst = scale * f32::from(q >> shift & 15 | (fifth >> group & 1) << 4) - min;
        }
    }
}

/// Scale and minimum of one of the eight groups of Q4_K and Q5_K. The first four have theirs in
/// the low six bits of a byte; of the others the low four bits are together in a byte, and the
/// high two are those that the first four leave.
#[inline(always)]
fn scale_and_min(group: usize, scales: &[u8; 12], d: f32, dmin: f32) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (scales[group] & 63, scales[4 + group] & 63)
    } else {
        (
            scales[4 + group] & 15 | scales[group - 4] >> 6 << 4,
            scales[4 + group] >> 4 | scales[group] >> 6 << 4,
        )
    };
    (d * f32::from(scale), dmin * f32::from(min))
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, f16 d; groups of 16.
/// 32 is subtracted from every q.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], dst: &mut [f32; 256]) {
    let d = scale_at(block, 208);
    let (low, _) = block[..128].as_chunks::<16>();
    let (high, _) = block[128..192].as_chunks::<16>();
    let (dst, _) = dst.as_chunks_mut::<16>();
    for (group, dst) in dst.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + group].cast_signed());
        // Each half of the block has 4 groups of nibbles and 2 of bit pairs.
        let (half, within) = (group / 8, group % 8);
        let (low, low_shift) = (&low[half * 4 + within % 4], within / 4 * 4);
        let (high, high_shift) = (&high[half * 2 + within % 2], within / 2 * 2);
        for ((dst, low), high) in dst.iter_mut().zip(low).zip(high) {
            let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *dst = scale * f32::from(q.cast_signed() - 32);
        }
    }
}

/// f32 d, 256 signed bytes q, 16 sums that are not needed: d·q.
#[inline(always)]
pub(super) fn q8_k(block: &[u8; 292], dst: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for i in 0..256 {
        dst[i] = d * f32::from(block[4 + i].cast_signed());
    }
}

/// f16 d, 8 scales of 6 bits (u16 of upper pairs, 4 bytes of nibbles), 128 bytes q; groups of 32
/// with the levels of IQ4_NL.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], dst: &mut [f32; 256]) {
    let d = scale_at(block, 0);
    let (qs, _) = block[8..].as_chunks::<16>();
    let (dst, _) = dst.as_chunks_mut::<32>();
    for (group, (dst, qs)) in dst.iter_mut().zip(qs).enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let high = block[2 + group / 4] >> (group % 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4).cast_signed() - 32);
        look_up(&iq4_levels(scale), qs, dst);
    }
}
