//! The NPU through the vendor's library, librknnrt: its interface, the library itself, memory that
//! both sides see, matmuls, and linears on all cores.
//!
//! Weights are read from a pack straight into a few arenas of memory that both sides see, in the
//! IOMMU domains of the pack's plan. A linear's channels are divided among the cores; each core has a
//! thread, and on it matmuls that are kept by their shape and bound to the weights of whichever linear
//! is next. What the host does before and after is that of [`host`](crate::host), so that outputs are
//! the simulator's, bit for bit, if the chip's integers are.

pub mod abi;
pub mod check;
mod contexts;
mod error;
#[cfg(test)]
mod instructions;
mod library;
mod linear;
mod lock;
mod matmul;
mod memory;
mod npu;
mod open;
mod parts;
mod products;
mod rows;
mod version;
mod weights;

pub use error::RknnError;
pub use library::{FOLDERS, Functions, LIBRARY, Library};
pub use linear::RknnLinear;
pub use lock::NpuLock;
pub use matmul::{Core, Layout, Matmul, Operand, Shape};
pub use memory::{Arena, Slice};
pub use npu::Npu;
pub use open::{Kind, open, versions};
pub use products::{LoadedSegment, Products};
pub use version::{LEAST_VERSION, VERSION_MARK, Version};
pub use weights::{LoadOptions, LoadedWeights};
