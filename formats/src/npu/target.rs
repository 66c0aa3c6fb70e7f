//! Limits of a target chip, as data.

use serde::{Deserialize, Serialize};

use super::Engine;

/// What a chip's NPU accepts. Sizes in bytes, K and N in elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name as users write it, such as `rk3588`.
    pub name: String,
    /// NPU cores; a linear's tile rows are divided among them at run time.
    pub cores: u32,
    /// K of a matmul must be a multiple of it.
    pub k_align: u32,
    /// Longest K that one integer matmul may have; longer K is segmented on the host.
    pub k_segment: u32,
    /// Longest K that one f16 matmul may have.
    pub k_segment_f16: u32,
    /// IOMMU domains the driver offers.
    pub domains: u32,
    /// Bytes of one domain that weights may fill.
    pub domain_capacity: u64,
}

impl Target {
    /// Largest number of bytes that rk-llama.cpp, the only public user of domains, places in one:
    /// `INT32_MAX - 65536`. A domain's address space is 4 GiB, but offsets in the vendor's API are
    /// `i32`.
    const DOMAIN_BYTES: u64 = 0x7fff_ffff - 0x1_0000;

    /// Bytes of weights that every domain is taken to have.
    const LEAST_CAPACITY: u64 = 1 << 20;

    /// Bytes of a domain kept free of weights for the activations and outputs of its matmuls.
    const DOMAIN_RESERVE: u64 = 128 << 20;

    /// RK3588 and RK3588S. The float engine's K is kept to 4096: public measurements show its rate
    /// collapse above (574, 173 and 74 GFLOPS at K = 2048, 4096 and 8192).
    pub fn rk3588() -> Self {
        Target {
            name: "rk3588".to_owned(),
            cores: 3,
            k_align: 32,
            k_segment: 8192,
            k_segment_f16: 4096,
            domains: 16,
            domain_capacity: Self::DOMAIN_BYTES - Self::DOMAIN_RESERVE,
        }
    }

    /// RK3576: the vendor's library segments K at 4096 and there are two cores.
    pub fn rk3576() -> Self {
        Target { name: "rk3576".to_owned(), cores: 2, k_segment: 4096, ..Self::rk3588() }
    }

    /// The target of that name; `rk3588s` has the limits of `rk3588`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "rk3588" | "rk3588s" => Some(Self::rk3588()),
            "rk3576" => Some(Self::rk3576()),
            _ => None,
        }
    }

    /// Takes into account that a domain gives `bytes` bytes, and less than `most`.
    pub(super) fn lower_domain_bytes(&mut self, bytes: u64, most: u64) {
        if most < Self::DOMAIN_BYTES {
            let weights = bytes.saturating_sub(Self::DOMAIN_RESERVE).max(Self::LEAST_CAPACITY);
            self.domain_capacity = self.domain_capacity.min(weights);
        }
    }

    /// Longest K that one matmul of `engine` may have.
    pub fn longest_segment(&self, engine: Engine) -> usize {
        let longest = match engine {
            Engine::F16 => self.k_segment_f16,
            Engine::I8 | Engine::I4 => self.k_segment,
        };
        usize::try_from(longest).unwrap_or(usize::MAX)
    }
}
