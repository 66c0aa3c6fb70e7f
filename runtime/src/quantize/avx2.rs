//! Kernels for x86-64 with AVX2: one register is the eight lanes.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

use std::arch::x86_64::*;

use super::{AffineGrid, Grid, LANES};

/// Rounding to nearest, ties to even, whatever the thread's mode.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// [`Grid`] in registers.
#[derive(Clone, Copy)]
struct Constants {
    scale: __m256,
    inverse: __m256,
    least: __m256,
    greatest: __m256,
}

#[target_feature(enable = "avx2")]
fn constants(grid: Grid) -> Constants {
    Constants {
        scale: _mm256_set1_ps(grid.scale),
        inverse: _mm256_set1_ps(grid.inverse),
        least: _mm256_set1_ps(grid.least),
        greatest: _mm256_set1_ps(grid.greatest),
    }
}

/// The integers of eight elements, as f32.
#[target_feature(enable = "avx2")]
fn level(w: __m256, grid: Constants) -> __m256 {
    let x = _mm256_mul_ps(w, grid.inverse);
    let x = _mm256_min_ps(_mm256_max_ps(x, grid.least), grid.greatest);
    _mm256_round_ps::<NEAREST>(x)
}

#[target_feature(enable = "avx2")]
fn add_square(lanes: __m256, error: __m256) -> __m256 {
    _mm256_add_ps(lanes, _mm256_mul_ps(error, error))
}

#[target_feature(enable = "avx2")]
fn load(block: &[f32; LANES]) -> __m256 {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(block.as_ptr()) }
}

#[target_feature(enable = "avx2")]
fn store(register: __m256) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), register) };
    lanes
}

/// Eight integers to bytes, saturated.
#[target_feature(enable = "avx2")]
fn narrow(q: __m256) -> [i8; LANES] {
    let words = _mm256_cvtps_epi32(q);
    let halves =
        _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
    _mm_cvtsi128_si64(_mm_packs_epi16(halves, halves)).to_le_bytes().map(u8::cast_signed)
}

/// The last elements of a row, followed by zeros, which change no sum and no maximum.
fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..tail.len()].copy_from_slice(tail);
    block
}

pub(super) fn magnitude_bits(row: &[f32]) -> u32 {
    #[target_feature(enable = "avx2")]
    fn kernel(row: &[f32]) -> u32 {
        let mask = _mm256_set1_epi32(0x7fff_ffff);
        let mut greatest = [_mm256_setzero_si256(); 4];
        let (blocks, tail) = row.as_chunks::<LANES>();
        let (fours, rest) = blocks.as_chunks::<4>();
        for four in fours {
            for (greatest, block) in greatest.iter_mut().zip(four) {
                let bits = _mm256_and_si256(_mm256_castps_si256(load(block)), mask);
                *greatest = _mm256_max_epi32(*greatest, bits);
            }
        }
        let tail = padded(tail);
        for block in rest.iter().chain([&tail]) {
            let bits = _mm256_and_si256(_mm256_castps_si256(load(block)), mask);
            greatest[0] = _mm256_max_epi32(greatest[0], bits);
        }
        let [a, b, c, d] = greatest;
        let lanes = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
        store(_mm256_castsi256_ps(lanes)).iter().fold(0, |greatest, w| greatest.max(w.to_bits()))
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(row) }
}

pub(super) fn squares(chunk: &[f32]) -> [f32; LANES] {
    #[target_feature(enable = "avx2")]
    fn kernel(chunk: &[f32]) -> [f32; LANES] {
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let mut lanes = _mm256_setzero_ps();
        for block in blocks {
            lanes = add_square(lanes, load(block));
        }
        store(add_square(lanes, load(&padded(tail))))
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(chunk) }
}

pub(super) fn quantize(chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
    #[target_feature(enable = "avx2")]
    fn eight(w: __m256, grid: Constants, lanes: &mut __m256) -> [i8; LANES] {
        let q = level(w, grid);
        let error = _mm256_sub_ps(w, _mm256_mul_ps(q, grid.scale));
        *lanes = add_square(*lanes, error);
        narrow(q)
    }
    #[target_feature(enable = "avx2")]
    fn kernel(chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
        let grid = constants(grid);
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        let mut lanes = _mm256_setzero_ps();
        for (block, out) in blocks.iter().zip(outs) {
            *out = eight(load(block), grid, &mut lanes);
        }
        let last = eight(load(&padded(tail)), grid, &mut lanes);
        out_tail.copy_from_slice(&last[..tail.len()]);
        store(lanes)
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(chunk, grid, out) }
}

pub(super) fn errors<const B: usize>(chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
    #[target_feature(enable = "avx2")]
    fn add<const B: usize>(w: __m256, grids: &[Constants; B], lanes: &mut [__m256; B]) {
        for (lanes, &grid) in lanes.iter_mut().zip(grids) {
            let error = _mm256_sub_ps(w, _mm256_mul_ps(level(w, grid), grid.scale));
            *lanes = add_square(*lanes, error);
        }
    }
    #[target_feature(enable = "avx2")]
    fn kernel<const B: usize>(chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
        let mut registers = [constants(grids[0]); B];
        for (register, &grid) in registers.iter_mut().zip(grids) {
            *register = constants(grid);
        }
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let mut lanes = [_mm256_setzero_ps(); B];
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
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(chunk, grids) }
}

pub(super) fn extremes(row: &[f32], first: f32) -> (f32, f32) {
    #[target_feature(enable = "avx2")]
    fn kernel(row: &[f32], first: f32) -> (f32, f32) {
        let mut least = [_mm256_set1_ps(first); 4];
        let mut greatest = least;
        let (blocks, tail) = row.as_chunks::<LANES>();
        let mut last = [first; LANES];
        last[..tail.len()].copy_from_slice(tail);
        let (fours, rest) = blocks.as_chunks::<4>();
        for four in fours {
            for ((least, greatest), block) in least.iter_mut().zip(&mut greatest).zip(four) {
                let w = load(block);
                *least = _mm256_min_ps(*least, w);
                *greatest = _mm256_max_ps(*greatest, w);
            }
        }
        for block in rest.iter().chain([&last]) {
            let w = load(block);
            least[0] = _mm256_min_ps(least[0], w);
            greatest[0] = _mm256_max_ps(greatest[0], w);
        }
        let [a, b, c, d] = least;
        let least = store(_mm256_min_ps(_mm256_min_ps(a, b), _mm256_min_ps(c, d)));
        let [a, b, c, d] = greatest;
        let greatest = store(_mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)));
        (least.into_iter().fold(first, f32::min), greatest.into_iter().fold(first, f32::max))
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(row, first) }
}

pub(super) fn quantize_affine(chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
    #[target_feature(enable = "avx2")]
    fn kernel(chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
        let (zero, inverse) = (_mm256_set1_ps(grid.zero), _mm256_set1_ps(grid.inverse));
        let (least, greatest) = (_mm256_set1_ps(grid.least), _mm256_set1_ps(grid.greatest));
        let bias = _mm256_set1_ps(grid.bias);
        let integers = |block: &[f32; LANES]| {
            let x = _mm256_mul_ps(_mm256_sub_ps(load(block), zero), inverse);
            let x = _mm256_min_ps(_mm256_max_ps(x, least), greatest);
            narrow(_mm256_add_ps(_mm256_round_ps::<NEAREST>(x), bias))
        };
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let (outs, out_tail) = out.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter().zip(outs) {
            *out = integers(block);
        }
        let last = integers(&padded(tail));
        out_tail.copy_from_slice(&last[..tail.len()]);
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(chunk, grid, out) }
}

pub(super) fn moments(chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
    #[target_feature(enable = "avx2")]
    fn kernel(chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
        let (zero, inverse) = (_mm256_set1_ps(grid.zero), _mm256_set1_ps(grid.inverse));
        let (least, greatest) = (_mm256_set1_ps(grid.least), _mm256_set1_ps(grid.greatest));
        let mut lanes = [_mm256_setzero_ps(); 4];
        let mut add = |block: &[f32; LANES]| {
            let u = _mm256_sub_ps(load(block), zero);
            let x = _mm256_mul_ps(u, inverse);
            let x = _mm256_min_ps(_mm256_max_ps(x, least), greatest);
            let q = _mm256_round_ps::<NEAREST>(x);
            let terms = [u, q, _mm256_mul_ps(q, q), _mm256_mul_ps(q, u)];
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                *lanes = _mm256_add_ps(*lanes, term);
            }
        };
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        blocks.iter().for_each(&mut add);
        // u and q of the zero point are zero.
        let mut last = [grid.zero; LANES];
        last[..tail.len()].copy_from_slice(tail);
        add(&last);
        let mut sums = [[0.0; LANES]; 4];
        for (sums, lanes) in sums.iter_mut().zip(lanes) {
            *sums = store(lanes);
        }
        sums
    }
    // SAFETY: the caller chose this kernel because the machine has AVX2.
    unsafe { kernel(chunk, grid) }
}
