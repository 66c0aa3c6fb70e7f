//! Eight f32 lanes of AVX2 or NEON, under one trait, for the kernels of this folder.
//!
//! Every operation is one IEEE operation per lane, so that a kernel that performs the operations of
//! its scalar twin in the same order for each element returns the same bits. A value of [`Avx2`] or
//! [`Neon`] exists only where the processor has the instructions; that makes all but the memory
//! accesses safe.
#![expect(unsafe_code, reason = "SIMD intrinsics")]

/// Number of lanes of every implementation.
pub(super) const LANES: usize = 8;

/// Elements of scratch space that [`aligned`] may skip.
pub(super) const ALIGNMENT_SLACK: usize = 64 / size_of::<f32>() - 1;

/// The scratch space from its first cache line on: vectors then lie within one line each.
pub(super) fn aligned(scratch: &mut [f32]) -> &mut [f32] {
    let skipped = scratch.as_ptr().align_offset(64).min(ALIGNMENT_SLACK).min(scratch.len());
    &mut scratch[skipped..]
}

/// An instruction set with vectors of eight f32.
pub(super) trait Lanes: Copy {
    /// Eight f32.
    type Vector: Copy;

    /// Reads eight consecutive elements.
    ///
    /// # Safety
    ///
    /// `source` points at eight f32 that may be read; no alignment is needed.
    unsafe fn load(self, source: *const f32) -> Self::Vector;

    /// Writes eight consecutive elements.
    ///
    /// # Safety
    ///
    /// `target` points at eight f32 that may be written; no alignment is needed.
    unsafe fn store(self, target: *mut f32, vector: Self::Vector);

    /// The same number in all lanes.
    fn splat(self, number: f32) -> Self::Vector;
    /// a + b
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a - b
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a · b
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// -a
    fn neg(self, a: Self::Vector) -> Self::Vector;
    /// The Sylvester stages of distance 1, 2 and 4 between lanes: (x, y) becomes (x + y, x - y).
    fn butterflies(self, a: Self::Vector) -> Self::Vector;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Proof that the processor has AVX2.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        /// The instructions, if the processor has them.
        pub(in super::super) fn detect() -> Option<Self> {
            is_x86_feature_detected!("avx2").then_some(Self(()))
        }
    }

    impl Lanes for Avx2 {
        type Vector = __m256;

        #[inline(always)]
        unsafe fn load(self, source: *const f32) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists; the caller vouches for the pointer.
            unsafe { _mm256_loadu_ps(source) }
        }

        #[inline(always)]
        unsafe fn store(self, target: *mut f32, vector: __m256) {
            // SAFETY: AVX2 is there, for `self` exists; the caller vouches for the pointer.
            unsafe { _mm256_storeu_ps(target, vector) }
        }

        #[inline(always)]
        fn splat(self, number: f32) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe { _mm256_set1_ps(number) }
        }

        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe { _mm256_sub_ps(a, b) }
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn neg(self, a: __m256) -> __m256 {
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
        }

        #[inline(always)]
        fn butterflies(self, a: __m256) -> __m256 {
            // In lane x the partner y is added, in lane y the negated y to the partner x, which
            // rounds as x - y does.
            // SAFETY: AVX2 is there, for `self` exists.
            unsafe {
                let n = -0.0;
                let negated = _mm256_xor_ps(a, _mm256_setr_ps(0., n, 0., n, 0., n, 0., n));
                let a = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(a), negated);
                let negated = _mm256_xor_ps(a, _mm256_setr_ps(0., 0., n, n, 0., 0., n, n));
                let a = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(a), negated);
                let negated = _mm256_xor_ps(a, _mm256_setr_ps(0., 0., 0., 0., n, n, n, n));
                _mm256_add_ps(_mm256_permute2f128_ps::<1>(a, a), negated)
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Lanes;

    /// Proof that the processor has NEON.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon(());

    impl Neon {
        /// The instructions, if the processor has them.
        pub(in super::super) fn detect() -> Option<Self> {
            std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
        }
    }

    /// Lanes 0 to 3 and 4 to 7.
    type Pair = (float32x4_t, float32x4_t);

    impl Lanes for Neon {
        type Vector = Pair;

        #[inline(always)]
        unsafe fn load(self, source: *const f32) -> Pair {
            // SAFETY: NEON is there, for `self` exists; the caller vouches for eight elements.
            unsafe { (vld1q_f32(source), vld1q_f32(source.add(4))) }
        }

        #[inline(always)]
        unsafe fn store(self, target: *mut f32, vector: Pair) {
            // SAFETY: NEON is there, for `self` exists; the caller vouches for eight elements.
            unsafe {
                vst1q_f32(target, vector.0);
                vst1q_f32(target.add(4), vector.1);
            }
        }

        #[inline(always)]
        fn splat(self, number: f32) -> Pair {
            // SAFETY: NEON is there, for `self` exists.
            let vector = unsafe { vdupq_n_f32(number) };
            (vector, vector)
        }

        #[inline(always)]
        fn add(self, a: Pair, b: Pair) -> Pair {
            // SAFETY: NEON is there, for `self` exists.
            unsafe { (vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
        }

        #[inline(always)]
        fn sub(self, a: Pair, b: Pair) -> Pair {
            // SAFETY: NEON is there, for `self` exists.
            unsafe { (vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
        }

        #[inline(always)]
        fn mul(self, a: Pair, b: Pair) -> Pair {
            // SAFETY: NEON is there, for `self` exists.
            unsafe { (vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
        }

        #[inline(always)]
        fn neg(self, a: Pair) -> Pair {
            // SAFETY: NEON is there, for `self` exists.
            unsafe { (vnegq_f32(a.0), vnegq_f32(a.1)) }
        }

        #[inline(always)]
        fn butterflies(self, (a, b): Pair) -> Pair {
            // Even and odd elements of the two vectors, their sums and differences, and the same
            // again, leaves both in a layout where the last interleaving restores the order.
            // SAFETY: NEON is there, for `self` exists.
            unsafe {
                let (x, y) = (vuzp1q_f32(a, b), vuzp2q_f32(a, b));
                let (s, d) = (vaddq_f32(x, y), vsubq_f32(x, y));
                // s = lanes 0+1, 2+3, 4+5, 6+7; d likewise: distance 2 pairs their neighbours.
                let (x, y) = (vuzp1q_f32(s, d), vuzp2q_f32(s, d));
                let (s, d) = (vaddq_f32(x, y), vsubq_f32(x, y));
                // s = results 0, 4, 1, 5; d = results 2, 6, 3, 7: distance 4 pairs neighbours.
                let (x, y) = (vuzp1q_f32(s, d), vuzp2q_f32(s, d));
                (vaddq_f32(x, y), vsubq_f32(x, y))
            }
        }
    }
}
