//! The kernel in plain Rust: what the others must equal.

use super::{QUAD, QUAD_BYTES, Sums};

pub(super) fn add_products<const R: usize>(
    rows: &[u8],
    weights: &[[i8; QUAD_BYTES]],
    sums: &mut [Sums; R],
) {
    let (quads, _) = rows.as_chunks::<QUAD>();
    for (weights, quads) in weights.iter().zip(quads.chunks_exact(R)) {
        let (channels, _) = weights.as_chunks::<QUAD>();
        for (sums, quad) in sums.iter_mut().zip(quads) {
            let quad = quad.map(|a| i32::from(a.cast_signed()));
            for (sum, channel) in sums.iter_mut().zip(channels) {
                for (a, &w) in quad.iter().zip(channel) {
                    *sum = sum.wrapping_add(a * i32::from(w));
                }
            }
        }
    }
}
