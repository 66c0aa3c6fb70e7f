//! Reading a tensor's rows panel by panel, ahead of the work.

use std::ops::Range;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use anyhow::Context;
use tessera_formats::gguf::{Gguf, TensorInfo};

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

    /// All panels of the tensor.
    pub fn all(&self) -> Range<usize> {
        0..self.count()
    }

    /// Panels of one matrix of the tensor.
    pub fn of_matrix(&self, matrix: usize) -> Range<usize> {
        matrix * self.per_matrix()..(matrix + 1) * self.per_matrix()
    }

    /// Rows of the tensor that panel `index` covers.
    pub fn range(&self, index: usize) -> Range<usize> {
        let (matrix, panel) = (index / self.per_matrix(), index % self.per_matrix());
        let first = panel * self.rows;
        let last = (first + self.rows).min(self.n);
        matrix * self.n + first..matrix * self.n + last
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

/// Calls `consume` with every chunk of `per_chunk` of the `panels` in order, while the next is being
/// read, until it returns `false`.
pub fn for_each_chunk(
    gguf: &Gguf,
    tensor: &TensorInfo,
    geometry: Panels,
    panels: Range<usize>,
    per_chunk: usize,
    mut consume: impl FnMut(Chunk<'_>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let row_bytes = usize::try_from(tensor.row_bytes()).context("row is too long")?;
    let Range { start, end } = panels;
    let read = |first: usize, buffer: &mut Vec<u8>| -> anyhow::Result<Range<usize>> {
        let panels = first..first.saturating_add(per_chunk).min(end);
        let rows = geometry.range(panels.start).start..geometry.range(panels.end - 1).end;
        buffer.resize(rows.len() * row_bytes, 0);
        let offset = u64::try_from(rows.start * row_bytes)?;
        gguf.read_at(tensor, offset, buffer)?;
        Ok(panels)
    };
    if panels.len() <= per_chunk {
        let mut bytes = Vec::new();
        let panels = read(start, &mut bytes)?;
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
            for first in panels.step_by(per_chunk) {
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
        assert_eq!(panels.of_matrix(1), 3..6);
        let covered: usize = (0..panels.count()).map(|index| panels.range(index).len()).sum();
        assert_eq!(covered, 210);
    }
}
