//! Kernels for aarch64 with NEON: a pair of registers is the eight lanes.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

use std::arch::aarch64::*;

use super::{AffineGrid, Grid, LANES};

/// Eight lanes: elements 0 to 3, then 4 to 7.
type Pair = [float32x4_t; 2];

/// [`Grid`] in registers.
#[derive(Clone, Copy)]
struct Constants {
    scale: float32x4_t,
    inverse: float32x4_t,
    least: float32x4_t,
    greatest: float32x4_t,
}

#[target_feature(enable = "neon")]
fn constants(grid: Grid) -> Constants {
    Constants {
        scale: vdupq_n_f32(grid.scale),
        inverse: vdupq_n_f32(grid.inverse),
        least: vdupq_n_f32(grid.least),
        greatest: vdupq_n_f32(grid.greatest),
    }
}

/// The integers of four elements, as f32.
#[target_feature(enable = "neon")]
fn level(w: float32x4_t, grid: Constants) -> float32x4_t {
    let x = vmulq_f32(w, grid.inverse);
    vrndnq_f32(vminq_f32(vmaxq_f32(x, grid.least), grid.greatest))
}

/// Adds the square of the error that `q` makes of `w`; a product and a sum, not a fused one.
#[target_feature(enable = "neon")]
fn add_error(
    lanes: float32x4_t,
    w: float32x4_t,
    q: float32x4_t,
    scale: float32x4_t,
) -> float32x4_t {
    let error = vsubq_f32(w, vmulq_f32(q, scale));
    vaddq_f32(lanes, vmulq_f32(error, error))
}

#[target_feature(enable = "neon")]
fn load(block: &[f32; LANES]) -> Pair {
    // SAFETY: the array is 32 readable bytes, and the second load begins at its middle.
    unsafe { [vld1q_f32(block.as_ptr()), vld1q_f32(block.as_ptr().add(4))] }
}

#[target_feature(enable = "neon")]
fn store(pair: Pair) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array is 32 writable bytes, and the second store begins at its middle.
    unsafe {
        vst1q_f32(lanes.as_mut_ptr(), pair[0]);
        vst1q_f32(lanes.as_mut_ptr().add(4), pair[1]);
    }
    lanes
}

/// Eight integers to bytes, saturated.
#[target_feature(enable = "neon")]
fn narrow(q: Pair) -> [i8; LANES] {
    let low = vqmovn_s32(vcvtq_s32_f32(q[0]));
    let high = vqmovn_s32(vcvtq_s32_f32(q[1]));
    let bytes = vqmovn_s16(vcombine_s16(low, high));
    let mut out = [0; LANES];
    // SAFETY: the array is 8 writable bytes.
    unsafe { vst1_s8(out.as_mut_ptr(), bytes) };
    out
}

/// The last elements of a row, followed by zeros, which change no sum and no maximum.
fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..tail.len()].copy_from_slice(tail);
    block
}

pub(super) fn magnitude_bits(row: &[f32]) -> u32 {
    #[target_feature(enable = "neon")]
    fn kernel(row: &[f32]) -> u32 {
        let mask = vdupq_n_u32(0x7fff_ffff);
        let mut greatest = [vdupq_n_u32(0); 2];
        let (blocks, tail) = row.as_chunks::<LANES>();
        let tail = padded(tail);
        for block in blocks.iter().chain([&tail]) {
            for (greatest, half) in greatest.iter_mut().zip(load(block)) {
                *greatest = vmaxq_u32(*greatest, vandq_u32(vreinterpretq_u32_f32(half), mask));
            }
        }
        vmaxvq_u32(vmaxq_u32(greatest[0], greatest[1]))
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(row) }
}

pub(super) fn squares(chunk: &[f32]) -> [f32; LANES] {
    #[target_feature(enable = "neon")]
    fn kernel(chunk: &[f32]) -> [f32; LANES] {
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let tail = padded(tail);
        let mut lanes = [vdupq_n_f32(0.0); 2];
        for block in blocks.iter().chain([&tail]) {
            for (lanes, half) in lanes.iter_mut().zip(load(block)) {
                *lanes = vaddq_f32(*lanes, vmulq_f32(half, half));
            }
        }
        store(lanes)
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(chunk) }
}

pub(super) fn quantize(chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
    #[target_feature(enable = "neon")]
    fn eight(w: Pair, grid: Constants, lanes: &mut Pair) -> [i8; LANES] {
        let q = [level(w[0], grid), level(w[1], grid)];
        lanes[0] = add_error(lanes[0], w[0], q[0], grid.scale);
        lanes[1] = add_error(lanes[1], w[1], q[1], grid.scale);
        narrow(q)
    }
    #[target_feature(enable = "neon")]
    fn kernel(chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
        let grid = constants(grid);
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        let mut lanes = [vdupq_n_f32(0.0); 2];
        for (block, out) in blocks.iter().zip(outs) {
            *out = eight(load(block), grid, &mut lanes);
        }
        let last = eight(load(&padded(tail)), grid, &mut lanes);
        out_tail.copy_from_slice(&last[..tail.len()]);
        store(lanes)
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(chunk, grid, out) }
}

pub(super) fn errors<const B: usize>(chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
    #[target_feature(enable = "neon")]
    fn add<const B: usize>(w: Pair, grids: &[Constants; B], lanes: &mut [Pair; B]) {
        for (lanes, &grid) in lanes.iter_mut().zip(grids) {
            lanes[0] = add_error(lanes[0], w[0], level(w[0], grid), grid.scale);
            lanes[1] = add_error(lanes[1], w[1], level(w[1], grid), grid.scale);
        }
    }
    #[target_feature(enable = "neon")]
    fn kernel<const B: usize>(chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
        let mut registers = [constants(grids[0]); B];
        for (register, &grid) in registers.iter_mut().zip(grids) {
            *register = constants(grid);
        }
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let mut lanes = [[vdupq_n_f32(0.0); 2]; B];
        for block in blocks {
            add(load(block), &registers, &mut lanes);
        }
        add(load(&padded(tail)), &registers, &mut lanes);
        let mut sums = [[0.0; LANES]; B];
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum = store(lanes);
        }
        sums
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(chunk, grids) }
}

pub(super) fn extremes(row: &[f32], first: f32) -> (f32, f32) {
    #[target_feature(enable = "neon")]
    fn kernel(row: &[f32], first: f32) -> (f32, f32) {
        let mut least = [vdupq_n_f32(first); 2];
        let mut greatest = least;
        let (blocks, tail) = row.as_chunks::<LANES>();
        let mut last = [first; LANES];
        last[..tail.len()].copy_from_slice(tail);
        for block in blocks.iter().chain([&last]) {
            for ((least, greatest), half) in least.iter_mut().zip(&mut greatest).zip(load(block)) {
                *least = vminq_f32(*least, half);
                *greatest = vmaxq_f32(*greatest, half);
            }
        }
        (vminvq_f32(vminq_f32(least[0], least[1])), vmaxvq_f32(vmaxq_f32(greatest[0], greatest[1])))
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(row, first) }
}

pub(super) fn quantize_affine(chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
    #[target_feature(enable = "neon")]
    fn integers(block: &[f32; LANES], grid: AffineGrid) -> [i8; LANES] {
        let mut q = load(block);
        for half in &mut q {
            let x = vmulq_f32(vsubq_f32(*half, vdupq_n_f32(grid.zero)), vdupq_n_f32(grid.inverse));
            let x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(grid.least)), vdupq_n_f32(grid.greatest));
            *half = vaddq_f32(vrndnq_f32(x), vdupq_n_f32(grid.bias));
        }
        narrow(q)
    }
    #[target_feature(enable = "neon")]
    fn kernel(chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter().zip(outs) {
            *out = integers(block, grid);
        }
        let last = integers(&padded(tail), grid);
        out_tail.copy_from_slice(&last[..tail.len()]);
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(chunk, grid, out) }
}

pub(super) fn moments(chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
    #[target_feature(enable = "neon")]
    fn add(block: &[f32; LANES], grid: AffineGrid, lanes: &mut [Pair; 4]) {
        for (half, w) in load(block).into_iter().enumerate() {
            let u = vsubq_f32(w, vdupq_n_f32(grid.zero));
            let x = vmulq_f32(u, vdupq_n_f32(grid.inverse));
            let x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(grid.least)), vdupq_n_f32(grid.greatest));
            let q = vrndnq_f32(x);
            // Products and sums, not fused ones.
            let terms = [u, q, vmulq_f32(q, q), vmulq_f32(q, u)];
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[half] = vaddq_f32(lanes[half], term);
            }
        }
    }
    #[target_feature(enable = "neon")]
    fn kernel(chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
        let mut lanes = [[vdupq_n_f32(0.0); 2]; 4];
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        for block in blocks {
            add(block, grid, &mut lanes);
        }
        // u and q of the zero point are zero.
        let mut last = [grid.zero; LANES];
        last[..tail.len()].copy_from_slice(tail);
        add(&last, grid, &mut lanes);
        let mut sums = [[0.0; LANES]; 4];
        for (sums, lanes) in sums.iter_mut().zip(lanes) {
            *sums = store(lanes);
        }
        sums
    }
    // SAFETY: the caller chose this kernel because the machine has NEON.
    unsafe { kernel(chunk, grid) }
}
