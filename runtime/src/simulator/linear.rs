//! A linear on the simulated NPU.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use tessera_formats::npu::Engine;

use super::gemm::{self, GROUP, Isa, QUAD, ROWS, Sums};
use super::halves::{self, Column};
use super::rows::HalfBlocks;
use super::weights::{Scratch, SegmentWeights};
use super::{Arithmetic, Simulation};
use crate::host::{
    LinearInput, Operands, Plan, QuantizedRows, Rescale, RotatedRows, RowScale, Rows, Weights,
    WeightsError,
};
use crate::linear::gemm::{self as float, Matrix};
use crate::linear::shape::Shape;
use crate::linear::{Activations, Linear, LinearError};

/// Columns whose weights are widened, or fetched into the cache, at a time.
const BLOCK_COLUMNS: usize = 512;

/// Most blocks of rows that one task works on: their sums stay in the cache.
const TASK_BLOCKS: usize = 40;

/// Rows that one task of float products works on, for any number of threads.
const FLOAT_ROWS: usize = 192;

/// Products below which threads cost more than they save.
const SERIAL_PRODUCTS: usize = 1 << 16;

/// A linear, or expert linears, of a pack's tiles, applied as the NPU would.
#[derive(Debug)]
pub struct SimulatedLinear {
    shape: Shape,
    simulation: Simulation,
    engine: Engine,
    groups: usize,
    segments: Vec<SegmentWeights>,
    /// `[experts, segments, groups]`.
    scales: Vec<[f32; GROUP]>,
    /// `[experts, n]`.
    correction: Option<Vec<f32>>,
    input: Arc<LinearInput>,
    plan: Arc<Plan>,
    saturated: Arc<AtomicU64>,
    isa: Isa,
}

impl SimulatedLinear {
    /// A linear of tiles in memory, one buffer for each segment, in the layout of
    /// [`TileLayout`](tessera_formats::npu::tiles::TileLayout), expert after expert. A buffer is
    /// freed as soon as its weights are in the kernels' layout. Results of the i4 engine that did
    /// not fit 16 bits are counted in `saturated`, which several linears may share.
    ///
    /// # Errors
    ///
    /// [`LinearError::Weights`] of a [`WeightsError`] if anything about the weights is wrong.
    pub fn new(
        weights: Weights,
        tiles: Vec<Vec<u8>>,
        input: Arc<LinearInput>,
        simulation: Simulation,
        saturated: Arc<AtomicU64>,
    ) -> Result<Self, LinearError> {
        let name = weights.name.clone();
        let wrong = |source: WeightsError| LinearError::Weights {
            name: name.clone(),
            source: Box::new(source),
        };
        if tiles.len() != weights.segments.len() {
            let (segment, expected, found) = (tiles.len(), weights.segments.len(), tiles.len());
            return Err(wrong(WeightsError::Tiles { segment, expected, found }));
        }
        weights.check(&input).map_err(wrong)?;
        let shape = weights.shape();
        for (segment, (columns, tiles)) in weights.segments.iter().zip(&tiles).enumerate() {
            let layout = shape.layout(columns.len()).map_err(wrong)?;
            let (expected, found) = (shape.matrices * layout.bytes(), tiles.len());
            if expected != found {
                return Err(wrong(WeightsError::Tiles { segment, expected, found }));
            }
        }
        let mut tiles = tiles.into_iter();
        Self::load(weights, input, simulation, saturated, |_| {
            let tiles = tiles.next().unwrap_or_default();
            let mut at = 0;
            move |buffer: &mut [u8]| {
                buffer.copy_from_slice(&tiles[at..at + buffer.len()]);
                at += buffer.len();
                Ok::<(), WeightsError>(())
            }
        })
        .map_err(wrong)
    }

    /// A linear whose tiles are read piece by piece: for each segment, in order, `open` gives a
    /// function that fills its argument with the next bytes of the segment's tiles, and that is
    /// called until all of them are read.
    ///
    /// # Errors
    ///
    /// If anything about the weights is wrong, or a read fails.
    pub fn load<E, R>(
        weights: Weights,
        input: Arc<LinearInput>,
        simulation: Simulation,
        saturated: Arc<AtomicU64>,
        mut open: impl FnMut(usize) -> R,
    ) -> Result<Self, E>
    where
        E: From<WeightsError>,
        R: FnMut(&mut [u8]) -> Result<(), E>,
    {
        weights.check(&input)?;
        let shape = weights.shape();
        let mut segments = Vec::with_capacity(weights.segments.len());
        for (index, columns) in weights.segments.iter().enumerate() {
            segments.push(SegmentWeights::read(shape, columns.clone(), open(index))?);
        }
        let plan =
            input.plan(weights.scheme, simulation.digits, &weights.activation, &weights.segments);
        let Weights { experts, n, k, .. } = weights;
        Ok(SimulatedLinear {
            simulation,
            engine: shape.engine,
            groups: shape.groups(),
            segments,
            scales: weights.group_scales(),
            shape: Shape { name: weights.name, experts, n, k },
            correction: weights.correction,
            input,
            plan,
            saturated,
            isa: Isa::detect(),
        })
    }

    /// Results of the i4 engine, so far, that did not fit 16 bits, of all linears that were given
    /// the same counter. With a certificate there are none.
    pub fn saturated(&self) -> u64 {
        self.saturated.load(Ordering::Relaxed)
    }

    /// Applies one matrix to some rows of `x`, which are there, as are their outputs.
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
        let name = &self.shape.name;
        match self.simulation.arithmetic {
            Arithmetic::Integer => {
                let quantized = QuantizedRows::of(name, &self.input, &self.plan, x)?;
                match &quantized.operands {
                    Operands::Integers(values) => {
                        self.integers(matrix, values, &quantized.scales, rows, out);
                    }
                    Operands::Halves(values) => {
                        let blocks = HalfBlocks::new(self.isa, values, self.plan.k(), rows);
                        self.halves(matrix, &blocks, &quantized.scales, rows, out);
                    }
                }
            }
            Arithmetic::FloatActivations => {
                let rotated = RotatedRows::of(name, &self.input, x)?;
                self.floats(matrix, &rotated.values, rows, out);
            }
        }
        Ok(())
    }

    /// The products with the integer engines.
    fn integers(
        &self,
        matrix: usize,
        values: &[i8],
        row_scales: &[RowScale],
        rows: Rows<'_>,
        out: &mut [f32],
    ) {
        let planes = self.plan.planes();
        let per_block = ROWS / planes;
        let packed = self.pack(values, rows, per_block);
        let bytes = self.isa.operand().bytes();
        let k = self.plan.k();
        let overflow = (self.engine == Engine::I4).then_some(self.simulation.overflow);
        let asymmetric = self.plan.is_asymmetric();
        let m = rows.len();
        let work = |task: Task<'_>, scratch: &mut IntegerScratch| {
            let mut overflows = 0u64;
            let Task { group, rows: tokens, mut out } = task;
            for (index, segment) in self.segments.iter().enumerate() {
                let columns = segment.columns().clone();
                let beginning = segment.beginning(self.isa, matrix, group);
                scratch.sums.clear();
                scratch.sums.resize(tokens.len() * planes, beginning);
                for start in (0..columns.len()).step_by(BLOCK_COLUMNS) {
                    let end = (start + BLOCK_COLUMNS).min(columns.len());
                    let quads = start / QUAD..end / QUAD;
                    let weights = &mut scratch.weights;
                    let weights = segment.integers(self.isa, matrix, group, quads, weights);
                    let blocks = scratch.sums.chunks_mut(per_block * planes);
                    for (first, sums) in tokens.clone().step_by(per_block).zip(blocks) {
                        let at = first * planes * k + (columns.start + start) * sums.len();
                        let length = (end - start) * sums.len();
                        let operands = &packed[at * bytes..][..length * bytes];
                        self.isa.add_products(operands, weights, sums);
                    }
                }
                let scales = &self.scales[self.scale_index(matrix, index, group)];
                let weight_sums = asymmetric.then(|| segment.sums(matrix, group)).flatten();
                for ((token, sums), out) in
                    tokens.clone().zip(scratch.sums.chunks_exact(planes)).zip(&mut out)
                {
                    let RowScale { scale: row_scale, zero } =
                        row_scales[rows.get(token) * self.segments.len() + index];
                    let (base, add) = (self.plan.base(), index > 0);
                    let zero = weight_sums.map(|sums| (zero, sums));
                    let rescale = Rescale { overflow, base, row_scale, scales, zero, add };
                    overflows += u64::from(rescale.apply(self.isa, sums, out));
                }
            }
            self.correct(matrix, group, &mut out);
            if overflows > 0 {
                self.saturated.fetch_add(overflows, Ordering::Relaxed);
            }
        };
        self.for_each_task(m, per_block, TASK_BLOCKS, out, work);
    }

    /// Rows in blocks for the kernels, each `[K/4][rows of the block][4]`.
    fn pack(&self, values: &[i8], rows: Rows<'_>, per_block: usize) -> Vec<u8> {
        let (planes, k) = (self.plan.planes(), self.plan.k());
        let operand = self.isa.operand();
        let row_bytes = planes * k * operand.bytes();
        let mut packed = vec![0; rows.len() * row_bytes];
        let pack = |(block, packed): (usize, &mut [u8])| {
            let first = block * per_block;
            let count = packed.len() / row_bytes;
            let mut sources: [&[i8]; ROWS] = [&[]; ROWS];
            for (index, source) in sources[..count * planes].iter_mut().enumerate() {
                let row = rows.get(first + index / planes) * planes + index % planes;
                *source = &values[row * k..][..k];
            }
            gemm::pack_rows(operand, &sources[..count * planes], packed);
        };
        if rows.len() <= per_block {
            pack((0, &mut packed));
        } else {
            packed.par_chunks_mut(per_block * row_bytes).enumerate().for_each(pack);
        }
        packed
    }

    /// The products with the float engine.
    fn halves(
        &self,
        matrix: usize,
        blocks: &HalfBlocks,
        row_scales: &[RowScale],
        rows: Rows<'_>,
        out: &mut [f32],
    ) {
        let work = |task: Task<'_>, scratch: &mut FloatScratch| {
            let Task { group, rows: tokens, mut out } = task;
            for (index, segment) in self.segments.iter().enumerate() {
                let columns = segment.columns().clone();
                scratch.sums.clear();
                scratch.sums.resize(tokens.len(), [0.0; GROUP]);
                for start in (0..columns.len()).step_by(BLOCK_COLUMNS) {
                    let end = (start + BLOCK_COLUMNS).min(columns.len());
                    let weights =
                        segment.halves(self.isa, matrix, group, start..end, &mut scratch.weights);
                    let range = columns.start + start..columns.start + end;
                    for (first, sums) in
                        tokens.clone().step_by(ROWS).zip(scratch.sums.chunks_mut(ROWS))
                    {
                        let rows = blocks.columns(first, sums.len(), &range);
                        halves::add_products(self.isa, rows, weights, sums);
                    }
                }
                let scales = &self.scales[self.scale_index(matrix, index, group)];
                for ((token, sums), out) in tokens.clone().zip(&scratch.sums).zip(&mut out) {
                    let row_scale = row_scales[rows.get(token) * self.segments.len() + index].scale;
                    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                        let value = sum * row_scale * scale;
                        *out = if index > 0 { *out + value } else { value };
                    }
                }
            }
            self.correct(matrix, group, &mut out);
        };
        self.for_each_task(rows.len(), ROWS, TASK_BLOCKS, out, work);
    }

    /// Float rows times dequantized weights.
    fn floats(&self, matrix: usize, rotated: &[f32], rows: Rows<'_>, out: &mut [f32]) {
        let size = self.input.rotation().size();
        let gathered;
        let values = match rows {
            Rows::All(_) => rotated,
            Rows::Some(rows) => {
                gathered =
                    rows.iter().flat_map(|row| &rotated[row * size..][..size]).copied().collect();
                let gathered: &Vec<f32> = &gathered;
                gathered.as_slice()
            }
        };
        let work = |task: Task<'_>, scratch: &mut FloatScratch| {
            let Task { group, rows: tokens, mut out } = task;
            let FloatScratch { sums, columns, weights } = scratch;
            columns.resize(self.plan.k(), [0.0; GROUP]);
            for (index, segment) in self.segments.iter().enumerate() {
                let columns = &mut columns[segment.columns().clone()];
                segment.floats(self.isa, matrix, group, weights, columns);
                let scales = &self.scales[self.scale_index(matrix, index, group)];
                for column in columns {
                    column.iter_mut().zip(scales).for_each(|(w, scale)| *w *= scale);
                }
            }
            sums.resize(tokens.len(), [0.0; GROUP]);
            let x = Matrix::new(&values[tokens.start * size..], tokens.len(), size, size);
            // Columns beyond the rotated row are zero.
            let w = Matrix::new(columns.as_flattened(), size, GROUP, GROUP);
            float::multiply(x, w, sums.as_flattened_mut(), GROUP);
            for (out, sums) in out.iter_mut().zip(sums) {
                out.copy_from_slice(&sums[..out.len()]);
            }
            self.correct(matrix, group, &mut out);
        };
        self.for_each_task(rows.len(), FLOAT_ROWS, 1, out, work);
    }

    /// Adds the correction of a group's channels to rows of them.
    fn correct(&self, matrix: usize, group: usize, out: &mut [&mut [f32]]) {
        let Some(correction) = &self.correction else { return };
        let n = self.shape.n;
        let channels = &correction[matrix * n..(matrix + 1) * n][group * GROUP..];
        for row in out {
            row.iter_mut().zip(channels).for_each(|(out, correction)| *out += correction);
        }
    }

    /// Index of a group's scales.
    fn scale_index(&self, matrix: usize, segment: usize, group: usize) -> usize {
        (matrix * self.segments.len() + segment) * self.groups + group
    }

    /// Cuts the output `[m, n]` into rectangles of whole groups and at most `most` blocks of
    /// `per_block` rows, and works on all of them.
    fn for_each_task<S: Default>(
        &self,
        m: usize,
        per_block: usize,
        most: usize,
        out: &mut [f32],
        work: impl Fn(Task<'_>, &mut S) + Sync + Send,
    ) {
        let products = m.saturating_mul(self.shape.n).saturating_mul(self.plan.k());
        let serial = products < SERIAL_PRODUCTS;
        let blocks = m.div_ceil(per_block);
        // Several tasks for each thread, so that none waits long for another.
        let wanted = if serial { 1 } else { 4 * rayon::current_num_threads() };
        let splits = blocks.div_ceil(most).max(wanted.div_ceil(self.groups)).min(blocks);
        let rows = blocks.div_ceil(splits) * per_block;
        let mut tasks: Vec<Task<'_>> = Vec::with_capacity(splits * self.groups);
        for (split, out) in out.chunks_mut(rows * self.shape.n).enumerate() {
            let first = tasks.len();
            let rows = split * rows..(split * rows + rows).min(m);
            tasks.extend((0..self.groups).map(|group| Task {
                group,
                rows: rows.clone(),
                out: Vec::with_capacity(rows.len()),
            }));
            for row in out.chunks_exact_mut(self.shape.n) {
                for (task, out) in tasks[first..].iter_mut().zip(row.chunks_mut(GROUP)) {
                    task.out.push(out);
                }
            }
        }
        if serial {
            let mut scratch = S::default();
            tasks.into_iter().for_each(|task| work(task, &mut scratch));
        } else {
            tasks.into_par_iter().for_each_init(S::default, |scratch, task| work(task, scratch));
        }
    }
}

/// One rectangle of the output.
struct Task<'a> {
    group: usize,
    rows: Range<usize>,
    /// The group's channels of each row.
    out: Vec<&'a mut [f32]>,
}

#[derive(Default)]
struct IntegerScratch {
    sums: Vec<Sums>,
    weights: Scratch,
}

#[derive(Default)]
struct FloatScratch {
    sums: Vec<Column>,
    columns: Vec<Column>,
    weights: Scratch,
}

impl Linear for SimulatedLinear {
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
mod tests;
