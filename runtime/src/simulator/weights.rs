//! Weights of a segment, brought from the NPU's tiles into the layout of the kernels.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{TILE_BYTES, TILE_K};

use super::gemm::nibbles::{self, NIBBLE_QUAD};
use super::gemm::{self, GROUP, Isa, QUAD, QUAD_BYTES, Sums};
use super::halves::{self, Column, HalfWeights, PRODUCTS};
use crate::host::{Shape, WeightsError};

/// Bytes of tiles that are read at a time, unless a group has more.
const READ_BYTES: usize = 8 << 20;

/// Quads of a tile.
const TILE_QUADS: usize = TILE_K / QUAD;

/// Weights of the matrices of a linear over one range of columns.
#[derive(Debug)]
pub(super) struct SegmentWeights {
    columns: Range<usize>,
    groups: usize,
    data: Data,
}

/// All groups of all matrices, one after the other.
#[derive(Debug)]
enum Data {
    /// `[groups][K/4][64][4]`.
    I8 { weights: Vec<i8>, sums: Vec<Sums> },
    /// The same, packed as [`nibbles`] says.
    I4 { weights: Vec<u8>, sums: Vec<Sums> },
    /// `[groups][K][64]`, and the spans `[groups][K/32][64]`.
    F16 { weights: Vec<f16>, spans: Vec<[u8; GROUP]> },
}

/// Where weights are widened to before they are used.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    integers: Vec<i8>,
    columns: Vec<Column>,
}

impl SegmentWeights {
    /// Reads the tiles of a segment in order, some megabytes at a time: `read` fills its argument
    /// with the next bytes.
    pub(super) fn read<E: From<WeightsError>>(
        shape: Shape,
        columns: Range<usize>,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let k = columns.len();
        let layout = shape.layout(k)?;
        let groups = shape.groups();
        let panels = GROUP / shape.engine.tile_n();
        let mut data = Data::new(shape.engine, shape.matrices * groups, k);
        let mut tiles = Vec::new();
        let per_read = (READ_BYTES / (panels * layout.panel_bytes())).max(1);
        for matrix in 0..shape.matrices {
            for first in (0..groups).step_by(per_read) {
                let count = per_read.min(groups - first);
                let last = ((first + count) * panels).min(layout.panels());
                tiles.resize((last - first * panels) * layout.panel_bytes(), 0);
                read(&mut tiles)?;
                data.fill(matrix * groups + first, k, panels * layout.panel_bytes(), &tiles)?;
            }
        }
        Ok(SegmentWeights { columns, groups, data })
    }

    /// Columns of the rotated row.
    pub(super) fn columns(&self) -> &Range<usize> {
        &self.columns
    }

    /// What the sums of a group begin at.
    pub(super) fn beginning(&self, isa: Isa, matrix: usize, group: usize) -> Sums {
        match &self.data {
            Data::I8 { sums, .. } | Data::I4 { sums, .. } => {
                gemm::beginning(isa.operand(), &sums[matrix * self.groups + group])
            }
            Data::F16 { .. } => [0; GROUP],
        }
    }

    /// Sums of the integers of each of a group's channels; `None` of the float engine.
    pub(super) fn sums(&self, matrix: usize, group: usize) -> Option<&Sums> {
        match &self.data {
            Data::I8 { sums, .. } | Data::I4 { sums, .. } => {
                Some(&sums[matrix * self.groups + group])
            }
            Data::F16 { .. } => None,
        }
    }

    /// Integers of some quads of a group, `[quads][64][4]`; none of the float engine.
    pub(super) fn integers<'a>(
        &'a self,
        isa: Isa,
        matrix: usize,
        group: usize,
        quads: Range<usize>,
        scratch: &'a mut Scratch,
    ) -> &'a [i8] {
        let first = (matrix * self.groups + group) * (self.columns.len() / QUAD) + quads.start;
        match &self.data {
            Data::I8 { weights, .. } => &weights[first * QUAD_BYTES..][..quads.len() * QUAD_BYTES],
            Data::I4 { weights, .. } => {
                let packed = &weights[first * NIBBLE_QUAD..][..quads.len() * NIBBLE_QUAD];
                scratch.integers.resize(2 * packed.len(), 0);
                nibbles::unpack(isa, packed, &mut scratch.integers);
                &scratch.integers
            }
            Data::F16 { .. } => &[],
        }
    }

    /// Columns of a group of the float engine, whole groups of 32; none of an integer engine.
    pub(super) fn halves<'a>(
        &'a self,
        isa: Isa,
        matrix: usize,
        group: usize,
        columns: Range<usize>,
        scratch: &'a mut Scratch,
    ) -> HalfWeights<'a> {
        let Data::F16 { weights, spans } = &self.data else {
            return HalfWeights { values: &[], spans: &[] };
        };
        let first = (matrix * self.groups + group) * self.columns.len() + columns.start;
        let weights = &weights[first * GROUP..][..columns.len() * GROUP];
        let spans = &spans[first / PRODUCTS..][..columns.len() / PRODUCTS];
        scratch.columns.resize(columns.len(), [0.0; GROUP]);
        halves::widen(isa, weights, scratch.columns.as_flattened_mut());
        HalfWeights { values: &scratch.columns, spans }
    }

    /// Columns of a group as floats, without scales: all of the segment's.
    pub(super) fn floats(
        &self,
        isa: Isa,
        matrix: usize,
        group: usize,
        scratch: &mut Scratch,
        out: &mut [Column],
    ) {
        let k = self.columns.len();
        if let Data::F16 { weights, .. } = &self.data {
            let weights = &weights[(matrix * self.groups + group) * k * GROUP..][..k * GROUP];
            return halves::widen(isa, weights, out.as_flattened_mut());
        }
        let integers = self.integers(isa, matrix, group, 0..k / QUAD, scratch);
        let (out, _) = out.as_chunks_mut::<QUAD>();
        for (columns, quad) in out.iter_mut().zip(integers.as_chunks::<QUAD_BYTES>().0) {
            for (n, channel) in quad.as_chunks::<QUAD>().0.iter().enumerate() {
                for (column, &q) in columns.iter_mut().zip(channel) {
                    column[n] = f32::from(q);
                }
            }
        }
    }
}

impl Data {
    /// Zeros, for so many groups of so many columns.
    fn new(engine: Engine, groups: usize, k: usize) -> Self {
        let quads = groups * (k / QUAD);
        match engine {
            Engine::I8 => {
                Data::I8 { weights: vec![0; quads * QUAD_BYTES], sums: vec![[0; GROUP]; groups] }
            }
            Engine::I4 => {
                Data::I4 { weights: vec![0; quads * NIBBLE_QUAD], sums: vec![[0; GROUP]; groups] }
            }
            Engine::F16 => Data::F16 {
                weights: vec![f16::ZERO; groups * k * GROUP],
                spans: vec![[0; GROUP]; groups * (k / PRODUCTS)],
            },
        }
    }

    /// Fills groups from `first` on. `tiles` holds `group_tiles` bytes for each; the last may have
    /// fewer.
    fn fill(
        &mut self,
        first: usize,
        k: usize,
        group_tiles: usize,
        tiles: &[u8],
    ) -> Result<(), WeightsError> {
        let tiles = tiles.par_chunks(group_tiles);
        match self {
            Data::I8 { weights, sums } => {
                let groups = weights.par_chunks_exact_mut(k * GROUP).skip(first);
                groups.zip(&mut sums[first..]).zip(tiles).for_each(|((group, sums), tiles)| {
                    fill_i8(tiles, k, group);
                    gemm::add_weights(group, sums);
                });
            }
            Data::I4 { weights, sums } => {
                let groups = weights.par_chunks_exact_mut(k * GROUP / 2).skip(first);
                groups.zip(&mut sums[first..]).zip(tiles).for_each_init(
                    || vec![0; TILE_QUADS * QUAD_BYTES],
                    |buffer, ((group, sums), tiles)| {
                        fill_i4(tiles, group);
                        for packed in group.chunks_exact(TILE_QUADS * NIBBLE_QUAD) {
                            nibbles::unpack(Isa::detect(), packed, buffer);
                            gemm::add_weights(buffer, sums);
                        }
                    },
                );
            }
            Data::F16 { weights, spans } => {
                let groups = weights.par_chunks_exact_mut(k * GROUP).skip(first);
                let spans = spans.par_chunks_exact_mut(k / PRODUCTS).skip(first);
                groups
                    .zip(spans)
                    .zip(tiles)
                    .try_for_each(|((group, spans), tiles)| fill_f16(tiles, k, group, spans))?;
            }
        }
        Ok(())
    }
}

/// The quads of a tile's columns, and the tile, for all tiles of a panel.
fn tiles_and_quads<'a>(
    panel: &'a [u8],
    group: &'a mut [i8],
) -> impl Iterator<Item = (&'a [u8; TILE_BYTES], &'a mut [i8])> {
    let (tiles, _) = panel.as_chunks::<TILE_BYTES>();
    tiles.iter().zip(group.chunks_exact_mut(TILE_QUADS * QUAD_BYTES))
}

fn fill_i8(tiles: &[u8], k: usize, group: &mut [i8]) {
    const LANES: usize = Engine::I8.tile_n();
    for (panel, bytes) in tiles.chunks_exact(k * LANES).enumerate() {
        for (tile, quads) in tiles_and_quads(bytes, group) {
            let (rows, _) = tile.as_chunks::<TILE_K>();
            let (quads, _) = quads.as_chunks_mut::<QUAD_BYTES>();
            for (column, quad) in quads.iter_mut().enumerate() {
                let (channels, _) = quad.as_chunks_mut::<QUAD>();
                let channels = channels.iter_mut().skip(panel * LANES);
                for (channel, row) in channels.zip(rows) {
                    *channel = row.as_chunks::<QUAD>().0[column].map(u8::cast_signed);
                }
            }
        }
    }
}

fn fill_i4(tiles: &[u8], group: &mut [u8]) {
    let (tiles, _) = tiles.as_chunks::<TILE_BYTES>();
    let (quads, _) = group.as_chunks_mut::<NIBBLE_QUAD>();
    for (tile, quads) in tiles.iter().zip(quads.chunks_exact_mut(TILE_QUADS)) {
        let (rows, _) = tile.as_chunks::<{ TILE_K / 2 }>();
        for (column, quad) in quads.iter_mut().enumerate() {
            nibbles::pack(quad, |n| rows[n].as_chunks::<{ QUAD / 2 }>().0[column]);
        }
    }
}

fn fill_f16(
    tiles: &[u8],
    k: usize,
    group: &mut [f16],
    spans: &mut [[u8; GROUP]],
) -> Result<(), WeightsError> {
    const LANES: usize = Engine::F16.tile_n();
    for (panel, bytes) in tiles.chunks_exact(2 * k * LANES).enumerate() {
        let (tiles, _) = bytes.as_chunks::<TILE_BYTES>();
        let columns = group.chunks_exact_mut(TILE_K * GROUP);
        for ((tile, columns), spans) in tiles.iter().zip(columns).zip(&mut *spans) {
            let (rows, _) = tile.as_chunks::<{ 2 * TILE_K }>();
            for (lane, row) in rows.iter().enumerate() {
                let (values, _) = row.as_chunks::<2>();
                let values = values.iter().map(|&bytes| f16::from_le_bytes(bytes));
                if !values.clone().all(f16::is_finite) {
                    return Err(WeightsError::Weight);
                }
                let n = panel * LANES + lane;
                spans[n] = halves::span(values.clone());
                for (column, value) in columns.chunks_exact_mut(GROUP).zip(values) {
                    column[n] = value;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of every element, from the layout's own formula.
    #[test]
    fn every_element_comes_to_its_place() {
        for (engine, n, k, matrices) in [
            (Engine::I8, 32, 32, 1),
            (Engine::I8, 70, 96, 2),
            (Engine::I4, 64, 64, 1),
            (Engine::I4, 130, 96, 3),
            (Engine::F16, 16, 32, 1),
            (Engine::F16, 90, 64, 2),
        ] {
            let shape = Shape { engine, matrices, n };
            let layout = shape.layout(k).unwrap();
            let mut tiles: Vec<u8> = (0..matrices * layout.bytes())
                .map(|i| (i * 131 + i / 7).to_le_bytes()[0])
                .collect();
            if engine == Engine::F16 {
                tiles.iter_mut().skip(1).step_by(2).for_each(|high| *high &= 0xbf);
            }
            let mut rest = tiles.as_slice();
            let segment = SegmentWeights::read(shape, 0..k, |buffer| {
                let (now, later) = rest.split_at(buffer.len());
                buffer.copy_from_slice(now);
                rest = later;
                Ok::<(), WeightsError>(())
            })
            .unwrap();
            assert!(rest.is_empty());
            let mut scratch = Scratch::default();
            let mut floats = vec![[0.0; GROUP]; k];
            for isa in Isa::available() {
                for matrix in 0..matrices {
                    for group in 0..shape.groups() {
                        segment.floats(isa, matrix, group, &mut scratch, &mut floats);
                        for (k, column) in floats.iter().enumerate() {
                            for (lane, &found) in column.iter().enumerate() {
                                let n = group * GROUP + lane;
                                let expected = if n < layout.n() {
                                    let tiles = &tiles[matrix * layout.bytes()..];
                                    element(engine, tiles, layout.element_index(n, k))
                                } else {
                                    0.0
                                };
                                assert_eq!(found, expected, "{engine:?} ({n}, {k})");
                            }
                        }
                    }
                }
            }
        }
    }

    fn element(engine: Engine, tiles: &[u8], index: usize) -> f32 {
        match engine {
            Engine::I8 => f32::from(tiles[index].cast_signed()),
            Engine::I4 => {
                let nibble = tiles[index / 2] >> (4 * (index % 2)) & 15;
                f32::from(nibble) - if nibble > 7 { 16.0 } else { 0.0 }
            }
            Engine::F16 => f16::from_le_bytes([tiles[2 * index], tiles[2 * index + 1]]).to_f32(),
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        let shape = Shape { engine: Engine::F16, matrices: 1, n: 16 };
        for bits in [0x7c00u16, 0xfc00, 0x7e00] {
            let refused = SegmentWeights::read(shape, 0..32, |buffer| {
                buffer[1000..1002].copy_from_slice(&bits.to_le_bytes());
                Ok::<(), WeightsError>(())
            });
            assert_eq!(refused.unwrap_err(), WeightsError::Weight);
        }
    }
}
