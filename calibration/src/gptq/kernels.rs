//! The inner loops of the factorization and of the sweep over rows.
//!
//! Each is written once, in plain Rust, as operations on independent elements: every element takes
//! part in one multiplication and one addition at a time, in an order that is the same whatever the
//! width of a vector. On x86-64 the same source is compiled a second time with AVX2, so the bits
//! are those of the first; nothing is fused.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls of functions with AVX2"))]

/// Rows of a panel, side by side.
pub(crate) const LANES: usize = 64;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 4;

/// Columns of a tile of f32, and of one of f64.
pub(crate) const TILE_COLUMNS: usize = 16;
pub(crate) const TILE_COLUMNS_F64: usize = 8;

/// 1.5 · 2^23: added to a number of magnitude below 2^22, it leaves that number in the mantissa,
/// rounded to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// One element of each row of a panel.
pub(crate) type Lanes = [f32; LANES];

/// The instruction set that the loops were compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// What every machine of this architecture has.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The best that this machine has. The answer is cached by the standard library.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Isa::Avx2;
        }
        Isa::Baseline
    }
}

/// Scales of a panel's rows, their reciprocals, and the least and the greatest integer.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) scale: Lanes,
    pub(crate) inverse: Lanes,
    pub(crate) least: f32,
    pub(crate) greatest: f32,
}

/// What the sweep adds up for each row of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Losses {
    /// `Σ weight·d²`.
    pub(crate) damped: [f64; LANES],
    /// `Σ added·e²`: the part of it that is not the Hessian's own.
    pub(crate) added: [f64; LANES],
}

impl Losses {
    pub(crate) fn zero() -> Self {
        Losses { damped: [0.0; LANES], added: [0.0; LANES] }
    }
}

/// Weights of one column: the square of the factor's diagonal element, and what was added to the
/// Hessian's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) weight: f64,
    pub(crate) added: f64,
}

/// How the sweep comes by the integers of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Integers {
    /// Of the weight and the correction that the columns before it ask for: GPTQ.
    Corrected,
    /// Of the weight alone.
    Rounded,
    /// They are given.
    Given,
}

/// Integers `q` of a column and their errors `error = w - s·q`, and adds to the losses with
/// `d = error + correction`.
#[expect(clippy::too_many_arguments, reason = "one column of everything that a panel holds")]
pub(crate) fn column(
    isa: Isa,
    integers: Integers,
    w: &Lanes,
    correction: &Lanes,
    grid: &Grid,
    column: Column,
    q: &mut [i8; LANES],
    error: &mut Lanes,
    losses: &mut Losses,
) {
    match isa {
        Isa::Baseline => column_body(integers, w, correction, grid, column, q, error, losses),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, for it was detected.
        Isa::Avx2 => unsafe {
            avx2::column(integers, w, correction, grid, column, q, error, losses);
        },
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as above")]
fn column_body(
    integers: Integers,
    w: &Lanes,
    correction: &Lanes,
    grid: &Grid,
    column: Column,
    q: &mut [i8; LANES],
    error: &mut Lanes,
    losses: &mut Losses,
) {
    match integers {
        Integers::Given => {}
        Integers::Rounded => round(w, grid, q),
        Integers::Corrected => {
            let mut target = [0.0; LANES];
            for ((target, w), c) in target.iter_mut().zip(w).zip(correction) {
                *target = w + c;
            }
            round(&target, grid, q);
        }
    }
    for lane in 0..LANES {
        error[lane] = w[lane] - f32::from(q[lane]) * grid.scale[lane];
    }
    for lane in 0..LANES {
        let (e, d) = (f64::from(error[lane]), f64::from(error[lane] + correction[lane]));
        losses.damped[lane] += d * d * column.weight;
        losses.added[lane] += e * e * column.added;
    }
}

#[inline(always)]
fn round(target: &Lanes, grid: &Grid, q: &mut [i8; LANES]) {
    for lane in 0..LANES {
        let x = (target[lane] * grid.inverse[lane]).max(grid.least).min(grid.greatest);
        // The integer is the end of the mantissa, in two's complement.
        q[lane] = (x + ROUND).to_bits().to_le_bytes()[0].cast_signed();
    }
}

/// `c[i] += a[i] · b` for each i, all of as many elements as `a` has.
pub(crate) fn spread(isa: Isa, c: &mut [Lanes], a: &[f32], b: &Lanes) {
    match isa {
        Isa::Baseline => spread_body(c, a, b),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, for it was detected.
        Isa::Avx2 => unsafe { avx2::spread(c, a, b) },
    }
}

#[inline(always)]
fn spread_body(c: &mut [Lanes], a: &[f32], b: &Lanes) {
    for (c, &a) in c.iter_mut().zip(a) {
        for (c, b) in c.iter_mut().zip(b) {
            *c += a * b;
        }
    }
}

/// `c[i] -= a · b[i]` for each i.
pub(crate) fn subtract_scaled(isa: Isa, c: &mut [f32], a: f32, b: &[f32]) {
    match isa {
        Isa::Baseline => subtract_scaled_body(c, a, b),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, for it was detected.
        Isa::Avx2 => unsafe { avx2::subtract_scaled(c, a, b) },
    }
}

#[inline(always)]
fn subtract_scaled_body(c: &mut [f32], a: f32, b: &[f32]) {
    for (c, b) in c.iter_mut().zip(b) {
        *c -= a * b;
    }
}

/// `c[i][j] += Σ_t a[t][i]·b[t][j]`, t ascending, for the tiles of `c`, `[4, 64]`; as many t as `a`
/// is long, at most as many as `b`.
pub(crate) fn tiles(isa: Isa, c: &mut [Lanes; TILE_ROWS], a: &[[f32; TILE_ROWS]], b: &[Lanes]) {
    match isa {
        Isa::Baseline => tiles_body(c, a, b),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, for it was detected.
        Isa::Avx2 => unsafe { avx2::tiles(c, a, b) },
    }
}

#[inline(always)]
fn tiles_body(c: &mut [Lanes; TILE_ROWS], a: &[[f32; TILE_ROWS]], b: &[Lanes]) {
    for part in 0..LANES / TILE_COLUMNS {
        let mut sums = [[0.0; TILE_COLUMNS]; TILE_ROWS];
        for (sums, c) in sums.iter_mut().zip(c.iter()) {
            sums.copy_from_slice(&c.as_chunks::<TILE_COLUMNS>().0[part]);
        }
        for (a, b) in a.iter().zip(b) {
            let b = &b.as_chunks::<TILE_COLUMNS>().0[part];
            for (sums, a) in sums.iter_mut().zip(a) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        for (sums, c) in sums.iter().zip(c.iter_mut()) {
            c.as_chunks_mut::<TILE_COLUMNS>().0[part].copy_from_slice(sums);
        }
    }
}

/// `c[i][j] -= Σ_t a[t][i]·b[t][j]`, t ascending, for a tile of `c`, whose rows are `stride` apart;
/// `a[t]` holds the tile's rows from element `first` on.
///
/// # Panics
///
/// If `c` is too short, or `first` above 4.
pub(crate) fn subtract(
    isa: Isa,
    c: &mut [f64],
    stride: usize,
    a: &[[f64; TILE_COLUMNS_F64]],
    first: usize,
    b: &[[f64; TILE_COLUMNS_F64]],
) {
    match isa {
        Isa::Baseline => subtract_body(c, stride, a, first, b),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, for it was detected.
        Isa::Avx2 => unsafe { avx2::subtract(c, stride, a, first, b) },
    }
}

#[inline(always)]
fn subtract_body(
    c: &mut [f64],
    stride: usize,
    a: &[[f64; TILE_COLUMNS_F64]],
    first: usize,
    b: &[[f64; TILE_COLUMNS_F64]],
) {
    assert!(first + TILE_ROWS <= TILE_COLUMNS_F64, "rows of the tile");
    let mut sums = [[0.0; TILE_COLUMNS_F64]; TILE_ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&c[row * stride..][..TILE_COLUMNS_F64]);
    }
    for (a, b) in a.iter().zip(b) {
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = a[first + row];
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum -= a * b;
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        c[row * stride..][..TILE_COLUMNS_F64].copy_from_slice(sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The same loops, compiled with AVX2.
    use super::{Column, Grid, Integers, LANES, Lanes, Losses, TILE_COLUMNS_F64, TILE_ROWS};

    #[target_feature(enable = "avx2")]
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub(crate) fn column(
        integers: Integers,
        w: &Lanes,
        correction: &Lanes,
        grid: &Grid,
        column: Column,
        q: &mut [i8; LANES],
        error: &mut Lanes,
        losses: &mut Losses,
    ) {
        super::column_body(integers, w, correction, grid, column, q, error, losses);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn spread(c: &mut [Lanes], a: &[f32], b: &Lanes) {
        super::spread_body(c, a, b);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn subtract_scaled(c: &mut [f32], a: f32, b: &[f32]) {
        super::subtract_scaled_body(c, a, b);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn tiles(c: &mut [Lanes; TILE_ROWS], a: &[[f32; TILE_ROWS]], b: &[Lanes]) {
        super::tiles_body(c, a, b);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn subtract(
        c: &mut [f64],
        stride: usize,
        a: &[[f64; TILE_COLUMNS_F64]],
        first: usize,
        b: &[[f64; TILE_COLUMNS_F64]],
    ) {
        super::subtract_body(c, stride, a, first, b);
    }
}
