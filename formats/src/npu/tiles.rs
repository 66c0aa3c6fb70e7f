//! Native tile layouts: where the NPU expects each element of a weight and of the activations.
//!
//! A weight W has N rows (output channels) of K elements. Its native form is a grid of tiles of
//! `tile_n` rows by 32 columns, each [`TILE_BYTES`] long, K fastest in all of them:
//!
//! ```text
//! B[n, k]  element (((n/tile_n)*(K/32) + k/32)*tile_n + n%tile_n)*32 + k%32     shape [N/tile_n, K/32, tile_n, 32]
//! A[m, k]  element ((k/a)*M + m)*a + k%a          a = 16 bytes of elements      shape [K/a, M, a]
//! C[m, n]  element ((n/c)*M + m)*c + n%c          c = 16 bytes of elements      shape [N/c, M, c]
//! ```
//!
//! | engine | `tile_n` | a | c |
//! |---|---|---|---|
//! | f16 × f16 → f32 | 16 | 8 | 4 |
//! | i8 × i8 → i32 | 32 | 16 | 4 |
//! | i4 × i4 → i16 | 64 | 32 | 8 |
//!
//! Multi-byte elements are little-endian. Two i4 share a byte, the even k in bits 0..3, each in
//! two's complement.
//!
//! `tile_n` rows of the weight make a *panel*: K/32 consecutive tiles, in which every row is a
//! *lane*. A row of a GGUF file is K consecutive elements, so packing a row is copying its runs of
//! 32 elements, run r to byte `r*1024 + lane*1024/tile_n` of the panel. A panel is the smallest
//! piece of a weight that can be packed and written in order.
//!
//! Source: the layout comments of Rockchip's rknn_matmul_api.h, checked against the conversion
//! that the vendor's own runtime makes (`tests/tiles.rs` has its hashes).

use half::f16;
use thiserror::Error;

use super::Engine;

/// Bytes of one tile of a weight, of any engine.
pub const TILE_BYTES: usize = 1024;

/// Columns of one tile of a weight, of any engine.
pub const TILE_K: usize = 32;

/// Bytes of a run of 32 k: one row of a tile.
const RUN_F16: usize = TILE_BYTES / Engine::F16.tile_n();
const RUN_I8: usize = TILE_BYTES / Engine::I8.tile_n();
const RUN_I4: usize = TILE_BYTES / Engine::I4.tile_n();

/// A shape that has no native layout.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// N is zero or not whole tiles.
    #[error("N = {n} is not a positive multiple of {multiple}")]
    MisalignedN {
        /// Rows asked for.
        n: usize,
        /// What N must be a multiple of.
        multiple: usize,
    },
    /// K is zero or not whole tiles.
    #[error("K = {k} is not a positive multiple of {multiple}")]
    MisalignedK {
        /// Columns asked for.
        k: usize,
        /// What K must be a multiple of.
        multiple: usize,
    },
    /// The bytes of the weight cannot be counted on this machine.
    #[error("a weight of N = {n} and K = {k} is too large")]
    TooLarge {
        /// Rows asked for.
        n: usize,
        /// Columns asked for.
        k: usize,
    },
}

/// The native layout of one segment of a weight: N rows, K columns, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileLayout {
    engine: Engine,
    n: usize,
    k: usize,
}

impl TileLayout {
    /// The layout of an N × K weight on `engine`.
    ///
    /// # Errors
    /// N must be a positive multiple of the engine's `tile_n` and K of 32; the elements and bytes
    /// must fit `usize`.
    pub fn new(engine: Engine, n: usize, k: usize) -> Result<Self, LayoutError> {
        let tile_n = engine.tile_n();
        if n == 0 || !n.is_multiple_of(tile_n) {
            return Err(LayoutError::MisalignedN { n, multiple: tile_n });
        }
        if k == 0 || !k.is_multiple_of(TILE_K) {
            return Err(LayoutError::MisalignedK { k, multiple: TILE_K });
        }
        let too_large = LayoutError::TooLarge { n, k };
        let elements = n.checked_mul(k).ok_or(too_large.clone())?;
        elements.checked_mul(engine.weight_bits()).ok_or(too_large)?;
        Ok(TileLayout { engine, n, k })
    }

    /// The engine that reads the layout.
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// Rows, the output channels.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Columns, the input channels.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Panels of `tile_n` rows.
    pub const fn panels(&self) -> usize {
        self.n / self.engine.tile_n()
    }

    /// Bytes of one panel.
    pub const fn panel_bytes(&self) -> usize {
        self.k / TILE_K * TILE_BYTES
    }

    /// Bytes of the whole weight.
    pub const fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The shape under which a pack stores the tiles: f16 `[N/16, K/32, 16, 32]`, i8
    /// `[N/32, K/32, 32, 32]`, and i4, as bytes of two, `[N/64, K/32, 64, 16]`.
    pub fn shape(&self) -> Vec<usize> {
        let innermost = match self.engine {
            Engine::F16 | Engine::I8 => TILE_K,
            Engine::I4 => TILE_K / 2,
        };
        vec![self.panels(), self.k / TILE_K, self.engine.tile_n(), innermost]
    }

    /// Position of W[n, k], in elements from the start of the weight. For i4 that is a nibble:
    /// byte `index / 2`, the low half when `index` is even.
    pub const fn element_index(&self, n: usize, k: usize) -> usize {
        let tile_n = self.engine.tile_n();
        let tile = n / tile_n * (self.k / TILE_K) + k / TILE_K;
        (tile * tile_n + n % tile_n) * TILE_K + k % TILE_K
    }
}

/// Position of A[m, k] in the native activations of M = `m_rows` rows, in elements.
pub const fn a_index(engine: Engine, m_rows: usize, m: usize, k: usize) -> usize {
    let atom = 128 / engine.weight_bits();
    (k / atom * m_rows + m) * atom + k % atom
}

/// Position of C[m, n] in the native output of M = `m_rows` rows, in elements: f32, i32 or i16 as
/// the engine accumulates.
pub const fn c_index(engine: Engine, m_rows: usize, m: usize, n: usize) -> usize {
    let atom = match engine {
        Engine::F16 | Engine::I8 => 4,
        Engine::I4 => 8,
    };
    (n / atom * m_rows + m) * atom + n % atom
}

/// The runs of one lane, in order of k, as fixed-size arrays. `PER_TILE` is `tile_n`.
fn lane_runs<const RUN: usize, const PER_TILE: usize>(
    panel: &[u8],
    lane: usize,
) -> impl Iterator<Item = &[u8; RUN]> {
    let (runs, _) = panel.as_chunks::<RUN>();
    runs.iter().skip(lane).step_by(PER_TILE)
}

/// As [`lane_runs`], to be written.
fn lane_runs_mut<const RUN: usize, const PER_TILE: usize>(
    panel: &mut [u8],
    lane: usize,
) -> impl Iterator<Item = &mut [u8; RUN]> {
    let (runs, _) = panel.as_chunks_mut::<RUN>();
    runs.iter_mut().skip(lane).step_by(PER_TILE)
}

/// Panics unless a row of `k` elements has the lane in a panel of `panel_bytes`.
fn check_lane(engine: Engine, k: usize, lane: usize, panel_bytes: usize) {
    assert!(lane < engine.tile_n(), "lane {lane} of a panel of {} rows", engine.tile_n());
    assert!(
        k.is_multiple_of(TILE_K) && k / TILE_K * TILE_BYTES == panel_bytes,
        "a row of {k} elements in a panel of {panel_bytes} bytes"
    );
}

/// Writes one row's K elements into its lane (n % 16) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 16 or the panel is not of the row's length.
pub fn pack_row_f16(row: &[f16], lane: usize, panel: &mut [u8]) {
    check_lane(Engine::F16, row.len(), lane, panel.len());
    let (runs, _) = row.as_chunks::<TILE_K>();
    let places = lane_runs_mut::<RUN_F16, { Engine::F16.tile_n() }>(panel, lane);
    for (run, place) in runs.iter().zip(places) {
        let (bytes, _) = place.as_chunks_mut::<2>();
        for (element, bytes) in run.iter().zip(bytes) {
            *bytes = element.to_le_bytes();
        }
    }
}

/// Reads one row's K elements from its lane (n % 16) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 16 or the panel is not of the row's length.
pub fn unpack_row_f16(panel: &[u8], lane: usize, row: &mut [f16]) {
    check_lane(Engine::F16, row.len(), lane, panel.len());
    let (runs, _) = row.as_chunks_mut::<TILE_K>();
    let places = lane_runs::<RUN_F16, { Engine::F16.tile_n() }>(panel, lane);
    for (run, place) in runs.iter_mut().zip(places) {
        let (bytes, _) = place.as_chunks::<2>();
        for (element, bytes) in run.iter_mut().zip(bytes) {
            *element = f16::from_le_bytes(*bytes);
        }
    }
}

/// Writes one row's K integers into its lane (n % 32) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 32 or the panel is not of the row's length.
pub fn pack_row_i8(row: &[i8], lane: usize, panel: &mut [u8]) {
    check_lane(Engine::I8, row.len(), lane, panel.len());
    let (runs, _) = row.as_chunks::<TILE_K>();
    let places = lane_runs_mut::<RUN_I8, { Engine::I8.tile_n() }>(panel, lane);
    for (run, place) in runs.iter().zip(places) {
        *place = run.map(i8::cast_unsigned);
    }
}

/// Reads one row's K integers from its lane (n % 32) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 32 or the panel is not of the row's length.
pub fn unpack_row_i8(panel: &[u8], lane: usize, row: &mut [i8]) {
    check_lane(Engine::I8, row.len(), lane, panel.len());
    let (runs, _) = row.as_chunks_mut::<TILE_K>();
    let places = lane_runs::<RUN_I8, { Engine::I8.tile_n() }>(panel, lane);
    for (run, place) in runs.iter_mut().zip(places) {
        *run = place.map(u8::cast_signed);
    }
}

/// Writes one row's K integers, each in -8..=7, into its lane (n % 64) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 64 or the panel is not of the row's length; in debug builds also if an
/// integer is outside the range, of which otherwise the low four bits are kept.
pub fn pack_row_i4(row: &[i8], lane: usize, panel: &mut [u8]) {
    check_lane(Engine::I4, row.len(), lane, panel.len());
    debug_assert!(row.iter().all(|q| (-8..=7).contains(q)), "an integer beyond four bits");
    let (runs, _) = row.as_chunks::<TILE_K>();
    let places = lane_runs_mut::<RUN_I4, { Engine::I4.tile_n() }>(panel, lane);
    for (run, place) in runs.iter().zip(places) {
        let (pairs, _) = run.as_chunks::<2>();
        for (&[even, odd], byte) in pairs.iter().zip(place) {
            *byte = (even.cast_unsigned() & 0x0f) | (odd.cast_unsigned() << 4);
        }
    }
}

/// Reads one row's K integers, each in -8..=7, from its lane (n % 64) of a panel of K·32 bytes.
///
/// # Panics
/// If the lane is not below 64 or the panel is not of the row's length.
pub fn unpack_row_i4(panel: &[u8], lane: usize, row: &mut [i8]) {
    check_lane(Engine::I4, row.len(), lane, panel.len());
    let (runs, _) = row.as_chunks_mut::<TILE_K>();
    let places = lane_runs::<RUN_I4, { Engine::I4.tile_n() }>(panel, lane);
    for (run, place) in runs.iter_mut().zip(places) {
        let (pairs, _) = run.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(place) {
            *pair = [(byte << 4).cast_signed() >> 4, byte.cast_signed() >> 4];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions worked out by hand from the vendor's description of the layouts.
    #[test]
    fn worked_examples() {
        let layout = |engine, n, k| TileLayout::new(engine, n, k).unwrap();
        assert_eq!(layout(Engine::I8, 64, 64).element_index(35, 33), 3169);
        assert_eq!(layout(Engine::F16, 32, 64).element_index(17, 33), 1569);
        assert_eq!(layout(Engine::I4, 128, 64).element_index(65, 33), 6177);
        assert_eq!(a_index(Engine::I8, 2, 1, 17), 49);
        assert_eq!(a_index(Engine::F16, 2, 1, 9), 25);
        assert_eq!(a_index(Engine::I4, 2, 1, 33), 97);
        assert_eq!(c_index(Engine::I8, 2, 1, 5), 13);
        assert_eq!(c_index(Engine::F16, 2, 1, 5), 13);
        assert_eq!(c_index(Engine::I4, 2, 1, 9), 25);
    }

    #[test]
    fn one_row_of_activations_is_in_order() {
        for engine in [Engine::F16, Engine::I8, Engine::I4] {
            for i in 0..200 {
                assert_eq!(a_index(engine, 1, 0, i), i);
                assert_eq!(c_index(engine, 1, 0, i), i);
            }
        }
    }

    #[test]
    fn sizes_and_shapes() {
        let cases = [
            (Engine::F16, 48, 96, [3, 3, 16, 32], 9216),
            (Engine::I8, 96, 96, [3, 3, 32, 32], 9216),
            (Engine::I4, 128, 96, [2, 3, 64, 16], 6144),
        ];
        for (engine, n, k, shape, bytes) in cases {
            let layout = TileLayout::new(engine, n, k).unwrap();
            assert_eq!(layout.shape(), shape);
            assert_eq!(layout.bytes(), bytes);
            assert_eq!(layout.panels() * layout.panel_bytes(), bytes);
            assert_eq!(layout.panel_bytes() % TILE_BYTES, 0);
        }
    }

    #[test]
    fn misaligned_shapes_are_refused() {
        let cases = [
            (Engine::I8, 33, 32, "N = 33 is not a positive multiple of 32"),
            (Engine::I4, 32, 32, "N = 32 is not a positive multiple of 64"),
            (Engine::F16, 0, 32, "N = 0 is not a positive multiple of 16"),
            (Engine::F16, 16, 0, "K = 0 is not a positive multiple of 32"),
            (Engine::F16, 16, 48, "K = 48 is not a positive multiple of 32"),
        ];
        for (engine, n, k, message) in cases {
            assert_eq!(TileLayout::new(engine, n, k).unwrap_err().to_string(), message);
        }
        let (n, k) = (usize::MAX - 63, 1 << 20);
        assert_eq!(TileLayout::new(Engine::I4, n, k), Err(LayoutError::TooLarge { n, k }));
    }

    #[test]
    #[should_panic(expected = "lane 32 of a panel of 32 rows")]
    fn a_lane_outside_the_panel_panics() {
        pack_row_i8(&[0; 32], 32, &mut [0; 1024]);
    }

    #[test]
    #[should_panic(expected = "a row of 64 elements in a panel of 1024 bytes")]
    fn a_panel_of_another_length_panics() {
        pack_row_i4(&[0; 64], 0, &mut [0; 1024]);
    }
}
