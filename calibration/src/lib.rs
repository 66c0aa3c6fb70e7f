//! Which numbers to choose: clip searches, scales, equalization.

pub mod clip;
pub mod equalize;
