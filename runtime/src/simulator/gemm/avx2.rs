//! The kernel for x86-64 with AVX2: bytes become words, and a register sums pairs of four channels.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

use std::arch::x86_64::*;

use super::{GROUP, QUAD, QUAD_BYTES, Sums};

/// Channels that are worked on at a time: two registers for each row.
const SLAB: usize = 8;

/// Bytes of a row's quad: four words.
const WIDE_QUAD: usize = 2 * QUAD;

pub(super) fn add_products<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
) {
    assert!(rows.len() == weights.len() * R * WIDE_QUAD);
    for first in (0..GROUP).step_by(SLAB) {
        // SAFETY: the caller chose this kernel because the machine has AVX2; there is a quad of each
        // row for every quad of the weights; the slab lies within the group.
        unsafe { slab(rows, weights, sums, first) }
    }
}

/// The sums of eight channels, from channel `first` on.
///
/// # Safety
///
/// `rows` has R·8 bytes for each element of `weights`; `first` is at most 56.
#[target_feature(enable = "avx2")]
unsafe fn slab<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
    first: usize,
) {
    let mut registers = [[_mm256_setzero_si256(); 2]; R];
    let mut quad = rows.as_ptr();
    for weights in weights {
        // SAFETY: a quad of weights is 256 bytes, of which eight channels take 32.
        let w = unsafe {
            let w = weights.as_ptr().add(first * QUAD);
            [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(16).cast())),
            ]
        };
        for (r, registers) in registers.iter_mut().enumerate() {
            // SAFETY: `quad` points at R quads of eight bytes, at any alignment.
            let a = unsafe { quad.add(r * WIDE_QUAD).cast::<i64>().read_unaligned() };
            let a = _mm256_set1_epi64x(a);
            for (register, w) in registers.iter_mut().zip(w) {
                *register = _mm256_add_epi32(*register, _mm256_madd_epi16(a, w));
            }
        }
        // SAFETY: there are R quads for each element of `weights`; the last step ends at the end.
        quad = unsafe { quad.add(R * WIDE_QUAD) };
    }
    for ([low, high], sums) in registers.into_iter().zip(sums) {
        // Channels 0 1 4 5 | 2 3 6 7, two pairs each, to one number each, in order.
        let pairs = _mm256_hadd_epi32(low, high);
        let products = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        // SAFETY: a row of sums is 64 integers, of which the slab takes eight.
        unsafe {
            let place = sums.as_mut_ptr().add(first).cast();
            _mm256_storeu_si256(place, _mm256_add_epi32(_mm256_loadu_si256(place), products));
        }
    }
}

pub(super) fn unpack_nibbles(packed: &[u8], out: &mut [i8]) {
    #[target_feature(enable = "avx2")]
    fn kernel(packed: &[u8], out: &mut [i8]) {
        super::nibbles::widen(packed, out);
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(packed, out) }
}
