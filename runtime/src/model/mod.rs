//! What a model's keys say of its graph.

mod architecture;
mod error;
mod hyperparameters;
mod keys;
pub mod names;
mod residual;
mod rope;

pub use architecture::{Activation, Pairing};
pub use error::ModelError;
pub use hyperparameters::{Attention, Experts, FeedForward, Hyperparameters, LayerShape};
pub use residual::ResidualRotationError;
pub use rope::{Rope, RopeTable};
