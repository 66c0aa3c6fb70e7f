//! rk-llama.cpp's weight quantization, reproduced to the bit as a baseline to compare with.
//!
//! The chain of a weight tensor `W[n][k]` (`docs/rk-llama-presets.md` has sources and differences):
//!
//! 1. [`Transform`]: each row is multiplied by signs drawn from the tensor's name, zero-padded to
//!    the next power of two K_op, and transformed by an unnormalised Hadamard matrix.
//! 2. [`Blocks`]: K_op is cut into segments of 8192, N into one slice per NPU core.
//! 3. A scale: in [`Preset::V3`] one per row and segment ([`channel_scale`]), in [`Preset::V2`] one
//!    per segment and slice, which [`BlockScales`] finds in one or two passes over the rows.
//! 4. [`quantize_row`], and [`pack_scale`] for a pack, whose transform is normalised.
//!
//! All arithmetic is `f32` as the original has it, with no fused operation; only the clip search
//! uses `f64`, where the original does.

mod blocks;
mod entropy;
mod preset;
mod quantize;
mod scale_pass;
mod signs;
mod transform;

pub use blocks::Blocks;
pub use entropy::{BINS, STEPS, clip_amax, percentile_rank};
pub use preset::{Pipeline, Preset, UnknownName};
pub use quantize::{amax, cast_row, channel_scale, quantize_row};
pub use scale_pass::{BlockScales, PassError, ScalePass, Scales, Step};
pub use signs::{name_hash, signs};
pub use transform::{Transform, hadamard, pack_scale, padded_length};
