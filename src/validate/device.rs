//! Who multiplies: the NPU, or the simulator.

use std::sync::Arc;
use std::time::Duration;

use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::PackReader;
use tessera_runtime::host::{EngineResults, EngineRows, Overflow};
use tessera_runtime::rknn::{LoadedSegment, LoadedWeights, RknnError};
use tessera_runtime::simulator;

/// The engines of a device.
#[derive(Clone, Copy)]
pub enum Engines<'a> {
    /// The simulator's kernels.
    Simulator,
    /// Those of the NPU, with a pack's tiles in its memory.
    Npu(&'a LoadedWeights),
}

/// One matrix of a linear over a segment.
#[derive(Clone, Copy)]
pub struct SegmentMatrix<'a> {
    /// The pack.
    pub pack: &'a PackReader,
    /// Tensor of the tiles.
    pub tensor: &'a str,
    /// Layout of one matrix.
    pub layout: TileLayout,
    /// Channels without padding.
    pub n: usize,
    /// Which matrix.
    pub matrix: usize,
}

impl SegmentMatrix<'_> {
    /// Its tiles, read from the pack.
    pub fn tiles(&self) -> anyhow::Result<Vec<u8>> {
        let mut tiles = vec![0; self.layout.bytes()];
        let offset = u64::try_from(self.matrix * self.layout.bytes())?;
        self.pack.read_tensor_at(self.tensor, offset, &mut tiles)?;
        Ok(tiles)
    }

    /// What the simulator makes of rows.
    pub fn simulated(&self, rows: &EngineRows) -> anyhow::Result<EngineResults> {
        let Self { layout, n, .. } = *self;
        Ok(simulator::products(layout, &self.tiles()?, n, rows, Overflow::Saturate)?)
    }
}

impl Engines<'_> {
    /// Cores that share the work.
    pub fn cores(&self) -> usize {
        match self {
            Engines::Simulator => 1,
            Engines::Npu(loaded) => loaded.npu().cores(),
        }
    }

    /// The core that does a channel, channels having been given to others `turn` times.
    pub fn core_of(&self, n: usize, channel: usize, turn: usize) -> Option<usize> {
        match self {
            Engines::Simulator => None,
            Engines::Npu(loaded) => Some(loaded.core_of(n, channel, turn)),
        }
    }

    /// Results for rows, and how long they took where the NPU gave them. The first error is one of reading the
    /// pack, the second one of the NPU.
    pub fn products(
        &self,
        segment: SegmentMatrix<'_>,
        rows: &Arc<EngineRows>,
        m: usize,
        turn: usize,
    ) -> anyhow::Result<Result<(EngineResults, Option<Duration>), RknnError>> {
        let loaded = match self {
            Engines::Simulator => return Ok(Ok((segment.simulated(rows)?, None))),
            Engines::Npu(loaded) => loaded,
        };
        let SegmentMatrix { tensor, layout, n, matrix, .. } = segment;
        let segment = LoadedSegment { tensor, layout, n, matrix };
        let products = loaded.products(segment, rows, m, turn);
        Ok(products.map(|products| (products.results, Some(products.time))))
    }
}
