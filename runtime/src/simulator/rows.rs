//! Rows for the float engine as its kernels read them.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::gemm::{Isa, ROWS};
use super::halves::{self, HalfRows};
use crate::host::Rows;

/// Rows for the float engine in blocks of [`ROWS`]: values `[K][rows]` and spans `[K/32][rows]`.
pub(super) struct HalfBlocks {
    values: Vec<f64>,
    spans: Vec<u8>,
    k: usize,
}

impl HalfBlocks {
    pub(super) fn new(isa: Isa, values: &[f16], k: usize, rows: Rows<'_>) -> Self {
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
                    let parts = values[row * k..][..k].chunks_exact(halves::PRODUCTS);
                    let places = block_spans.iter_mut().skip(index).step_by(count);
                    for (place, part) in places.zip(parts) {
                        *place = halves::span(part.iter().copied());
                    }
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
    pub(super) fn columns(
        &self,
        first: usize,
        count: usize,
        columns: &Range<usize>,
    ) -> HalfRows<'_> {
        let part = columns.start / halves::PRODUCTS..columns.end / halves::PRODUCTS;
        let parts = self.k / halves::PRODUCTS;
        HalfRows {
            values: &self.values[first * self.k + columns.start * count..][..columns.len() * count],
            spans: &self.spans[first * parts + part.start * count..][..part.len() * count],
        }
    }
}
