//! Which numbers to choose: observation of activations, clip searches, scales, equalization.

pub mod activation_scale;
pub mod allocate;
pub mod clip;
pub mod collect;
pub mod corpus;
pub mod equalize;
pub mod gptq;
pub mod hessian;
pub mod imatrix;
pub mod retarget;
pub mod rk_llama;
pub mod signs;
pub mod statistics;
