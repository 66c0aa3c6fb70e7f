//! Generation 2's scales, found by passing over rows that need not fit in memory.
//!
//! A pass counts integers and keeps a maximum, so that rows may come in any order, in any pieces,
//! and from any number of threads whose passes are merged, without changing the scale.

use super::blocks::Blocks;
use super::entropy::{self, BINS, bin, bin_width};
use super::quantize::scale_of;

/// Buckets of a magnitude's upper 16 bits, whose first is always 0.
const UPPER: usize = 1 << 15;

/// Buckets of its lower 16 bits.
const LOWER: usize = 1 << 16;

/// Why a scale could not be found.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// A weight is infinite or not a number.
    #[error("a weight is infinite or not a number")]
    NotFinite,
    /// The second pass did not see the elements of the first.
    #[error(
        "the second pass saw other elements than the first: {found} up to {found_amax} \
         instead of {expected} up to {expected_amax}"
    )]
    Changed {
        /// Elements in the first pass.
        expected: u64,
        /// Elements in the second pass.
        found: u64,
        /// Largest magnitude in the first pass.
        expected_amax: f32,
        /// Largest magnitude in the second pass.
        found_amax: f32,
    },
    /// Passes of different blocks, or of different stages, cannot be merged.
    #[error("passes over different blocks cannot be merged")]
    Unrelated,
    /// A row that the tensor does not have.
    #[error("row {row} of a tensor of {rows} rows")]
    Row {
        /// Index of the row.
        row: usize,
        /// Rows of the tensor.
        rows: usize,
    },
    /// A row of the wrong length.
    #[error("row of {found} elements, expected {expected}")]
    Length {
        /// K_op of the tensor.
        expected: usize,
        /// Elements of the row.
        found: usize,
    },
}

/// One pass over the elements of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePass {
    /// Elements observed.
    count: u64,
    /// Largest magnitude observed, as bits: the order of magnitudes is that of their bits.
    amax: u32,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// Only the largest magnitude is wanted.
    Amax { qmax: i8 },
    /// Counts of the upper 16 bits of magnitudes.
    Upper(Box<[u64]>),
    /// Counts of the lower 16 bits of magnitudes within the bucket of the wanted rank.
    Lower { first: First, counts: Box<[u64]>, histogram: Box<[u64; BINS]> },
}

/// What the first pass found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct First {
    count: u64,
    amax: f32,
    /// Upper 16 bits of the magnitude of the wanted rank.
    bucket: u16,
    /// Its rank within the bucket.
    rank: u64,
}

/// What follows a pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The same elements must be observed once more.
    Again(ScalePass),
    /// The scale of the block.
    Done(f32),
}

impl ScalePass {
    /// A pass for 8-bit weights: the scale is amax/`qmax`, 1 for a block of zeros. One pass.
    pub fn amax(qmax: i8) -> Self {
        ScalePass { count: 0, amax: 0, stage: Stage::Amax { qmax } }
    }

    /// The first of two passes for 4-bit weights: the scale is a seventh of
    /// [`clip_amax`](super::clip_amax), 1 for a block of zeros.
    pub fn entropy() -> Self {
        ScalePass { count: 0, amax: 0, stage: Stage::Upper(vec![0; UPPER].into()) }
    }

    /// A pass at the same stage that has observed nothing, for another thread to fill.
    pub fn fork(&self) -> Self {
        let stage = match &self.stage {
            Stage::Amax { qmax } => Stage::Amax { qmax: *qmax },
            Stage::Upper(_) => Stage::Upper(vec![0; UPPER].into()),
            Stage::Lower { first, .. } => Stage::lower(*first),
        };
        ScalePass { count: 0, amax: 0, stage }
    }

    /// Takes account of some of the block's elements.
    pub fn observe(&mut self, values: &[f32]) {
        let magnitude = |value: &f32| value.abs().to_bits();
        self.count += values.len() as u64;
        self.amax = values.iter().map(magnitude).fold(self.amax, u32::max);
        match &mut self.stage {
            Stage::Amax { .. } => {}
            Stage::Upper(counts) => {
                for value in values {
                    counts[(magnitude(value) >> 16) as usize] += 1;
                }
            }
            Stage::Lower { first, counts, histogram } => {
                let width = bin_width(first.amax);
                for value in values {
                    histogram[bin(*value, first.amax, width)] += 1;
                    let bits = magnitude(value);
                    if bits >> 16 == u32::from(first.bucket) {
                        counts[(bits & 0xffff) as usize] += 1;
                    }
                }
            }
        }
    }

    /// Adds what a pass over other elements of the block has counted.
    ///
    /// # Errors
    ///
    /// [`PassError::Unrelated`] if `other` is at another stage or of another block.
    pub fn merge(&mut self, other: &Self) -> Result<(), PassError> {
        match (&mut self.stage, &other.stage) {
            (Stage::Amax { qmax }, Stage::Amax { qmax: others }) if qmax == others => {}
            (Stage::Upper(counts), Stage::Upper(others)) => add(counts, others),
            (
                Stage::Lower { first, counts, histogram },
                Stage::Lower { first: other, counts: others, histogram: bins },
            ) if first == other => {
                add(counts, others);
                add(histogram.as_mut_slice(), bins.as_slice());
            }
            _ => return Err(PassError::Unrelated),
        }
        self.count += other.count;
        self.amax = self.amax.max(other.amax);
        Ok(())
    }

    /// Ends the pass, once every element of the block has been observed in it.
    ///
    /// # Errors
    ///
    /// [`PassError::NotFinite`]; [`PassError::Changed`] if a second pass saw other elements than
    /// the first.
    pub fn next(self) -> Result<Step, PassError> {
        let amax = f32::from_bits(self.amax);
        if !amax.is_finite() {
            return Err(PassError::NotFinite);
        }
        match self.stage {
            Stage::Amax { qmax } => Ok(Step::Done(scale_of(amax, qmax))),
            Stage::Upper(_) if self.amax == 0 => Ok(Step::Done(1.0)),
            Stage::Upper(counts) => {
                // The rank is less than the count, so a bucket holds it.
                let rank = entropy::percentile_rank(self.count);
                let (bucket, rank) = select(&counts, rank).unwrap_or_default();
                let bucket = u16::try_from(bucket).unwrap_or(u16::MAX);
                let first = First { count: self.count, amax, bucket, rank };
                Ok(Step::Again(ScalePass { count: 0, amax: 0, stage: Stage::lower(first) }))
            }
            Stage::Lower { first, counts, histogram } => {
                let changed = PassError::Changed {
                    expected: first.count,
                    found: self.count,
                    expected_amax: first.amax,
                    found_amax: amax,
                };
                if self.count != first.count || amax != first.amax {
                    return Err(changed);
                }
                let (lower, _) = select(&counts, first.rank).ok_or(changed)?;
                let lower = u32::try_from(lower).unwrap_or(u32::MAX);
                let low = f32::from_bits(u32::from(first.bucket) << 16 | lower);
                let clip = entropy::clip_amax(first.amax, low, first.count, &histogram);
                Ok(Step::Done(scale_of(clip, 7)))
            }
        }
    }
}

impl Stage {
    fn lower(first: First) -> Self {
        Stage::Lower { first, counts: vec![0; LOWER].into(), histogram: Box::new([0; BINS]) }
    }
}

fn add(counts: &mut [u64], others: &[u64]) {
    for (count, other) in counts.iter_mut().zip(others) {
        *count += other;
    }
}

/// The bucket that holds the element of `rank`, and its rank there; `None` past the last element.
fn select(counts: &[u64], rank: u64) -> Option<(usize, u64)> {
    let mut rank = rank;
    for (bucket, &count) in counts.iter().enumerate() {
        match rank.checked_sub(count) {
            Some(rest) => rank = rest,
            None => return Some((bucket, rank)),
        }
    }
    None
}

/// The scales of all blocks of a tensor, while they are being found.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockScales {
    blocks: Blocks,
    steps: Vec<Step>,
}

/// What follows a pass over a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// The same rows must be observed once more.
    Again(BlockScales),
    /// One scale per block, at [`Blocks::index`].
    Done(Vec<f32>),
}

impl BlockScales {
    /// The first pass over a tensor of transformed rows, cut as `blocks` says: the clip search
    /// where `qmax` is 7, amax otherwise.
    pub fn new(blocks: Blocks, qmax: i8) -> Self {
        let pass = if qmax == 7 { ScalePass::entropy() } else { ScalePass::amax(qmax) };
        let steps = (0..blocks.len()).map(|_| Step::Again(pass.clone())).collect();
        BlockScales { blocks, steps }
    }

    /// The blocks whose scales these are.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// A pass at the same stage that has observed nothing, for another thread to fill.
    pub fn fork(&self) -> Self {
        let fork = |step: &Step| match step {
            Step::Again(pass) => Step::Again(pass.fork()),
            Step::Done(scale) => Step::Done(*scale),
        };
        BlockScales { blocks: self.blocks.clone(), steps: self.steps.iter().map(fork).collect() }
    }

    /// Takes account of row `n` of the transformed tensor.
    ///
    /// # Errors
    ///
    /// [`PassError::Row`] and [`PassError::Length`] if the tensor has no such row.
    pub fn observe(&mut self, n: usize, row: &[f32]) -> Result<(), PassError> {
        let rows = self.blocks.slices().last().map_or(0, |slice| slice.end);
        let slice = self.blocks.slice_of(n).ok_or(PassError::Row { row: n, rows })?;
        let expected = self.blocks.segments().last().map_or(0, |segment| segment.end);
        if row.len() != expected {
            return Err(PassError::Length { expected, found: row.len() });
        }
        for (segment, range) in self.blocks.segments().iter().enumerate() {
            let step = self.steps.get_mut(self.blocks.index(segment, slice));
            if let (Some(Step::Again(pass)), Some(values)) = (step, row.get(range.clone())) {
                pass.observe(values);
            }
        }
        Ok(())
    }

    /// Adds what a pass over other rows of the tensor has counted.
    ///
    /// # Errors
    ///
    /// [`PassError::Unrelated`] if `other` is at another stage or of another tensor. The scales are
    /// then of no use.
    pub fn merge(&mut self, other: &Self) -> Result<(), PassError> {
        if self.blocks != other.blocks {
            return Err(PassError::Unrelated);
        }
        for (step, other) in self.steps.iter_mut().zip(&other.steps) {
            match (step, other) {
                (Step::Again(pass), Step::Again(other)) => pass.merge(other)?,
                (Step::Done(scale), Step::Done(other)) if scale == other => {}
                _ => return Err(PassError::Unrelated),
            }
        }
        Ok(())
    }

    /// Ends the pass, once every row of the tensor has been observed in it.
    ///
    /// # Errors
    ///
    /// As [`ScalePass::next`], of the first block that fails.
    pub fn next(self) -> Result<Scales, PassError> {
        let next = |step| match step {
            Step::Again(pass) => pass.next(),
            done => Ok(done),
        };
        let steps = self.steps.into_iter().map(next).collect::<Result<Vec<_>, _>>()?;
        let scale = |step: &Step| match step {
            Step::Done(scale) => Some(*scale),
            Step::Again(_) => None,
        };
        Ok(match steps.iter().map(scale).collect() {
            Some(scales) => Scales::Done(scales),
            None => Scales::Again(BlockScales { blocks: self.blocks, steps }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale_of_block(first: ScalePass, values: &[f32]) -> Result<f32, PassError> {
        let mut pass = first;
        loop {
            pass.observe(values);
            pass = match pass.next()? {
                Step::Again(pass) => pass,
                Step::Done(scale) => return Ok(scale),
            };
        }
    }

    #[test]
    fn eight_bits_take_the_largest_magnitude() {
        assert_eq!(scale_of_block(ScalePass::amax(127), &[1.0, -254.0, 3.0]), Ok(2.0));
        assert_eq!(scale_of_block(ScalePass::amax(127), &[]), Ok(1.0));
    }

    #[test]
    fn a_block_of_zeros_has_scale_one() {
        for values in [&[][..], &[0.0, -0.0]] {
            assert_eq!(scale_of_block(ScalePass::entropy(), values), Ok(1.0));
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for pass in [ScalePass::amax(127), ScalePass::entropy()] {
                assert_eq!(scale_of_block(pass, &[1.0, bad]), Err(PassError::NotFinite));
            }
        }
    }

    #[test]
    fn another_second_pass_is_noticed() {
        for second in [&[1.0, 2.0][..], &[1.0, 2.0, 2.5], &[]] {
            let mut pass = ScalePass::entropy();
            pass.observe(&[1.0, 2.0, 3.0]);
            let Step::Again(mut pass) = pass.next().unwrap() else { panic!("no second pass") };
            pass.observe(second);
            assert!(matches!(pass.next(), Err(PassError::Changed { expected: 3, .. })));
        }
    }

    #[test]
    fn unrelated_passes_do_not_merge() {
        let second = |value: f32| {
            let mut pass = ScalePass::entropy();
            pass.observe(&[value]);
            match pass.next().unwrap() {
                Step::Again(pass) => pass,
                Step::Done(_) => panic!("no second pass"),
            }
        };
        let passes = [
            ScalePass::amax(127),
            ScalePass::amax(7),
            ScalePass::entropy(),
            second(1.0),
            second(1.5),
        ];
        for (i, a) in passes.iter().enumerate() {
            for (j, b) in passes.iter().enumerate() {
                let merged = a.clone().merge(b);
                assert_eq!(merged, if i == j { Ok(()) } else { Err(PassError::Unrelated) });
            }
        }
    }

    #[test]
    fn rows_outside_the_tensor_are_refused() {
        let mut scales = BlockScales::new(Blocks::new(4, 8, 3, 1), 7);
        let row = PassError::Row { row: 4, rows: 4 };
        assert_eq!(scales.observe(4, &[0.0; 8]), Err(row));
        let length = PassError::Length { expected: 8, found: 7 };
        assert_eq!(scales.observe(3, &[0.0; 7]), Err(length));
        let other = BlockScales::new(Blocks::new(4, 8, 2, 1), 7);
        assert_eq!(scales.merge(&other), Err(PassError::Unrelated));
    }
}
