//! Products of a matrix of signs with the rows of a block.
//!
//! Column j of a block is x_l = block[l · width + j]. The columns of the matrix are taken in groups
//! of four, and of a group only the 16 sums ±x_0 ± x_1 ± x_2 ± x_3 matter: each is made once per
//! column of the block, and a row of the matrix adds one of them per group, a quarter of the
//! additions of a dense product and no multiplication.
//!
//! The order of the operations is a promise, for the bytes of packed weights depend on it. The sum
//! of a group whose first sign is + is ((x_0 ± x_1) ± x_2) ± x_3; with a first sign - it is the
//! negated sum of the opposite signs. An element of the result is the sum of its groups, first to
//! last, and is then multiplied by the scale. Each is one IEEE operation in f32, never fused.
#![expect(unsafe_code, reason = "SIMD kernel")]

use super::lanes::{self, ALIGNMENT_SLACK, LANES, Lanes};

/// Columns of the matrix whose sums are made together.
const GROUP: usize = 4;
/// Sums of a group.
const SUMS: usize = 1 << GROUP;
/// Groups whose sums are held at a time: 8 · 16 sums of 32 lanes take 16 KiB.
const BATCH: usize = 8;
/// Vectors of a row that are processed together where the block is wide enough.
const WIDEST: usize = 4;

/// The signs of a matrix, four to a code: bit t of the code of row i and group g is set if the entry
/// (i, 4g + t) is negative.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    order: usize,
    codes: Vec<u8>,
}

impl Codes {
    /// The codes of a matrix given by its entries; `order` is a multiple of four.
    pub(super) fn new(order: usize, entry: impl Fn(usize, usize) -> i8) -> Self {
        assert!(order.is_multiple_of(GROUP));
        let groups = order / GROUP;
        let code = |i: usize, group: usize| {
            (0..GROUP).fold(0, |code, t| code | u8::from(entry(i, GROUP * group + t) < 0) << t)
        };
        let codes = (0..order * groups).map(|index| code(index / groups, index % groups)).collect();
        Self { order, codes }
    }

    /// The codes of each row.
    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.codes.chunks_exact(self.order / GROUP)
    }
}

/// Elements of scratch space for a matrix of this order.
pub(super) fn scratch_len(order: usize) -> usize {
    (BATCH * SUMS + order) * WIDEST * LANES + ALIGNMENT_SLACK
}

/// Multiplies `block`, as many equal rows as the matrix has columns, by the matrix and by `scale`.
pub(super) fn product(block: &mut [f32], codes: &Codes, scale: f32, scratch: &mut [f32]) {
    assert!(block.len().is_multiple_of(codes.order) && scratch.len() >= scratch_len(codes.order));
    let width = block.len() / codes.order;
    if width.is_multiple_of(LANES) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = lanes::Avx2::detect() {
            // SAFETY: AVX2 is there, the scratch space was checked, the width is a multiple of 8.
            return unsafe { avx2(simd, block, width, codes, scale, scratch) };
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = lanes::Neon::detect() {
            // SAFETY: the scratch space was checked, the width is a multiple of 8.
            return unsafe { dispatch(simd, block, width, codes, scale, scratch) };
        }
    }
    scalar(block, width, codes, scale, scratch);
}

/// The definition, and the twin of the SIMD kernel.
fn scalar(block: &mut [f32], width: usize, codes: &Codes, scale: f32, scratch: &mut [f32]) {
    let column = &mut scratch[..codes.order];
    for j in 0..width {
        for (x, row) in column.iter_mut().zip(block.chunks_exact(width)) {
            *x = row[j];
        }
        for (row, codes) in block.chunks_exact_mut(width).zip(codes.rows()) {
            let groups = column.chunks_exact(GROUP).zip(codes);
            let sum = groups.map(|(x, &code)| group_sum(x, code)).reduce(|sum, group| sum + group);
            row[j] = sum.unwrap_or(0.0) * scale;
        }
    }
}

/// ±x_0 ± x_1 ± x_2 ± x_3 with the signs of a code.
fn group_sum(x: &[f32], code: u8) -> f32 {
    if code & 1 != 0 {
        return -group_sum(x, !code);
    }
    let step = |sum: f32, t: usize| if code >> t & 1 == 0 { sum + x[t] } else { sum - x[t] };
    step(step(step(x[0], 1), 2), 3)
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
    codes: &Codes,
    scale: f32,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { dispatch(simd, block, width, codes, scale, scratch) }
}

/// Compiles the kernel for 32, 16 or 8 columns at a time.
///
/// # Safety
///
/// `block` has `codes.order` rows of `width` elements, a multiple of 8; `scratch` has at least
/// [`scratch_len`] elements.
#[inline(always)]
unsafe fn dispatch<S: Lanes>(
    simd: S,
    block: &mut [f32],
    width: usize,
    codes: &Codes,
    scale: f32,
    scratch: &mut [f32],
) {
    let (block, scratch) = (block.as_mut_ptr(), lanes::aligned(scratch).as_mut_ptr());
    // SAFETY: the caller's promise; the chosen number of columns divides the width.
    unsafe {
        match width / LANES {
            n if n.is_multiple_of(4) => kernel::<S, 4>(simd, block, width, codes, scale, scratch),
            n if n.is_multiple_of(2) => kernel::<S, 2>(simd, block, width, codes, scale, scratch),
            _ => kernel::<S, 1>(simd, block, width, codes, scale, scratch),
        }
    }
}

/// For each run of 8 · N columns: the sums of a batch of groups, then one of each group added to
/// every row's partial result. The last batch is read in full before any result is written.
///
/// # Safety
///
/// `block` points at `codes.order` rows of `width` elements, a multiple of 8 · N; `scratch` at
/// BATCH · 16 + `codes.order` runs of 8 · N elements.
#[inline(always)]
unsafe fn kernel<S: Lanes, const N: usize>(
    simd: S,
    block: *mut f32,
    width: usize,
    codes: &Codes,
    scale: f32,
    scratch: *mut f32,
) {
    let run = LANES * N;
    let groups = codes.order / GROUP;
    let scale = simd.splat(scale);
    // SAFETY: the scratch space holds BATCH · SUMS + order runs.
    let (sums, partial) = unsafe { (scratch, scratch.add(BATCH * SUMS * run)) };
    for j in (0..width).step_by(run) {
        for start in (0..groups).step_by(BATCH) {
            let end = groups.min(start + BATCH);
            for group in start..end {
                // SAFETY: rows 4 · group to 4 · group + 3 exist, j + run ≤ width; at most BATCH
                // groups are written.
                unsafe {
                    let source = block.add(GROUP * group * width + j);
                    make_sums::<S, N>(simd, source, width, sums.add((group - start) * SUMS * run));
                }
            }
            for (i, row) in codes.rows().enumerate() {
                let mut total = [scale; N];
                let mut batch = row[start..end].iter().enumerate();
                if start > 0 {
                    for (n, total) in total.iter_mut().enumerate() {
                        // SAFETY: i is below the order.
                        *total = unsafe { simd.load(partial.add(i * run + n * LANES)) };
                    }
                } else if let Some((_, &code)) = batch.next() {
                    for (n, total) in total.iter_mut().enumerate() {
                        // SAFETY: a code is below SUMS, and group 0 was made.
                        *total =
                            unsafe { simd.load(sums.add(usize::from(code) * run + n * LANES)) };
                    }
                }
                for (group, &code) in batch {
                    let index = (group * SUMS + usize::from(code)) * run;
                    for (n, total) in total.iter_mut().enumerate() {
                        // SAFETY: a code is below SUMS, and this group was made.
                        let sum = unsafe { simd.load(sums.add(index + n * LANES)) };
                        *total = simd.add(*total, sum);
                    }
                }
                for (n, &total) in total.iter().enumerate() {
                    // SAFETY: i is below the order, j + run ≤ width.
                    unsafe {
                        if end == groups {
                            let total = simd.mul(total, scale);
                            simd.store(block.add(i * width + j + n * LANES), total);
                        } else {
                            simd.store(partial.add(i * run + n * LANES), total);
                        }
                    }
                }
            }
        }
    }
}

/// The 16 sums of four rows, by code, for 8 · N columns.
///
/// # Safety
///
/// `source` points at 8 · N elements, and so it does after one, two and three times `width`
/// elements; `sums` at 16 · 8 · N.
#[inline(always)]
unsafe fn make_sums<S: Lanes, const N: usize>(
    simd: S,
    source: *const f32,
    width: usize,
    sums: *mut f32,
) {
    for n in 0..N {
        let offset = n * LANES;
        // SAFETY: the caller's promise.
        let x = |t: usize| unsafe { simd.load(source.add(t * width + offset)) };
        let (x0, x1, x2, x3) = (x(0), x(1), x(2), x(3));
        let pairs = [simd.add(x0, x1), simd.sub(x0, x1)];
        for (bit1, &pair) in pairs.iter().enumerate() {
            let triples = [simd.add(pair, x2), simd.sub(pair, x2)];
            for (bit2, &triple) in triples.iter().enumerate() {
                let quads = [simd.add(triple, x3), simd.sub(triple, x3)];
                for (bit3, &quad) in quads.iter().enumerate() {
                    let code = bit1 << 1 | bit2 << 2 | bit3 << 3;
                    // SAFETY: codes are below 16.
                    unsafe {
                        simd.store(sums.add(code * LANES * N + offset), quad);
                        let opposite = SUMS - 1 - code;
                        simd.store(sums.add(opposite * LANES * N + offset), simd.neg(quad));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{paley, probe};
    use super::*;

    fn codes(order: usize, transposed: bool) -> (Vec<i8>, Codes) {
        let construction = paley::Construction::of_order(order).unwrap();
        let matrix = paley::matrix(construction, order);
        let entry = |i, j| if transposed { matrix[j * order + i] } else { matrix[i * order + j] };
        let codes = Codes::new(order, entry);
        (matrix, codes)
    }

    #[test]
    fn equals_the_dense_product_in_integers() {
        for order in [4, 12, 20, 28, 44, 108] {
            for transposed in [false, true] {
                let (matrix, codes) = codes(order, transposed);
                for width in [1, 2, 8, 16, 32, 96] {
                    let input: Vec<f32> = (0..order * width)
                        .map(|i| f32::from(u8::try_from(i * 31 % 251).unwrap()))
                        .collect();
                    let mut block = input.clone();
                    product(&mut block, &codes, 0.5, &mut vec![f32::NAN; scratch_len(order)]);
                    for (index, &found) in block.iter().enumerate() {
                        let (i, j) = (index / width, index % width);
                        let term = |l: usize| {
                            let at = if transposed { l * order + i } else { i * order + l };
                            f32::from(matrix[at]) * input[l * width + j]
                        };
                        let expected = (0..order).map(term).sum::<f32>() * 0.5;
                        assert_eq!(found, expected, "order {order} width {width} at {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn simd_and_scalar_agree_bit_for_bit() {
        for order in [4, 12, 28, 36, 44, 76] {
            let (_, codes) = codes(order, false);
            let mut scratch = vec![f32::NAN; scratch_len(order)];
            for width in [8, 16, 24, 32, 64] {
                for (name, row) in probe::rows(order * width) {
                    let mut a = row.clone();
                    product(&mut a, &codes, 0.1, &mut scratch);
                    let mut b = row;
                    scalar(&mut b, width, &codes, 0.1, &mut scratch);
                    assert!(probe::bits(&a) == probe::bits(&b), "{order} × {width} {name}");
                }
            }
        }
    }
}
