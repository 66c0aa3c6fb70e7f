//! Reading a tensor's rows panel by panel, ahead of the work, within a memory budget.

use std::ops::Range;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use anyhow::{Context, ensure};
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::{Gguf, TensorInfo};

use crate::size;

/// Bytes of a chunk beyond which larger reads gain nothing.
const LARGEST_CHUNK: usize = 8 << 20;

/// Panels of a tensor: groups of consecutive rows that are worked on together. No panel spans two
/// matrices of an expert tensor, so the last panel of each may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panels {
    /// Matrices in the tensor.
    pub matrices: usize,
    /// Rows of one matrix.
    pub n: usize,
    /// Rows of a panel.
    pub rows: usize,
}

impl Panels {
    /// Panels of one matrix.
    pub fn per_matrix(&self) -> usize {
        self.n.div_ceil(self.rows)
    }

    /// Panels of the tensor.
    pub fn count(&self) -> usize {
        self.matrices * self.per_matrix()
    }

    /// Rows of the tensor that panel `index` covers.
    pub fn range(&self, index: usize) -> Range<usize> {
        let (matrix, panel) = (index / self.per_matrix(), index % self.per_matrix());
        let first = panel * self.rows;
        let last = (first + self.rows).min(self.n);
        matrix * self.n + first..matrix * self.n + last
    }
}

/// Memory and threads that a conversion may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes.
    pub bytes: u64,
    /// Worker threads.
    pub threads: usize,
}

impl Budget {
    /// Panels to work on at a time, when each takes `panel` bytes while it is in flight and each
    /// thread `scratch` bytes. Half of the budget is for panels in flight; the rest holds what
    /// stays: metadata, scales, the program.
    pub fn panels(&self, name: &str, panel: usize, scratch: usize) -> anyhow::Result<usize> {
        let half = usize::try_from(self.bytes / 2).unwrap_or(usize::MAX);
        let scratch = scratch.saturating_mul(self.threads);
        let available = half.saturating_sub(scratch);
        ensure!(
            panel <= available,
            "a memory budget of {} is too small for `{}`, which needs at least {}",
            size::show(self.bytes),
            Escaped(name),
            size::show(u64::try_from(2 * (panel.saturating_add(scratch))).unwrap_or(u64::MAX)),
        );
        let wanted = (LARGEST_CHUNK / panel.max(1)).max(2 * self.threads);
        Ok(wanted.min(available / panel.max(1)).max(1))
    }
}

/// Consecutive panels and the bytes of their rows.
pub struct Chunk<'a> {
    /// Which panels.
    pub panels: Range<usize>,
    /// All panels of the tensor.
    geometry: Panels,
    /// Bytes of the rows of the panels.
    bytes: &'a [u8],
    /// Bytes of one row.
    row_bytes: usize,
}

impl Chunk<'_> {
    /// Bytes of the rows of panel `index`, which must be in `panels`, and the rows' numbers.
    pub fn panel(&self, index: usize) -> (Range<usize>, &[u8]) {
        let first = self.geometry.range(self.panels.start).start;
        let rows = self.geometry.range(index);
        let bytes = (rows.start - first) * self.row_bytes..(rows.end - first) * self.row_bytes;
        (rows, &self.bytes[bytes])
    }
}

/// Calls `consume` with every chunk of `per_chunk` panels in order, while the next is being read,
/// until it returns `false`.
pub fn for_each_chunk(
    gguf: &Gguf,
    tensor: &TensorInfo,
    geometry: Panels,
    per_chunk: usize,
    mut consume: impl FnMut(Chunk<'_>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let row_bytes = usize::try_from(tensor.row_bytes()).context("row is too long")?;
    let count = geometry.count();
    let read = |first: usize, buffer: &mut Vec<u8>| -> anyhow::Result<Range<usize>> {
        let panels = first..(first + per_chunk).min(count);
        let rows = geometry.range(panels.start).start..geometry.range(panels.end - 1).end;
        buffer.resize(rows.len() * row_bytes, 0);
        let offset = u64::try_from(rows.start * row_bytes)?;
        gguf.read_at(tensor, offset, buffer)?;
        Ok(panels)
    };
    if count <= per_chunk {
        let mut bytes = Vec::new();
        let panels = read(0, &mut bytes)?;
        consume(Chunk { panels, geometry, bytes: &bytes, row_bytes })?;
        return Ok(());
    }
    thread::scope(|scope| {
        let (to_consumer, filled) = sync_channel(1);
        let (to_reader, empty) = channel();
        for _ in 0..2 {
            to_reader.send(Vec::new())?;
        }
        scope.spawn(move || {
            for first in (0..count).step_by(per_chunk) {
                // Either end of a channel goes away when the consumer stops.
                let Ok(mut buffer) = empty.recv() else { return };
                let result = read(first, &mut buffer).map(|panels| (panels, buffer));
                if to_consumer.send(result).is_err() {
                    return;
                }
            }
        });
        for result in filled {
            let (panels, bytes) = result?;
            if !consume(Chunk { panels, geometry, bytes: &bytes, row_bytes })? {
                break;
            }
            // The reader may be done already.
            let _ = to_reader.send(bytes);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_do_not_span_matrices() {
        let panels = Panels { matrices: 3, n: 70, rows: 32 };
        assert_eq!(panels.count(), 9);
        assert_eq!(panels.range(0), 0..32);
        assert_eq!(panels.range(2), 64..70);
        assert_eq!(panels.range(3), 70..102);
        assert_eq!(panels.range(8), 204..210);
        let covered: usize = (0..panels.count()).map(|index| panels.range(index).len()).sum();
        assert_eq!(covered, 210);
    }

    #[test]
    fn a_budget_that_cannot_hold_a_panel_is_refused_with_the_size_it_needs() {
        let budget = Budget { bytes: 1 << 20, threads: 2 };
        let error = budget.panels("w", 1 << 20, 1 << 10).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("at least"), "{error}");
        assert!(budget.panels("w", 1 << 10, 1 << 10).unwrap() >= 4);
    }
}
