//! Which numbers to choose: clip searches, scales, equalization.

pub mod rk_llama;
