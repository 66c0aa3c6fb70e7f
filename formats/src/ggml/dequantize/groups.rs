//! Types with one scale, or a scale and a minimum, per group of 16 or 32 elements.
//!
//! Of a group of 4-bit elements the first half lies in the low nibbles, the second in the high
//! ones. Byte ranges of a block are those of ggml-common.h.

use super::scale_at;

/// The levels of IQ4_NL and IQ4_XS.
const IQ4_LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Twice the values of E2M1; negative zero is plain zero.
const E2M1_DOUBLED: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// f16 d, 16 bytes q: (q - 8)·d.
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], dst: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        dst[i] = f32::from((q & 15).cast_signed() - 8) * d;
        dst[16 + i] = f32::from((q >> 4).cast_signed() - 8) * d;
    }
}

/// f16 d, f16 m, 16 bytes q: q·d + m.
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], dst: &mut [f32; 32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    for i in 0..16 {
        let q = block[4 + i];
        dst[i] = f32::from(q & 15) * d + m;
        dst[16 + i] = f32::from(q >> 4) * d + m;
    }
}

/// f16 d, u32 of fifth bits, 16 bytes q: (q - 16)·d.
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], dst: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    let fifth = fifth_bits([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let q = block[6 + i];
        dst[i] = f32::from((q & 15 | fifth[i]).cast_signed() - 16) * d;
        dst[16 + i] = f32::from((q >> 4 | fifth[16 + i]).cast_signed() - 16) * d;
    }
}

/// f16 d, f16 m, u32 of fifth bits, 16 bytes q: q·d + m.
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], dst: &mut [f32; 32]) {
    let (d, m) = (scale_at(block, 0), scale_at(block, 2));
    let fifth = fifth_bits([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let q = block[8 + i];
        dst[i] = f32::from(q & 15 | fifth[i]) * d + m;
        dst[16 + i] = f32::from(q >> 4 | fifth[16 + i]) * d + m;
    }
}

/// Bit i of the four bytes as 16 or 0.
#[inline(always)]
fn fifth_bits(bytes: [u8; 4]) -> [u8; 32] {
    let mut fifth = [0; 32];
    for (i, fifth) in fifth.iter_mut().enumerate() {
        *fifth = (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
    fifth
}

/// f16 d, 32 signed bytes q: q·d.
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], dst: &mut [f32; 32]) {
    let d = scale_at(block, 0);
    for i in 0..32 {
        dst[i] = f32::from(block[2 + i].cast_signed()) * d;
    }
}

/// f16 d, 16 bytes q: level q times d.
#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], dst: &mut [f32; 32]) {
    let levels = iq4_levels(scale_at(block, 0));
    let (qs, _) = block[2..].as_chunks::<16>();
    look_up(&levels, &qs[0], dst);
}

/// The levels of IQ4_NL and IQ4_XS times `d`.
#[inline(always)]
pub(super) fn iq4_levels(d: f32) -> [f32; 16] {
    IQ4_LEVELS.map(|level| level * d)
}

/// E8M0 e, 16 bytes q: E2M1 of q times 2^(e - 127). An e of 255, which the format has for NaN, is
/// one more power of two, as in ggml.
#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], dst: &mut [f32; 32]) {
    let half = match block[0] {
        // Below the normal numbers.
        e @ 0..2 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits(u32::from(e - 1) << 23),
    };
    let values = E2M1_DOUBLED.map(|value| value * half);
    let (qs, _) = block[1..].as_chunks::<16>();
    look_up(&values, &qs[0], dst);
}

/// Four times E4M3 d, then four times 8 bytes q: E2M1 of q times d, in groups of 16.
#[inline(always)]
pub(super) fn nvfp4(block: &[u8; 36], dst: &mut [f32; 64]) {
    let (qs, _) = block[4..].as_chunks::<8>();
    let (dst, _) = dst.as_chunks_mut::<16>();
    for ((&d, qs), dst) in block.iter().zip(qs).zip(dst) {
        let half = half_of_e4m3(d);
        look_up(&E2M1_DOUBLED.map(|value| value * half), qs, dst);
    }
}

/// Half of an E4M3 number whose sign is ignored. 0x7f, which the format has for NaN, is zero, and
/// 0xff is 480, as in ggml.
#[inline(always)]
fn half_of_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (bits >> 3 & 15, bits & 7);
    match exponent {
        _ if bits == 0x7f => 0.0,
        0 => f32::from(mantissa) / 1024.0,
        // From a bias of 7 to one of 127, less one for the half.
        _ => f32::from_bits((u32::from(exponent) + 119) << 23 | u32::from(mantissa) << 20),
    }
}

/// Replaces each nibble by its value in a table: low nibbles to the first half of `dst`, high ones
/// to the second.
#[inline(always)]
pub(super) fn look_up<const BYTES: usize, const ELEMENTS: usize>(
    values: &[f32; 16],
    qs: &[u8; BYTES],
    dst: &mut [f32; ELEMENTS],
) {
    const { assert!(ELEMENTS == 2 * BYTES) };
    for i in 0..BYTES {
        dst[i] = values[usize::from(qs[i] & 15)];
        dst[BYTES + i] = values[usize::from(qs[i] >> 4)];
    }
}
