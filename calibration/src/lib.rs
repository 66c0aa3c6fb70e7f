//! Which numbers to choose: clip searches, scales, equalization.

pub mod clip;
pub mod equalize;
pub mod rk_llama;
