//! The kernels for aarch64: with `sdot` where there is one, otherwise with widening products.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{GROUP, QUAD, QUAD_BYTES, Sums};

/// Channels that are worked on at a time.
const SLAB: usize = 8;
const DOT_SLAB: usize = 16;

/// Channels of a register of sums, bytes of a register.
const LANES: usize = 4;
const BYTES: usize = 16;

pub(super) fn add_products<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
) {
    assert!(rows.len() == weights.len() * R * QUAD);
    for first in (0..GROUP).step_by(SLAB) {
        // SAFETY: the caller chose this kernel because the machine has NEON; there is a quad of each
        // row for every quad of the weights; the slab lies within the group.
        unsafe { slab(rows, weights, sums, first) }
    }
}

pub(super) fn add_products_dot<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
) {
    assert!(rows.len() == weights.len() * R * QUAD);
    for first in (0..GROUP).step_by(DOT_SLAB) {
        // SAFETY: as above, and the machine has the dot product.
        unsafe { dot_slab(rows, weights, sums, first) }
    }
}

/// The sums of eight channels, from channel `first` on. A register sums pairs of two channels: the
/// products of two bytes fit 16 bits, their sums are taken in 32.
///
/// # Safety
///
/// `rows` has R·4 bytes for each element of `weights`; `first` is at most 56.
#[target_feature(enable = "neon")]
unsafe fn slab<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
    first: usize,
) {
    let mut registers = [[vdupq_n_s32(0); SLAB / 2]; R];
    let mut quad = rows.as_ptr();
    for weights in weights {
        // SAFETY: a quad of weights is 256 bytes, of which eight channels take 32.
        let w = unsafe {
            let w = weights.as_ptr().add(first * QUAD);
            [vld1_s8(w), vld1_s8(w.add(8)), vld1_s8(w.add(16)), vld1_s8(w.add(24))]
        };
        for (r, registers) in registers.iter_mut().enumerate() {
            // SAFETY: `quad` points at R quads of four bytes, at any alignment.
            let a = unsafe { quad.add(r * QUAD).cast::<i32>().read_unaligned() };
            let a = vreinterpret_s8_s32(vdup_n_s32(a));
            for (register, w) in registers.iter_mut().zip(w) {
                *register = vpadalq_s16(*register, vmull_s8(a, w));
            }
        }
        // SAFETY: there are R quads for each element of `weights`; the last step ends at the end.
        quad = unsafe { quad.add(R * QUAD) };
    }
    for ([a, b, c, d], sums) in registers.into_iter().zip(sums) {
        for (index, products) in [vpaddq_s32(a, b), vpaddq_s32(c, d)].into_iter().enumerate() {
            // SAFETY: a row of sums is 64 integers, of which the slab takes eight.
            unsafe {
                let place = sums.as_mut_ptr().add(first + index * LANES);
                vst1q_s32(place, vaddq_s32(vld1q_s32(place), products));
            }
        }
    }
}

/// The sums of sixteen channels, from channel `first` on.
///
/// # Safety
///
/// `rows` has R·4 bytes for each element of `weights`; `first` is at most 48.
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_slab<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
    first: usize,
) {
    let mut registers = [[vdupq_n_s32(0); DOT_SLAB / LANES]; R];
    let mut quad = rows.as_ptr();
    for weights in weights {
        // SAFETY: a quad of weights is 256 bytes, of which sixteen channels take 64.
        let w = unsafe {
            let w = weights.as_ptr().add(first * QUAD);
            [
                vld1q_s8(w),
                vld1q_s8(w.add(BYTES)),
                vld1q_s8(w.add(2 * BYTES)),
                vld1q_s8(w.add(3 * BYTES)),
            ]
        };
        for (r, registers) in registers.iter_mut().enumerate() {
            // SAFETY: `quad` points at R quads of four bytes, at any alignment.
            let a = unsafe { quad.add(r * QUAD).cast::<i32>().read_unaligned() };
            let a = vreinterpretq_s8_s32(vdupq_n_s32(a));
            for (register, w) in registers.iter_mut().zip(w) {
                *register = dot(*register, a, w);
            }
        }
        // SAFETY: there are R quads for each element of `weights`; the last step ends at the end.
        quad = unsafe { quad.add(R * QUAD) };
    }
    for (registers, sums) in registers.into_iter().zip(sums) {
        for (index, products) in registers.into_iter().enumerate() {
            // SAFETY: a row of sums is 64 integers, of which the slab takes sixteen.
            unsafe {
                let place = sums.as_mut_ptr().add(first + index * LANES);
                vst1q_s32(place, vaddq_s32(vld1q_s32(place), products));
            }
        }
    }
}

/// `sum` plus the products of four bytes in each lane. The intrinsic is not stable yet.
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction, which the machine has, changes no more than its first operand.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inlateout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
