//! Matmuls of the library beside plain sums of integers.

use std::sync::Arc;

use half::f16;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{self, TileLayout};
use tessera_runtime::rknn::{Arena, Core, Layout, Library, Matmul, RknnError, Shape, Slice};

/// Integers that repeat after long, in −128 … 127, or −8 … 7.
pub fn integers(count: usize, seed: u32, engine: Engine) -> Vec<i8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x51f1_5eed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = state.to_le_bytes()[3].cast_signed();
            if engine == Engine::I4 { byte >> 4 } else { byte }
        })
        .collect()
}

pub fn halves(integers: &[i8]) -> Vec<f16> {
    integers.iter().map(|&q| f16::from_f32(f32::from(q) / 64.0)).collect()
}

/// Tiles of weights `[n, k]`.
pub fn tiles_of(weights: &[i8], shape: Shape) -> Vec<u8> {
    let [n, k] = [shape.n, shape.k].map(|value| value as usize);
    let layout = TileLayout::new(shape.engine, n, k).unwrap();
    let lanes = shape.engine.tile_n();
    let mut bytes = vec![0; layout.bytes()];
    for (panel, rows) in bytes.chunks_exact_mut(layout.panel_bytes()).zip(weights.chunks(lanes * k))
    {
        for (lane, row) in rows.chunks_exact(k).enumerate() {
            match shape.engine {
                Engine::I4 => tiles::pack_row_i4(row, lane, panel),
                Engine::I8 => tiles::pack_row_i8(row, lane, panel),
                Engine::F16 => tiles::pack_row_f16(&halves(row), lane, panel),
            }
        }
    }
    bytes
}

/// Places of an element of A or C, in elements.
pub fn place(shape: Shape, together: u32, row: usize, column: usize, columns: u32) -> usize {
    let (m, together) = (shape.m as usize, together as usize);
    match shape.cube() {
        None => row * columns as usize + column,
        Some(_) => ((column / together) * m + row) * together + column % together,
    }
}

pub fn write_activations(matmul: &mut Matmul, rows: &[i8]) {
    let shape = matmul.shape();
    let k = shape.k as usize;
    let together = shape.cube().map_or(1, |(a, _)| a);
    let bytes = matmul.activations();
    bytes.fill(0);
    for (row, values) in rows.chunks_exact(k).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            let at = place(shape, together, row, column, shape.k);
            match shape.engine {
                Engine::I4 => {
                    bytes[at / 2] |= (value.cast_unsigned() & 15) << (4 * (at % 2));
                }
                Engine::I8 => bytes[at] = value.cast_unsigned(),
                Engine::F16 => {
                    let half = f16::from_f32(f32::from(value) / 64.0);
                    bytes[2 * at..2 * at + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
    }
}

/// Results `[m, n]`; products of halves are multiples of 2⁻¹², given in these.
pub fn results(matmul: &Matmul) -> Vec<i64> {
    let shape = matmul.shape();
    let together = shape.cube().map_or(1, |(_, c)| c);
    let bytes = matmul.results();
    let mut found = Vec::new();
    for row in 0..shape.m as usize {
        for column in 0..shape.n as usize {
            let at = place(shape, together, row, column, shape.n);
            let four = || <[u8; 4]>::try_from(&bytes[4 * at..4 * at + 4]).unwrap();
            found.push(match shape.engine {
                Engine::I4 => i16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).into(),
                Engine::I8 => i32::from_le_bytes(four()).into(),
                #[expect(clippy::cast_possible_truncation, reason = "an integer")]
                Engine::F16 => (f64::from(f32::from_le_bytes(four())) * 4096.0) as i64,
            });
        }
    }
    found
}

pub fn expected(rows: &[i8], weights: &[i8], k: usize) -> Vec<i64> {
    let product = |(a, w): (&i8, &i8)| i64::from(*a) * i64::from(*w);
    let dot = |a: &[i8], w: &[i8]| a.iter().zip(w).map(product).sum();
    rows.chunks(k).flat_map(|a| weights.chunks(k).map(move |w| dot(a, w))).collect()
}

/// Makes a matmul with weights, runs it, and gives what was found and expected.
pub fn run(library: &Arc<Library>, shape: Shape, core: Core) -> Result<[Vec<i64>; 2], RknnError> {
    let [m, k, n] = [shape.m, shape.k, shape.n].map(|value| value as usize);
    let (rows, weights) = (integers(m * k, 1, shape.engine), integers(n * k, 2, shape.engine));
    let mut matmul = Matmul::new(library, shape, core)?;
    let tiles = tiles_of(&weights, shape);
    // Not at the arena's beginning.
    let mut arena = Arena::new(&matmul, tiles.len() as u64 + 4096)?;
    arena.bytes_mut()[4096..].copy_from_slice(&tiles);
    let slice = Slice::new(&arena.finish()?, &matmul, 4096, tiles.len() as u64)?;
    matmul.set_weights(&Arc::new(slice))?;
    write_activations(&mut matmul, &rows);
    matmul.run()?;
    Ok([results(&matmul), expected(&rows, &weights, k)])
}

pub fn shape(engine: Engine, m: u32, k: u32, n: u32) -> Shape {
    Shape { m, k, n, engine, layout: Layout::of(engine), domain: 0 }
}
