//! An engine's own results on the simulator: what validation compares, before anything is rescaled.

use tessera_formats::npu::tiles::TileLayout;

use super::gemm::{self, ROWS, Sums};
use super::halves::{self, Column};
use super::rows::HalfBlocks;
use super::weights::{Scratch, SegmentWeights};
use crate::host::{EngineResults, EngineRows, GROUP, Isa, Overflow, Rows, Shape, WeightsError};

/// The engine's results `[rows, n]` for rows, with the tiles of one matrix over a segment, `n` of whose rows
/// are no padding. Sums of the i4 engine that 16 bits do not hold are what `overflow` says.
///
/// # Errors
///
/// If the tiles are not as many as the layout says, or have halves that are not finite.
///
/// # Panics
///
/// If the rows are none of the layout's engine and length.
pub fn products(
    layout: TileLayout,
    tiles: &[u8],
    n: usize,
    rows: &EngineRows,
    overflow: Overflow,
) -> Result<EngineResults, WeightsError> {
    let (expected, found) = (layout.bytes(), tiles.len());
    if expected != found {
        return Err(WeightsError::Tiles { segment: 0, expected, found });
    }
    assert_eq!(rows.k(), layout.k(), "rows of the segment's length");
    let shape = Shape { engine: layout.engine(), matrices: 1, n };
    let mut rest = tiles;
    let weights = SegmentWeights::read(shape, 0..layout.k(), |buffer| {
        let (now, later) = rest.split_at(buffer.len());
        buffer.copy_from_slice(now);
        rest = later;
        Ok::<(), WeightsError>(())
    })?;
    let isa = Isa::detect();
    Ok(match rows {
        EngineRows::Integers { values, k } => {
            let values = integers(isa, shape, &weights, values, *k, overflow);
            EngineResults::Integers { values, n }
        }
        EngineRows::Halves { values, k } => {
            let blocks = HalfBlocks::new(isa, values, *k, Rows::All(rows.len()));
            EngineResults::Floats { values: floats(isa, shape, &weights, &blocks, rows.len()), n }
        }
    })
}

fn integers(
    isa: Isa,
    shape: Shape,
    weights: &SegmentWeights,
    values: &[i8],
    k: usize,
    overflow: Overflow,
) -> Vec<i32> {
    let operand = isa.operand();
    let narrows = shape.engine == tessera_formats::npu::Engine::I4;
    let mut out = vec![0; values.len() / k * shape.n];
    let mut scratch = Scratch::default();
    let blocks = values.chunks(ROWS * k).zip(out.chunks_mut(ROWS * shape.n));
    for (rows, out) in blocks {
        let rows: Vec<&[i8]> = rows.chunks_exact(k).collect();
        let mut packed = vec![0; rows.len() * k * operand.bytes()];
        gemm::pack_rows(operand, &rows, &mut packed);
        for group in 0..shape.groups() {
            let mut sums: Vec<Sums> = vec![weights.beginning(isa, 0, group); rows.len()];
            let quads = 0..k / gemm::QUAD;
            isa.add_products(
                &packed,
                weights.integers(isa, 0, group, quads, &mut scratch),
                &mut sums,
            );
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(shape.n)) {
                let channels = out[group * GROUP..].iter_mut().zip(sums);
                for (out, &sum) in channels {
                    *out = if narrows { overflow.narrow(sum) } else { sum };
                }
            }
        }
    }
    out
}

fn floats(
    isa: Isa,
    shape: Shape,
    weights: &SegmentWeights,
    blocks: &HalfBlocks,
    rows: usize,
) -> Vec<f32> {
    let columns = weights.columns().clone();
    let mut out = vec![0.0; rows * shape.n];
    let mut scratch = Scratch::default();
    for group in 0..shape.groups() {
        let halves = weights.halves(isa, 0, group, columns.clone(), &mut scratch);
        for (block, out) in out.chunks_mut(ROWS * shape.n).enumerate() {
            let count = out.len() / shape.n;
            let mut sums: Vec<Column> = vec![[0.0; GROUP]; count];
            let rows = blocks.columns(block * ROWS, count, &columns);
            halves::add_products(isa, rows, halves, &mut sums);
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(shape.n)) {
                out[group * GROUP..].iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use half::f16;
    use tessera_formats::npu::Engine;

    use super::*;

    /// Results against sums that are taken from the tiles by the layout's formula.
    #[test]
    fn results_are_sums_of_products() {
        for (engine, n, padded, k) in [
            (Engine::I8, 40, 64, 96),
            (Engine::I4, 70, 128, 64),
            (Engine::I4, 64, 64, 1024),
            (Engine::F16, 70, 80, 64),
        ] {
            let layout = TileLayout::new(engine, padded, k).unwrap();
            let mut tiles: Vec<u8> =
                (0..layout.bytes()).map(|i| (i * 131 + i / 7).to_le_bytes()[0]).collect();
            if engine == Engine::F16 {
                // Halves whose sums are exact: multiples of 1/4 below 64.
                for (at, half) in tiles.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *half = f16::from_f32(f32::from(u8::try_from(at % 200).unwrap()) / 4.0 - 20.0)
                        .to_le_bytes();
                }
            }
            let rows = 8;
            let integers: Vec<i8> = (0..rows * k)
                .map(|at| i8::try_from((at * 29 + at / 5) % 16).unwrap() - 8)
                .collect();
            let operands = match engine {
                Engine::F16 => EngineRows::Halves {
                    values: integers.iter().map(|&q| f16::from_f32(q.into())).collect(),
                    k,
                },
                _ => EngineRows::Integers { values: integers.clone(), k },
            };
            for overflow in [Overflow::Saturate, Overflow::Wrap] {
                let found = products(layout, &tiles, n, &operands, overflow).unwrap();
                for row in 0..rows {
                    for channel in 0..n {
                        let weight = |column: usize| -> f64 {
                            let at = layout.element_index(channel, column);
                            match engine {
                                Engine::I8 => tiles[at].cast_signed().into(),
                                Engine::I4 => {
                                    let nibble = tiles[at / 2] >> (4 * (at % 2)) << 4;
                                    (nibble.cast_signed() >> 4).into()
                                }
                                Engine::F16 => {
                                    f16::from_le_bytes([tiles[2 * at], tiles[2 * at + 1]]).into()
                                }
                            }
                        };
                        let exact: f64 = (0..k)
                            .map(|column| weight(column) * f64::from(integers[row * k + column]))
                            .sum();
                        match &found {
                            EngineResults::Floats { values, .. } => {
                                assert_eq!(f64::from(values[row * n + channel]), exact);
                            }
                            EngineResults::Integers { values, .. } => {
                                let expected = match (engine, overflow) {
                                    (Engine::I8, _) => exact,
                                    (_, Overflow::Saturate) => exact.clamp(-32768.0, 32767.0),
                                    _ => (exact + 32768.0).rem_euclid(65536.0) - 32768.0,
                                };
                                assert_eq!(f64::from(values[row * n + channel]), expected);
                            }
                        }
                    }
                }
            }
            let error = products(layout, &tiles[1..], n, &operands, Overflow::Saturate);
            assert!(matches!(error, Err(WeightsError::Tiles { .. })));
        }
    }
}
