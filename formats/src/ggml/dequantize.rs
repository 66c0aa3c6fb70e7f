//! Dequantization: the blocks of a ggml type to f32.

mod groups;
mod numbers;
mod superblocks;
mod ternary;

use thiserror::Error;

use super::GgmlType;

/// Why bytes could not be dequantized.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DequantizeError {
    /// The type is one that this crate does not turn into floats.
    #[error("cannot dequantize {ggml_type}")]
    Unsupported {
        /// The type asked for.
        ggml_type: GgmlType,
    },
    /// The elements are not whole blocks.
    #[error("{elements} elements are not whole blocks of {block_elements}, as {ggml_type} has")]
    PartialBlock {
        /// The type of the blocks.
        ggml_type: GgmlType,
        /// Elements asked for.
        elements: usize,
        /// Elements of one block.
        block_elements: usize,
    },
    /// The bytes are not those of the elements.
    #[error("{elements} elements of {ggml_type} take {expected} bytes, not {found}")]
    Length {
        /// The type of the blocks.
        ggml_type: GgmlType,
        /// Elements asked for.
        elements: usize,
        /// Bytes that they take.
        expected: u64,
        /// Bytes given.
        found: usize,
    },
}

/// Turns blocks into floats: `src` holds exactly the blocks of `dst.len()` elements, at any
/// alignment. Results are those of the reference dequantizers of ggml's C code
/// (`dequantize_row_*` of ggml-quants.c, compiled without fused multiply-add), bit for bit and on
/// any machine, except that the payload of a NaN is not specified.
///
/// # Errors
/// If the type is not one of those that [`GgmlType::can_dequantize`] names, or the lengths do not
/// agree. `dst` is then unchanged.
pub fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), DequantizeError> {
    check_lengths(ty, src, dst)?;
    convert(ty, src, dst)
}

/// Checks that `src` is as many whole blocks as `dst` has elements for.
fn check_lengths(ty: GgmlType, src: &[u8], dst: &[f32]) -> Result<(), DequantizeError> {
    let elements = dst.len();
    let expected = u64::try_from(elements).ok().and_then(|n| ty.row_bytes(n)).ok_or(
        DequantizeError::PartialBlock {
            ggml_type: ty,
            elements,
            block_elements: ty.block_elements(),
        },
    )?;
    if u64::try_from(src.len()) != Ok(expected) {
        let found = src.len();
        return Err(DequantizeError::Length { ggml_type: ty, elements, expected, found });
    }
    Ok(())
}

/// Dequantizes with whatever instructions the caller was compiled for.
#[inline(always)]
fn convert(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), DequantizeError> {
    match ty {
        GgmlType::F32 => numbers::f32(src, dst),
        GgmlType::F16 => numbers::f16(src, dst),
        GgmlType::Bf16 => numbers::bf16(src, dst),
        GgmlType::Q4_0 => blocks(src, dst, groups::q4_0),
        GgmlType::Q4_1 => blocks(src, dst, groups::q4_1),
        GgmlType::Q5_0 => blocks(src, dst, groups::q5_0),
        GgmlType::Q5_1 => blocks(src, dst, groups::q5_1),
        GgmlType::Q8_0 => blocks(src, dst, groups::q8_0),
        GgmlType::Iq4Nl => blocks(src, dst, groups::iq4_nl),
        GgmlType::Mxfp4 => blocks(src, dst, groups::mxfp4),
        GgmlType::Nvfp4 => blocks(src, dst, groups::nvfp4),
        GgmlType::Q2K => blocks(src, dst, superblocks::q2_k),
        GgmlType::Q3K => blocks(src, dst, superblocks::q3_k),
        GgmlType::Q4K => blocks(src, dst, superblocks::q4_k),
        GgmlType::Q5K => blocks(src, dst, superblocks::q5_k),
        GgmlType::Q6K => blocks(src, dst, superblocks::q6_k),
        GgmlType::Q8K => blocks(src, dst, superblocks::q8_k),
        GgmlType::Iq4Xs => blocks(src, dst, superblocks::iq4_xs),
        GgmlType::Tq1_0 => blocks(src, dst, ternary::tq1_0),
        GgmlType::Tq2_0 => blocks(src, dst, ternary::tq2_0),
        GgmlType::Q1_0 => blocks(src, dst, ternary::q1_0),
        GgmlType::Q2_0 => blocks(src, dst, ternary::q2_0),
        _ => return Err(DequantizeError::Unsupported { ggml_type: ty }),
    }
    Ok(())
}

/// Calls `block` on each block of BYTES bytes with the ELEMENTS floats it stands for.
#[inline(always)]
fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    src: &[u8],
    dst: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (src, _) = src.as_chunks::<BYTES>();
    let (dst, _) = dst.as_chunks_mut::<ELEMENTS>();
    for (src, dst) in src.iter().zip(dst) {
        block(src, dst);
    }
}

/// The scale at byte `at` of a block: a little-endian f16.
#[inline(always)]
fn scale_at<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
