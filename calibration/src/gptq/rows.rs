//! Rows of weights, 64 side by side, against a factor.

use std::ops::Range;

use rayon::prelude::*;
use tessera_runtime::quantize::MIN_SCALE;

use super::factor::{Factor, FactorBlock, STEP};
use super::kernels::{self, Grid, Integers, Isa, LANES, Lanes, Losses, TILE_ROWS};

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowOutcome {
    /// `e·(H + λ)·eᵀ` of what GPTQ found, e = w - s·q.
    pub loss: f64,
    /// The same of rounding to nearest.
    pub rounding_loss: f64,
    /// Whether rounding was no worse and its integers were kept.
    pub kept_rounding: bool,
    /// `e·H·eᵀ` of the integers that were kept, without damping: the mean square of the error of the
    /// output over the data that H was made of.
    pub output_error: f64,
}

/// Rows of weights and how finely they are rounded.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// `[m, K]`, finite.
    pub values: &'a [f32],
    /// `[m, segments]`, as [`scale_of`](tessera_runtime::quantize::scale_of) makes them; another that
    /// is no positive normal number is taken as [`MIN_SCALE`].
    pub scales: &'a [f32],
    /// Columns of each segment, which follow one another and together are at least all K.
    pub segments: &'a [Range<usize>],
    /// Largest integer, at most 127.
    pub qmax: i8,
}

/// Memory for 64 rows; one per thread.
#[derive(Debug, Default)]
struct Panel {
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

impl Rows<'_> {
    /// GPTQ (Frantar et al. 2022, arXiv 2210.17323, algorithm 1) of every row, with the scales as they
    /// are given: integers within ±`qmax` into `out`, `[m, K]`.
    ///
    /// A column's integer is `clamp(round_half_even((w + c)·f32(1/s)))`, as
    /// [`quantize`](tessera_runtime::quantize) has it, of the weight w and the correction c that the
    /// errors of the columns before it ask for. Corrections and errors are f32, losses f64. Where
    /// rounding to nearest has no larger loss, it is kept. Rows do not depend on each other: a row's
    /// result is the same whatever the other rows are, on every machine.
    ///
    /// # Panics
    ///
    /// If the rows are not whole rows of `factor.k()`, `scales` are not one per row and segment, the
    /// segments do not follow one another from 0 to K or beyond, or `out` is not as long as the rows.
    pub fn quantize(&self, factor: &Factor, out: &mut [i8]) -> Vec<RowOutcome> {
        self.quantize_on(Isa::detect(), factor, out)
    }

    pub(super) fn quantize_on(&self, isa: Isa, factor: &Factor, out: &mut [i8]) -> Vec<RowOutcome> {
        let k = self.check(factor);
        assert_eq!(out.len(), self.values.len(), "integers are as many as weights");
        if k == 0 {
            return Vec::new();
        }
        let segments = self.segments.len();
        self.values
            .par_chunks(LANES * k)
            .zip(self.scales.par_chunks(LANES * segments))
            .zip(out.par_chunks_mut(LANES * k))
            .map_init(Panel::default, |panel, ((values, scales), out)| {
                panel.load(self, k, values, scales);
                let found = panel.sweep(isa, factor, Integers::Corrected);
                let rounding = panel.sweep(isa, factor, Integers::Rounded);
                out.chunks_exact_mut(k)
                    .enumerate()
                    .map(|(lane, out)| panel.keep(lane, &found, &rounding, out))
                    .collect::<Vec<_>>()
            })
            .flatten_iter()
            .collect()
    }

    /// The losses of given integers, `[m, K]`: `e·(H + λ)·eᵀ` and `e·H·eᵀ` of each row. With integers of
    /// zero that is the energy of the row's output.
    ///
    /// # Panics
    ///
    /// As [`quantize`](Self::quantize).
    pub fn losses(&self, factor: &Factor, integers: &[i8]) -> Vec<Loss> {
        let k = self.check(factor);
        assert_eq!(integers.len(), self.values.len(), "integers are as many as weights");
        if k == 0 {
            return Vec::new();
        }
        let isa = Isa::detect();
        let segments = self.segments.len();
        self.values
            .par_chunks(LANES * k)
            .zip(self.scales.par_chunks(LANES * segments))
            .zip(integers.par_chunks(LANES * k))
            .map_init(Panel::default, |panel, ((values, scales), integers)| {
                panel.load(self, k, values, scales);
                for (lane, row) in integers.chunks_exact(k).enumerate() {
                    for (q, &integer) in panel.integers.iter_mut().zip(row) {
                        q[lane] = integer;
                    }
                }
                let losses = panel.sweep(isa, factor, Integers::Given);
                (0..values.len() / k).map(move |lane| Loss::of(&losses, lane)).collect::<Vec<_>>()
            })
            .flatten_iter()
            .collect()
    }

    /// Length of a row.
    fn check(&self, factor: &Factor) -> usize {
        let k = factor.k();
        assert!(self.values.len().is_multiple_of(k.max(1)), "whole rows");
        let rows = self.values.len() / k.max(1);
        assert_eq!(self.scales.len(), rows * self.segments.len(), "a scale per row and segment");
        let mut end = 0;
        for segment in self.segments {
            assert!(segment.start == end && segment.end >= end, "segments follow one another");
            end = segment.end;
        }
        assert!(end >= k, "segments are all columns");
        k
    }
}

/// What integers cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// `e·(H + λ)·eᵀ`.
    pub damped: f64,
    /// `e·H·eᵀ`.
    pub output_error: f64,
}

impl Loss {
    fn of(losses: &Losses, lane: usize) -> Self {
        let damped = losses.damped[lane];
        // What damping adds is a part of the sum; a difference below 0 is a rounding error.
        Loss { damped, output_error: (damped - losses.added[lane]).max(0.0) }
    }
}

impl Panel {
    /// Up to 64 rows. Lanes without one hold zeros.
    fn load(&mut self, rows: &Rows<'_>, k: usize, values: &[f32], scales: &[f32]) {
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
        let segments = rows.segments.len();
        self.grids.clear();
        self.segment_of.clear();
        for (index, segment) in rows.segments.iter().enumerate() {
            let qmax = f32::from(rows.qmax).abs().min(127.0);
            let mut grid = Grid { scale: [1.0; LANES], inverse: [1.0; LANES], qmax };
            for (lane, scales) in scales.chunks_exact(segments).enumerate() {
                let scale = scales[index];
                grid.scale[lane] = if scale >= MIN_SCALE { scale } else { MIN_SCALE };
                grid.inverse[lane] = 1.0 / grid.scale[lane];
            }
            self.grids.push(grid);
            self.segment_of.extend((segment.start.min(k)..segment.end.min(k)).map(|_| index));
        }
    }

    /// Passes over all columns; integers that are made go to where their kind belongs.
    fn sweep(&mut self, isa: Isa, factor: &Factor, integers: Integers) -> Losses {
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

    /// Writes the better integers of a row.
    fn keep(&self, lane: usize, found: &Losses, rounding: &Losses, out: &mut [i8]) -> RowOutcome {
        let (found, rounding) = (Loss::of(found, lane), Loss::of(rounding, lane));
        // A loss that is not a number is none.
        let kept_rounding = found.damped.total_cmp(&rounding.damped).is_ge();
        let (kept, integers) = match kept_rounding {
            true => (rounding, &self.rounded),
            false => (found, &self.integers),
        };
        for (out, q) in out.iter_mut().zip(integers) {
            *out = q[lane];
        }
        RowOutcome {
            loss: found.damped,
            rounding_loss: rounding.damped,
            kept_rounding,
            output_error: kept.output_error,
        }
    }
}
