//! How a tensor is divided into pieces that fit the memory budget, and worked on by threads.
//!
//! A row that meets states is rotated by itself, so such a tensor is cut between rows, or between
//! heads where those are rotated, too. What is added to states is rotated column by column, so such a
//! tensor is cut between columns. No result depends on where.

use std::ops::Range;

use anyhow::{Context, bail, ensure};
use rayon::prelude::*;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::TensorInfo;

use super::plan::{Plan, Step, TensorPlan};
use crate::convert::budget::Budget;
use crate::size;

/// Elements of a piece of rows beyond which larger reads gain nothing.
const LARGEST_PIECE: usize = 1 << 20;

/// Fewest columns of a piece, 64 bytes of an f32 row.
const FEWEST_COLUMNS: usize = 16;

/// A rectangle of a tensor: some columns of consecutive rows, counted over all its matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Rows.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
}

impl Piece {
    /// Elements in it.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// A tensor's pieces, and how many of them are worked on at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    pieces: Vec<Piece>,
    lanes: usize,
}

impl Pieces {
    /// Divides a tensor for its step.
    ///
    /// # Errors
    ///
    /// If the budget does not hold the smallest piece, or the tensor is too large to address.
    pub fn new(
        plan: &Plan,
        tensor: &TensorPlan,
        source: &TensorInfo,
        budget: Budget,
    ) -> anyhow::Result<Self> {
        let too_large =
            || format!("`{}` is larger than this machine can address", Escaped(&tensor.name));
        let k = usize::try_from(source.dims[0]).ok().with_context(too_large)?;
        let elements = usize::try_from(source.elements()).ok().with_context(too_large)?;
        let rows = elements / k;
        match &tensor.step {
            Step::Rows { values, .. } => {
                let head = |layer: usize| plan.heads.get(layer).map_or(1, |turn| turn.length());
                let (first, unit) = values.map_or((rows, 1), |v| (v.first, head(v.layer)));
                let stored = tensor.ggml_type.row_bytes(source.dims[0]).unwrap_or(u64::MAX);
                let bytes = source.row_bytes().max(stored);
                // A row as floats, and as it is stored.
                let row = usize::try_from(bytes).ok().and_then(|bytes| bytes.checked_add(4 * k));
                let row = row.with_context(too_large)?;
                let scratch = 4 * plan.residual.scratch_len();
                let least = row.saturating_mul(unit).saturating_add(scratch);
                let (lanes, share) = share(&tensor.name, least, budget)?;
                let most = ((share - scratch) / row).min(LARGEST_PIECE / k);
                let pieces = blocks(0..first, 1, most)
                    .chain(blocks(first..rows, unit, most))
                    .map(|rows| Piece { rows, columns: 0..k })
                    .collect();
                Ok(Pieces { pieces, lanes })
            }
            Step::Columns { heads } => {
                let n = plan.residual.rotation().k();
                let head = heads.and_then(|layer| plan.heads.get(layer)).map_or(1, |t| t.length());
                let unit = least_common_multiple(source.ggml_type.block_elements(), head);
                let unit = unit.map(|unit| unit * FEWEST_COLUMNS.div_ceil(unit));
                let unit = unit.with_context(too_large)?.min(k);
                // A column as floats; the fifth byte holds a row of the piece as it is stored.
                let column = n.checked_mul(5).with_context(too_large)?;
                let scratch = 4 * plan.residual.scratch_len();
                let least = column.saturating_mul(unit).saturating_add(scratch);
                let (lanes, share) = share(&tensor.name, least, budget)?;
                let most =
                    ((share - scratch) / column).min(k.div_ceil(lanes).next_multiple_of(unit));
                let pieces = (0..rows / n)
                    .flat_map(|matrix| {
                        blocks(0..k, unit, most).map(move |columns| Piece {
                            rows: matrix * n..(matrix + 1) * n,
                            columns,
                        })
                    })
                    .collect();
                Ok(Pieces { pieces, lanes })
            }
            // Small, or copied in blocks.
            Step::Copy | Step::Ones | Step::Bias | Step::ValueBias(_) => {
                Ok(Pieces { pieces: Vec::new(), lanes: 1 })
            }
        }
    }

    /// Works on all pieces, as many at a time as fit the budget, each of those with buffers of its
    /// own.
    pub fn for_each<B>(
        &self,
        buffers: impl Fn() -> B + Sync,
        work: impl Fn(&Piece, &mut B) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        (0..self.lanes).into_par_iter().try_for_each(|lane| {
            let mut buffers = buffers();
            let mut pieces = self.pieces.iter().skip(lane).step_by(self.lanes);
            pieces.try_for_each(|piece| work(piece, &mut buffers))
        })
    }
}

/// How many pieces of at least `least` bytes are worked on at a time, and the bytes that each may
/// take: half of the budget, the other half holds what stays.
fn share(name: &str, least: usize, budget: Budget) -> anyhow::Result<(usize, usize)> {
    let half = usize::try_from(budget.bytes / 2).unwrap_or(usize::MAX);
    let lanes = (half / least.max(1)).min(budget.threads);
    if lanes == 0 {
        let needed = u64::try_from(least).unwrap_or(u64::MAX).saturating_mul(2);
        bail!(
            "a memory budget of {} is too small for `{}`, which needs at least {}",
            size::show(budget.bytes),
            Escaped(name),
            size::show(needed),
        );
    }
    Ok((lanes, half / lanes))
}

/// `range` in blocks of a multiple of `unit`, at most `most` long but for one unit; the last takes
/// the rest.
fn blocks(range: Range<usize>, unit: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let length = (most / unit).max(1) * unit;
    let Range { start, end } = range;
    (start..end).step_by(length).map(move |first| first..end.min(first + length))
}

/// `None` if it is too large.
fn least_common_multiple(a: usize, b: usize) -> Option<usize> {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).checked_mul(b)
}

/// Refuses a plan of which some tensor does not fit the budget, before hours went into the others.
pub fn check(plan: &Plan, sources: &[TensorInfo], budget: Budget) -> anyhow::Result<()> {
    ensure!(budget.threads > 0, "no threads to work with");
    for tensor in &plan.tensors {
        Pieces::new(plan, tensor, &sources[tensor.source], budget)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_range_in_units() {
        let all = |range, unit, most| blocks(range, unit, most).collect::<Vec<_>>();
        assert_eq!(all(0..10, 1, 4), [0..4, 4..8, 8..10]);
        assert_eq!(all(6..24, 6, 13), [6..18, 18..24]);
        assert_eq!(all(0..24, 8, 3), [0..8, 8..16, 16..24]);
        assert!(all(5..5, 1, 4).is_empty());
        assert_eq!(least_common_multiple(32, 48), Some(96));
        assert_eq!(least_common_multiple(1, 8), Some(8));
        assert_eq!(least_common_multiple(usize::MAX, 2), None);
    }

    #[test]
    fn a_small_budget_has_fewer_pieces_in_flight_or_is_refused() {
        let share = |bytes, threads| share("w", 1000, Budget { bytes, threads });
        assert_eq!(share(8000, 2).unwrap(), (2, 2000));
        assert_eq!(share(8000, 64).unwrap(), (4, 1000));
        assert_eq!(share(2000, 64).unwrap(), (1, 1000));
        let error = share(1999, 64).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("1.95 KiB"), "{error}");
    }
}
