//! The kernel for x86-64 with AVX-512 VNNI: a register is sixteen channels.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

use std::arch::x86_64::*;

use super::{QUAD, QUAD_BYTES, Sums};

/// Registers of a group.
const PANELS: usize = 4;

/// Bytes, and channels, of a register.
const BYTES: usize = 64;
const LANES: usize = 16;

pub(super) fn add_products<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
) {
    assert!(rows.len() == weights.len() * R * QUAD);
    // SAFETY: the caller chose this kernel because the machine has AVX-512 VNNI; there is a quad of
    // each row for every quad of the weights.
    unsafe { kernel(rows, weights, sums) }
}

/// # Safety
///
/// `rows` has R·4 bytes for each element of `weights`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn kernel<const R: usize>(rows: &[u8], weights: &[[i8; QUAD_BYTES]], sums: &mut [Sums; R]) {
    let mut registers = [[_mm512_setzero_si512(); PANELS]; R];
    for (registers, sums) in registers.iter_mut().zip(&*sums) {
        for (p, register) in registers.iter_mut().enumerate() {
            // SAFETY: a row of sums is 64 integers; register p takes 16 of them.
            *register = unsafe { _mm512_loadu_si512(sums.as_ptr().add(p * LANES).cast()) };
        }
    }
    let mut quad = rows.as_ptr();
    for weights in weights {
        let mut w = [_mm512_setzero_si512(); PANELS];
        for (p, w) in w.iter_mut().enumerate() {
            // SAFETY: a quad of weights is 256 bytes; register p takes 64 of them.
            *w = unsafe { _mm512_loadu_si512(weights.as_ptr().add(p * BYTES).cast()) };
        }
        for (r, registers) in registers.iter_mut().enumerate() {
            // SAFETY: `quad` points at R quads of four bytes, at any alignment.
            let a = unsafe { quad.add(r * QUAD).cast::<i32>().read_unaligned() };
            let a = _mm512_set1_epi32(a);
            for (register, w) in registers.iter_mut().zip(w) {
                *register = _mm512_dpbusd_epi32(*register, a, w);
            }
        }
        // SAFETY: there are R quads for each element of `weights`; the last step ends at the end.
        quad = unsafe { quad.add(R * QUAD) };
    }
    for (registers, sums) in registers.iter().zip(sums) {
        for (p, register) in registers.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(p * LANES).cast(), *register) };
        }
    }
}

pub(super) fn unpack_nibbles(packed: &[u8], out: &mut [i8]) {
    #[target_feature(enable = "avx2")]
    fn kernel(packed: &[u8], out: &mut [i8]) {
        super::nibbles::widen(packed, out);
    }
    // SAFETY: the caller chose this kernel because the machine has AVX-512, and so AVX2.
    unsafe { kernel(packed, out) }
}
