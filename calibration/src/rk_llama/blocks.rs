//! Blocks of a weight tensor: segments of K and slices of N, as rk-llama.cpp cuts them.

use std::ops::Range;

/// Longest K of one matmul on the RK3588, in every rk-llama.cpp pipeline.
const SEGMENT: usize = 8192;

/// How a tensor of N rows of K_op elements is cut: every segment of K by every slice of N.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    segments: Vec<Range<usize>>,
    slices: Vec<Range<usize>>,
}

impl Blocks {
    /// Cuts `n` rows of `k_op` elements for `cores` cores (the original's default is 3) of an
    /// engine that takes rows in multiples of `n_align`.
    ///
    /// K: chunks of 8192, the rest last. N: each core has floor(N / cores / n_align)·n_align rows,
    /// and the first floor(rest / n_align) cores have n_align more. Rows that remain (N not a
    /// multiple of n_align: the original leaves such a tensor to the CPU) join the last core.
    /// Cores without rows have no slice. No core or no alignment counts as one.
    pub fn new(n: usize, k_op: usize, cores: usize, n_align: usize) -> Self {
        // More cores than rows cut nothing more.
        let (cores, n_align) = (cores.clamp(1, n.max(1)), n_align.max(1));
        let base = n / cores / n_align * n_align;
        let larger = (n - base * cores) / n_align;
        let mut slices = Vec::new();
        let mut start = 0;
        for core in 0..cores {
            let end = match core {
                _ if core + 1 == cores => n,
                _ if core < larger => start + base + n_align,
                _ => start + base,
            };
            if end > start {
                slices.push(start..end);
            }
            start = end;
            if start == n {
                break;
            }
        }
        let segments =
            (0..k_op).step_by(SEGMENT).map(|start| start..k_op.min(start + SEGMENT)).collect();
        Blocks { segments, slices }
    }

    /// Ranges of K_op, ascending and contiguous.
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// Ranges of N, ascending and contiguous, none empty.
    pub fn slices(&self) -> &[Range<usize>] {
        &self.slices
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.segments.len() * self.slices.len()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the slice that holds row `n`; `None` past the last row.
    pub fn slice_of(&self, n: usize) -> Option<usize> {
        let slice = self.slices.partition_point(|slice| slice.end <= n);
        (slice < self.slices.len()).then_some(slice)
    }

    /// Index of a block among all blocks: slices of the first segment, then of the next.
    pub fn index(&self, segment: usize, slice: usize) -> usize {
        segment * self.slices.len() + slice
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(ranges: &[Range<usize>]) -> Vec<usize> {
        ranges.iter().map(ExactSizeIterator::len).collect()
    }

    #[test]
    fn slices_of_known_tensors() {
        // n, cores, n_align, rows of each core; worked by hand from the formula
        let cases: [(usize, usize, usize, &[usize]); 11] = [
            (4096, 3, 64, &[1408, 1344, 1344]),
            (4096, 3, 32, &[1376, 1376, 1344]),
            (4096, 3, 16, &[1376, 1360, 1360]),
            (4096, 1, 64, &[4096]),
            (4096, 2, 64, &[2048, 2048]),
            (1024, 3, 64, &[384, 320, 320]),
            (576, 3, 64, &[192, 192, 192]),
            (64, 3, 64, &[64]),
            (128, 3, 64, &[64, 64]),
            (151_936, 3, 32, &[50_656, 50_656, 50_624]),
            (32_000, 3, 64, &[10_688, 10_688, 10_624]),
        ];
        for (n, cores, n_align, expected) in cases {
            let blocks = Blocks::new(n, 32, cores, n_align);
            assert_eq!(sizes(blocks.slices()), expected, "N {n}, {cores} cores, {n_align}");
        }
    }

    #[test]
    fn segments_of_known_lengths() {
        let cases: [(usize, &[usize]); 6] = [
            (32, &[32]),
            (8192, &[8192]),
            (8224, &[8192, 32]),
            (14336, &[8192, 6144]),
            (16384, &[8192, 8192]),
            (18944, &[8192, 8192, 2560]),
        ];
        for (k_op, expected) in cases {
            assert_eq!(sizes(Blocks::new(64, k_op, 3, 64).segments()), expected, "K {k_op}");
        }
    }

    #[test]
    fn an_empty_tensor_has_no_block() {
        assert!(Blocks::new(0, 64, 3, 64).is_empty());
        assert!(Blocks::new(64, 0, 3, 64).is_empty());
        assert_eq!(Blocks::new(0, 64, 3, 64).slice_of(0), None);
    }

    proptest! {
        /// Slices and segments cover everything once; on aligned N each slice is aligned and no
        /// two differ by more than one alignment.
        #[test]
        fn blocks_cover_the_tensor(n in 0usize..3000, k_op in 0usize..40_000, cores in 0usize..5, shift in 0u32..7) {
            let n_align = 1usize << shift;
            let blocks = Blocks::new(n, k_op, cores, n_align);
            for (ranges, end) in [(blocks.slices(), n), (blocks.segments(), k_op)] {
                let mut next = 0;
                for range in ranges {
                    prop_assert_eq!(range.start, next);
                    prop_assert!(range.end > range.start);
                    next = range.end;
                }
                prop_assert_eq!(next, end);
            }
            for row in 0..n {
                let slice = blocks.slice_of(row).unwrap();
                prop_assert!(blocks.slices()[slice].contains(&row));
            }
            prop_assert_eq!(blocks.slice_of(n), None);
            if n % n_align == 0 {
                let sizes = sizes(blocks.slices());
                prop_assert!(sizes.iter().all(|size| size % n_align == 0));
                if let (Some(least), Some(most)) = (sizes.iter().min(), sizes.iter().max()) {
                    prop_assert!(most - least <= n_align);
                }
            }
        }
    }
}
