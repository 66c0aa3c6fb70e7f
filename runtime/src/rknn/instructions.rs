//! The host's kernels one at a time, for counting their instructions: `benches/instructions.py` runs this.
//!
//! `TESSERA_KERNEL` names the kernel and `TESSERA_REPEATS` says how often it is run; the difference of two
//! counts is that of the repeats alone.

use std::hint::black_box;

use tessera_formats::npu::Engine;

use super::{Layout, Operand, Shape, rows};
use crate::host::{Digits, GROUP, Isa, Rescale, Sums};
use crate::quantize::{self, Affine};
use crate::rotation::Rotation;

/// Columns of the row.
const K: usize = 2048;

fn shape(engine: Engine) -> Shape {
    let number = |value: usize| u32::try_from(value).unwrap();
    let n = number(K);
    Shape { m: 4, k: number(K), n, engine, layout: Layout::of(engine), domain: 0 }
}

fn buffer(engine: Engine, operand: Operand) -> Vec<u8> {
    vec![7; usize::try_from(shape(engine).bytes(operand)).unwrap()]
}

/// Rescales a row of results of so many planes.
fn rescale(engine: Engine, planes: usize, zero: bool, c: &[u8], out: &mut [f32]) {
    let isa = Isa::detect();
    let (scales, weights): ([f32; GROUP], Sums) = ([0.5; GROUP], [3; GROUP]);
    let mut sums = [[0; GROUP]; 2];
    for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
        for (plane, sums) in sums[..planes].iter_mut().enumerate() {
            *sums = rows::read_integers(shape(engine), plane, group * GROUP, c);
        }
        let zero = zero.then_some((0.25, &weights));
        let rescale = Rescale {
            overflow: None,
            base: if planes == 2 { 16 } else { 0 },
            row_scale: 0.1,
            scales: &scales,
            zero,
            add: false,
        };
        rescale.apply(isa, &sums[..planes], out);
    }
}

#[test]
#[ignore = "run by benches/instructions.py"]
fn kernel() {
    let kernel = std::env::var("TESSERA_KERNEL").unwrap();
    let repeats: usize = std::env::var("TESSERA_REPEATS").unwrap().parse().unwrap();
    let row: Vec<f32> = (0..K).map(|at| ((at * 37 % 101) as f32 - 50.0) / 9.0).collect();
    let rotation = Rotation::hadamard(K).unwrap();
    let mut scratch = vec![0.0; rotation.scratch_len()];
    let mut rotated = row.clone();
    let mut integers = vec![1i8; K];
    let mut low = vec![2i8; K];
    let (mut narrow, mut wide) = (buffer(Engine::I4, Operand::A), buffer(Engine::I8, Operand::A));
    let (sums_i4, sums_i8) = (buffer(Engine::I4, Operand::C), buffer(Engine::I8, Operand::C));
    let mut out = vec![0.0f32; K];
    let range = Digits::Base16.range();
    for _ in 0..repeats {
        match kernel.as_str() {
            "rotate" => rotation.apply(black_box(&mut rotated), &mut scratch),
            "quantize" => {
                let scale = quantize::scale_of(quantize::amax(black_box(&row)), 119);
                quantize::quantize_row(&row, scale, 119, black_box(&mut integers));
            }
            "quantize with a zero point" => {
                let (least, greatest) = quantize::extremes(black_box(&row));
                let grid = Affine::new(least, greatest, range);
                quantize::quantize_row_affine(&row, grid, range, black_box(&mut integers));
            }
            "digits" => {
                Digits::Base16.split(black_box(&mut integers), black_box(&mut low));
            }
            "nibbles into A" => {
                rows::write_integers(shape(Engine::I4), 1, black_box(&integers), &mut narrow);
            }
            "bytes into A" => {
                rows::write_integers(shape(Engine::I8), 1, black_box(&integers), &mut wide);
            }
            "rescale w8a8" => rescale(Engine::I8, 1, true, black_box(&sums_i8), &mut out),
            "rescale w4a8" => rescale(Engine::I4, 2, false, black_box(&sums_i4), &mut out),
            "rescale w4a4" => rescale(Engine::I4, 1, true, black_box(&sums_i4), &mut out),
            other => panic!("no kernel {other}"),
        }
    }
    black_box((&narrow, &wide, &out, &low));
}
