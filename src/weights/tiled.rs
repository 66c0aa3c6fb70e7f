//! A linear of a pack, its tiles read panel by panel and its rows turned back into weights.

use std::ops::Range;

use anyhow::Context;
use tessera_formats::escape::Escaped;
use tessera_formats::npu::{Engine, tiles};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::Linear;

use super::{Basis, Lane};

/// A linear of a pack with its scales and its basis. Matrices are numbered (one, or an expert each),
/// rows are those of all matrices one after the other, and panels are the rows of tiles: each holds
/// as many rows of one matrix as a tile has.
pub struct TiledLinear<'a> {
    pack: &'a PackReader,
    linear: &'a Linear,
    basis: Basis,
    engine: Engine,
    scales: Vec<f32>,
    matrices: usize,
    n: usize,
    k: usize,
    panels_per_matrix: usize,
    /// Columns and bytes per panel of each segment.
    segments: Vec<(Range<usize>, usize)>,
}

/// Tiles of consecutive panels.
pub struct Panels {
    first: usize,
    /// Of each segment.
    bytes: Vec<Vec<u8>>,
}

impl Panels {
    /// The bytes of each segment.
    pub fn segments(&self) -> &[Vec<u8>] {
        &self.bytes
    }
}

impl<'a> TiledLinear<'a> {
    /// Reads the scales and the basis of a linear.
    pub fn open(pack: &'a PackReader, linear: &'a Linear) -> anyhow::Result<Self> {
        let input = pack.input(&linear.input).context("input of a linear")?;
        let basis = Basis::read(pack, input)
            .with_context(|| format!("input `{}`", Escaped(&input.name)))?;
        let engine = linear.scheme.engine();
        let n_padded = usize::try_from(linear.n_padded)?;
        let segments = linear
            .segments
            .iter()
            .map(|segment| {
                let start = usize::try_from(segment.start)?;
                let length = usize::try_from(segment.length)?;
                let layout = tiles::TileLayout::new(engine, n_padded, length)?;
                Ok((start..start + length, layout.panel_bytes()))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(TiledLinear {
            pack,
            linear,
            basis,
            engine,
            scales: pack.read_f32(&linear.scale)?,
            matrices: usize::try_from(linear.experts.unwrap_or(1))?,
            n: usize::try_from(linear.n)?,
            k: usize::try_from(linear.k)?,
            panels_per_matrix: n_padded / engine.tile_n(),
            segments,
        })
    }

    /// Its entry in the manifest.
    pub fn linear(&self) -> &'a Linear {
        self.linear
    }

    /// The basis of its integers.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// What executes it.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Its scales, in the order of the manifest.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Matrices in the tensor.
    pub fn matrices(&self) -> usize {
        self.matrices
    }

    /// Rows of a matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns of the model's weights.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Panels of all matrices.
    pub fn panels(&self) -> usize {
        self.matrices * self.panels_per_matrix
    }

    /// Bytes of one panel, over all segments.
    pub fn panel_bytes(&self) -> usize {
        self.segments.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Columns of each segment.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> {
        self.segments.iter().map(|(columns, _)| columns.clone())
    }

    /// Columns of the tiles, with the padding.
    pub fn k_padded(&self) -> usize {
        self.segments.last().map_or(0, |(columns, _)| columns.end)
    }

    /// Rows that a panel holds.
    pub fn rows(&self, panel: usize) -> Range<usize> {
        let (matrix, panel) = (panel / self.panels_per_matrix, panel % self.panels_per_matrix);
        let lanes = self.engine.tile_n();
        let first = (panel * lanes).min(self.n);
        matrix * self.n + first..matrix * self.n + (first + lanes).min(self.n)
    }

    /// Panel and lane of a row.
    pub fn place(&self, row: usize) -> (usize, usize) {
        let (matrix, row, lanes) = (row / self.n, row % self.n, self.engine.tile_n());
        (matrix * self.panels_per_matrix + row / lanes, row % lanes)
    }

    /// Reads the tiles of consecutive panels.
    pub fn read(&self, panels: Range<usize>) -> anyhow::Result<Panels> {
        let bytes = self
            .segments
            .iter()
            .zip(&self.linear.segments)
            .map(|((_, bytes), segment)| {
                let mut tiles = vec![0; panels.len() * bytes];
                let offset = u64::try_from(panels.start * bytes)?;
                self.pack.read_tensor_at(&segment.tiles, offset, &mut tiles)?;
                Ok(tiles)
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Panels { first: panels.start, bytes })
    }

    /// Buffers for a row.
    pub fn lane(&self) -> Lane {
        Lane::new(self.k_padded(), self.basis.rotation.scratch_len())
    }

    /// Bytes of the buffers for a row.
    pub fn lane_bytes(&self) -> usize {
        Lane::bytes(self.k_padded(), self.basis.rotation.scratch_len())
    }

    /// The tiles of a segment of a panel, which must be among `panels`.
    pub fn tiles<'p>(&self, panels: &'p Panels, panel: usize, segment: usize) -> &'p [u8] {
        let bytes = self.segments[segment].1;
        &panels.bytes[segment][(panel - panels.first) * bytes..][..bytes]
    }

    /// Takes a lane of a panel, which must be among `panels`, out of its tiles.
    pub fn unpack(&self, panels: &Panels, panel: usize, index: usize, lane: &mut Lane) {
        for ((columns, bytes), tiles) in self.segments.iter().zip(&panels.bytes) {
            let tiles = &tiles[(panel - panels.first) * bytes..][..*bytes];
            lane.unpack(self.engine, columns, tiles, index);
        }
    }

    /// The scale of a row in a segment.
    pub fn scale(&self, row: usize, segment: usize) -> f32 {
        let (matrix, n, count) = (row / self.n, row % self.n, self.segments.len());
        let index = match self.scales.len() == self.matrices * count * self.n {
            true => (matrix * count + segment) * self.n + n,
            false => matrix,
        };
        self.scales[index]
    }

    /// Turns what was unpacked into rotated weights, and these back into the quantizer's basis
    /// without the rotation: `values()[..k]` becomes w ⊘ v.
    pub fn rebuild(&self, row: usize, lane: &mut Lane) {
        for (segment, (columns, _)) in self.segments.iter().enumerate() {
            lane.scale(self.engine, columns.clone(), self.scale(row, segment));
        }
        let size = self.basis.rotation.size();
        self.basis.rotation.apply_transposed(&mut lane.values[..size], &mut lane.scratch);
    }

    /// Weights of a row that was rebuilt, in the model's own basis: `out` gets w, of k elements.
    pub fn weights(&self, lane: &Lane, out: &mut [f64]) {
        for (column, (out, &value)) in out.iter_mut().zip(&lane.values).enumerate() {
            *out = f64::from(value) * self.basis.factor(column);
        }
    }
}
