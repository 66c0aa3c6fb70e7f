//! Which numbers to choose: clip searches, scales, equalization.

pub mod rk_llama;
pub mod clip;
pub mod equalize;
