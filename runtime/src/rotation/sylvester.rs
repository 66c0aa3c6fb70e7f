//! The fast Walsh-Hadamard transform: products with a Sylvester matrix, in place.
//!
//! The order of the operations is a promise, for the bytes of packed weights depend on it. On each
//! run of `order` elements: first, where there is a vector, every element is multiplied by the
//! vector's; then for h = 1, 2, 4, … below `order`, ascending, each pair (x, y) at distance h
//! becomes (x + y, x - y); last, where there is a scale, every element is multiplied by it. Each is
//! one IEEE operation in f32, never fused. The SIMD kernel performs the same operations on every
//! element and only visits the elements in another order.
#![expect(unsafe_code, reason = "SIMD kernel")]

use super::lanes::{self, LANES, Lanes};

/// Transforms each run of `order` elements of `row` by the Sylvester matrix of that order, after a
/// multiplication by `vector` and before one by `scale`.
///
/// `order` is a power of two that divides the length of `row`; `vector` is as long as `row`.
pub(super) fn transform(row: &mut [f32], order: usize, vector: Option<&[f32]>, scale: Option<f32>) {
    assert!(order.is_power_of_two() && row.len().is_multiple_of(order));
    assert!(vector.is_none_or(|vector| vector.len() == row.len()));
    if order >= LANES {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = lanes::Avx2::detect() {
            // SAFETY: AVX2 is there; the order is a power of two from 8 that divides the length,
            // and the vector is as long as the row.
            return unsafe { avx2(simd, row, order, vector, scale) };
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = lanes::Neon::detect() {
            // SAFETY: the order is a power of two from 8 that divides the length, and the vector is
            // as long as the row.
            return unsafe { dispatch(simd, row, order, vector, scale) };
        }
    }
    scalar(row, order, vector, scale);
}

/// The definition, and the twin of the SIMD kernel.
fn scalar(row: &mut [f32], order: usize, vector: Option<&[f32]>, scale: Option<f32>) {
    if let Some(vector) = vector {
        multiply(row, vector);
    }
    let mut h = 1;
    while h < order {
        for run in row.chunks_exact_mut(2 * h) {
            let (upper, lower) = run.split_at_mut(h);
            for (x, y) in upper.iter_mut().zip(lower) {
                (*x, *y) = (*x + *y, *x - *y);
            }
        }
        h *= 2;
    }
    if let Some(scale) = scale {
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Multiplies element by element.
pub(super) fn multiply(row: &mut [f32], vector: &[f32]) {
    for (x, factor) in row.iter_mut().zip(vector) {
        *x *= factor;
    }
}

/// # Safety
///
/// As [`dispatch`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(
    simd: lanes::Avx2,
    row: &mut [f32],
    order: usize,
    vector: Option<&[f32]>,
    scale: Option<f32>,
) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(simd, row, order, vector, scale) }
}

/// Compiles the kernel for the presence of a vector and a scale.
///
/// # Safety
///
/// `order` is a power of two, at least 8, and divides the length of `row`; `vector` is as long as
/// `row`.
#[inline(always)]
unsafe fn dispatch<S: Lanes>(
    simd: S,
    row: &mut [f32],
    order: usize,
    vector: Option<&[f32]>,
    scale: Option<f32>,
) {
    let scale_vector = simd.splat(scale.unwrap_or(1.0));
    // Without a vector, the row stands in for it and is not read.
    let factors = vector.map_or(row.as_ptr(), <[f32]>::as_ptr);
    let end = row.len();
    let row = row.as_mut_ptr();
    for start in (0..end).step_by(order) {
        // SAFETY: `start + order` is at most the length of the row and of the vector.
        unsafe {
            let (run, factors) = (row.add(start), factors.add(start));
            match (vector.is_some(), scale.is_some()) {
                (false, false) => {
                    kernel::<S, false, false>(simd, run, order, factors, scale_vector)
                }
                (false, true) => kernel::<S, false, true>(simd, run, order, factors, scale_vector),
                (true, false) => kernel::<S, true, false>(simd, run, order, factors, scale_vector),
                (true, true) => kernel::<S, true, true>(simd, run, order, factors, scale_vector),
            }
        }
    }
}

/// One run: up to six stages in the first pass over it, two or three in each later one.
///
/// # Safety
///
/// `run` points at `order` elements, and so does `factors` if `VECTOR`; `order` is a power of two,
/// at least 8.
#[inline(always)]
unsafe fn kernel<S: Lanes, const VECTOR: bool, const SCALE: bool>(
    simd: S,
    run: *mut f32,
    order: usize,
    factors: *const f32,
    scale: S::Vector,
) {
    // SAFETY: every pass stays within `order` elements: the first in steps that divide it, a later
    // one of R vectors at distance h with R · h dividing it.
    unsafe {
        match order {
            8 => first::<S, 1, VECTOR, SCALE>(simd, run, order, factors, scale),
            16 => first::<S, 2, VECTOR, SCALE>(simd, run, order, factors, scale),
            32 => first::<S, 4, VECTOR, SCALE>(simd, run, order, factors, scale),
            64 => first::<S, 8, VECTOR, SCALE>(simd, run, order, factors, scale),
            _ => first::<S, 8, VECTOR, false>(simd, run, order, factors, scale),
        }
        let mut h = 64;
        while h < order {
            match order / h {
                2 => later::<S, 2, SCALE>(simd, run, order, h, scale),
                4 => later::<S, 4, SCALE>(simd, run, order, h, scale),
                8 => later::<S, 8, SCALE>(simd, run, order, h, scale),
                16 => {
                    later::<S, 4, false>(simd, run, order, h, scale);
                    h *= 4;
                    continue;
                }
                _ => later::<S, 8, false>(simd, run, order, h, scale),
            }
            h *= 8;
        }
    }
}

/// The multiplication by the vector and the stages below 8 · N, on runs of N vectors.
///
/// # Safety
///
/// `run`, and `factors` if `VECTOR`, point at `order` elements, a multiple of 8 · N.
#[inline(always)]
unsafe fn first<S: Lanes, const N: usize, const VECTOR: bool, const SCALE: bool>(
    simd: S,
    run: *mut f32,
    order: usize,
    factors: *const f32,
    scale: S::Vector,
) {
    for start in (0..order).step_by(LANES * N) {
        let mut v = [scale; N];
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: `start + 8 · N` is at most `order`.
            unsafe {
                *v = simd.load(run.add(start + LANES * i));
                if VECTOR {
                    *v = simd.mul(*v, simd.load(factors.add(start + LANES * i)));
                }
            }
            *v = simd.butterflies(*v);
        }
        stages(simd, &mut v);
        for (i, mut v) in v.into_iter().enumerate() {
            if SCALE {
                v = simd.mul(v, scale);
            }
            // SAFETY: as for the loads.
            unsafe { simd.store(run.add(start + LANES * i), v) }
        }
    }
}

/// The stages h, 2h, … below R · h, on R vectors at distance h.
///
/// # Safety
///
/// `run` points at `order` elements, a multiple of R · h; h is a multiple of 8.
#[inline(always)]
unsafe fn later<S: Lanes, const R: usize, const SCALE: bool>(
    simd: S,
    run: *mut f32,
    order: usize,
    h: usize,
    scale: S::Vector,
) {
    for start in (0..order).step_by(R * h) {
        for j in (start..start + h).step_by(LANES) {
            let mut v = [scale; R];
            for (i, v) in v.iter_mut().enumerate() {
                // SAFETY: `start + R · h` is at most `order`.
                *v = unsafe { simd.load(run.add(j + h * i)) };
            }
            stages(simd, &mut v);
            for (i, mut v) in v.into_iter().enumerate() {
                if SCALE {
                    v = simd.mul(v, scale);
                }
                // SAFETY: as for the loads.
                unsafe { simd.store(run.add(j + h * i), v) }
            }
        }
    }
}

/// The stages between N vectors, ascending.
#[inline(always)]
fn stages<S: Lanes, const N: usize>(simd: S, v: &mut [S::Vector; N]) {
    let mut h = 1;
    while h < N {
        for i in 0..N {
            if i & h == 0 {
                let (x, y) = (v[i], v[i + h]);
                v[i] = simd.add(x, y);
                v[i + h] = simd.sub(x, y);
            }
        }
        h *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe;
    use super::*;

    #[test]
    fn equals_the_definition_of_a_sylvester_matrix() {
        // Entry (i, j) is (-1)^popcount(i & j); small integers keep every sum exact.
        for order in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            let input: Vec<f32> =
                (0..order).map(|j| f32::from(i8::try_from(j * 37 % 201).unwrap_or(-99))).collect();
            let mut row = input.clone();
            transform(&mut row, order, None, None);
            for (i, &found) in row.iter().enumerate() {
                let sign =
                    |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                let expected: f32 = input.iter().enumerate().map(|(j, x)| sign(j) * x).sum();
                assert_eq!(found, expected, "order {order} row {i}");
            }
        }
    }

    #[test]
    fn simd_and_scalar_agree_bit_for_bit() {
        for log in 0..15 {
            let order = 1 << log;
            for runs in [1, 3] {
                for (name, row) in probe::rows(runs * order) {
                    let factors = probe::gaussian(7, row.len());
                    for vector in [None, Some(&factors[..])] {
                        for scale in [None, Some(0.7)] {
                            let mut a = row.clone();
                            transform(&mut a, order, vector, scale);
                            let mut b = row.clone();
                            scalar(&mut b, order, vector, scale);
                            assert!(
                                probe::bits(&a) == probe::bits(&b),
                                "order {order} runs {runs} {name}"
                            );
                        }
                    }
                }
            }
        }
    }
}
