//! A linear on the simulated NPU.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use rayon::prelude::*;
use tessera_formats::npu::tiles::TILE_K;
use tessera_formats::npu::{Engine, Scheme};
use tessera_formats::pack::manifest::Granularity;

use super::activation::{Operands, Plan, QuantizedRows, RotatedRows, SimulatedInput};
use super::gemm::{self, GROUP, Isa, QUAD, ROWS, Sums};
use super::halves::{self, Column, HalfRows};
use super::rescale::Rescale;
use super::weights::{LONGEST_SEGMENT, Scratch, SegmentWeights, Shape};
use super::{Arithmetic, Simulation, SimulatorError};
use crate::linear::gemm::{self as float, Matrix};
use crate::linear::{Activations, Linear, LinearError};

/// Columns whose weights are widened, or fetched into the cache, at a time.
const BLOCK_COLUMNS: usize = 512;

/// Most blocks of rows that one task works on: their sums stay in the cache.
const TASK_BLOCKS: usize = 40;

/// Rows that one task of float products works on, for any number of threads.
const FLOAT_ROWS: usize = 192;

/// Products below which threads cost more than they save.
const SERIAL_PRODUCTS: usize = 1 << 16;

/// Shape and scales of a linear, as the manifest of a pack describes them.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Name, for errors.
    pub name: String,
    /// Bits of weights and activations.
    pub scheme: Scheme,
    /// Output channels of a matrix.
    pub n: usize,
    /// Input channels of a matrix.
    pub k: usize,
    /// Number of matrices; `None` for a plain linear.
    pub experts: Option<usize>,
    /// Columns of each segment: contiguous from 0, whole tiles.
    pub segments: Vec<Range<usize>>,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// `[experts, segments, n]` per channel, `[experts, 1]` per tensor.
    pub scales: Vec<f32>,
}

impl Weights {
    fn shape(&self) -> Shape {
        let matrices = self.experts.unwrap_or(1);
        Shape { engine: self.scheme.engine(), matrices, n: self.n }
    }

    /// Checks shape and scales, before anything is read.
    fn check(&self, input: &SimulatedInput) -> Result<(), SimulatorError> {
        let rotation = input.rotation();
        let vector = input.vector().map_or(rotation.k(), <[f32]>::len);
        for (what, found) in [("rows", rotation.k()), ("a vector", vector)] {
            if found != self.k {
                return Err(SimulatorError::Input { what, expected: self.k, found });
            }
        }
        let mut expected = 0;
        for &Range { start, end } in &self.segments {
            let length = end.saturating_sub(start);
            if start != expected
                || length == 0
                || length > LONGEST_SEGMENT
                || !length.is_multiple_of(TILE_K)
            {
                return Err(SimulatorError::Segment { start, end, expected });
            }
            self.shape().layout(length)?;
            expected = end;
        }
        if expected < rotation.size() {
            let (found, expected) = (expected, rotation.size());
            return Err(SimulatorError::Columns { expected, found });
        }
        if self.experts == Some(0) {
            return Err(SimulatorError::Size { experts: 0, n: self.n, k: self.k });
        }
        self.check_scales()
    }

    fn check_scales(&self) -> Result<(), SimulatorError> {
        let Shape { matrices, n, .. } = self.shape();
        let expected = match self.granularity {
            Granularity::Tensor => matrices,
            // Fewer than the weights, whose number was checked.
            Granularity::Channel => matrices.saturating_mul(self.segments.len()).saturating_mul(n),
        };
        let found = self.scales.len();
        if found != expected {
            return Err(SimulatorError::Scales { expected, found });
        }
        let wrong = |scale: &f32| !(scale.is_finite() && *scale > 0.0);
        match self.scales.iter().position(wrong) {
            Some(index) => Err(SimulatorError::Scale { index, scale: self.scales[index] }),
            None => Ok(()),
        }
    }

    /// Scales of every group, `[experts, segments, groups]`, whatever the granularity.
    fn group_scales(&self) -> Vec<[f32; GROUP]> {
        let shape = self.shape();
        let rows = shape.matrices * self.segments.len();
        let mut scales = Vec::with_capacity(rows * shape.groups());
        for row in 0..rows {
            for group in 0..shape.groups() {
                let matrix = row / self.segments.len();
                scales.push(std::array::from_fn(|lane| match self.granularity {
                    Granularity::Tensor => self.scales[matrix],
                    Granularity::Channel => {
                        // Channels of padding have no scale, and no result.
                        let n = (group * GROUP + lane).min(self.n - 1);
                        self.scales[row * self.n + n]
                    }
                }));
            }
        }
        scales
    }
}

/// A linear, or expert linears, of a pack's tiles, applied as the NPU would.
#[derive(Debug)]
pub struct SimulatedLinear {
    name: String,
    simulation: Simulation,
    engine: Engine,
    n: usize,
    k: usize,
    experts: Option<usize>,
    groups: usize,
    segments: Vec<SegmentWeights>,
    /// `[experts, segments, groups]`.
    scales: Vec<[f32; GROUP]>,
    input: Arc<SimulatedInput>,
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
    /// [`LinearError::Weights`] of a [`SimulatorError`] if anything about the weights is wrong.
    pub fn new(
        weights: Weights,
        tiles: Vec<Vec<u8>>,
        input: Arc<SimulatedInput>,
        simulation: Simulation,
        saturated: Arc<AtomicU64>,
    ) -> Result<Self, LinearError> {
        let name = weights.name.clone();
        let wrong = |source: SimulatorError| LinearError::Weights {
            name: name.clone(),
            source: Box::new(source),
        };
        if tiles.len() != weights.segments.len() {
            let (segment, expected, found) = (tiles.len(), weights.segments.len(), tiles.len());
            return Err(wrong(SimulatorError::Tiles { segment, expected, found }));
        }
        weights.check(&input).map_err(wrong)?;
        let shape = weights.shape();
        for (segment, (columns, tiles)) in weights.segments.iter().zip(&tiles).enumerate() {
            let layout = shape.layout(columns.len()).map_err(wrong)?;
            let (expected, found) = (shape.matrices * layout.bytes(), tiles.len());
            if expected != found {
                return Err(wrong(SimulatorError::Tiles { segment, expected, found }));
            }
        }
        let mut tiles = tiles.into_iter();
        Self::load(weights, input, simulation, saturated, |_| {
            let tiles = tiles.next().unwrap_or_default();
            let mut at = 0;
            move |buffer: &mut [u8]| {
                buffer.copy_from_slice(&tiles[at..at + buffer.len()]);
                at += buffer.len();
                Ok::<(), SimulatorError>(())
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
        input: Arc<SimulatedInput>,
        simulation: Simulation,
        saturated: Arc<AtomicU64>,
        mut open: impl FnMut(usize) -> R,
    ) -> Result<Self, E>
    where
        E: From<SimulatorError>,
        R: FnMut(&mut [u8]) -> Result<(), E>,
    {
        weights.check(&input)?;
        let shape = weights.shape();
        let mut segments = Vec::with_capacity(weights.segments.len());
        for (index, columns) in weights.segments.iter().enumerate() {
            segments.push(SegmentWeights::read(shape, columns.clone(), open(index))?);
        }
        let plan = input.plan(weights.scheme, simulation.digits, &weights.segments);
        Ok(SimulatedLinear {
            simulation,
            engine: shape.engine,
            n: weights.n,
            k: weights.k,
            experts: weights.experts,
            groups: shape.groups(),
            segments,
            scales: weights.group_scales(),
            input,
            plan,
            saturated,
            isa: Isa::detect(),
            name: weights.name,
        })
    }

    /// Results of the i4 engine, so far, that did not fit 16 bits, of all linears that were given
    /// the same counter. With a certificate there are none.
    pub fn saturated(&self) -> u64 {
        self.saturated.load(Ordering::Relaxed)
    }

    /// Applies one matrix to some rows of `x`.
    fn run(
        &self,
        matrix: usize,
        x: &Activations<'_>,
        rows: Rows<'_>,
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        let length = |what, expected, found| {
            Err(LinearError::Length { name: self.name.clone(), what, expected, found })
        };
        if x.k() != self.k {
            return length("rows", self.k, x.k());
        }
        if let Rows::Some(rows) = rows
            && let Some(&row) = rows.iter().find(|&&row| row >= x.rows())
        {
            return length("rows to choose from", x.rows(), row);
        }
        let m = rows.len();
        if m.checked_mul(self.n) != Some(out.len()) {
            return length("outputs", m.saturating_mul(self.n), out.len());
        }
        if m == 0 {
            return Ok(());
        }
        match self.simulation.arithmetic {
            Arithmetic::Integer => {
                let quantized = QuantizedRows::of(&self.name, &self.input, &self.plan, x)?;
                match &quantized.operands {
                    Operands::Integers(values) => {
                        self.integers(matrix, values, &quantized.scales, rows, out);
                    }
                    Operands::Halves { values, spans } => {
                        let blocks = HalfBlocks::new(self.isa, values, spans, self.plan.k(), rows);
                        self.halves(matrix, &blocks, &quantized.scales, rows, out);
                    }
                }
            }
            Arithmetic::FloatActivations => {
                let rotated = RotatedRows::of(&self.name, &self.input, x)?;
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
        row_scales: &[f32],
        rows: Rows<'_>,
        out: &mut [f32],
    ) {
        let planes = self.plan.planes();
        let per_block = ROWS / planes;
        let packed = self.pack(values, rows, per_block);
        let bytes = self.isa.operand().bytes();
        let k = self.plan.k();
        let overflow = (self.engine == Engine::I4).then_some(self.simulation.overflow);
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
                for ((token, sums), out) in
                    tokens.clone().zip(scratch.sums.chunks_exact(planes)).zip(&mut out)
                {
                    let row_scale = row_scales[rows.get(token) * self.segments.len() + index];
                    let (base, add) = (self.plan.base(), index > 0);
                    let rescale = Rescale { overflow, base, row_scale, scales, add };
                    overflows += u64::from(rescale.apply(self.isa, sums, out));
                }
            }
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
        row_scales: &[f32],
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
                    let row_scale = row_scales[rows.get(token) * self.segments.len() + index];
                    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                        let value = sum * row_scale * scale;
                        *out = if index > 0 { *out + value } else { value };
                    }
                }
            }
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
        };
        self.for_each_task(rows.len(), FLOAT_ROWS, 1, out, work);
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
        let products = m.saturating_mul(self.n).saturating_mul(self.plan.k());
        let serial = products < SERIAL_PRODUCTS;
        let blocks = m.div_ceil(per_block);
        // Several tasks for each thread, so that none waits long for another.
        let wanted = if serial { 1 } else { 4 * rayon::current_num_threads() };
        let splits = blocks.div_ceil(most).max(wanted.div_ceil(self.groups)).min(blocks);
        let rows = blocks.div_ceil(splits) * per_block;
        let mut tasks: Vec<Task<'_>> = Vec::with_capacity(splits * self.groups);
        for (split, out) in out.chunks_mut(rows * self.n).enumerate() {
            let first = tasks.len();
            let rows = split * rows..(split * rows + rows).min(m);
            tasks.extend((0..self.groups).map(|group| Task {
                group,
                rows: rows.clone(),
                out: Vec::with_capacity(rows.len()),
            }));
            for row in out.chunks_exact_mut(self.n) {
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

/// Which rows of the activations are multiplied.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// So many, all there are.
    All(usize),
    /// These.
    Some(&'a [usize]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Rows::All(count) => *count,
            Rows::Some(rows) => rows.len(),
        }
    }

    /// The row at a position.
    fn get(&self, index: usize) -> usize {
        match self {
            Rows::All(_) => index,
            Rows::Some(rows) => rows[index],
        }
    }
}

/// Rows for the float engine in blocks of [`ROWS`]: values `[K][rows]` and spans `[K/32][rows]`.
struct HalfBlocks {
    values: Vec<f64>,
    spans: Vec<u8>,
    k: usize,
}

impl HalfBlocks {
    fn new(isa: Isa, values: &[f16], spans: &[u8], k: usize, rows: Rows<'_>) -> Self {
        let parts = k / halves::PRODUCTS;
        let mut blocks =
            HalfBlocks { values: vec![0.0; rows.len() * k], spans: vec![0; rows.len() * parts], k };
        let pack =
            |buffer: &mut Vec<f32>,
             (block, (block_values, block_spans)): (usize, (&mut [f64], &mut [u8]))| {
                let count = block_values.len() / k;
                for index in 0..count {
                    let row = rows.get(block * ROWS + index);
                    let places = block_values.iter_mut().skip(index).step_by(count);
                    buffer.resize(k, 0.0);
                    halves::widen(isa, &values[row * k..][..k], buffer);
                    places.zip(&*buffer).for_each(|(place, &value)| *place = value.into());
                    let source = &spans[row * parts..][..parts];
                    let places = block_spans.iter_mut().skip(index).step_by(count);
                    places.zip(source).for_each(|(place, span)| *place = *span);
                }
            };
        if rows.len() <= ROWS {
            pack(&mut Vec::new(), (0, (&mut blocks.values, &mut blocks.spans)));
        } else {
            let values = blocks.values.par_chunks_mut(ROWS * k);
            let spans = blocks.spans.par_chunks_mut(ROWS * parts);
            values.zip(spans).enumerate().for_each_init(Vec::new, pack);
        }
        blocks
    }

    /// Columns of the block of `count` rows that begins at row `first`.
    fn columns(&self, first: usize, count: usize, columns: &Range<usize>) -> HalfRows<'_> {
        let part = columns.start / halves::PRODUCTS..columns.end / halves::PRODUCTS;
        let parts = self.k / halves::PRODUCTS;
        HalfRows {
            values: &self.values[first * self.k + columns.start * count..][..columns.len() * count],
            spans: &self.spans[first * parts + part.start * count..][..part.len() * count],
        }
    }
}

impl Linear for SimulatedLinear {
    fn experts(&self) -> Option<usize> {
        self.experts
    }

    fn n(&self) -> usize {
        self.n
    }

    fn k(&self) -> usize {
        self.k
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        if self.experts.is_some() {
            return Err(LinearError::Expert { name: self.name.clone(), expert: None });
        }
        self.run(0, x, Rows::All(x.rows()), out)
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        if self.experts.is_none_or(|experts| expert >= experts) {
            return Err(LinearError::Expert { name: self.name.clone(), expert: Some(expert) });
        }
        self.run(expert, x, Rows::Some(rows), out)
    }
}

#[cfg(test)]
mod tests;
