//! The NPU's side of the bytes: engines and schemes, target limits, native tile layouts.

mod scheme;
mod target;
pub mod tiles;

pub use scheme::{Engine, Scheme};
pub use target::Target;
