//! Types of one or two bits, with one scale per block.

use super::scale_at;

/// 48 bytes and 4 bytes of five and four ternary digits, f16 d: (digit - 1)·d.
///
/// A byte is a fraction of 256 written to base 3: multiplied by 3^n modulo 256, digit n is its
/// integer part at the next multiplication by 3.
#[inline(always)]
pub(super) fn tq1_0(block: &[u8; 54], dst: &mut [f32; 256]) {
    let d = scale_at(block, 52);
    // Each part of the bytes gives all its first digits, then all its second ones.
    let (first, rest) = dst.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    let parts = [(&block[..32], first), (&block[32..48], second), (&block[48..52], third)];
    for (bytes, dst) in parts {
        let mut power = 1u8;
        for dst in dst.chunks_exact_mut(bytes.len()) {
            for (dst, byte) in dst.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *dst = f32::from(digit.cast_signed() - 1) * d;
            }
            power = power.wrapping_mul(3);
        }
    }
}

/// 64 bytes of four 2-bit elements, f16 d: (q - 1)·d. Each half gives its lowest bits first.
#[inline(always)]
pub(super) fn tq2_0(block: &[u8; 66], dst: &mut [f32; 256]) {
    let d = scale_at(block, 64);
    let (qs, _) = block[..64].as_chunks::<32>();
    let (dst, _) = dst.as_chunks_mut::<32>();
    for (run, dst) in dst.iter_mut().enumerate() {
        for (dst, q) in dst.iter_mut().zip(&qs[run / 4]) {
            *dst = f32::from((q >> (run % 4 * 2) & 3).cast_signed() - 1) * d;
        }
    }
}

/// f16 d, 16 bytes of bits in order: d where set, -d where clear.
#[inline(always)]
pub(super) fn q1_0(block: &[u8; 18], dst: &mut [f32; 128]) {
    let d = scale_at(block, 0);
    let (dst, _) = dst.as_chunks_mut::<8>();
    for (dst, bits) in dst.iter_mut().zip(&block[2..]) {
        for (i, dst) in dst.iter_mut().enumerate() {
            *dst = if bits >> i & 1 == 1 { d } else { -d };
        }
    }
}

/// f16 d, 16 bytes of four 2-bit elements in order: (q - 1)·d.
#[inline(always)]
pub(super) fn q2_0(block: &[u8; 18], dst: &mut [f32; 64]) {
    let d = scale_at(block, 0);
    let (dst, _) = dst.as_chunks_mut::<4>();
    for (dst, q) in dst.iter_mut().zip(&block[2..]) {
        for (i, dst) in dst.iter_mut().enumerate() {
            *dst = f32::from((q >> (2 * i) & 3).cast_signed() - 1) * d;
        }
    }
}
