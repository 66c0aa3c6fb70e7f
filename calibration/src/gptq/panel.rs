//! Rows of weights, 64 side by side, against a factor.

use std::ops::Range;

use tessera_runtime::quantize::usable_scale;

use super::factor::{Factor, FactorBlock, STEP};
use super::kernels::{self, Grid, Integers, Isa, LANES, Lanes, Losses, TILE_ROWS};

/// Memory for 64 rows; one per thread.
#[derive(Debug, Default)]
pub(super) struct Panel {
    /// By column.
    weights: Vec<Lanes>,
    /// By position of a block.
    corrections: Vec<Lanes>,
    /// By column: those of GPTQ, and rounded ones.
    integers: Vec<[i8; LANES]>,
    rounded: Vec<[i8; LANES]>,
    /// By position of a step.
    errors: Vec<Lanes>,
    /// By segment.
    grids: Vec<Grid>,
    /// Segment of each column.
    segment_of: Vec<usize>,
}

impl Panel {
    /// Up to 64 rows of `k`. Lanes without one hold zeros.
    pub(super) fn load(&mut self, values: &[f32], k: usize, segments: &[Range<usize>]) {
        self.weights.clear();
        self.weights.resize(k, [0.0; LANES]);
        self.integers.clear();
        self.integers.resize(k, [0; LANES]);
        self.rounded.clear();
        self.rounded.resize(k, [0; LANES]);
        for (lane, row) in values.chunks_exact(k).enumerate() {
            for (weight, &value) in self.weights.iter_mut().zip(row) {
                weight[lane] = value;
            }
        }
        self.segment_of.clear();
        for (index, segment) in segments.iter().enumerate() {
            self.segment_of.extend((segment.start.min(k)..segment.end.min(k)).map(|_| index));
        }
    }

    /// Their integers.
    pub(super) fn load_integers(&mut self, integers: &[i8], k: usize) {
        for (lane, row) in integers.chunks_exact(k).enumerate() {
            for (q, &integer) in self.integers.iter_mut().zip(row) {
                q[lane] = integer;
            }
        }
    }

    /// Writes the integers of the rows that are `wanted`.
    pub(super) fn unload(
        &self,
        integers: Integers,
        out: &mut [i8],
        mut wanted: impl FnMut(usize) -> bool,
    ) {
        let source = match integers {
            Integers::Rounded => &self.rounded,
            Integers::Corrected | Integers::Given => &self.integers,
        };
        for (lane, out) in out.chunks_exact_mut(source.len()).enumerate() {
            if wanted(lane) {
                for (out, q) in out.iter_mut().zip(source) {
                    *out = q[lane];
                }
            }
        }
    }

    /// The scales of the rows, `[m, segments]`.
    pub(super) fn set_scales(&mut self, scales: &[f32], segments: usize, range: (i8, i8)) {
        let (least, greatest) = (f32::from(range.0), f32::from(range.1));
        self.grids.clear();
        for index in 0..segments {
            let ones = [1.0; LANES];
            let mut grid = Grid { scale: ones, inverse: ones, least, greatest };
            for (lane, scales) in scales.chunks_exact(segments).enumerate() {
                grid.scale[lane] = usable_scale(scales[index]);
                grid.inverse[lane] = 1.0 / grid.scale[lane];
            }
            self.grids.push(grid);
        }
    }

    /// Passes over all columns; integers that are made go to where their kind belongs.
    pub(super) fn sweep(&mut self, isa: Isa, factor: &Factor, integers: Integers) -> Losses {
        let mut losses = Losses::zero();
        for block in &factor.blocks {
            self.sweep_block(isa, block, integers, &mut losses);
        }
        losses
    }

    fn sweep_block(
        &mut self,
        isa: Isa,
        block: &FactorBlock,
        integers: Integers,
        losses: &mut Losses,
    ) {
        self.corrections.clear();
        self.corrections.resize(block.order.len(), [0.0; LANES]);
        self.errors.resize(STEP, [0.0; LANES]);
        let made = match integers {
            Integers::Rounded => &mut self.rounded,
            Integers::Corrected | Integers::Given => &mut self.integers,
        };
        for step in block.steps.iter().rev() {
            let (before, own) = self.corrections.split_at_mut(step.start);
            for (i, factors) in step.own.iter().enumerate().rev() {
                let position = step.start + i;
                let column = block.order[position];
                let (earlier, correction) = own.split_at_mut(i);
                kernels::column(
                    isa,
                    integers,
                    &self.weights[column],
                    &correction[0],
                    &self.grids[self.segment_of[column]],
                    block.columns[position],
                    &mut made[column],
                    &mut self.errors[i],
                    losses,
                );
                kernels::spread(isa, earlier, factors, &self.errors[i]);
            }
            let (groups, _) = before.as_chunks_mut::<TILE_ROWS>();
            for (group, factors) in groups.iter_mut().zip(&step.before) {
                kernels::tiles(isa, group, factors, &self.errors);
            }
        }
    }
}
