//! Rows of f32 to the integers, or the f16 values, that an engine multiplies.
//!
//! An integer is `q = clamp(round_half_even(w * inverse), qmin, qmax)` with
//! `inverse = 1.0 / scale` rounded to f32 once per row: a multiplication by the reciprocal, not a
//! division, on every machine. The real value is `scale * q`; with a zero point ([`Affine`]) it is
//! `scale * q + zero`. A scale may be negative, so that a range with one integer more below zero
//! serves rows whose longer side is above it.
//!
//! # Reductions
//!
//! Every sum of squares but that of [`clip_by_rms`] has one order, which all kernels keep: a row is cut into chunks of
//! [`CHUNK`] elements; within a chunk element `i` is added to f32 lane `i % 8`, in ascending order,
//! with plain multiplications and additions (no fused ones); the eight lanes, widened to f64, are
//! added as `((0+4)+(2+6)) + ((1+5)+(3+7))`; chunks are added in f64, in ascending order. So a
//! result has the same bits on any machine.
//!
//! # Range
//!
//! Rows must be finite: check with [`first_non_finite`]. A NaN or an infinity is never undefined
//! behaviour, but what it gives is unspecified and may differ between machines. Squares are taken in
//! f32: magnitudes above about 1e18 overflow a sum to infinity, and those below about 1e-22 vanish
//! from it. The integers are right in either case.

use half::f16;
use half::slice::HalfFloatSliceExt;

use self::affine::AffineGrid;
pub use self::affine::{Affine, bias_of, extremes, extremes_clipped_by_rms, quantize_row_affine};
pub use self::fit::{Fit, SHRINKS, fit_row};

mod affine;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod fit;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Elements whose squares are summed in f32 before f64 takes over.
pub const CHUNK: usize = 4096;

/// f32 lanes of a sum.
const LANES: usize = 8;

/// Scales that [`quantization_errors`] evaluates in one reading of the row.
const BATCH: usize = 4;

/// The smallest scale: its reciprocal, 2^126, is finite, and it is a normal number.
pub const MIN_SCALE: f32 = f32::MIN_POSITIVE;

/// A scale and its reciprocal, with the least and the greatest integer, as the kernels use them.
#[derive(Clone, Copy, Debug)]
struct Grid {
    scale: f32,
    inverse: f32,
    least: f32,
    greatest: f32,
}

impl Grid {
    /// Without a [`usable_scale`] the reciprocal would not be finite.
    fn new(scale: f32, (least, greatest): (i8, i8)) -> Self {
        let scale = usable_scale(scale);
        Grid { scale, inverse: 1.0 / scale, least: least.into(), greatest: greatest.into() }
    }

    /// A negative `qmax` is taken as its magnitude, so that the bounds are in order.
    fn symmetric(scale: f32, qmax: i8) -> Self {
        let qmax = f32::from(qmax).abs();
        Grid { least: -qmax, greatest: qmax, ..Grid::new(scale, (0, 0)) }
    }
}

/// The scale itself where its magnitude is a normal number, else [`MIN_SCALE`], so that the
/// reciprocal is finite.
pub fn usable_scale(scale: f32) -> f32 {
    if scale.abs() >= MIN_SCALE { scale } else { MIN_SCALE }
}

/// The instruction set that kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best that this machine has. The answer is cached by the standard library.
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Isa::Avx2;
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Isa::Neon;
        }
        Isa::Scalar
    }

    /// Greatest `bits & 0x7fff_ffff` of the row: the bits of its amax where every element is finite.
    fn magnitude_bits(self, row: &[f32]) -> u32 {
        match self {
            Isa::Scalar => scalar::magnitude_bits(row),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::magnitude_bits(row),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::magnitude_bits(row),
        }
    }

    /// Lane sums of squares of one chunk.
    fn squares(self, chunk: &[f32]) -> [f32; LANES] {
        match self {
            Isa::Scalar => scalar::squares(chunk),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::squares(chunk),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::squares(chunk),
        }
    }

    /// Writes one chunk's integers and returns the lane sums of its squared errors.
    fn quantize(self, chunk: &[f32], grid: Grid, out: &mut [i8]) -> [f32; LANES] {
        match self {
            Isa::Scalar => scalar::quantize(chunk, grid, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::quantize(chunk, grid, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::quantize(chunk, grid, out),
        }
    }

    /// Least and greatest element of the row, or `first`, which is one of them. Either zero.
    fn extremes(self, row: &[f32], first: f32) -> (f32, f32) {
        match self {
            Isa::Scalar => scalar::extremes(row, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::extremes(row, first),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::extremes(row, first),
        }
    }

    /// Writes one chunk's integers on a grid with a zero point.
    fn quantize_affine(self, chunk: &[f32], grid: AffineGrid, out: &mut [i8]) {
        match self {
            Isa::Scalar => scalar::quantize_affine(chunk, grid, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::quantize_affine(chunk, grid, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::quantize_affine(chunk, grid, out),
        }
    }

    /// Lane sums of one chunk's u, q, q² and q·u on a grid with a zero point, u = w − zero.
    fn moments(self, chunk: &[f32], grid: AffineGrid) -> [[f32; LANES]; 4] {
        match self {
            Isa::Scalar => scalar::moments(chunk, grid),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::moments(chunk, grid),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::moments(chunk, grid),
        }
    }

    /// Lane sums of one chunk's squared errors on each of several grids.
    fn errors<const B: usize>(self, chunk: &[f32], grids: &[Grid; B]) -> [[f32; LANES]; B] {
        match self {
            Isa::Scalar => scalar::errors(chunk, grids),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::errors(chunk, grids),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::errors(chunk, grids),
        }
    }
}

/// Lanes to one number: `((0+4)+(2+6)) + ((1+5)+(3+7))` in f64.
fn fold(lanes: [impl Into<f64>; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes.map(Into::into);
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Largest magnitude of the row; 0 of an empty one.
pub fn amax(row: &[f32]) -> f32 {
    f32::from_bits(Isa::detect().magnitude_bits(row))
}

/// Whether no element is NaN or infinite.
pub fn is_finite(row: &[f32]) -> bool {
    Isa::detect().magnitude_bits(row) < f32::INFINITY.to_bits()
}

/// Index of the first element that is NaN or infinite.
pub fn first_non_finite(row: &[f32]) -> Option<usize> {
    if is_finite(row) { None } else { row.iter().position(|w| !w.is_finite()) }
}

/// Sum of squares of the row, in the module's order.
pub fn squared_norm(row: &[f32]) -> f64 {
    squared_norm_on(Isa::detect(), row)
}

fn squared_norm_on(isa: Isa, row: &[f32]) -> f64 {
    row.chunks(CHUNK).fold(0.0, |sum, chunk| sum + fold(isa.squares(chunk)))
}

/// The lesser of a row's amax and `factor` times its root mean square, the latter rounded to f32:
/// the largest magnitude that keeps its value where a row is clipped by its rms.
///
/// Squares, exact in f64, are added in f64: element `i` to sum `i % 8`, in ascending order, and the
/// sums in the module's order. The amax where the product is zero: of an empty row, and of one of
/// zeros.
pub fn clip_by_rms(row: &[f32], factor: f32) -> f32 {
    let amax = amax(row);
    rms_clip(row, factor).map_or(amax, |clip| clip.min(amax))
}

/// `factor` times the row's root mean square, as [`clip_by_rms`] has it, if that is above zero.
fn rms_clip(row: &[f32], factor: f32) -> Option<f32> {
    let mut lanes = [0.0f64; LANES];
    for block in row.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    let rms = (fold(lanes) / row.len() as f64).sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
    let clip = (f64::from(factor) * rms) as f32;
    // Of an empty row it is no number.
    (clip > 0.0).then_some(clip)
}

/// The symmetric scale whose largest integer stands for `clip`: `clip / qmax`.
///
/// 1.0 where `clip` is 0 (an all-zero row), and at least [`MIN_SCALE`], so that the reciprocal is
/// finite: a row whose amax is below `qmax` · 2^-126 keeps what precision that scale leaves it.
pub fn scale_of(clip: f32, qmax: i8) -> f32 {
    if clip > 0.0 { (clip / f32::from(qmax).abs()).max(MIN_SCALE) } else { 1.0 }
}

/// Quantizes a row and returns its squared error `Σ (w - scale·q)²`.
///
/// `out[i]` is the integer of `row[i]`, within ±`qmax`. `scale` should come from [`scale_of`], or be
/// any number of normal magnitude; others are taken as [`MIN_SCALE`].
///
/// # Panics
///
/// If `out` is not as long as `row`.
pub fn quantize_row(row: &[f32], scale: f32, qmax: i8, out: &mut [i8]) -> f64 {
    quantize_row_on(Isa::detect(), row, Grid::symmetric(scale, qmax), out)
}

/// [`quantize_row`] with integers from the first to the second of `range`, the first at most 0, the
/// second at least.
///
/// # Panics
///
/// If `out` is not as long as `row`.
pub fn quantize_row_within(row: &[f32], scale: f32, range: (i8, i8), out: &mut [i8]) -> f64 {
    quantize_row_on(Isa::detect(), row, Grid::new(scale, range), out)
}

fn quantize_row_on(isa: Isa, row: &[f32], grid: Grid, out: &mut [i8]) -> f64 {
    assert_eq!(row.len(), out.len(), "integers of a row are as many as its elements");
    row.chunks(CHUNK)
        .zip(out.chunks_mut(CHUNK))
        .fold(0.0, |sum, (chunk, out)| sum + fold(isa.quantize(chunk, grid, out)))
}

/// What [`quantize_row`] would return, to the bit, without its integers.
pub fn quantization_error(row: &[f32], scale: f32, qmax: i8) -> f64 {
    let mut error = [0.0];
    quantization_errors(row, &[scale], qmax, &mut error);
    error[0]
}

/// [`quantization_error`] of each scale, into `errors`; the row is read once for four of them.
///
/// # Panics
///
/// If `errors` is not as long as `scales`.
pub fn quantization_errors(row: &[f32], scales: &[f32], qmax: i8, errors: &mut [f64]) {
    quantization_errors_on(Isa::detect(), row, scales, qmax, errors);
}

fn quantization_errors_on(isa: Isa, row: &[f32], scales: &[f32], qmax: i8, errors: &mut [f64]) {
    assert_eq!(scales.len(), errors.len(), "errors are as many as scales");
    let (batches, rest) = scales.as_chunks::<BATCH>();
    let (batch_errors, rest_errors) = errors.as_chunks_mut::<BATCH>();
    for (scales, errors) in batches.iter().zip(batch_errors) {
        *errors = errors_of(isa, row, &scales.map(|scale| Grid::symmetric(scale, qmax)));
    }
    for (&scale, error) in rest.iter().zip(rest_errors) {
        [*error] = errors_of(isa, row, &[Grid::symmetric(scale, qmax)]);
    }
}

fn errors_of<const B: usize>(isa: Isa, row: &[f32], grids: &[Grid; B]) -> [f64; B] {
    let mut errors = [0.0; B];
    for chunk in row.chunks(CHUNK) {
        for (error, lanes) in errors.iter_mut().zip(isa.errors(chunk, grids)) {
            *error += fold(lanes);
        }
    }
    errors
}

/// The power of two that a row is divided by before it becomes f16.
///
/// 1 where `amax` is in [2^-8, 65504], so that a row that was f16 is carried exactly: every value of
/// it, subnormal ones too, is an f16. A larger row is brought below 32768, half of f16's range; a
/// smaller one is brought into [1, 2), which loses nothing of an f16 source and gives other sources
/// f16's full precision. At least 2^-126, and 1 for a row of zeros.
pub fn f16_scale(amax: f32) -> f32 {
    const LARGEST: f32 = 65504.0;
    const SMALLEST: f32 = 1.0 / 256.0;
    if amax == 0.0 || (SMALLEST..=LARGEST).contains(&amax) || !amax.is_finite() {
        return 1.0;
    }
    // The power of two at or below amax: its exponent bits alone (0 for a subnormal).
    let power = f32::from_bits(amax.to_bits() & f32::INFINITY.to_bits()).max(MIN_SCALE);
    if amax > LARGEST { power / 16384.0 } else { power }
}

/// Converts a row to f16, `out[i] = round_half_even(row[i] / scale)`, and returns its squared error
/// `Σ (w - scale·out)²`.
///
/// `scale` must be a power of two that keeps the row within f16's range, as [`f16_scale`] gives it.
///
/// # Panics
///
/// If `out` is not as long as `row`.
pub fn to_f16_row(row: &[f32], scale: f32, out: &mut [f16]) -> f64 {
    const BLOCK: usize = 256;
    assert_eq!(row.len(), out.len(), "values of a row are as many as its elements");
    let grid = Grid::symmetric(scale, i8::MAX);
    let mut values = [0.0f32; BLOCK];
    let mut sum = 0.0;
    for (chunk, out) in row.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let mut lanes = [0.0f32; LANES];
        for (block, out) in chunk.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            let values = &mut values[..block.len()];
            for (value, w) in values.iter_mut().zip(block) {
                *value = w * grid.inverse;
            }
            out.convert_from_f32_slice(values);
            out.convert_to_f32_slice(values);
            for (w, value) in block.chunks(LANES).zip(values.chunks(LANES)) {
                for ((lane, w), value) in lanes.iter_mut().zip(w).zip(value) {
                    let error = w - value * grid.scale;
                    *lane += error * error;
                }
            }
        }
        sum += fold(lanes);
    }
    sum
}

#[cfg(test)]
mod tests;
