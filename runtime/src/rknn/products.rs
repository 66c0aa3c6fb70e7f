//! An engine's own results on the NPU: what validation compares, before anything is rescaled.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::TileLayout;

use super::contexts::Contexts;
use super::parts::{Part, divide};
use super::{LoadedWeights, RknnError, Shape, Slice, rows};
use crate::host::{EngineResults, EngineRows, GROUP};

/// A segment of a linear in the NPU's memory.
#[derive(Clone, Copy, Debug)]
pub struct LoadedSegment<'a> {
    /// Tensor of its tiles.
    pub tensor: &'a str,
    /// The layout of one matrix of them.
    pub layout: TileLayout,
    /// Output channels, without padding.
    pub n: usize,
    /// Which of several matrices.
    pub matrix: usize,
}

/// What the cores gave, and how long the slowest of them took.
#[derive(Clone, Debug, PartialEq)]
pub struct Products {
    /// `[rows, n]`.
    pub results: EngineResults,
    /// From handing over the rows to having the results, without copying either.
    pub time: Duration,
}

impl LoadedWeights {
    /// The core that does a channel of `n` in [`LoadedWeights::products`].
    pub fn core_of(&self, n: usize, channel: usize, turn: usize) -> usize {
        let cores = self.npu().cores();
        let parts = divide(n, n, cores);
        let part = parts.iter().position(|part| part.channels.contains(&channel));
        (part.unwrap_or(0) + turn) % cores
    }

    /// The engine's results for `rows`, at most as many as M, which is 1 or a multiple of 4: rows that lack are
    /// zeros. Channels are divided as linears divide them; part p is done by core p + `turn`, so that every core
    /// can be given every channel.
    ///
    /// # Errors
    ///
    /// If the tiles are not loaded, or the NPU fails.
    ///
    /// # Panics
    ///
    /// If there are more rows than M, or they are none of the segment's.
    pub fn products(
        &self,
        segment: LoadedSegment<'_>,
        rows: &Arc<EngineRows>,
        m: usize,
        turn: usize,
    ) -> Result<Products, RknnError> {
        let LoadedSegment { tensor, layout, n, matrix } = segment;
        let count = rows.len();
        assert!(count <= m && rows.k() == layout.k(), "rows of the segment, at most M");
        let missing = || RknnError::NotLoaded { linear: tensor.to_owned(), segment: 0 };
        let tiles = self.tiles(tensor).ok_or_else(missing)?;
        let cores = self.npu().cores();
        let parts = divide(n, layout.n(), cores);
        let start = |(index, part): (usize, &Part)| {
            let (offset, bytes) = part.tiles(layout, matrix);
            let offset = tiles.offset.saturating_add(offset);
            let slice = self.npu().slice(tiles.domain, &tiles.arena, offset, bytes)?;
            let task = Task {
                shape: part.matmul(layout, m, tiles.domain)?,
                channels: part.channels.len(),
                tiles: Arc::new(slice),
                rows: Arc::clone(rows),
            };
            self.npu().on_core((index + turn) % cores, move |contexts| task.run(contexts))
        };
        let waiting: Vec<_> = parts.iter().enumerate().map(start).collect();
        // All are waited for, whatever one of them says.
        let wait = |part: Result<Receiver<Result<_, _>>, _>| {
            part?.recv().map_err(|_| RknnError::CoreLost)?
        };
        let found: Vec<Result<_, _>> = waiting.into_iter().map(wait).collect();
        let mut results = EngineResults::zeros(layout.engine(), count, n);
        let mut time = Duration::ZERO;
        for (part, found) in parts.iter().zip(found) {
            let (found, taken) = found?;
            results.put(part.channels.clone(), &found);
            time = time.max(taken);
        }
        Ok(Products { results, time })
    }
}

/// One core's part. It does not hold the NPU, as those of linears do not.
struct Task {
    shape: Shape,
    /// Channels without padding.
    channels: usize,
    tiles: Arc<Slice>,
    rows: Arc<EngineRows>,
}

impl Task {
    fn run(&self, contexts: &mut Contexts) -> Result<(EngineResults, Duration), RknnError> {
        let matmul = contexts.matmul(self.shape)?;
        matmul.set_weights(&self.tiles)?;
        self.write(matmul.activations());
        let started = Instant::now();
        matmul.run()?;
        let time = started.elapsed();
        Ok((self.read(matmul.results()), time))
    }

    fn write(&self, a: &mut [u8]) {
        let shape = self.shape;
        a.fill(0);
        match &*self.rows {
            EngineRows::Integers { values, k } => {
                for (row, values) in values.chunks_exact(*k).enumerate() {
                    rows::write_integers(shape, row, values, a);
                }
            }
            EngineRows::Halves { values, k } => {
                for (row, values) in values.chunks_exact(*k).enumerate() {
                    rows::write_halves(shape, row, values, a);
                }
            }
        }
    }

    fn read(&self, c: &[u8]) -> EngineResults {
        let (shape, width) = (self.shape, self.channels);
        let mut results = EngineResults::zeros(shape.engine, self.rows.len(), width);
        for row in 0..self.rows.len() {
            for first in (0..width).step_by(GROUP) {
                let channels = row * width + first..row * width + width.min(first + GROUP);
                match &mut results {
                    EngineResults::Integers { values, .. } => {
                        let sums = rows::read_integers(shape, row, first, c);
                        values[channels.clone()].copy_from_slice(&sums[..channels.len()]);
                    }
                    EngineResults::Floats { values, .. } => {
                        let sums = rows::read_floats(shape, row, first, c);
                        values[channels.clone()].copy_from_slice(&sums[..channels.len()]);
                    }
                }
            }
        }
        results
    }
}

impl EngineResults {
    /// Of as many rows and channels, all zero.
    fn zeros(engine: Engine, rows: usize, n: usize) -> Self {
        match engine {
            Engine::F16 => EngineResults::Floats { values: vec![0.0; rows * n], n },
            Engine::I8 | Engine::I4 => EngineResults::Integers { values: vec![0; rows * n], n },
        }
    }

    /// Takes in the channels that a part has.
    fn put(&mut self, channels: std::ops::Range<usize>, part: &EngineResults) {
        fn each<T: Copy>(into: &mut [T], n: usize, channels: &std::ops::Range<usize>, from: &[T]) {
            let rows = into.chunks_exact_mut(n).zip(from.chunks_exact(channels.len()));
            rows.for_each(|(into, from)| into[channels.clone()].copy_from_slice(from));
        }
        match (self, part) {
            (
                EngineResults::Integers { values, n },
                EngineResults::Integers { values: part, .. },
            ) => {
                each(values, *n, &channels, part);
            }
            (EngineResults::Floats { values, n }, EngineResults::Floats { values: part, .. }) => {
                each(values, *n, &channels, part);
            }
            // Of one engine.
            _ => {}
        }
    }
}
