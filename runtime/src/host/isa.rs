//! Instruction sets that kernels are compiled for.

/// The instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, the reference of all others.
    Scalar,
    /// `vpmaddwd` on sign-extended bytes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `vpdpbusd` on 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// `smull` and `sadalp`, which every aarch64 processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// `sdot`.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// The best that this machine has. The answer is cached by the standard library.
    pub fn detect() -> Self {
        Self::available().next_back().unwrap_or(Isa::Scalar)
    }

    /// All that this machine has, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = [
            (Isa::Avx2, is_x86_feature_detected!("avx2")),
            (
                Isa::Avx512,
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vnni"),
            ),
        ];
        #[cfg(target_arch = "aarch64")]
        let found = [
            (Isa::Neon, std::arch::is_aarch64_feature_detected!("neon")),
            (
                Isa::NeonDot,
                std::arch::is_aarch64_feature_detected!("neon")
                    && std::arch::is_aarch64_feature_detected!("dotprod"),
            ),
        ];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let found: [(Isa, bool); 0] = [];
        let found = found.into_iter().filter(|(_, there)| *there).map(|(isa, _)| isa);
        [Isa::Scalar].into_iter().chain(found)
    }
}
