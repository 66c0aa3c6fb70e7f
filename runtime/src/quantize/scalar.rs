//! Kernels in plain Rust: what the others must equal, bit for bit.

use super::{AffineGrid, Grid, LANES};

/// 1.5 · 2^23: added to a number of magnitude below 2^22 and taken away again, it leaves that number
/// rounded to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// The integer of `w`, as f32.
fn level(w: f32, grid: Grid) -> f32 {
    let x = (w * grid.inverse).max(grid.least).min(grid.greatest);
    (x + ROUND) - ROUND
}

pub(super) fn magnitude_bits(row: &[f32]) -> u32 {
    row.iter().fold(0, |greatest, w| greatest.max(w.to_bits() & 0x7fff_ffff))
}

pub(super) fn squares(chunk: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for block in chunk.chunks(LANES) {
        for (lane, w) in lanes.iter_mut().zip(block) {
            *lane += w * w;
        }
    }
    lanes
}

pub(super) fn quantize(chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (block, out) in chunk.chunks(LANES).zip(out.chunks_mut(LANES)) {
        for ((lane, &w), out) in lanes.iter_mut().zip(block).zip(out) {
            let q = level(w, grid);
            #[expect(clippy::cast_possible_truncation, reason = "an i8 by the clamp")]
            {
                *out = q as i8;
            }
            let error = w - q * grid.scale;
            *lane += error * error;
        }
    }
    lanes
}

pub(super) fn errors<const B: usize>(chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
    grids.map(|grid| {
        let mut lanes = [0.0; LANES];
        for block in chunk.chunks(LANES) {
            for (lane, &w) in lanes.iter_mut().zip(block) {
                let error = w - level(w, grid) * grid.scale;
                *lane += error * error;
            }
        }
        lanes
    })
}

pub(super) fn extremes(row: &[f32], first: f32) -> (f32, f32) {
    row.iter().fold((first, first), |(least, greatest), &w| (least.min(w), greatest.max(w)))
}

pub(super) fn quantize_affine(chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
    for (&w, out) in chunk.iter().zip(out) {
        let x = ((w - grid.zero) * grid.inverse).max(grid.least).min(grid.greatest);
        let q = (x + ROUND) - ROUND;
        #[expect(clippy::cast_possible_truncation, reason = "the nearest i8, by definition")]
        {
            *out = (q + grid.bias) as i8;
        }
    }
}

pub(super) fn moments(chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
    let mut lanes = [[0.0; LANES]; 4];
    for block in chunk.chunks(LANES) {
        for (lane, &w) in block.iter().enumerate() {
            let u = w - grid.zero;
            let x = (u * grid.inverse).max(grid.least).min(grid.greatest);
            let q = (x + ROUND) - ROUND;
            for (lanes, term) in lanes.iter_mut().zip([u, q, q * q, q * u]) {
                lanes[lane] += term;
            }
        }
    }
    lanes
}
