//! A sample of rows, spread evenly over a text.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Separates these keys from any other use of a seed.
const DOMAIN: &[u8] = b"tessera rows v1\0";

/// A sample of rows: one of each stretch of the text, at a place that the seed decides.
///
/// A fixed stride would meet the windows' period: all rows could be of a window's first token.
pub(super) struct RowSample {
    k: usize,
    /// Rows that are kept at the end.
    limit: usize,
    /// `[n, k]`, n up to twice the limit; values of BF16.
    rows: Vec<f32>,
    /// Rows of a stretch.
    stretch: u64,
    /// First row of the next stretch.
    end: u64,
    /// The row of this stretch that is taken.
    taken: u64,
    /// Rows seen.
    seen: u64,
    random: ChaCha8Rng,
}

impl RowSample {
    /// Of at most `limit` rows of `k` elements, where about `expected` will come.
    pub(super) fn new(k: usize, limit: usize, expected: u64, seed: u64, name: &str) -> Self {
        let key = Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let stretches = u64::try_from(limit).unwrap_or(u64::MAX);
        let mut sample = RowSample {
            k,
            limit,
            rows: Vec::new(),
            stretch: expected.checked_div(stretches).unwrap_or(0).max(1),
            end: 0,
            taken: 0,
            seen: 0,
            random: ChaCha8Rng::from_seed(key.into()),
        };
        sample.next_stretch();
        sample
    }

    fn next_stretch(&mut self) {
        let place = u128::from(self.random.next_u64()) * u128::from(self.stretch);
        // Below the stretch's length.
        self.taken = self.end.saturating_add(u64::try_from(place >> 64).unwrap_or_default());
        self.end = self.end.saturating_add(self.stretch);
    }

    /// Offers rows, one after another in `rows`.
    pub(super) fn add(&mut self, rows: &[f32]) {
        if self.limit == 0 {
            return;
        }
        for row in rows.chunks_exact(self.k) {
            if self.seen == self.taken {
                self.rows.extend(row.iter().map(|&x| round(x)));
                if self.rows.len() == self.limit.saturating_mul(2).saturating_mul(self.k) {
                    // More came than were expected.
                    self.rows = thinned(&self.rows, self.k, self.limit);
                    self.stretch = self.stretch.saturating_mul(2);
                }
            }
            self.seen += 1;
            if self.seen == self.end {
                self.next_stretch();
            }
        }
    }

    /// The rows, at most the limit.
    pub(super) fn finish(self) -> Vec<f32> {
        thinned(&self.rows, self.k, self.limit)
    }
}

/// `limit` rows of `k` elements, evenly spaced, of those in `rows`; all if they are no more.
pub(super) fn thinned(rows: &[f32], k: usize, limit: usize) -> Vec<f32> {
    let count = rows.len().checked_div(k).unwrap_or(0);
    let wide = |x: usize| x as u128;
    (0..limit.min(count))
        .flat_map(|index| {
            let row = if count <= limit {
                index
            } else {
                usize::try_from(wide(index) * wide(count) / wide(limit)).unwrap_or_default()
            };
            rows[row * k..(row + 1) * k].iter().copied()
        })
        .collect()
}

/// The nearest value of BF16 that is finite.
fn round(x: f32) -> f32 {
    let largest = bf16::MAX.to_f32();
    bf16::from_f32(x).to_f32().clamp(-largest, largest)
}

/// Little-endian BF16 of values that are BF16's.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

/// The values of little-endian BF16.
pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    let halves: Vec<bf16> =
        bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes)).collect();
    halves.to_f32_vec()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "small numbers")]

    use super::*;

    fn sample(limit: usize, expected: u64, count: u16) -> Vec<f32> {
        let mut sample = RowSample::new(2, limit, expected, 7, "blk.0.attn_q.weight");
        for row in 0..count {
            sample.add(&[f32::from(row), -f32::from(row)]);
        }
        let rows = sample.finish();
        let (pairs, rest) = rows.as_chunks::<2>();
        assert!(rest.is_empty() && pairs.iter().all(|[a, b]| *a == -b));
        pairs.iter().map(|[a, _]| *a).collect()
    }

    #[test]
    fn rows_are_spread_over_the_text() {
        for (limit, expected, count) in [
            (8, 256, 256),
            (8, 256, 100),
            (8, 16, 250),
            (4, 0, 256),
            (8, 9, 9),
            (8, 100, 3),
            (0, 9, 9),
        ] {
            let rows = sample(limit, expected, count);
            assert!(rows.is_sorted_by(|a, b| a < b), "{rows:?}");
            assert!(rows.len() <= limit);
            if u64::from(count) >= expected && usize::from(count) >= limit {
                assert_eq!(rows.len(), limit, "{limit} {expected} {count}");
                let ends = rows.iter().map(|&row| row as usize * limit / usize::from(count));
                // Each part of the text, or its neighbour, has a row.
                assert!(
                    ends.enumerate().all(|(part, found)| part.abs_diff(found) <= 1),
                    "{rows:?}"
                );
            }
        }
        // Not always the same place of a stretch.
        let places: std::collections::HashSet<u32> =
            sample(8, 256, 256).iter().map(|&row| row as u32 % 32).collect();
        assert!(places.len() > 3);
    }

    #[test]
    fn values_are_those_of_bf16() {
        for x in [1.0, 1.0 / 3.0, f32::MAX, -f32::MAX, 1e-42, 0.0] {
            let rounded = round(x);
            assert!(rounded.is_finite());
            assert_eq!(decode(&encode(&[rounded])), [rounded]);
            assert!((rounded - x).abs() <= x.abs() / 128.0 + 1e-40, "{x} {rounded}");
        }
    }
}
