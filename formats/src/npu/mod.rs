//! The NPU's side of the bytes: engines and schemes, target limits, rates and answers of boards, native tile
//! layouts.

mod board;
pub mod probe;
mod scheme;
mod target;
pub mod tiles;

pub use board::{Board, BoardError, Rates, Work};
pub use scheme::{Engine, Scheme};
pub use target::Target;
