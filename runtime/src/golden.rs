//! Golden vectors: rows of activations and what the engines make of them, for a device to prove itself by.
//!
//! A pack stores [`GoldenInputs`], rows of bytes v, and for each segment of a linear the SHA-256 of
//! what its engine gives for them. An operand is made of v for the engine and for the range that the
//! accumulators of the segment are certified for:
//!
//! ```text
//! i8    clamp(v, lo, hi)        C[n, r] = Σ_k q[n, k]·a[r, k]                    an i32
//! i4    clamp(v >> 4, lo, hi)   C[n, r] = Σ_k q[n, k]·a[r, k], saturated         an i16
//! f16   v / 64, exact           C[n, r] = sums of 32 products, each exact and    an f32
//!                               rounded once, added in f32 from +0
//! ```
//!
//! Results are hashed as little-endian bytes in the order `[matrix][n][r]`, n over the real channels,
//! so that panels can be hashed one after another and nothing is held.
//!
//! With |v| ≤ 128, the 32 products of a finite f16 are multiples of 2^-24 and their sum is below
//! 2^28: an f64 sums them exactly, in any order.

use std::ops::Range;

use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{self, TILE_K};
use thiserror::Error;

use crate::host::Isa;
use crate::simulator::halves;

/// Rows of activations.
pub const ROWS: usize = 4;

/// Rows of pseudo-random bytes, which come first.
const RANDOM_ROWS: u8 = 2;

/// Separates these keys from any other use of a seed.
const DOMAIN: &[u8] = b"tessera golden v1\0";

/// What a unit of v is on the float engine: 1/64.
const UNIT: f64 = 1.0 / 64.0;

/// Rows that cannot be what a pack needs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// Not four rows of equal length.
    #[error("{bytes} bytes are not {ROWS} rows")]
    Length {
        /// Bytes given.
        bytes: usize,
    },
    /// Rows shorter than a linear's.
    #[error("the golden inputs have {columns} columns, and the linear has {k}")]
    Columns {
        /// Columns there are.
        columns: usize,
        /// Columns of the linear.
        k: usize,
    },
}

/// Rows of bytes of which operands are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldenInputs {
    columns: usize,
    /// `[4, columns]`.
    values: Vec<i8>,
}

impl GoldenInputs {
    /// The rows that a converter stores: two of pseudo-random bytes, one of -128, one of 127 and
    /// -128 in turn.
    ///
    /// The key of random row r, 0 or 1, is SHA-256 of `tessera golden v1`, a zero byte, the seed as 8
    /// little-endian bytes and r as one byte. The row is the ChaCha8 keystream under that key (nonce
    /// and first block counter zero), each byte in two's complement. So a longer row starts with a
    /// shorter one.
    pub fn new(seed: u64, columns: usize) -> Self {
        let mut values = Vec::with_capacity(ROWS.saturating_mul(columns));
        for row in 0..RANDOM_ROWS {
            let key = Sha256::new()
                .chain_update(DOMAIN)
                .chain_update(seed.to_le_bytes())
                .chain_update([row])
                .finalize();
            let mut keystream = vec![0u8; columns];
            ChaCha8Rng::from_seed(key.into()).fill_bytes(&mut keystream);
            values.extend(keystream.into_iter().map(u8::cast_signed));
        }
        values.extend(std::iter::repeat_n(i8::MIN, columns));
        values.extend([i8::MAX, i8::MIN].into_iter().cycle().take(columns));
        GoldenInputs { columns, values }
    }

    /// Rows as a pack stores them, I8 `[4, K]`.
    ///
    /// # Errors
    ///
    /// [`GoldenError::Length`] if the bytes are not four rows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GoldenError> {
        if !bytes.len().is_multiple_of(ROWS) {
            return Err(GoldenError::Length { bytes: bytes.len() });
        }
        let values = bytes.iter().map(|&byte| byte.cast_signed()).collect();
        Ok(GoldenInputs { columns: bytes.len() / ROWS, values })
    }

    /// The rows as a pack stores them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().map(|&value| value.cast_unsigned()).collect()
    }

    /// Length of a row, K.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `row` of the four.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[i8] {
        assert!(row < ROWS, "row {row} of {ROWS}");
        &self.values[row * self.columns..][..self.columns]
    }

    /// The operands of a linear of `k` columns, padding included, whose activations lie in `range`
    /// ([`Linear::activation_range`](tessera_formats::pack::manifest::Linear::activation_range)); the
    /// float engine has no range.
    ///
    /// # Errors
    ///
    /// [`GoldenError::Columns`] if the rows are shorter than the linear's.
    pub fn operands(
        &self,
        engine: Engine,
        range: Option<(i8, i8)>,
        k: usize,
    ) -> Result<GoldenOperands, GoldenError> {
        if k > self.columns {
            return Err(GoldenError::Columns { columns: self.columns, k });
        }
        let values = (0..ROWS).flat_map(|row| &self.row(row)[..k]).copied();
        let form = match engine {
            Engine::F16 => Form::Floats(values.map(f64::from).collect()),
            Engine::I8 | Engine::I4 => {
                let range = range.unwrap_or((i8::MIN, i8::MAX));
                let operand = |v| i16::from(integer_operand(engine, range, v));
                Form::Integers(values.map(operand).collect())
            }
        };
        Ok(GoldenOperands { engine, k, form, isa: Isa::detect() })
    }

    /// Bytes of the operands of a linear of `k` columns on `engine`.
    pub fn operand_bytes(engine: Engine, k: usize) -> usize {
        let element = match engine {
            Engine::F16 => size_of::<f64>(),
            Engine::I8 | Engine::I4 => size_of::<i16>(),
        };
        ROWS.saturating_mul(k).saturating_mul(element)
    }
}

/// The operand of an integer engine for v: its upper four bits for i4, within `(lo, hi)`, where
/// `lo ≤ hi`.
pub fn integer_operand(engine: Engine, (lo, hi): (i8, i8), v: i8) -> i8 {
    let v = if engine == Engine::I4 { v >> 4 } else { v };
    v.max(lo).min(hi)
}

/// The operand of the float engine for v: v/64, exactly.
pub fn float_operand(v: i8) -> f16 {
    f16::from_f32(f32::from(v) / 64.0)
}

/// The rows as the engine of one linear gets them.
#[derive(Clone, Debug)]
pub struct GoldenOperands {
    engine: Engine,
    k: usize,
    form: Form,
    isa: Isa,
}

/// `[4, k]`.
#[derive(Clone, Debug)]
enum Form {
    Integers(Vec<i16>),
    /// v, not v/64.
    Floats(Vec<f64>),
}

/// Buffers for one lane of a panel.
#[derive(Clone, Debug, Default)]
pub struct LaneBuffer {
    integers: Vec<i8>,
    halves: Vec<f16>,
    floats: Vec<f32>,
}

impl LaneBuffer {
    /// Bytes of the buffers for a segment of `k` columns on `engine`.
    pub fn bytes(engine: Engine, k: usize) -> usize {
        let element = match engine {
            Engine::F16 => size_of::<f16>() + size_of::<f32>(),
            Engine::I8 | Engine::I4 => size_of::<i8>(),
        };
        k.saturating_mul(element)
    }
}

impl GoldenOperands {
    /// Bytes of one result: i32 and f32 have four, i16 two.
    pub fn result_bytes(engine: Engine) -> usize {
        match engine {
            Engine::F16 | Engine::I8 => 4,
            Engine::I4 => 2,
        }
    }

    /// Bytes of the results of one channel in a segment.
    pub fn lane_bytes(engine: Engine) -> usize {
        ROWS * Self::result_bytes(engine)
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Results of one channel's integers in `columns`, one for each row; those of the i4 engine are
    /// saturated to 16 bits. Sums are taken modulo 2^32, which is exact for up to 131071 columns.
    ///
    /// # Panics
    ///
    /// If the engine is the float engine, the columns are not the linear's, or there are not as many
    /// weights.
    pub fn integers(&self, columns: Range<usize>, weights: &[i8]) -> [i32; ROWS] {
        let Form::Integers(operands) = &self.form else {
            panic!("integers on the float engine");
        };
        let sums = integer_sums(self.isa, self.rows(operands, columns), weights);
        match self.engine {
            Engine::I4 => sums.map(|sum| sum.clamp(i16::MIN.into(), i16::MAX.into())),
            Engine::I8 | Engine::F16 => sums,
        }
    }

    /// Results of one channel's halves in `columns`, whole groups of 32, one for each row. Weights
    /// must be finite, or results mean nothing.
    ///
    /// # Panics
    ///
    /// If the engine is not the float engine, the columns are not the linear's or no whole groups, or
    /// there are not as many weights.
    pub fn halves(
        &self,
        columns: Range<usize>,
        weights: &[f16],
        buffer: &mut LaneBuffer,
    ) -> [f32; ROWS] {
        let Form::Floats(operands) = &self.form else {
            panic!("halves on an integer engine");
        };
        buffer.floats.resize(weights.len(), 0.0);
        halves::widen(self.isa, weights, &mut buffer.floats);
        float_sums(self.isa, self.rows(operands, columns), &buffer.floats)
    }

    /// Writes [`Self::integers`] as a pack hashes them, little-endian.
    ///
    /// # Panics
    ///
    /// As [`Self::integers`], or if `results` is not as long as [`Self::lane_bytes`] says.
    pub fn integer_bytes(&self, columns: Range<usize>, weights: &[i8], results: &mut [u8]) {
        let sums = self.integers(columns, weights);
        assert_eq!(results.len(), Self::lane_bytes(self.engine), "bytes of a lane");
        let size = Self::result_bytes(self.engine);
        for (result, sum) in results.chunks_exact_mut(size).zip(sums) {
            // Saturated to 16 bits, a sum has nothing but its sign in the upper ones.
            result.copy_from_slice(&sum.to_le_bytes()[..size]);
        }
    }

    /// Writes [`Self::halves`] as a pack hashes them, little-endian.
    ///
    /// # Panics
    ///
    /// As [`Self::halves`], or if `results` is not as long as [`Self::lane_bytes`] says.
    pub fn half_bytes(
        &self,
        columns: Range<usize>,
        weights: &[f16],
        buffer: &mut LaneBuffer,
        results: &mut [u8],
    ) {
        let sums = self.halves(columns, weights, buffer);
        assert_eq!(results.len(), Self::lane_bytes(self.engine), "bytes of a lane");
        for (result, sum) in results.as_chunks_mut().0.iter_mut().zip(sums) {
            *result = sum.to_le_bytes();
        }
    }

    /// Appends the results of the first `rows` lanes of a panel of a segment's tiles, little-endian,
    /// `[lane][row]`.
    ///
    /// # Panics
    ///
    /// If the columns are not the linear's, or the panel has not their length or so many lanes.
    pub fn panel(
        &self,
        columns: Range<usize>,
        tiles: &[u8],
        lanes: usize,
        buffer: &mut LaneBuffer,
        results: &mut Vec<u8>,
    ) {
        let k = columns.len();
        let start = results.len();
        results.resize(start + lanes * Self::lane_bytes(self.engine), 0);
        let lanes = results[start..].chunks_exact_mut(Self::lane_bytes(self.engine)).enumerate();
        for (lane, results) in lanes {
            let columns = columns.clone();
            match self.engine {
                Engine::F16 => {
                    let mut weights = std::mem::take(&mut buffer.halves);
                    weights.resize(k, f16::ZERO);
                    tiles::unpack_row_f16(tiles, lane, &mut weights);
                    self.half_bytes(columns, &weights, buffer, results);
                    buffer.halves = weights;
                }
                Engine::I8 => {
                    buffer.integers.resize(k, 0);
                    tiles::unpack_row_i8(tiles, lane, &mut buffer.integers);
                    self.integer_bytes(columns, &buffer.integers, results);
                }
                Engine::I4 => {
                    buffer.integers.resize(k, 0);
                    tiles::unpack_row_i4(tiles, lane, &mut buffer.integers);
                    self.integer_bytes(columns, &buffer.integers, results);
                }
            }
        }
    }

    /// The columns of each row.
    fn rows<'a, T>(&self, operands: &'a [T], columns: Range<usize>) -> [&'a [T]; ROWS] {
        assert!(columns.end <= self.k, "columns {columns:?} of {}", self.k);
        std::array::from_fn(|row| &operands[row * self.k..][columns.clone()])
    }
}

fn integer_sums(isa: Isa, rows: [&[i16]; ROWS], weights: &[i8]) -> [i32; ROWS] {
    assert!(rows.iter().all(|row| row.len() == weights.len()), "as many weights as columns");
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => x86::integers(rows, weights),
        _ => sum_integers(rows, weights),
    }
}

fn float_sums(isa: Isa, rows: [&[f64]; ROWS], weights: &[f32]) -> [f32; ROWS] {
    assert!(rows.iter().all(|row| row.len() == weights.len()), "as many weights as columns");
    assert!(weights.len().is_multiple_of(TILE_K), "whole groups of {TILE_K} columns");
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => x86::floats(rows, weights),
        _ => sum_floats(rows, weights),
    }
}

/// What every instruction set compiles for itself.
#[inline(always)]
fn sum_integers([a, b, c, d]: [&[i16]; ROWS], weights: &[i8]) -> [i32; ROWS] {
    let mut sums = [0i32; ROWS];
    for ((((&w, &a), &b), &c), &d) in weights.iter().zip(a).zip(b).zip(c).zip(d) {
        let w = i32::from(w);
        for (sum, a) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(i32::from(a) * w);
        }
    }
    sums
}

/// The same for floats. The order within a group is free: its sums are exact.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
fn sum_floats(rows: [&[f64]; ROWS], weights: &[f32]) -> [f32; ROWS] {
    const LANES: usize = 4;
    let mut sums = [0.0f32; ROWS];
    let (groups, _) = weights.as_chunks::<TILE_K>();
    let rows = rows.map(|row| row.as_chunks::<TILE_K>().0);
    for (group, weights) in groups.iter().enumerate() {
        let mut exact = [[0.0f64; LANES]; ROWS];
        for (part, weights) in weights.as_chunks::<LANES>().0.iter().enumerate() {
            for (exact, row) in exact.iter_mut().zip(rows) {
                let operands = &row[group].as_chunks::<LANES>().0[part];
                for ((exact, &a), &w) in exact.iter_mut().zip(operands).zip(weights) {
                    *exact += a * f64::from(w);
                }
            }
        }
        for (sum, exact) in sums.iter_mut().zip(exact) {
            *sum += (exact.iter().sum::<f64>() * UNIT) as f32;
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "kernels for an instruction set")]

    use std::arch::x86_64::{
        __m256d, _mm_add_ps, _mm_loadu_ps, _mm_setzero_ps, _mm_storeu_ps, _mm256_add_pd,
        _mm256_cvtpd_ps, _mm256_cvtps_pd, _mm256_hadd_pd, _mm256_loadu_pd, _mm256_mul_pd,
        _mm256_permute2f128_pd, _mm256_set1_pd, _mm256_setzero_pd,
    };

    use super::{ROWS, TILE_K, UNIT, sum_integers};

    pub(super) fn integers(rows: [&[i16]; ROWS], weights: &[i8]) -> [i32; ROWS] {
        #[target_feature(enable = "avx2")]
        fn kernel(rows: [&[i16]; ROWS], weights: &[i8]) -> [i32; ROWS] {
            sum_integers(rows, weights)
        }
        // SAFETY: the caller chose this kernel because the machine has AVX2.
        unsafe { kernel(rows, weights) }
    }

    pub(super) fn floats(rows: [&[f64]; ROWS], weights: &[f32]) -> [f32; ROWS] {
        #[target_feature(enable = "avx2")]
        fn kernel(rows: [&[f64]; ROWS], weights: &[f32]) -> [f32; ROWS] {
            let (groups, _) = weights.as_chunks::<TILE_K>();
            let rows = rows.map(|row| row.as_chunks::<TILE_K>().0);
            let mut sums = _mm_setzero_ps();
            for (group, weights) in groups.iter().enumerate() {
                let mut exact = [_mm256_setzero_pd(); ROWS];
                for (part, weights) in weights.as_chunks::<4>().0.iter().enumerate() {
                    // SAFETY: an array of four floats.
                    let weights = _mm256_cvtps_pd(unsafe { _mm_loadu_ps(weights.as_ptr()) });
                    for (exact, row) in exact.iter_mut().zip(rows) {
                        let operands = &row[group].as_chunks::<4>().0[part];
                        // SAFETY: an array of four floats.
                        let operands = unsafe { _mm256_loadu_pd(operands.as_ptr()) };
                        *exact = _mm256_add_pd(*exact, _mm256_mul_pd(operands, weights));
                    }
                }
                let exact = _mm256_mul_pd(totals(exact), _mm256_set1_pd(UNIT));
                sums = _mm_add_ps(sums, _mm256_cvtpd_ps(exact));
            }
            let mut results = [0.0; ROWS];
            // SAFETY: an array of four floats.
            unsafe { _mm_storeu_ps(results.as_mut_ptr(), sums) };
            results
        }
        // SAFETY: the caller chose this kernel because the machine has AVX2.
        unsafe { kernel(rows, weights) }
    }

    /// The sum of each vector's elements.
    #[target_feature(enable = "avx2")]
    fn totals([a, b, c, d]: [__m256d; ROWS]) -> __m256d {
        // Of a and b, and of c and d: sums of the elements 0, 1 of both, then of 2, 3.
        let (ab, cd) = (_mm256_hadd_pd(a, b), _mm256_hadd_pd(c, d));
        let low = _mm256_permute2f128_pd::<0x20>(ab, cd);
        let high = _mm256_permute2f128_pd::<0x31>(ab, cd);
        _mm256_add_pd(low, high)
    }
}

#[cfg(test)]
mod tests;
