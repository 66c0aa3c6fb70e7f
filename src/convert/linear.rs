//! One linear: rows in, tiles out.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, anyhow, ensure};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tessera_formats::escape::Escaped;
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::ShardWriter;
use tessera_runtime::accumulator::AccumulatorBound;
use tessera_runtime::golden::{self, GoldenOperands, LaneBuffer};
use tessera_runtime::host::ActivationScale;

use super::observed::Observed;
use super::panel::{self, Losses, PanelQuantizer, PanelResult, Scratch, SegmentPlan};
use super::plan::LinearPlan;
use super::rows::{self, RowSource};
use super::scales::Scales;
use super::stream::for_each_chunk;
use crate::options::{ActivationScaling, Rounding};
use crate::progress::Progress;

/// A linear as it stands in the pack.
pub struct ConvertedLinear {
    /// Its segments, ascending.
    pub segments: Vec<ConvertedSegment>,
    /// Scales, `[experts, segments, n]`, or `[experts]` when they are per tensor.
    pub scales: Vec<f32>,
    /// Relative error of the integers against the rotated weights.
    pub relative_rms: f64,
    /// Mean over scales of clip threshold over largest magnitude.
    pub mean_clip: f64,
    /// What is added to outputs, `[experts, n]`.
    pub correction: Option<Vec<f32>>,
    /// How rows of activations get their scales.
    pub activation: ActivationScale,
    /// Error of outputs on observed activations, squared, over that of plain rounding.
    pub improvement: Option<f64>,
    /// Error of outputs on observed activations, relative to the outputs.
    pub output_error: Option<f64>,
}

/// A segment as it stands in the pack.
pub struct ConvertedSegment {
    /// Columns of the rotated, padded row.
    pub columns: Range<usize>,
    /// Where its tiles start in the shard's data.
    pub offset: u64,
    /// SHA-256 of its tiles.
    pub sha256: [u8; 32],
    /// Layout of its tiles.
    pub layout: TileLayout,
    /// What its accumulators can reach; absent for the float engine.
    pub bound: Option<AccumulatorBound>,
    /// SHA-256 of the engine's results for the golden inputs, where they were wanted.
    pub golden: Option<[u8; 32]>,
}

/// What takes a linear's tiles as they are made: a shard's file, or memory.
pub trait TileSink: Sync {
    /// Writes `bytes` at `offset`; every byte of a linear is written once.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()>;
}

impl TileSink for ShardWriter {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(ShardWriter::write_at(self, offset, bytes)?)
    }
}

/// Everything that the conversion of a linear needs.
pub struct LinearJob<'a> {
    /// Its rows.
    pub source: RowSource<'a>,
    /// How scales come about.
    pub scales: &'a Scales,
    /// What calibration observed of its input.
    pub observed: Option<&'a Observed>,
    /// Operands whose results are hashed.
    pub golden: Option<&'a GoldenOperands>,
    /// Progress, in bytes of source.
    pub progress: &'a Progress,
}

impl LinearJob<'_> {
    fn plan(&self) -> &LinearPlan {
        self.source.plan
    }

    fn panels(&self) -> PanelQuantizer<'_> {
        let LinearJob { source, scales, observed, golden, .. } = *self;
        PanelQuantizer { source, scales, observed, golden }
    }

    /// Converts the linear; its tiles go to `sink`, from `offset` on.
    ///
    /// K is cut into as few segments as every row's accumulator allows. Where a row needs more, the
    /// tensor is begun again with as many as that row's panel needs.
    pub fn run(&self, sink: &impl TileSink, offset: u64) -> anyhow::Result<ConvertedLinear> {
        let mut count = self.plan().fewest_segments;
        loop {
            match self.attempt(sink, self.lay_out(count, offset)?)? {
                Attempt::Done(converted) => return Ok(converted),
                Attempt::Needs(more) => count = more,
            }
        }
    }

    /// Fewest segments, at least `fewest`, with which a panel's accumulators are certified.
    fn needed(
        &self,
        (rows, bytes): (Range<usize>, &[u8]),
        fewest: usize,
        tiles: &mut [u8],
    ) -> anyhow::Result<usize> {
        let mut scratch = Scratch::new(&self.source);
        for count in fewest..self.plan().most_segments {
            let segments = self.lay_out(count, 0)?;
            let panel = self.panels().run(rows.clone(), bytes, &segments, &mut scratch, tiles)?;
            if panel.certified {
                return Ok(count);
            }
        }
        Ok(self.plan().most_segments)
    }

    /// Segments of K and where their tiles lie.
    fn lay_out(&self, count: usize, offset: u64) -> anyhow::Result<Vec<SegmentPlan>> {
        let matrices = u64::try_from(self.plan().matrices())?;
        let mut offset = offset;
        self.plan()
            .columns(count)
            .into_iter()
            .map(|columns| {
                let layout =
                    TileLayout::new(self.plan().engine(), self.plan().n_padded, columns.len())?;
                let segment = SegmentPlan { columns, layout, offset };
                offset += matrices * u64::try_from(layout.bytes())?;
                Ok(segment)
            })
            .collect()
    }

    /// Converts with the given segments, unless a row is not certified.
    fn attempt(&self, sink: &impl TileSink, segments: Vec<SegmentPlan>) -> anyhow::Result<Attempt> {
        let geometry = self.source.panels();
        let row_bytes = usize::try_from(self.source.tensor.row_bytes())?;
        let panel_bytes = panel_bytes(self.plan());
        let scratch_len = self.source.transform.scratch_len();
        let (in_flight, scratch) = memory(self.plan(), row_bytes, scratch_len);
        let per_chunk = self.source.budget.panels(&self.plan().name, in_flight, scratch)?;
        let mut totals = Totals::new(self.plan(), segments.len(), self.golden.is_some());
        let mut read = 0;
        let complete = thread::scope(|scope| {
            let (to_writer, tiles_to_write) = sync_channel::<(usize, Vec<u8>)>(0);
            let (to_worker, written) = std::sync::mpsc::channel::<Vec<u8>>();
            let segments = &segments;
            for _ in 0..2 {
                to_worker.send(Vec::new())?;
            }
            let writer = scope.spawn(move || -> anyhow::Result<Vec<[u8; 32]>> {
                let mut hashers = vec![Sha256::new(); segments.len()];
                for (first, tiles) in tiles_to_write {
                    write_panels(sink, segments, first, &tiles, &mut hashers)?;
                    // The worker may be done already.
                    let _ = to_worker.send(tiles);
                }
                Ok(hashers.into_iter().map(|hasher| hasher.finalize().into()).collect())
            });
            let mut needed = None;
            let (gguf, tensor) = (self.source.gguf, self.source.tensor);
            for_each_chunk(gguf, tensor, geometry, geometry.all(), per_chunk, |chunk| {
                let Ok(mut tiles) = written.recv() else { return Ok(false) };
                tiles.resize(chunk.panels.len() * panel_bytes, 0);
                let panels = tiles
                    .par_chunks_mut(panel_bytes)
                    .zip(chunk.panels.clone().into_par_iter())
                    .map_init(
                        || Scratch::new(&self.source),
                        |scratch, (tiles, index)| {
                            let (rows, bytes) = chunk.panel(index);
                            self.panels().run(rows, bytes, segments, scratch, tiles)
                        },
                    )
                    .collect::<Result<Vec<_>, _>>()?;
                if let Some(failed) = panels.iter().position(|panel| !panel.certified) {
                    let panel = chunk.panel(chunk.panels.start + failed);
                    let tiles = &mut tiles[..panel_bytes];
                    needed = Some(self.needed(panel, segments.len() + 1, tiles)?);
                    return Ok(false);
                }
                panels.into_iter().for_each(|panel| totals.add(panel));
                let rows = geometry.range(chunk.panels.end - 1).end
                    - geometry.range(chunk.panels.start).start;
                let bytes = u64::try_from(rows * row_bytes)?;
                read += bytes;
                self.progress.advance(bytes);
                Ok(to_writer.send((chunk.panels.start, tiles)).is_ok())
            })?;
            drop(to_writer);
            let hashes = writer.join().map_err(|_| anyhow!("the writing thread panicked"))??;
            anyhow::Ok(needed.map_or(Ok(hashes), Err))
        })
        .with_context(|| format!("`{}`", Escaped(&self.plan().name)))?;
        match complete {
            Ok(hashes) => Ok(Attempt::Done(totals.finish(self, segments, hashes)?)),
            Err(needed) => {
                self.progress.retract(read);
                Ok(Attempt::Needs(needed))
            }
        }
    }
}

/// How an attempt to convert with some number of segments ended.
enum Attempt {
    /// Every row is certified.
    Done(ConvertedLinear),
    /// A row is not; its panel needs so many.
    Needs(usize),
}

/// Bytes of one panel of tiles over all segments.
fn panel_bytes(plan: &LinearPlan) -> usize {
    plan.engine().tile_n() * plan.k_padded * plan.engine().weight_bits() / 8
}

/// Bytes that a panel in flight takes, and that one worker's buffers do; `scratch_len` is that of
/// the transform.
pub fn memory(plan: &LinearPlan, row_bytes: usize, scratch_len: usize) -> (usize, usize) {
    let panel = 2 * (plan.engine().tile_n() * row_bytes + panel_bytes(plan));
    let results = golden::ROWS * GoldenOperands::result_bytes(plan.engine()) * plan.most_segments;
    let panel = panel + plan.engine().tile_n() * results;
    let batch = if plan.options.rounding == Rounding::Gptq { panel::batch_bytes(plan) } else { 0 };
    let lane = LaneBuffer::bytes(plan.engine(), plan.k_padded);
    // The clip search may hold a copy of the row beside its integers and halves.
    (panel, rows::buffer_bytes(plan, scratch_len) + plan.k_padded * (1 + 2 + 4) + batch + lane)
}

/// Sums over the panels of a linear, added in order.
struct Totals {
    scales: Vec<f32>,
    segments: usize,
    n: usize,
    corrections: Vec<f32>,
    clip: f64,
    error: f64,
    energy: f64,
    losses: Losses,
    bounds: Vec<Option<AccumulatorBound>>,
    /// Of each segment's results for the golden inputs; empty where they are not wanted.
    golden: Vec<Sha256>,
}

impl Totals {
    fn new(plan: &LinearPlan, segments: usize, golden: bool) -> Self {
        Totals {
            scales: vec![1.0; plan.matrices() * segments * plan.n],
            segments,
            n: plan.n,
            corrections: Vec::new(),
            clip: 0.0,
            error: 0.0,
            energy: 0.0,
            losses: Losses::default(),
            bounds: vec![None; segments],
            golden: vec![Sha256::new(); if golden { segments } else { 0 }],
        }
    }

    fn add(&mut self, panel: PanelResult) {
        let (matrix, first) = (panel.first_row / self.n, panel.first_row % self.n);
        for (segment, scales) in panel.scales.chunks_exact(panel.rows).enumerate() {
            let start = (matrix * self.segments + segment) * self.n + first;
            self.scales[start..start + panel.rows].copy_from_slice(scales);
        }
        self.corrections.extend(panel.corrections);
        if !self.golden.is_empty() {
            let results = panel.golden.chunks_exact(panel.golden.len() / self.golden.len());
            self.golden.iter_mut().zip(results).for_each(|(hasher, part)| hasher.update(part));
        }
        self.losses.add(panel.losses);
        self.clip += panel.clip;
        self.error += panel.error;
        self.energy += panel.energy;
        for (bound, other) in self.bounds.iter_mut().zip(panel.bounds) {
            *bound = AccumulatorBound::union_of(*bound, other);
        }
    }

    fn finish(
        self,
        job: &LinearJob<'_>,
        segments: Vec<SegmentPlan>,
        hashes: Vec<[u8; 32]>,
    ) -> anyhow::Result<ConvertedLinear> {
        let relative_rms = if self.energy > 0.0 { (self.error / self.energy).sqrt() } else { 0.0 };
        ensure!(
            relative_rms.is_finite(),
            "`{}` has weights beyond what {} holds with these options",
            Escaped(&job.plan().name),
            job.plan().options.scheme,
        );
        #[expect(clippy::cast_precision_loss, reason = "a count, for a mean")]
        let mean_clip = self.clip / self.scales.len() as f64;
        let columns: Vec<_> = segments.iter().map(|segment| segment.columns.clone()).collect();
        let options = &job.plan().options;
        let (asymmetric, fitted) = (options.zero_point, options.activation_fit);
        let activation = match (options.activation_scale, job.observed) {
            (ActivationScaling::Dynamic, _) => {
                ActivationScale::Dynamic { rms_clip: None, asymmetric, fitted }
            }
            (ActivationScaling::Rms(Some(factor)), _) => {
                ActivationScale::Dynamic { rms_clip: Some(factor), asymmetric, fitted }
            }
            (_, Some(observed)) => observed.activation(options, &columns),
            (_, None) => ActivationScale::Dynamic { rms_clip: None, asymmetric, fitted },
        };
        let golden = self.golden.into_iter().map(|hasher| Some(hasher.finalize().into()));
        Ok(ConvertedLinear {
            correction: (!self.corrections.is_empty()).then_some(self.corrections),
            activation,
            improvement: (self.losses.rounding > 0.0)
                .then(|| self.losses.found / self.losses.rounding),
            output_error: (self.losses.energy > 0.0)
                .then(|| (self.losses.output / self.losses.energy).sqrt()),
            segments: segments
                .into_iter()
                .zip(hashes)
                .zip(self.bounds)
                .zip(golden.chain(std::iter::repeat(None)))
                .map(|(((segment, sha256), bound), golden)| ConvertedSegment {
                    columns: segment.columns,
                    layout: segment.layout,
                    offset: segment.offset,
                    sha256,
                    bound,
                    golden,
                })
                .collect(),
            scales: job.scales.stored(self.scales, job.source.transform),
            relative_rms,
            mean_clip,
        })
    }
}

/// Writes the tiles of consecutive panels, `first` the number of the first, to each segment's
/// place, and hashes them in order.
fn write_panels(
    sink: &impl TileSink,
    segments: &[SegmentPlan],
    first: usize,
    tiles: &[u8],
    hashers: &mut [Sha256],
) -> anyhow::Result<()> {
    if let [segment] = segments {
        hashers[0].update(tiles);
        let start = u64::try_from(first * segment.layout.panel_bytes())?;
        return sink.write_at(segment.offset + start, tiles);
    }
    let panel_bytes: usize = segments.iter().map(|segment| segment.layout.panel_bytes()).sum();
    for (index, panel) in tiles.chunks_exact(panel_bytes).enumerate() {
        let mut rest = panel;
        for (segment, hasher) in segments.iter().zip(&mut *hashers) {
            let (part, after) = rest.split_at(segment.layout.panel_bytes());
            rest = after;
            hasher.update(part);
            let start = u64::try_from((first + index) * segment.layout.panel_bytes())?;
            sink.write_at(segment.offset + start, part)?;
        }
    }
    Ok(())
}
