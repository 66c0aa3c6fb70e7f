//! Integer matrix products, exact over the whole range of i8 on both sides.
//!
//! `C[m, n] = Σ_k A[m, k]·B[n, k]` in i32, for one *group* of [`GROUP`] output channels at a time.
//! All sums are taken modulo 2^32, so the result is exact wherever it fits an i32: for K up to
//! 131071 at full range.
//!
//! The layout of the weights is the same for all instruction sets: K is cut into *quads* of
//! [`QUAD`] columns, and the weights of a group are `[K/4][64][4]`, so that each output channel has
//! the four bytes of a quad together. Rows of activations are packed in blocks of at most
//! [`ROWS`] as `[K/4][rows][4]`, in elements of the instruction set's [`Operand`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod nibbles;
mod scalar;

pub use crate::host::{GROUP, Isa, Sums};

/// Columns whose products are summed together.
pub const QUAD: usize = 4;

/// Bytes of a group's weights in one quad.
pub const QUAD_BYTES: usize = GROUP * QUAD;

/// Most rows of activations of a block: as many as the accumulators of a block leave registers for.
pub const ROWS: usize = 6;

/// How kernels want the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "kernels of x86-64 ask for them")
)]
pub enum Operand {
    /// As they are.
    Signed,
    /// Plus 128, unsigned. Sums are then too large by 128·Σw, and must begin at −128·Σw.
    Offset,
    /// Sign-extended to 16 bits.
    Wide,
}

impl Operand {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Operand::Signed | Operand::Offset => 1,
            Operand::Wide => 2,
        }
    }
}

impl Isa {
    /// How the kernels want the activations.
    pub(crate) const fn operand(self) -> Operand {
        match self {
            Isa::Scalar => Operand::Signed,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Operand::Wide,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Operand::Offset,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => Operand::Signed,
        }
    }

    /// Adds the products of a block of packed rows with the weights of a group to `sums`, one for
    /// each row of the block.
    ///
    /// # Panics
    ///
    /// If `sums` has no row or more than six, or the lengths are not those of the same number
    /// of quads.
    pub(crate) fn add_products(self, rows: &[u8], weights: &[i8], sums: &mut [Sums]) {
        match sums.len() {
            1 => self.add::<1>(rows, weights, sums),
            2 => self.add::<2>(rows, weights, sums),
            3 => self.add::<3>(rows, weights, sums),
            4 => self.add::<4>(rows, weights, sums),
            5 => self.add::<5>(rows, weights, sums),
            6 => self.add::<6>(rows, weights, sums),
            rows => panic!("a block of {rows} rows"),
        }
    }

    fn add<const R: usize>(self, rows: &[u8], weights: &[i8], sums: &mut [Sums]) {
        let (weights, rest) = weights.as_chunks::<QUAD_BYTES>();
        let bytes = weights.len() * R * QUAD * self.operand().bytes();
        assert!(rest.is_empty() && rows.len() == bytes, "rows and weights of whole quads");
        let Some((sums, [])) = sums.split_first_chunk_mut::<R>() else { return };
        match self {
            Isa::Scalar => scalar::add_products(rows, weights, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::add_products(rows, weights, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::add_products(rows, weights, sums),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::add_products(rows, weights, sums),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => neon::add_products_dot(rows, weights, sums),
        }
    }
}

/// Packs a block of rows, each of whole quads, for an instruction set: `[K/4][rows][4]`.
///
/// # Panics
///
/// If `block` is not as long as the rows need, or they are not equally long.
pub fn pack_rows(operand: Operand, rows: &[&[i8]], block: &mut [u8]) {
    let bytes = operand.bytes();
    let k = rows.first().map_or(0, |row| row.len());
    assert!(block.len() == rows.len() * k * bytes && rows.iter().all(|row| row.len() == k));
    for (index, row) in rows.iter().enumerate() {
        let (quads, _) = row.as_chunks::<QUAD>();
        match operand {
            Operand::Signed => {
                scatter(quads, index, rows.len(), block, |quad| quad.map(i8::cast_unsigned))
            }
            Operand::Offset => scatter(quads, index, rows.len(), block, |quad| {
                quad.map(|a| a.cast_unsigned() ^ 0x80)
            }),
            Operand::Wide => scatter(quads, index, rows.len(), block, |[a, b, c, d]| {
                let wide = |a: i8| i16::from(a).to_le_bytes();
                let ([a, e], [b, f], [c, g], [d, h]) = (wide(a), wide(b), wide(c), wide(d));
                [a, e, b, f, c, g, d, h]
            }),
        }
    }
}

/// Writes the quads of row `index` of `rows` to their places.
fn scatter<const B: usize>(
    quads: &[[i8; QUAD]],
    index: usize,
    rows: usize,
    block: &mut [u8],
    form: impl Fn([i8; QUAD]) -> [u8; B],
) {
    let (places, _) = block.as_chunks_mut::<B>();
    for (place, quad) in places.iter_mut().skip(index).step_by(rows).zip(quads) {
        *place = form(*quad);
    }
}

/// What the sums of a group begin at, so that they end as the products: −128·Σw where the
/// activations are offset, otherwise 0.
pub fn beginning(operand: Operand, weight_sums: &Sums) -> Sums {
    match operand {
        Operand::Offset => weight_sums.map(|sum| sum.wrapping_mul(-128)),
        Operand::Signed | Operand::Wide => [0; GROUP],
    }
}

/// Adds each channel's weights in these quads to its sum.
pub fn add_weights(weights: &[i8], sums: &mut Sums) {
    let (channels, _) = weights.as_chunks::<QUAD>();
    let (quads, _) = channels.as_chunks::<GROUP>();
    for quad in quads {
        for (sum, weights) in sums.iter_mut().zip(quad) {
            *sum += weights.iter().map(|&w| i32::from(w)).sum::<i32>();
        }
    }
}

#[cfg(test)]
mod tests;
