//! One panel: the rows of a row of tiles, quantized and packed.

use std::ops::Range;

use half::{bf16, f16};
use tessera_calibration::clip::{self, Calibrator};
use tessera_calibration::gptq;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{self, TileLayout};
use tessera_runtime::accumulator::{AccumulatorBound, RowSums};
use tessera_runtime::golden::{GoldenOperands, LaneBuffer};
use tessera_runtime::quantize;

use super::observed::{Hessian, Observed};
use super::plan::LinearPlan;
use super::rows::{RowBuffer, RowSource};
use super::scales::Scales;
use crate::options::{Certificate, Rounding, ScaleType};

/// Refits of scales, each followed by a descent of the integers, after GPTQ.
const DESCENTS: usize = 4;

/// Quantizes the panels of one linear.
#[derive(Clone, Copy)]
pub struct PanelQuantizer<'a> {
    /// The linear's rows.
    pub source: RowSource<'a>,
    /// How scales come about.
    pub scales: &'a Scales,
    /// What calibration observed of the linear's input.
    pub observed: Option<&'a Observed>,
    /// Operands whose results are wanted.
    pub golden: Option<&'a GoldenOperands>,
}

/// A segment that is being filled.
pub struct SegmentPlan {
    /// Columns of the rotated, padded row.
    pub columns: Range<usize>,
    /// Layout of its tiles.
    pub layout: TileLayout,
    /// Where its tiles start.
    pub offset: u64,
}

/// Buffers of one worker.
pub struct Scratch {
    rows: RowBuffer,
    integers: Vec<i8>,
    halves: Vec<f16>,
    clip: clip::Scratch,
    lane: LaneBuffer,
}

/// What one panel gave beside its tiles.
pub struct PanelResult {
    /// Number of its first row.
    pub first_row: usize,
    /// Its rows.
    pub rows: usize,
    /// `[segment][lane]`.
    pub scales: Vec<f32>,
    /// Mean errors of outputs, `[lane]`; empty where none are wanted.
    pub corrections: Vec<f32>,
    /// Sum of clip thresholds over largest magnitudes.
    pub clip: f64,
    /// Sum of squared errors.
    pub error: f64,
    /// Sum of squares.
    pub energy: f64,
    /// What the errors cost at the output, where it was observed.
    pub losses: Losses,
    /// What each segment's accumulators can reach.
    pub bounds: Vec<Option<AccumulatorBound>>,
    /// What the engine gives for the golden inputs, `[segment][lane][row]`, little-endian; empty where
    /// it is not wanted.
    pub golden: Vec<u8>,
    /// Whether every row's accumulators are certified.
    pub certified: bool,
}

/// Sums over rows of mean squares of outputs on observed activations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    /// Of the errors, with damping.
    pub found: f64,
    /// Of those of plain rounding, with damping.
    pub rounding: f64,
    /// Of the errors.
    pub output: f64,
    /// Of the outputs themselves.
    pub energy: f64,
}

impl Losses {
    /// Adds those of other rows.
    pub fn add(&mut self, other: Losses) {
        self.found += other.found;
        self.rounding += other.rounding;
        self.output += other.output;
        self.energy += other.energy;
    }
}

/// What one segment of a row gave beside its integers.
struct Part {
    scale: f32,
    clip: f64,
    error: f64,
    bound: Option<AccumulatorBound>,
    certified: bool,
}

/// Where a segment of a row goes.
struct Place<'a> {
    segment: &'a SegmentPlan,
    lane: usize,
    /// The panel's tiles of the segment.
    tiles: &'a mut [u8],
    /// Results for the golden inputs, of the row alone; empty where they are not wanted.
    golden: &'a mut [u8],
}

impl Scratch {
    /// Buffers for rows of this linear.
    pub fn new(source: &RowSource<'_>) -> Self {
        let k = source.plan.k_padded;
        Scratch {
            rows: source.buffer(),
            integers: vec![0; k],
            halves: vec![f16::ZERO; k],
            clip: clip::Scratch::default(),
            lane: LaneBuffer::default(),
        }
    }
}

/// Bytes that a worker takes for a panel whose rows are worked on together.
pub fn batch_bytes(plan: &LinearPlan) -> usize {
    let rows = plan.engine().tile_n();
    // Rows as they are, as GPTQ is to round them and as it works on them, and their integers.
    rows * plan.k_padded * (2 * size_of::<f32>() + size_of::<f64>() + 2 * size_of::<i8>())
}

impl PanelQuantizer<'_> {
    fn plan(&self) -> &LinearPlan {
        self.source.plan
    }

    /// Converts one panel: `bytes` of the rows `rows` of the tensor into `tiles`, segment after
    /// segment. Lanes without a row become zeros.
    pub fn run(
        &self,
        rows: Range<usize>,
        bytes: &[u8],
        segments: &[SegmentPlan],
        scratch: &mut Scratch,
        tiles: &mut [u8],
    ) -> anyhow::Result<PanelResult> {
        if rows.len() < self.plan().engine().tile_n() {
            tiles.fill(0);
        }
        match (self.plan().options.rounding, self.observed, self.plan().engine().weight_range()) {
            (Rounding::Gptq, Some(observed), Some(range)) => {
                match observed.hessian(rows.start / self.plan().n) {
                    Some(hessian) => {
                        let by = (observed, hessian, range);
                        self.compensated(rows, bytes, segments, by, scratch, tiles)
                    }
                    None => self.nearest(rows, bytes, segments, scratch, tiles),
                }
            }
            _ => self.nearest(rows, bytes, segments, scratch, tiles),
        }
    }

    /// Rounds each weight to the nearest, row by row.
    fn nearest(
        &self,
        rows: Range<usize>,
        bytes: &[u8],
        segments: &[SegmentPlan],
        scratch: &mut Scratch,
        tiles: &mut [u8],
    ) -> anyhow::Result<PanelResult> {
        let row_bytes = bytes.len() / rows.len();
        let mut result = self.empty_result(&rows, segments.len());
        let means = self.means(rows.start);
        for (lane, (row, source)) in rows.zip(bytes.chunks_exact(row_bytes)).enumerate() {
            self.source.prepare(row, source, &mut scratch.rows)?;
            result.energy += scratch.rows.energy();
            let mut start = 0;
            let mut correction = 0.0;
            for (index, segment) in segments.iter().enumerate() {
                let end = start + segment.layout.panel_bytes();
                let (tiles, golden) = (&mut tiles[start..end], result.golden_of(index, lane));
                let place = Place { segment, lane, tiles, golden };
                let part = match self.plan().engine().weight_range() {
                    None => self.halves(row, scratch, place),
                    Some(range) => {
                        let columns = segment.columns.clone();
                        let weights = &scratch.rows.row[columns.clone()];
                        let scale =
                            self.scale(weights, range, (row, columns.start), &mut scratch.clip);
                        let integers = &mut scratch.integers[..weights.len()];
                        let error = self.scales.quantize_integer(weights, scale, range, integers);
                        let error = scratch.rows.ordinary.then_some(error);
                        if let Some(means) = means {
                            correction += means.error(&columns, weights, integers, scale);
                        }
                        self.integers(weights, integers, (scale, error), place)
                    }
                };
                result.add(index, lane, part);
                start = end;
            }
            if means.is_some() {
                result.corrections.push(to_f32(correction));
            }
            if !result.certified {
                break;
            }
        }
        Ok(result)
    }

    /// Rounds the panel's rows by GPTQ.
    fn compensated(
        &self,
        rows: Range<usize>,
        bytes: &[u8],
        segments: &[SegmentPlan],
        (observed, hessian, integer_range): (&Observed, &Hessian, (i8, i8)),
        scratch: &mut Scratch,
        tiles: &mut [u8],
    ) -> anyhow::Result<PanelResult> {
        let row_bytes = bytes.len() / rows.len();
        let (m, size) = (rows.len(), self.source.transform.size());
        let mut result = self.empty_result(&rows, segments.len());
        let mut weights = vec![0.0f32; m * size];
        for (lane, (row, source)) in rows.clone().zip(bytes.chunks_exact(row_bytes)).enumerate() {
            self.source.prepare(row, source, &mut scratch.rows)?;
            result.energy += scratch.rows.energy();
            weights[lane * size..][..size].copy_from_slice(&scratch.rows.row[..size]);
        }
        let target = observed.target(&weights);
        let target = target.as_deref().unwrap_or(&weights);
        let ranges: Vec<_> =
            segments.iter().map(|s| s.columns.start.min(size)..s.columns.end.min(size)).collect();
        let mut scales = Vec::with_capacity(m * segments.len());
        for (lane, row) in rows.clone().enumerate() {
            for range in &ranges {
                let weights = &target[lane * size..][range.clone()];
                let place = (row, range.start);
                scales.push(self.scale(weights, integer_range, place, &mut scratch.clip));
            }
        }
        let mut integers = vec![0i8; m * size];
        let values = target;
        let range = integer_range;
        let batch = gptq::Rows { values, scales: &scales, segments: &ranges, range };
        let rounded = batch.quantize(&hessian.factor, &mut integers);
        for _ in 0..DESCENTS {
            refit(values, &mut scales, hessian, &integers);
            self.shorten(&mut scales);
            let batch = gptq::Rows { values, scales: &scales, segments: &ranges, range };
            batch.descend(&hessian.descent, 1, &mut integers);
        }
        let batch = gptq::Rows { values, scales: &scales, segments: &ranges, range };
        let found = batch.losses(&hessian.factor, &integers);
        let energies = batch.losses(&hessian.factor, &vec![0; m * size]);
        for ((found, rounded), energy) in found.iter().zip(&rounded).zip(&energies) {
            result.losses.found += found.damped;
            result.losses.rounding += rounded.rounding_loss;
            result.losses.output += found.output_error;
            result.losses.energy += energy.output_error;
        }
        let means = self.means(rows.start);
        for lane in 0..m {
            let mut start = 0;
            let mut correction = 0.0;
            for (index, (segment, range)) in segments.iter().zip(&ranges).enumerate() {
                let end = start + segment.layout.panel_bytes();
                let scale = scales[lane * segments.len() + index];
                let padded = &mut scratch.integers[..segment.columns.len()];
                padded.fill(0);
                padded[..range.len()].copy_from_slice(&integers[lane * size..][range.clone()]);
                let weights = &weights[lane * size..][range.clone()];
                if let Some(means) = means {
                    correction += means.error(range, weights, padded, scale);
                }
                let (tiles, golden) = (&mut tiles[start..end], result.golden_of(index, lane));
                let place = Place { segment, lane, tiles, golden };
                let part = self.integers(weights, padded, (scale, None), place);
                result.add(index, lane, part);
                start = end;
            }
            if means.is_some() {
                result.corrections.push(to_f32(correction));
            }
        }
        Ok(result)
    }

    /// A result for these rows, with room for what they give.
    fn empty_result(&self, rows: &Range<usize>, segments: usize) -> PanelResult {
        let lane = self.golden.map_or(0, |golden| GoldenOperands::lane_bytes(golden.engine()));
        PanelResult::new(rows, segments, lane)
    }

    /// Mean inputs of the matrix of a row, where outputs are to be corrected.
    fn means(&self, row: usize) -> Option<super::observed::Means<'_>> {
        let observed = self.observed.filter(|_| self.plan().options.bias_correction)?;
        observed.means(row / self.plan().n)
    }

    /// The scale of a segment of a row, as the pack holds it; `weights` may end in padding.
    fn scale(
        &self,
        weights: &[f32],
        range: (i8, i8),
        (row, start): (usize, usize),
        scratch: &mut clip::Scratch,
    ) -> f32 {
        let unpadded = weights.len().min(self.source.transform.size() - start);
        let weights = &weights[..unpadded];
        let importance = self.observed.and_then(Observed::importance);
        let scale = match (self.scales, importance) {
            (Scales::Channel(Calibrator::Mse), Some(importance)) => {
                let importance = &importance[start..start + unpadded];
                clip::channel_scale_weighted(weights, importance, range, scratch)
            }
            _ => self.scales.integer_scale(weights, range, (row, start), scratch),
        };
        let mut scale = [scale];
        self.shorten(&mut scale);
        scale[0]
    }

    /// Makes scales as short as the pack holds them, none nearer to zero than the least normal one.
    fn shorten(&self, scales: &mut [f32]) {
        if self.plan().options.scale_type == ScaleType::Bf16 {
            for scale in scales {
                let short = bf16::from_f32(*scale).to_f32();
                let magnitude = short.abs().clamp(f32::MIN_POSITIVE, bf16::MAX.to_f32());
                *scale = magnitude.copysign(*scale);
            }
        }
    }

    /// Packs one segment of a row of halves.
    fn halves(
        &self,
        row: usize,
        scratch: &mut Scratch,
        Place { segment, lane, tiles, golden: results }: Place<'_>,
    ) -> Part {
        let weights = &scratch.rows.row[segment.columns.clone()];
        let halves = &mut scratch.halves[..weights.len()];
        let (scale, mut error) = self.scales.quantize_float(weights, row, halves);
        if !scratch.rows.ordinary {
            error = squared_error(weights, scale, halves.iter().map(|half| half.to_f64()));
        }
        tiles::pack_row_f16(halves, lane, tiles);
        if let Some(golden) = self.golden {
            golden.half_bytes(segment.columns.clone(), halves, &mut scratch.lane, results);
        }
        Part { scale, clip: 1.0, error, bound: None, certified: true }
    }

    /// Packs one segment of a row of integers; `error` is computed where it is not known.
    fn integers(
        &self,
        weights: &[f32],
        integers: &[i8],
        (scale, error): (f32, Option<f64>),
        Place { segment, lane, tiles, golden: results }: Place<'_>,
    ) -> Part {
        let engine = self.plan().engine();
        let error = error.unwrap_or_else(|| {
            squared_error(weights, scale, integers.iter().map(|&q| f64::from(q)))
        });
        let amax = f64::from(quantize::amax(weights));
        let qmax = f64::from(engine.qmax().unwrap_or(i8::MAX));
        let clip = if amax > 0.0 { f64::from(scale.abs()) * qmax / amax } else { 1.0 };
        match engine {
            Engine::I4 => tiles::pack_row_i4(integers, lane, tiles),
            _ => tiles::pack_row_i8(integers, lane, tiles),
        }
        if let Some(golden) = self.golden {
            golden.integer_bytes(segment.columns.clone(), integers, results);
        }
        let range = self.plan().options.scheme.activation_range(self.plan().options.zero_point);
        let bound = range.map(|(low, high)| RowSums::new(integers).bound(low.into(), high.into()));
        let fits = bound.is_none_or(|bound| bound.fits(engine));
        let must_fit = self.plan().options.certificate == Certificate::Static;
        Part { scale, clip: clip.min(1.0), error, bound, certified: fits || !must_fit }
    }
}

/// Replaces the scales of rows of one segment by those of least loss for their integers,
/// `s = q·H·w / q·H·q`, where these are positive.
fn refit(values: &[f32], scales: &mut [f32], hessian: &Hessian, integers: &[i8]) {
    let k = hessian.moments.k();
    if scales.len() * k != values.len() {
        return;
    }
    let scaled = |integers: &[i8], scale: f32| -> Vec<f32> {
        integers.iter().map(|&q| f32::from(q) * scale).collect()
    };
    let quantized: Vec<f32> =
        integers.chunks_exact(k).zip(&*scales).flat_map(|(q, &scale)| scaled(q, scale)).collect();
    let errors: Vec<f32> = values.iter().zip(&quantized).map(|(w, q)| w - q).collect();
    let of_weights = hessian.moments.forms(values);
    let of_integers = hessian.moments.forms(&quantized);
    let of_errors = hessian.moments.forms(&errors);
    for (row, scale) in scales.iter_mut().enumerate() {
        // w = ŵ + e: ŵ·H·e from the forms of all three.
        let cross = 0.5 * (of_weights[row] - of_integers[row] - of_errors[row]);
        let factor = 1.0 + cross / of_integers[row];
        if factor.is_finite() && factor > 0.0 {
            let found = to_f32(f64::from(*scale) * factor);
            if found.is_normal() {
                *scale = found;
            }
        }
    }
}

/// Σ (w − scale·r)² in f64, for rows whose squares f32 does not hold.
fn squared_error(weights: &[f32], scale: f32, rounded: impl Iterator<Item = f64>) -> f64 {
    let errors = weights.iter().zip(rounded).map(|(&w, r)| f64::from(w) - f64::from(scale) * r);
    errors.map(|error| error * error).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

impl PanelResult {
    /// `lane_bytes` are those that the golden inputs give for a segment of a row.
    fn new(rows: &Range<usize>, segments: usize, lane_bytes: usize) -> Self {
        let (first_row, rows) = (rows.start, rows.len());
        PanelResult {
            first_row,
            rows,
            scales: vec![0.0; rows * segments],
            corrections: Vec::new(),
            clip: 0.0,
            error: 0.0,
            energy: 0.0,
            losses: Losses::default(),
            bounds: vec![None; segments],
            golden: vec![0; rows * segments * lane_bytes],
            certified: true,
        }
    }

    /// Where a segment of a row has its results for the golden inputs.
    fn golden_of(&mut self, segment: usize, lane: usize) -> &mut [u8] {
        let bytes = self.golden.len() / self.scales.len();
        &mut self.golden[(segment * self.rows + lane) * bytes..][..bytes]
    }

    fn add(&mut self, segment: usize, lane: usize, part: Part) {
        self.scales[segment * self.rows + lane] = part.scale;
        self.clip += part.clip;
        self.error += part.error;
        self.bounds[segment] = AccumulatorBound::union_of(self.bounds[segment], part.bound);
        self.certified &= part.certified;
    }
}
