//! Buffers for one row of a linear's tiles.

use std::ops::Range;

use half::f16;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles;

/// One row of a linear: its integers or halves as tiles hold them, and the weights that they become.
pub struct Lane {
    pub(super) integers: Vec<i8>,
    pub(super) halves: Vec<f16>,
    pub(super) values: Vec<f32>,
    pub(super) scratch: Vec<f32>,
}

impl Lane {
    /// Zeros, for rows of `k_padded` columns and a rotation that needs `scratch` elements.
    pub(super) fn new(k_padded: usize, scratch: usize) -> Self {
        Lane {
            integers: vec![0; k_padded],
            halves: vec![f16::ZERO; k_padded],
            values: vec![0.0; k_padded],
            scratch: vec![0.0; scratch],
        }
    }

    /// Bytes of the buffers.
    pub(super) const fn bytes(k_padded: usize, scratch: usize) -> usize {
        let column = size_of::<i8>() + size_of::<f16>() + size_of::<f32>();
        k_padded.saturating_mul(column).saturating_add(scratch.saturating_mul(size_of::<f32>()))
    }

    /// The integers of integer engines, with the padding; zeros for the float engine.
    pub fn integers(&self) -> &[i8] {
        &self.integers
    }

    /// The row of the model that [`super::TiledLinear::rebuild`] made of them.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Number of values in `columns` that are not zero.
    pub fn nonzero(&self, columns: Range<usize>) -> u64 {
        let integers = self.integers[columns.clone()].iter().filter(|&&q| q != 0).count();
        let halves = self.halves[columns].iter().filter(|&&h| h != f16::ZERO).count();
        u64::try_from(integers + halves).unwrap_or(u64::MAX)
    }

    /// Number of values in `columns` that are not those of `other`, bit for bit.
    pub fn differing(&self, other: &Lane, columns: Range<usize>) -> u64 {
        let integers = self.integers[columns.clone()].iter().zip(&other.integers[columns.clone()]);
        let halves = self.halves[columns.clone()].iter().zip(&other.halves[columns]);
        let integers = integers.filter(|(a, b)| a != b).count();
        let halves = halves.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        u64::try_from(integers + halves).unwrap_or(u64::MAX)
    }

    pub(super) fn unpack(
        &mut self,
        engine: Engine,
        columns: &Range<usize>,
        tiles: &[u8],
        lane: usize,
    ) {
        match engine {
            Engine::F16 => tiles::unpack_row_f16(tiles, lane, &mut self.halves[columns.clone()]),
            Engine::I8 => tiles::unpack_row_i8(tiles, lane, &mut self.integers[columns.clone()]),
            Engine::I4 => tiles::unpack_row_i4(tiles, lane, &mut self.integers[columns.clone()]),
        }
    }

    pub(super) fn scale(&mut self, engine: Engine, columns: Range<usize>, scale: f32) {
        for column in columns {
            let value = match engine {
                Engine::F16 => self.halves[column].to_f32(),
                Engine::I8 | Engine::I4 => f32::from(self.integers[column]),
            };
            self.values[column] = scale * value;
        }
    }
}
