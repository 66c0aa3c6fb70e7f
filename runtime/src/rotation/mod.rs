//! Rotation of rows: orthonormal randomized Hadamard-like matrices for any row length.
//!
//! A rotated row is R · diag(v) · x. R is block-diagonal with equal blocks F ⊗ S: F a dense
//! orthonormal factor of order m, or none, S the Sylvester matrix of order p over √p; within a block
//! index i · p + j belongs to row i of F and row j of S. v is a vector of the input: its [`signs`]
//! over its equalization diagonal. `docs/rotation.md` says how R is chosen for a row length, with
//! the measurements, and states the order of the floating-point operations, which is a promise: all
//! machines rotate to the same bits.

mod error;
mod factor;
mod hartley;
mod hartley_product;
mod lanes;
mod paley;
mod paley_product;
#[cfg(test)]
pub(crate) mod probe;
mod signs;
mod sylvester;

use std::fmt;

use tessera_formats::pack::manifest;

pub use error::RotationError;
use factor::{Factor, Kind, MAX_ORDER};
pub use signs::signs;

/// An orthonormal matrix, applied to rows in place.
#[derive(Clone, Debug)]
pub struct Rotation {
    k: usize,
    size: usize,
    /// Order p of the Sylvester matrix.
    sylvester: usize,
    factor: Option<Factor>,
}

impl Rotation {
    /// The identity: rows stay as they are.
    pub fn identity(k: usize) -> Self {
        Self { k, size: k, sylvester: 1, factor: None }
    }

    /// The default rotation of rows of `k` elements, one matrix over the whole row; `k` is at
    /// least 1.
    ///
    /// - `k` a power of two: Sylvester.
    /// - Paley × Sylvester where the smallest Paley matrix that leaves a power of two has at most
    ///   eight times the order of the Hartley matrix.
    /// - Hartley × Sylvester elsewhere, the Hartley matrix of the odd part of `k`.
    /// - Block-diagonal where that odd part is above 1024, too large for a dense factor.
    pub fn hadamard(k: usize) -> Result<Self, RotationError> {
        let odd = odd_part(k)?;
        if odd > MAX_ORDER {
            return Self::block_diagonal(k);
        }
        match paley::smallest_order(k) {
            Some((_, order)) if paley_is_chosen(order, odd) => Self::paley(k),
            _ => Self::hartley(k),
        }
    }

    /// Block-diagonal, each block the Sylvester matrix of the largest power of two that divides
    /// `k`.
    pub fn block_diagonal(k: usize) -> Result<Self, RotationError> {
        let odd = odd_part(k)?;
        Self::new(k, k, k / odd, None)
    }

    /// Paley × Sylvester, a true Hadamard matrix, with the smallest Paley matrix that leaves a power
    /// of two; Sylvester if `k` is a power of two.
    pub fn paley(k: usize) -> Result<Self, RotationError> {
        if odd_part(k)? == 1 {
            return Self::block_diagonal(k);
        }
        let no_paley = RotationError::NoPaley { k, limit: MAX_ORDER };
        let (construction, order) = paley::smallest_order(k).ok_or(no_paley)?;
        Self::new(k, k, k / order, Some((Kind::Paley(construction), order)))
    }

    /// Hartley × Sylvester with the Hartley matrix of the odd part of `k`; Sylvester if `k` is a
    /// power of two.
    pub fn hartley(k: usize) -> Result<Self, RotationError> {
        match odd_part(k)? {
            1 => Self::block_diagonal(k),
            odd => Self::new(k, k, k / odd, Some((Kind::Hartley, odd))),
        }
    }

    /// The Sylvester matrix of the next power of two, for rows with zeros appended.
    pub fn padded_sylvester(k: usize) -> Result<Self, RotationError> {
        odd_part(k)?;
        let too_long = RotationError::TooLong { k: u64::try_from(k).unwrap_or(u64::MAX) };
        let size = k.checked_next_power_of_two().ok_or(too_long)?;
        Self::new(k, size, size, None)
    }

    /// The rotation that a manifest describes. `factor`, the content of its factor's tensor if the
    /// caller has read it, must be the matrix that the manifest names, bit for bit.
    pub fn from_manifest(
        rotation: &manifest::Rotation,
        factor: Option<&[f32]>,
    ) -> Result<Self, RotationError> {
        let &manifest::Rotation { k, size, sylvester, .. } = rotation;
        let order = rotation.factor.as_ref().map_or(1, |factor| factor.order);
        let length = |x: u64| usize::try_from(x).map_err(|_| RotationError::TooLong { k: x });
        let factor_order = length(order)?;
        let described = match &rotation.factor {
            Some(factor) => {
                let kind = Kind::from_name(&factor.kind);
                let unknown = || RotationError::UnknownFactor { kind: factor.kind.clone() };
                Some((kind.ok_or_else(unknown)?, factor_order))
            }
            None => None,
        };
        let block = sylvester.checked_mul(order).filter(|&block| block > 0);
        let fits = block.is_some_and(|block| size.is_multiple_of(block));
        if !sylvester.is_power_of_two() || !fits || size < k {
            return Err(RotationError::Shape { k, size, sylvester, factor: order });
        }
        let made = Self::new(length(k)?, length(size)?, length(sylvester)?, described)?;
        if let Some(stored) = factor {
            made.check_factor(stored)?;
        }
        Ok(made)
    }

    /// The description of this rotation for a manifest; a factor's tensor is named
    /// `rotation.KIND.ORDER` and holds [`Rotation::factor`].
    pub fn to_manifest(&self) -> manifest::Rotation {
        // A usize fits in 64 bits on every platform there is.
        let length = |x: usize| u64::try_from(x).unwrap_or(u64::MAX);
        manifest::Rotation {
            k: length(self.k),
            size: length(self.size),
            sylvester: length(self.sylvester),
            factor: self.factor.as_ref().map(|factor| manifest::Factor {
                kind: factor.kind().name().to_owned(),
                order: length(factor.order()),
                tensor: format!("rotation.{}.{}", factor.kind().name(), factor.order()),
            }),
        }
    }

    fn new(
        k: usize,
        size: usize,
        sylvester: usize,
        factor: Option<(Kind, usize)>,
    ) -> Result<Self, RotationError> {
        if k == 0 {
            return Err(RotationError::Empty);
        }
        let factor = match factor {
            Some((kind, order)) => Some(Factor::new(kind, order, sylvester)?),
            None => None,
        };
        Ok(Self { k, size, sylvester, factor })
    }

    fn check_factor(&self, stored: &[f32]) -> Result<(), RotationError> {
        let expected = self.factor().unwrap_or_default();
        if stored.len() != expected.len() {
            let (expected, found) = (expected.len(), stored.len());
            return Err(RotationError::FactorLength { expected, found });
        }
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        match (&self.factor, stored.iter().zip(expected).position(differs)) {
            (Some(factor), Some(index)) => Err(RotationError::FactorValue {
                kind: factor.kind().name(),
                order: factor.order(),
                index,
            }),
            _ => Ok(()),
        }
    }

    /// Length of a row before it is rotated.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Length of a rotated row: `k`, or more where zeros are appended.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether rows stay as they are.
    pub fn is_identity(&self) -> bool {
        self.sylvester == 1 && self.factor.is_none() && self.size == self.k
    }

    /// The dense factor, f32 `[m, m]`, row-major, orthonormal; `None` where m is 1.
    pub fn factor(&self) -> Option<&[f32]> {
        self.factor.as_ref().map(Factor::dense)
    }

    /// Elements of scratch space that the products need.
    pub fn scratch_len(&self) -> usize {
        self.factor.as_ref().map_or(0, Factor::scratch_len)
    }

    /// `row` becomes R · `row`, in place.
    ///
    /// The first [`k`](Self::k) elements of `row` are the input, the others zeros. What `scratch`
    /// holds does not matter. Rows that
    /// start at a multiple of 64 bytes are rotated a little faster.
    ///
    /// # Panics
    ///
    /// If `row` is not [`size`](Self::size) elements long or `scratch` is shorter than
    /// [`scratch_len`](Self::scratch_len).
    pub fn apply(&self, row: &mut [f32], scratch: &mut [f32]) {
        self.run(row, None, false, scratch);
    }

    /// `row` becomes R · diag(`vector`) · `row`, in place; otherwise as [`apply`](Self::apply).
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply), and if `vector` is not [`k`](Self::k) elements long.
    pub fn apply_scaled(&self, row: &mut [f32], vector: &[f32], scratch: &mut [f32]) {
        assert_eq!(vector.len(), self.k, "length of the vector");
        self.run(row, Some(vector), false, scratch);
    }

    /// `row`, all [`size`](Self::size) elements of it, becomes Rᵀ · `row`, in place: the inverse of
    /// [`apply`](Self::apply) but for rounding.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub fn apply_transposed(&self, row: &mut [f32], scratch: &mut [f32]) {
        self.run(row, None, true, scratch);
    }

    fn run(
        &self,
        row: &mut [f32],
        mut vector: Option<&[f32]>,
        transposed: bool,
        scratch: &mut [f32],
    ) {
        assert_eq!(row.len(), self.size, "length of the row");
        if let Some(short) = vector.take_if(|vector| vector.len() < row.len()) {
            sylvester::multiply(row, short);
        }
        // S is symmetric and commutes with F, which acts on the other index.
        let Some(factor) = &self.factor else {
            return sylvester::transform(row, self.sylvester, vector, norm(self.sylvester));
        };
        let block = factor.order() * self.sylvester;
        for (index, row) in row.chunks_exact_mut(block).enumerate() {
            let vector = vector.map(|vector| &vector[index * block..(index + 1) * block]);
            sylvester::transform(row, self.sylvester, vector, None);
            factor.apply(row, transposed, scratch);
        }
    }
}

/// For people: `paley2 36 × sylvester 32`.
impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.factor.as_ref().map_or(1, Factor::order);
        match (self.size / (order * self.sylvester), self.sylvester) {
            (_, 1) if order == 1 => return f.write_str("identity"),
            (1, _) => {}
            (blocks, _) => write!(f, "{blocks} blocks of ")?,
        }
        if let Some(factor) = &self.factor {
            write!(f, "{} {order} × ", factor.kind().name())?;
        }
        write!(f, "sylvester {}", self.sylvester)?;
        if self.size > self.k {
            write!(f, ", {} zeros", self.size - self.k)?;
        }
        Ok(())
    }
}

/// Whether rows are rotated by the Paley matrix of order `paley` rather than by the Hartley matrix
/// of order `odd`: where its order is at most eight times as large.
///
/// Both spread ordinary rows equally well. But entries of a Hartley matrix reach √2 times those of a
/// Hadamard matrix, so that a row with one massive element, as models have, keeps a larger largest
/// element: its error at 4 bits was 9 to 118 % higher at every length measured. A Paley product
/// takes about m/4 additions per element and a Hartley product about m operations, so rotating by a
/// Paley matrix of four times the order took 1.4 to 2.6 times as long, and of eight times 2.9 to
/// 3.4, which is still little beside the matrix product that follows. From sixteen times on, time
/// decides. The table is in `docs/rotation.md`.
fn paley_is_chosen(paley: usize, odd: usize) -> bool {
    paley <= 8 * odd
}

/// The odd part of a row length, which is not zero.
fn odd_part(k: usize) -> Result<usize, RotationError> {
    if k == 0 { Err(RotationError::Empty) } else { Ok(k >> k.trailing_zeros()) }
}

/// 1/√order, in f64 and rounded once; none for order 1, where nothing is multiplied.
#[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
fn norm(order: usize) -> Option<f32> {
    (order > 1).then(|| (1.0 / (order as f64).sqrt()) as f32)
}

#[cfg(test)]
mod tests;
