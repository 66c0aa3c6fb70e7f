//! Scaled dot-product attention over cached keys and values.

use std::ops::Range;

use rayon::prelude::*;

use super::cache::LayerCache;
use super::functions::{soft_cap, softmax};
use crate::linear::float::dot;
use crate::linear::gemm::{Matrix, multiply};
use crate::model::Attention;

/// Queries whose scores are in memory at a time.
const QUERIES: usize = 64;

/// Queries up to which scores are computed one by one: packing keys would cost more.
const FEW: usize = 4;

/// Rows of one sequence: its queries stand at the last positions of its cache.
pub(super) struct Queries<'a> {
    /// Its rows in the batch.
    pub(super) rows: Range<usize>,
    /// Keys and values, the rows' own included.
    pub(super) cache: &'a LayerCache,
}

/// `out[row, head · value_length ..] = Σ softmax(scale · q·k) v`, causal, over every head of every
/// sequence. `queries` is `[rows, heads · key_length]`, `out` `[rows, heads · value_length]`.
pub(super) fn attend(
    shape: &Attention,
    sequences: &[Queries<'_>],
    queries: &[f32],
    out: &mut [f32],
) {
    // Work items: one head of some queries of one sequence. Their results are copied to their
    // places afterwards, in order.
    let items: Vec<_> = sequences
        .iter()
        .flat_map(|sequence| {
            let starts = sequence.rows.clone().step_by(QUERIES);
            starts.flat_map(move |start| {
                let rows = start..sequence.rows.end.min(start + QUERIES);
                (0..shape.heads).map(move |head| (sequence, rows.clone(), head))
            })
        })
        .collect();
    let row_out = shape.heads * shape.value_length;
    // A few items at a time, so that results waiting to be copied stay small.
    for items in items.chunks(256) {
        let results: Vec<_> = items
            .par_iter()
            .map(|(sequence, rows, head)| {
                attend_head(shape, sequence, rows.clone(), *head, queries)
            })
            .collect();
        for ((_, rows, head), values) in items.iter().zip(results) {
            for (row, values) in rows.clone().zip(values.chunks_exact(shape.value_length)) {
                let start = row * row_out + head * shape.value_length;
                out[start..start + shape.value_length].copy_from_slice(values);
            }
        }
    }
}

/// One head of the queries of `rows`, `[rows, value_length]`.
fn attend_head(
    shape: &Attention,
    sequence: &Queries<'_>,
    rows: Range<usize>,
    head: usize,
    queries: &[f32],
) -> Vec<f32> {
    let cache = sequence.cache;
    // Position of a row: the last row is the last position.
    let position = |row: usize| cache.len() - (sequence.rows.end - row);
    let visible = |row: usize| {
        let end = position(row) + 1;
        shape.window.map_or(0, |window| end.saturating_sub(window))..end
    };
    let seen = visible(rows.start).start..visible(rows.end - 1).end;
    let kv_head = head / (shape.heads / shape.kv_heads);
    let (key_stride, value_stride) =
        (shape.kv_heads * shape.key_length, shape.kv_heads * shape.value_length);
    let keys = &cache.keys[seen.start * key_stride + kv_head * shape.key_length..];
    let values = &cache.values[seen.start * value_stride + kv_head * shape.value_length..];
    let query_stride = shape.heads * shape.key_length;
    let queries = &queries[rows.start * query_stride + head * shape.key_length..];
    let (m, t) = (rows.len(), seen.len());
    let mut scores = vec![0.0f32; m * t];
    let few = m <= FEW;
    if few {
        for (row, scores) in scores.chunks_exact_mut(t).enumerate() {
            let query = &queries[row * query_stride..][..shape.key_length];
            for (key, score) in scores.iter_mut().enumerate() {
                *score = dot(query, &keys[key * key_stride..][..shape.key_length]);
            }
        }
    } else {
        let queries = Matrix::new(queries, m, shape.key_length, query_stride);
        let keys = Matrix::new(keys, t, shape.key_length, key_stride);
        multiply(queries, keys.transposed(), &mut scores, t);
    }
    for (row, scores) in rows.clone().zip(scores.chunks_exact_mut(t)) {
        let visible = visible(row);
        let visible = visible.start - seen.start..visible.end - seen.start;
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        let scores = &mut scores[visible];
        scores.iter_mut().for_each(|score| *score *= shape.scale);
        if let Some(cap) = shape.soft_cap {
            soft_cap(scores, cap);
        }
        softmax(scores);
    }
    let mut out = vec![0.0f32; m * shape.value_length];
    if few {
        for (scores, out) in scores.chunks_exact(t).zip(out.chunks_exact_mut(shape.value_length)) {
            for (position, score) in scores.iter().enumerate() {
                let value = &values[position * value_stride..][..shape.value_length];
                out.iter_mut().zip(value).for_each(|(out, value)| *out += score * value);
            }
        }
    } else {
        let scores = Matrix::new(&scores, m, t, t);
        let values = Matrix::new(values, t, shape.value_length, value_stride);
        multiply(scores, values, &mut out, shape.value_length);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64.
    fn definition(shape: &Attention, cache: &LayerCache, queries: &[f32], rows: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..rows {
            let position = cache.len() - rows + row;
            for head in 0..shape.heads {
                let kv = head / (shape.heads / shape.kv_heads);
                let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                let mut weights = Vec::new();
                for t in first..=position {
                    let q = &queries[(row * shape.heads + head) * shape.key_length..];
                    let k = &cache.keys[(t * shape.kv_heads + kv) * shape.key_length..];
                    let dot: f64 =
                        (0..shape.key_length).map(|i| f64::from(q[i]) * f64::from(k[i])).sum();
                    let mut score = dot * f64::from(shape.scale);
                    if let Some(cap) = shape.soft_cap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    weights.push(score.exp());
                }
                let sum: f64 = weights.iter().sum();
                for i in 0..shape.value_length {
                    let value = |t: usize| {
                        f64::from(cache.values[(t * shape.kv_heads + kv) * shape.value_length + i])
                    };
                    let mix = weights.iter().enumerate().map(|(t, w)| w / sum * value(first + t));
                    out.push(mix.sum());
                }
            }
        }
        out
    }

    #[test]
    fn heads_windows_and_caps_follow_the_definition() {
        let noise = |count: usize, seed: u32| -> Vec<f32> {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..count).map(|_| next()).collect()
        };
        for (rows, before, window, soft_cap) in [
            (1, 0, None, None),
            (1, 40, Some(7), None),
            (3, 10, None, Some(0.7)),
            (130, 0, None, None),
            (130, 9, Some(16), Some(2.0)),
        ] {
            let shape = Attention {
                heads: 6,
                kv_heads: 3,
                key_length: 5,
                value_length: 4,
                scale: 0.9,
                soft_cap,
                window,
                rope: None,
            };
            let mut cache = LayerCache::new();
            let total = rows + before;
            cache.extend(total, &noise(total * 15, 1), &noise(total * 12, 2));
            let queries = noise(rows * 30, 3);
            let mut out = vec![f32::NAN; rows * 24];
            attend(&shape, &[Queries { rows: 0..rows, cache: &cache }], &queries, &mut out);
            let expected = definition(&shape, &cache, &queries, rows);
            for (found, expected) in out.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{found} {expected}");
            }
        }
    }
}
