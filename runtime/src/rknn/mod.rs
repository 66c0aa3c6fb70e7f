//! The NPU through the vendor's library, librknnrt: its interface, the library itself, memory that
//! both sides see, and matmuls.

pub mod abi;
pub mod check;
mod error;
mod library;
mod lock;
mod matmul;
mod memory;
mod open;
mod version;

pub use error::RknnError;
pub use library::{FOLDERS, LIBRARY, Library};
pub use lock::NpuLock;
pub use matmul::{Core, Layout, Matmul, Operand, Shape};
pub use memory::{Arena, Slice};
pub use open::{Kind, open, versions};
pub use version::{LEAST_VERSION, VERSION_MARK, Version};
