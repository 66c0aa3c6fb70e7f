//! Operands that are integers on every engine, their sums by plain loops, and their bytes as the NPU wants them.

use half::f16;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{TILE_K, TileLayout};

use super::super::{RknnError, Shape};

/// Rows of activations and channels of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operands {
    pub(super) shape: Shape,
    /// `[m, k]`.
    pub rows: Vec<i8>,
    /// `[n, k]`.
    pub weights: Vec<i8>,
}

/// As many, as this machine counts.
pub(super) fn count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Operands {
    /// Integers of the engine's range that repeat after long; those of f16 are small enough for all sums to be exact.
    pub fn random(shape: Shape, seed: u32) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x2545_f491;
        let mut next = move || {
            // Knuth's generator of 32 bits; the highest repeat last.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = state.to_le_bytes()[3].cast_signed();
            match shape.engine {
                Engine::I4 => byte >> 4,
                Engine::I8 => byte,
                Engine::F16 => byte >> 1,
            }
        };
        let [m, k, n] = [shape.m, shape.k, shape.n].map(count);
        let rows = (0..m * k).map(|_| next()).collect();
        Operands { shape, rows, weights: (0..n * k).map(|_| next()).collect() }
    }

    /// Those that functions of row and column, and of channel and column, give.
    pub fn of(
        shape: Shape,
        row: impl Fn(usize, usize) -> i8,
        weight: impl Fn(usize, usize) -> i8,
    ) -> Self {
        let [m, k, n] = [shape.m, shape.k, shape.n].map(count);
        let rows = (0..m * k).map(|at| row(at / k, at % k)).collect();
        Operands { shape, rows, weights: (0..n * k).map(|at| weight(at / k, at % k)).collect() }
    }

    /// Their shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Columns, K.
    pub fn columns(&self) -> usize {
        count(self.shape.k)
    }

    /// Sums of products, `[m, n]`, however large.
    pub fn wide_sums(&self) -> Vec<i64> {
        self.wide_sums_of_rows(usize::MAX)
    }

    /// Sums of products as the engine gives them, `[m, n]`: those of 4 bits saturate at 16.
    pub fn sums(&self) -> Vec<i64> {
        self.sums_of_rows(usize::MAX)
    }

    /// Whether results, `[m, n]`, are the sums.
    pub fn agree_with(&self, results: &[f64]) -> bool {
        let sums = self.sums();
        let all = sums.len() == results.len();
        all && results.iter().zip(sums).all(|(found, sum)| super::cause::is(*found, sum))
    }

    pub(super) fn sums_of_rows(&self, rows: usize) -> Vec<i64> {
        let mut sums = self.wide_sums_of_rows(rows);
        if self.shape.engine == Engine::I4 {
            for sum in &mut sums {
                *sum = (*sum).clamp(i16::MIN.into(), i16::MAX.into());
            }
        }
        sums
    }

    fn wide_sums_of_rows(&self, rows: usize) -> Vec<i64> {
        let k = count(self.shape.k);
        let product = |(a, w): (&i8, &i8)| i64::from(*a) * i64::from(*w);
        let mut sums = Vec::new();
        for row in self.rows.chunks_exact(k).take(rows) {
            for channel in self.weights.chunks_exact(k) {
                sums.push(row.iter().zip(channel).map(product).sum());
            }
        }
        sums
    }

    /// Each two columns of weights that share a byte in the other order.
    pub(super) fn with_halves_swapped(&self) -> Self {
        let weights = self.weights.chunks(2).flat_map(|pair| pair.iter().rev().copied());
        Operands { weights: weights.collect(), ..self.clone() }
    }

    /// Weights as they are where tiles are taken column after column.
    pub(super) fn with_tiles_in_columns(&self) -> Self {
        let channels = self.shape.engine.tile_n();
        let [k, n] = [self.shape.k, self.shape.n].map(count);
        let (columns, panels) = (k / TILE_K, n / channels);
        let mut other = self.clone();
        for (at, weight) in other.weights.iter_mut().enumerate() {
            let (channel, column) = (at / k, at % k);
            let tile = column / TILE_K * panels + channel / channels;
            let (panel, from) = (tile / columns, tile % columns);
            let from = from * TILE_K + column % TILE_K;
            *weight = self.weights[(panel * channels + channel % channels) * k + from];
        }
        other
    }

    /// Activations, weights or both as they are where the least integer is another, or none has a sign. Without one
    /// they need more bits than an `i8` has, which f16 does not know.
    pub(super) fn with_other_signs(&self) -> Vec<Self> {
        if self.shape.engine != Engine::I4 {
            return Vec::new();
        }
        let others: [fn(i8) -> i8; 4] = [
            |q| if q < 0 { q + 16 } else { q },
            |q| if q == -8 { 8 } else { q },
            |q| q.max(-7),
            |q| if q == -8 { 0 } else { q },
        ];
        let map = |values: &[i8], other: fn(i8) -> i8| values.iter().map(|&q| other(q)).collect();
        let mut all = Vec::new();
        for other in others {
            let (rows, weights): (Vec<i8>, Vec<i8>) =
                (map(&self.rows, other), map(&self.weights, other));
            all.push(Operands { rows: rows.clone(), ..self.clone() });
            all.push(Operands { weights: weights.clone(), ..self.clone() });
            all.push(Operands { shape: self.shape, rows, weights });
        }
        all
    }

    /// Tiles of the weights, as packs have them.
    ///
    /// # Errors
    ///
    /// If the shape has none.
    pub fn tiles(&self) -> Result<Vec<u8>, RknnError> {
        tiles_of(self.shape, &self.weights)
    }

    /// Writes the activations into a matmul's memory.
    pub(super) fn write_rows(&self, to: &mut [u8]) {
        to.fill(0);
        let k = count(self.shape.k);
        for (at, &value) in self.rows.iter().enumerate() {
            put(self.shape.engine, to, place_of_a(self.shape, at / k, at % k), value);
        }
    }
}

/// Tiles of weights whose K is cut into segments of so many columns, each laid out by itself, one behind the other: as
/// the vendor's library from 2.0 on is said to want them beyond 8192 columns.
///
/// # Errors
///
/// If the shape has none.
pub fn segmented(operands: &Operands, columns: u32) -> Result<Vec<u8>, RknnError> {
    let shape = operands.shape;
    let k = count(shape.k);
    let mut bytes = Vec::new();
    let mut from = 0;
    while from < shape.k {
        let part = Shape { k: columns.min(shape.k - from), ..shape };
        let range = count(from)..count(from) + count(part.k);
        let channels = operands.weights.chunks_exact(k);
        let weights: Vec<i8> =
            channels.flat_map(|channel| &channel[range.clone()]).copied().collect();
        bytes.extend(tiles_of(part, &weights)?);
        from += part.k;
    }
    Ok(bytes)
}

fn tiles_of(shape: Shape, weights: &[i8]) -> Result<Vec<u8>, RknnError> {
    let [k, n] = [shape.k, shape.n].map(count);
    let layout = TileLayout::new(shape.engine, n, k).map_err(|_| RknnError::Shape {
        what: shape.to_string(),
        why: "weights of this shape have no tiles",
    })?;
    let mut bytes = vec![0; layout.bytes()];
    for (at, &weight) in weights.iter().enumerate() {
        put(shape.engine, &mut bytes, layout.element_index(at / k, at % k), weight);
    }
    Ok(bytes)
}

/// Writes element number `at`, which was zero.
fn put(engine: Engine, to: &mut [u8], at: usize, value: i8) {
    match engine {
        Engine::I4 => to[at / 2] |= (value.cast_unsigned() & 15) << (4 * (at % 2)),
        Engine::I8 => to[at] = value.cast_unsigned(),
        Engine::F16 => {
            let half = f16::from_f32(value.into());
            to[2 * at..2 * at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
}

/// Number of an element of A.
pub(super) fn place_of_a(shape: Shape, row: usize, column: usize) -> usize {
    let together = shape.cube().map(|(a, _)| count(a));
    place(together, count(shape.m), count(shape.k), row, column)
}

/// Number of an element of C, where `rows` rows stand together.
pub(super) fn place_of_c(shape: Shape, rows: usize, row: usize, channel: usize) -> usize {
    let together = shape.cube().map(|(_, c)| count(c));
    place(together, rows, count(shape.n), row, channel)
}

fn place(together: Option<usize>, rows: usize, columns: usize, row: usize, column: usize) -> usize {
    match together {
        None => row * columns + column,
        Some(together) => ((column / together) * rows + row) * together + column % together,
    }
}
