//! Products of a Hartley matrix of odd order with the rows of a block.
//!
//! Column j of a block is x_l = block[l · width + j], l from 0 to m - 1. With e_l = x_l + x_{m-l}
//! and o_l = x_l - x_{m-l}, l from 1 to h = (m - 1)/2, the rows i and m - i of the product are
//! a_i + b_i and a_i - b_i with a_i = x_0 + Σ cos(2πil/m) e_l and b_i = Σ sin(2πil/m) o_l: half the
//! multiplications of a dense product.
//!
//! The order of the operations is a promise, for the bytes of packed weights depend on it. Sums run
//! over ascending l: row 0 is ((x_0 + e_1) + e_2 + …) · scale; a_i starts with x_0 · scale, b_i with
//! its product for l = 1, and the scale is in the coefficients. Each is one IEEE operation in f32,
//! never fused.
#![expect(unsafe_code, reason = "SIMD kernel")]

use super::lanes::{self, ALIGNMENT_SLACK, LANES, Lanes};

/// Vectors of a row that are processed together where the block is wide enough.
const WIDEST: usize = 2;
/// Pairs of rows that are computed together, sharing the loads of e and o.
const PAIRS: usize = 2;

/// Elements of scratch space for a matrix of this order.
pub(super) fn scratch_len(order: usize) -> usize {
    order * WIDEST * LANES + ALIGNMENT_SLACK
}

/// Multiplies `block`, `order` equal rows, by the matrix. `coefficients` are the scaled
/// (cos, sin)(2πil/m) for i and l from 1 to h, i outermost.
pub(super) fn product(
    block: &mut [f32],
    order: usize,
    coefficients: &[[f32; 2]],
    scale: f32,
    scratch: &mut [f32],
) {
    let half = order / 2;
    assert!(order % 2 == 1 && block.len().is_multiple_of(order));
    assert!(coefficients.len() == half * half && scratch.len() >= scratch_len(order));
    let width = block.len() / order;
    if width.is_multiple_of(LANES) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = lanes::Avx2::detect() {
            // SAFETY: AVX2 is there, the lengths were checked, the width is a multiple of 8.
            return unsafe { avx2(simd, block, width, coefficients, scale, scratch) };
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = lanes::Neon::detect() {
            // SAFETY: the lengths were checked, the width is a multiple of 8.
            return unsafe { dispatch(simd, block, width, coefficients, scale, scratch) };
        }
    }
    scalar(block, width, coefficients, scale, scratch);
}

/// The definition, and the twin of the SIMD kernel.
fn scalar(
    block: &mut [f32],
    width: usize,
    coefficients: &[[f32; 2]],
    scale: f32,
    scratch: &mut [f32],
) {
    let order = block.len() / width;
    let half = order / 2;
    let (even, odd) = scratch[..2 * half].split_at_mut(half);
    for j in 0..width {
        let first = block[j];
        for l in 1..=half {
            let (x, y) = (block[l * width + j], block[(order - l) * width + j]);
            (even[l - 1], odd[l - 1]) = (x + y, x - y);
        }
        block[j] = even.iter().fold(first, |sum, e| sum + e) * scale;
        for (i, row) in (1..).zip(coefficients.chunks_exact(half)) {
            let cosines = row.iter().zip(&*even).map(|([cos, _], e)| cos * e);
            let a = cosines.fold(first * scale, |sum, term| sum + term);
            let sines = row.iter().zip(&*odd).map(|([_, sin], o)| sin * o);
            let b = sines.reduce(|sum, term| sum + term).unwrap_or(0.0);
            block[i * width + j] = a + b;
            block[(order - i) * width + j] = a - b;
        }
    }
}

/// # Safety
///
/// As [`dispatch`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(
    simd: lanes::Avx2,
    block: &mut [f32],
    width: usize,
    coefficients: &[[f32; 2]],
    scale: f32,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(simd, block, width, coefficients, scale, scratch) }
}

/// Compiles the kernel for 16 or 8 columns at a time.
///
/// # Safety
///
/// `block` has an odd number of rows of `width` elements, a multiple of 8; there are h² coefficients
/// and [`scratch_len`] elements of scratch space.
#[inline(always)]
unsafe fn dispatch<S: Lanes>(
    simd: S,
    block: &mut [f32],
    width: usize,
    coefficients: &[[f32; 2]],
    scale: f32,
    scratch: &mut [f32],
) {
    let order = block.len() / width;
    let (block, scratch) = (block.as_mut_ptr(), lanes::aligned(scratch).as_mut_ptr());
    for j in (0..width).step_by(LANES * WIDEST) {
        // SAFETY: the caller's promise; j + 16 or, with 8 columns left, j + 8 is at most the width.
        unsafe {
            let block = block.add(j);
            if j + LANES * WIDEST <= width {
                kernel::<S, WIDEST>(simd, block, order, width, coefficients, scale, scratch);
            } else {
                kernel::<S, 1>(simd, block, order, width, coefficients, scale, scratch);
            }
        }
    }
}

/// The product for 8 · N columns, two pairs of rows at a time.
///
/// # Safety
///
/// `block` points at `order` rows of 8 · N elements, `width` apart; there are h² coefficients, and h
/// times 16 · N elements of scratch space.
#[inline(always)]
unsafe fn kernel<S: Lanes, const N: usize>(
    simd: S,
    block: *mut f32,
    order: usize,
    width: usize,
    coefficients: &[[f32; 2]],
    scale: f32,
    scratch: *mut f32,
) {
    let half = order / 2;
    let scale = simd.splat(scale);
    let mut first = [scale; N];
    let mut total = [scale; N];
    for n in 0..N {
        // SAFETY: row 0 has 8 · N elements.
        first[n] = unsafe { simd.load(block.add(n * LANES)) };
        total[n] = first[n];
    }
    for l in 1..=half {
        for (n, total) in total.iter_mut().enumerate() {
            // SAFETY: l and order - l are below the order; e_l and o_l are vectors n and N + n of
            // run l - 1 of the scratch space.
            unsafe {
                let x = simd.load(block.add(l * width + n * LANES));
                let y = simd.load(block.add((order - l) * width + n * LANES));
                let (even, odd) = (simd.add(x, y), simd.sub(x, y));
                let run = scratch.add((l - 1) * 2 * N * LANES);
                simd.store(run.add(n * LANES), even);
                simd.store(run.add((N + n) * LANES), odd);
                *total = simd.add(*total, even);
            }
        }
    }
    for n in 0..N {
        // SAFETY: row 0 has 8 · N elements.
        unsafe { simd.store(block.add(n * LANES), simd.mul(total[n], scale)) }
        first[n] = simd.mul(first[n], scale);
    }
    let mut i = 1;
    while i <= half {
        let count = PAIRS.min(half + 1 - i);
        let rows = &coefficients[(i - 1) * half..(i - 1 + count) * half];
        // SAFETY: rows i to i + count - 1 are at most h; the scratch space holds e and o.
        unsafe {
            let (upper, lower) = (block.add(i * width), block.add((order - i) * width));
            if count == PAIRS {
                pairs::<S, N, PAIRS>(simd, rows, scratch, &first, upper, lower, width);
            } else {
                pairs::<S, N, 1>(simd, rows, scratch, &first, upper, lower, width);
            }
        }
        i += count;
    }
}

/// Rows i to i + P - 1, from `upper` on, and order - i down to order - i - P + 1, from `lower` on.
///
/// # Safety
///
/// `upper` points at P rows of 8 · N elements, `width` apart, and `lower` at as many, counted
/// downwards; `coefficients` are P rows of h, `scratch` holds h runs of e and o.
#[inline(always)]
unsafe fn pairs<S: Lanes, const N: usize, const P: usize>(
    simd: S,
    coefficients: &[[f32; 2]],
    scratch: *const f32,
    first: &[S::Vector; N],
    upper: *mut f32,
    lower: *mut f32,
    width: usize,
) {
    let half = coefficients.len() / P;
    let mut a = [*first; P];
    let mut b = [*first; P];
    for l in 0..half {
        for p in 0..P {
            let [cos, sin] = coefficients[p * half + l];
            let (cos, sin) = (simd.splat(cos), simd.splat(sin));
            for n in 0..N {
                // SAFETY: run l of the scratch space holds N vectors of e and N of o.
                let (even, odd) = unsafe {
                    let run = scratch.add(l * 2 * N * LANES);
                    (simd.load(run.add(n * LANES)), simd.load(run.add((N + n) * LANES)))
                };
                a[p][n] = simd.add(a[p][n], simd.mul(cos, even));
                let term = simd.mul(sin, odd);
                b[p][n] = if l == 0 { term } else { simd.add(b[p][n], term) };
            }
        }
    }
    for p in 0..P {
        for n in 0..N {
            // SAFETY: `upper` has P rows after its start, `lower` P rows before its end.
            unsafe {
                simd.store(upper.add(p * width + n * LANES), simd.add(a[p][n], b[p][n]));
                simd.store(lower.sub(p * width).add(n * LANES), simd.sub(a[p][n], b[p][n]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{hartley, probe};
    use super::*;

    #[test]
    fn equals_the_dense_product_in_f64() {
        for order in [3, 5, 9, 11, 37, 43] {
            let dense = hartley::matrix(order);
            let coefficients = hartley::half_coefficients(order, order);
            let scale = 1.0 / (order as f32).sqrt();
            for width in [1, 4, 8, 16, 24, 40] {
                let input = probe::gaussian(3, order * width);
                let mut block = input.clone();
                let mut scratch = vec![f32::NAN; scratch_len(order)];
                product(&mut block, order, &coefficients, scale, &mut scratch);
                for (index, &found) in block.iter().enumerate() {
                    let (i, j) = (index / width, index % width);
                    let term = |l: usize| {
                        f64::from(dense[i * order + l]) * f64::from(input[l * width + j])
                    };
                    let expected: f64 = (0..order).map(term).sum();
                    let error = (f64::from(found) - expected).abs();
                    assert!(error < 2e-6, "order {order} width {width} at {i}, {j}: {error}");
                }
            }
        }
    }

    #[test]
    fn simd_and_scalar_agree_bit_for_bit() {
        for order in [3, 5, 7, 27, 45] {
            let coefficients = hartley::half_coefficients(order, order);
            let mut scratch = vec![f32::NAN; scratch_len(order)];
            for width in [8, 16, 24, 64] {
                for (name, row) in probe::rows(order * width) {
                    let mut a = row.clone();
                    product(&mut a, order, &coefficients, 0.4, &mut scratch);
                    let mut b = row;
                    scalar(&mut b, width, &coefficients, 0.4, &mut scratch);
                    assert!(probe::bits(&a) == probe::bits(&b), "{order} × {width} {name}");
                }
            }
        }
    }
}
