//! How the channels of a linear are divided among the cores.

use std::ops::Range;

use tessera_formats::npu::tiles::TileLayout;

use super::{Layout, RknnError, Shape};
use crate::host::GROUP;

/// Channels that one core has: whole groups, but for the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Groups of channels.
    pub(super) groups: Range<usize>,
    /// Channels, those of padding included.
    pub(super) padded: Range<usize>,
    /// Channels that the linear has.
    pub(super) channels: Range<usize>,
}

/// Divides `n` channels, `n_padded` with padding, among cores: whole groups for each.
pub(super) fn divide(n: usize, n_padded: usize, cores: usize) -> Vec<Part> {
    let groups = n.div_ceil(GROUP);
    let parts = cores.clamp(1, groups.max(1));
    (0..parts)
        .map(|part| {
            let groups = part * groups / parts..(part + 1) * groups / parts;
            let range = |n: usize| (groups.start * GROUP).min(n)..(groups.end * GROUP).min(n);
            let (channels, padded) = (range(n), range(n_padded));
            Part { groups, padded, channels }
        })
        .collect()
}

impl Part {
    /// The part's tiles among those of all matrices in a layout: the first byte, and how many there are.
    pub(super) fn tiles(&self, layout: TileLayout, matrix: usize) -> (u64, u64) {
        let panels = |row: usize| row / layout.engine().tile_n() * layout.panel_bytes();
        let (start, end) = (panels(self.padded.start), panels(self.padded.end));
        let bytes = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        (bytes(matrix * layout.bytes() + start), bytes(end - start))
    }

    /// The matmul of the part for M rows.
    ///
    /// # Errors
    ///
    /// If a size is beyond what the library counts.
    pub(super) fn matmul(
        &self,
        layout: TileLayout,
        m: usize,
        domain: u32,
    ) -> Result<Shape, RknnError> {
        let (k, n, engine) = (layout.k(), self.padded.len(), layout.engine());
        let number = |value: usize| {
            u32::try_from(value).map_err(|_| RknnError::Unaddressable {
                tensor: format!("a matmul of {m} rows, {k} columns and {n} channels"),
            })
        };
        let layout = Layout::of(engine);
        Ok(Shape { m: number(m)?, k: number(k)?, n: number(n)?, engine, layout, domain })
    }
}

#[cfg(test)]
mod tests {
    use tessera_formats::npu::Engine;

    use super::*;

    #[test]
    fn cores_have_whole_groups_and_all_channels() {
        for (n, n_padded) in [(1, 64), (64, 64), (65, 96), (172, 192), (512, 512), (32000, 32000)] {
            for cores in [1, 2, 3] {
                let parts = divide(n, n_padded, cores);
                assert!(parts.len() <= cores && !parts.is_empty());
                let mut channel = 0;
                let mut padded = 0;
                for part in &parts {
                    assert_eq!((part.channels.start, part.padded.start), (channel, padded));
                    assert!(!part.channels.is_empty() && part.channels.start % GROUP == 0);
                    (channel, padded) = (part.channels.end, part.padded.end);
                }
                assert_eq!((channel, padded), (n, n_padded));
            }
        }
    }

    #[test]
    fn parts_have_the_tiles_of_their_channels() {
        for (engine, n, n_padded) in
            [(Engine::I8, 172, 192), (Engine::I4, 172, 192), (Engine::F16, 172, 176)]
        {
            let layout = TileLayout::new(engine, n_padded, 96).unwrap();
            let matrix = u64::try_from(layout.bytes()).unwrap();
            let mut next = 2 * matrix;
            for part in divide(n, n_padded, 3) {
                let (start, bytes) = part.tiles(layout, 2);
                assert_eq!(start, next);
                let bits = layout.element_index(part.padded.start, 0) * engine.weight_bits();
                assert_eq!(start - 2 * matrix, u64::try_from(bits / 8).unwrap());
                next += bytes;
                let shape = part.matmul(layout, 4, 1).unwrap();
                assert_eq!(shape.bytes(super::super::Operand::B), bytes);
            }
            assert_eq!(next, 3 * matrix);
        }
    }
}
