//! A linear on the NPU.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};

use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::TileLayout;

use super::contexts::{Contexts, buffer_bytes};
use super::parts::{Part, divide};
use super::weights::Tiles;
use super::{LoadedWeights, Npu, RknnError, Shape, Slice, rows};
use crate::host::{
    self, GROUP, Isa, LinearInput, Operands, Plan, QuantizedRows, Rescale, RowScale, Rows, Sums,
    Weights,
};
use crate::linear::{Activations, Linear, LinearError, shape};

/// Most rows of operands of one matmul.
const MOST_ROWS: usize = 256;

/// Most bytes of activations and results of one matmul, but for the fewest rows.
const MOST_BYTES: u64 = 8 << 20;

/// Rows of a matmul are 1 or a multiple of this.
const ROWS_ALIGN: usize = 4;

/// A linear, or expert linears, whose tiles are in the NPU's memory. Channels are divided among the cores, each
/// of which has its part of all segments to do.
#[derive(Debug)]
pub struct RknnLinear {
    shape: shape::Shape,
    input: Arc<LinearInput>,
    plan: Arc<Plan>,
    npu: Arc<Npu>,
    parts: Arc<[Part]>,
    shared: Arc<Shared>,
}

/// What the threads of the cores need.
#[derive(Debug)]
struct Shared {
    engine: Engine,
    n: usize,
    groups: usize,
    segments: Vec<Segment>,
    /// `[experts, segments, groups]`.
    scales: Vec<[f32; GROUP]>,
    /// `[experts, n]`.
    correction: Option<Vec<f32>>,
    planes: usize,
    base: i32,
    k: usize,
    at_the_rail: Arc<AtomicU64>,
    isa: Isa,
}

/// The weights of a range of columns.
#[derive(Debug)]
struct Segment {
    columns: Range<usize>,
    tiles: Tiles,
    layout: TileLayout,
    /// Sums of the weights of each channel, `[matrices, groups]`, where inputs have zero points.
    sums: Vec<Sums>,
    /// The parts' tiles, `[matrices, parts]`, each bound when it is first used.
    slices: Vec<OnceLock<Arc<Slice>>>,
}

/// One core's part of the work.
///
/// It does not hold the NPU: a core's thread must not be the last that does, for it cannot wait for its own end.
struct Task {
    matrix: usize,
    part: usize,
    parts: Arc<[Part]>,
    /// The part's tiles of each segment.
    tiles: Vec<Arc<Slice>>,
    quantized: Arc<QuantizedRows>,
    /// Rows of the activations.
    rows: Arc<[usize]>,
}

impl RknnLinear {
    /// A linear of tiles that are loaded, one tensor for each segment. Results of the i4 engine that are the
    /// least or the greatest of 16 bits, which sums beyond them become, are counted in `at_the_rail`.
    ///
    /// # Errors
    ///
    /// If anything about the weights is wrong, or their tiles were not loaded.
    pub fn new(
        weights: Weights,
        tiles: &[String],
        input: Arc<LinearInput>,
        loaded: &LoadedWeights,
        digits: host::Digits,
        at_the_rail: Arc<AtomicU64>,
    ) -> Result<Self, RknnError> {
        weights.check(&input)?;
        let shape = weights.shape();
        let npu = Arc::clone(loaded.npu());
        let mut segments = Vec::with_capacity(weights.segments.len());
        let mut parts = Vec::new();
        for (index, columns) in weights.segments.iter().enumerate() {
            let layout = shape.layout(columns.len())?;
            let missing = || RknnError::NotLoaded { linear: weights.name.clone(), segment: index };
            let tiles = tiles.get(index).and_then(|tensor| loaded.tiles(tensor));
            let tiles = tiles.ok_or_else(missing)?;
            parts = divide(weights.n, layout.n(), npu.cores());
            let slices = shape.matrices * parts.len();
            let slices = (0..slices).map(|_| OnceLock::new()).collect();
            let sums = group_sums(&tiles, layout, shape.groups());
            if weights.activation.is_asymmetric() && sums.is_empty() {
                return Err(missing());
            }
            segments.push(Segment { columns: columns.clone(), tiles, layout, sums, slices });
        }
        let plan = input.plan(weights.scheme, digits, &weights.activation, &weights.segments);
        let Weights { experts, n, k, .. } = weights;
        let shared = Shared {
            engine: shape.engine,
            n,
            groups: shape.groups(),
            segments,
            scales: weights.group_scales(),
            correction: weights.correction,
            planes: plan.planes(),
            base: plan.base(),
            k: plan.k(),
            at_the_rail,
            isa: Isa::detect(),
        };
        Ok(RknnLinear {
            shape: shape::Shape { name: weights.name, experts, n, k },
            input,
            plan,
            npu,
            parts: parts.into(),
            shared: Arc::new(shared),
        })
    }

    fn run(
        &self,
        matrix: usize,
        x: &Activations<'_>,
        rows: Rows<'_>,
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        if rows.len() == 0 {
            return Ok(());
        }
        let quantized = QuantizedRows::of(&self.shape.name, &self.input, &self.plan, x)?;
        let failed = |source: RknnError| LinearError::Device {
            name: self.shape.name.clone(),
            device: "the NPU",
            source: Box::new(source),
        };
        let at_once = self.shared.rows_at_once(&self.parts);
        let n = self.shape.n;
        for (index, out) in out.chunks_mut(at_once * n).enumerate() {
            let first = index * at_once;
            let chosen: Arc<[usize]> =
                (first..first + out.len() / n).map(|row| rows.get(row)).collect();
            let values = self.on_cores(matrix, &quantized, &chosen).map_err(failed)?;
            for (part, values) in self.parts.iter().zip(values) {
                let of_row = values.chunks_exact(part.channels.len());
                for (out, values) in out.chunks_exact_mut(n).zip(of_row) {
                    out[part.channels.clone()].copy_from_slice(values);
                }
            }
        }
        Ok(())
    }

    /// Results of all parts for some rows, each `[rows, channels]`. No core works on them any more when it returns.
    fn on_cores(
        &self,
        matrix: usize,
        quantized: &Arc<QuantizedRows>,
        rows: &Arc<[usize]>,
    ) -> Result<Vec<Vec<f32>>, RknnError> {
        self.npu.count_submits(self.parts.len() * self.shared.segments.len());
        let waiting: Vec<_> = (0..self.parts.len())
            .map(|part| {
                let segments = self.shared.segments.iter();
                let tiles = segments.map(|segment| {
                    segment.slice(&self.npu, matrix, part, &self.parts).map(Arc::clone)
                });
                let task = Task {
                    matrix,
                    part,
                    parts: Arc::clone(&self.parts),
                    tiles: tiles.collect::<Result<_, _>>()?,
                    quantized: Arc::clone(quantized),
                    rows: Arc::clone(rows),
                };
                let shared = Arc::clone(&self.shared);
                self.npu.on_core(part, move |contexts| shared.multiply(&task, contexts))
            })
            .collect();
        // All are waited for, whatever one of them says.
        let wait = |part: Result<Receiver<Result<_, _>>, _>| {
            part?.recv().map_err(|_| RknnError::CoreLost)?
        };
        waiting.into_iter().map(wait).collect::<Vec<_>>().into_iter().collect()
    }
}

/// Sums of the weights of each group's channels, zero of those that are not there; none without zero points.
fn group_sums(tiles: &Tiles, layout: TileLayout, groups: usize) -> Vec<Sums> {
    let Some(of_rows) = &tiles.sums else { return Vec::new() };
    let of_matrix = |sums: &[i32]| -> Vec<Sums> {
        let mut of_groups = vec![[0; GROUP]; groups];
        for (group, sums) in of_groups.iter_mut().zip(sums.chunks(GROUP)) {
            group[..sums.len()].copy_from_slice(sums);
        }
        of_groups
    };
    of_rows.chunks_exact(layout.n()).flat_map(of_matrix).collect()
}

/// M of a matmul of at least so many rows: 1, or four times a power of two, so that a few serve all.
fn padded_rows(rows: usize) -> usize {
    if rows <= 1 { 1 } else { rows.next_multiple_of(ROWS_ALIGN).next_power_of_two() }
}

impl Shared {
    /// Rows of activations that are multiplied at once: as many as the buffers of every part may have.
    fn rows_at_once(&self, parts: &[Part]) -> usize {
        let fits = |m: usize| {
            parts.iter().all(|part| {
                self.segments.iter().all(|segment| {
                    let shape = part.matmul(segment.layout, m, segment.tiles.domain);
                    shape.is_ok_and(|shape| buffer_bytes(shape) <= MOST_BYTES)
                })
            })
        };
        let mut m = MOST_ROWS;
        while m > ROWS_ALIGN && !fits(m) {
            m /= 2;
        }
        (m / self.planes).max(1)
    }

    /// Results of a part for some rows, `[rows, channels]`.
    fn multiply(&self, task: &Task, contexts: &mut Contexts) -> Result<Vec<f32>, RknnError> {
        let part = &task.parts[task.part];
        let width = part.channels.len();
        let mut out = vec![0.0; task.rows.len() * width];
        let m = padded_rows(task.rows.len() * self.planes);
        let mut at_the_rail = 0;
        for (index, (segment, tiles)) in self.segments.iter().zip(&task.tiles).enumerate() {
            let shape = part.matmul(segment.layout, m, segment.tiles.domain)?;
            let matmul = contexts.matmul(shape)?;
            matmul.set_weights(tiles)?;
            self.write_rows(shape, segment, task, matmul.activations());
            matmul.run()?;
            at_the_rail += self.rescale(shape, index, task, matmul.results(), &mut out);
        }
        if let Some(correction) = &self.correction {
            let channels = &correction[task.matrix * self.n..][part.channels.clone()];
            for row in out.chunks_exact_mut(width) {
                row.iter_mut().zip(channels).for_each(|(out, correction)| *out += correction);
            }
        }
        if at_the_rail > 0 {
            self.at_the_rail.fetch_add(at_the_rail, Ordering::Relaxed);
        }
        Ok(out)
    }

    /// Writes the rows' operands in a segment's columns. Rows of padding keep what they had.
    fn write_rows(&self, shape: Shape, segment: &Segment, task: &Task, a: &mut [u8]) {
        let columns =
            |row: usize| row * self.k + segment.columns.start..row * self.k + segment.columns.end;
        for (index, &row) in task.rows.iter().enumerate() {
            match &task.quantized.operands {
                Operands::Integers(values) => {
                    for plane in 0..self.planes {
                        let values = &values[columns(row * self.planes + plane)];
                        rows::write_integers(shape, index * self.planes + plane, values, a);
                    }
                }
                Operands::Halves(values) => {
                    rows::write_halves(shape, index, &values[columns(row)], a);
                }
            }
        }
    }

    /// Adds a segment's results to those of the segments before; gives how many were the least or the greatest
    /// of the engine.
    fn rescale(&self, shape: Shape, index: usize, task: &Task, c: &[u8], out: &mut [f32]) -> u64 {
        let part = &task.parts[task.part];
        let segment = &self.segments[index];
        let mut at_the_rail = 0;
        let mut planes = [[0; GROUP]; 2];
        let out = out.chunks_exact_mut(part.channels.len());
        for (at, (&row, out)) in task.rows.iter().zip(out).enumerate() {
            let scales = &task.quantized.scales[row * self.segments.len() + index];
            let RowScale { scale: row_scale, zero } = *scales;
            for (group, out) in part.groups.clone().zip(out.chunks_mut(GROUP)) {
                let first = group * GROUP - part.padded.start;
                let scales = (task.matrix * self.segments.len() + index) * self.groups + group;
                let scales = &self.scales[scales];
                if self.engine == Engine::F16 {
                    let sums = rows::read_floats(shape, at, first, c);
                    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                        let value = sum * row_scale * scale;
                        *out = if index > 0 { *out + value } else { value };
                    }
                    continue;
                }
                let planes = &mut planes[..self.planes];
                for (plane, sums) in planes.iter_mut().enumerate() {
                    *sums = rows::read_integers(shape, at * self.planes + plane, first, c);
                }
                if self.engine == Engine::I4 {
                    let rail = |sum: i32| u32::from(sum == -32768) + u32::from(sum == 32767);
                    let at: u32 = planes.iter().flatten().map(|&sum| rail(sum)).sum();
                    at_the_rail += u64::from(at);
                }
                let sums = segment.sums.get(task.matrix * self.groups + group);
                let zero = sums.map(|sums| (zero, sums));
                let (base, add) = (self.base, index > 0);
                // The engine has narrowed them.
                let overflow = None;
                let rescale = Rescale { overflow, base, row_scale, scales, zero, add };
                rescale.apply(self.isa, planes, out);
            }
        }
        at_the_rail
    }
}

impl Segment {
    /// The tiles of a part.
    fn slice(
        &self,
        npu: &Npu,
        matrix: usize,
        part: usize,
        parts: &[Part],
    ) -> Result<&Arc<Slice>, RknnError> {
        let kept = &self.slices[matrix * parts.len() + part];
        if let Some(slice) = kept.get() {
            return Ok(slice);
        }
        let (offset, bytes) = parts[part].tiles(self.layout, matrix);
        let Tiles { arena, domain, .. } = &self.tiles;
        let offset = self.tiles.offset.saturating_add(offset);
        let slice = Arc::new(npu.slice(*domain, arena, offset, bytes)?);
        // Another thread may have been faster.
        Ok(kept.get_or_init(|| slice))
    }
}

impl Linear for RknnLinear {
    fn experts(&self) -> Option<usize> {
        self.shape.experts
    }

    fn n(&self) -> usize {
        self.shape.n
    }

    fn k(&self) -> usize {
        self.shape.k
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        self.shape.check_plain(x, out)?;
        self.run(0, x, Rows::All(x.rows()), out)
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        self.shape.check_expert(expert, x, rows, out)?;
        self.run(expert, x, Rows::Some(rows), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_a_few_numbers() {
        let found = [1, 2, 3, 4, 5, 8, 9, 17, 100, 256].map(padded_rows);
        assert_eq!(found, [1, 4, 4, 4, 8, 8, 16, 32, 128, 256]);
    }
}
