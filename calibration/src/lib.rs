//! Which numbers to choose: clip searches, scales, equalization.

pub mod activation_scale;
pub mod clip;
pub mod equalize;
pub mod gptq;
pub mod hessian;
pub mod rk_llama;
pub mod signs;
