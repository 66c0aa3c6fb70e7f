//! Which numbers to choose: observation of activations, clip searches, scales, equalization.

pub mod clip;
pub mod collect;
pub mod corpus;
pub mod equalize;
pub mod imatrix;
pub mod rk_llama;
pub mod statistics;
