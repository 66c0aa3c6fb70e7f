//! The dense orthogonal factor of a rotation and the choice of its product kernel.

use super::{RotationError, hartley, hartley_product, paley, paley_product};

/// Largest order of a factor: its tensor then takes at most 4 MiB.
pub(super) const MAX_ORDER: usize = 1024;

/// Construction of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hadamard matrix of either of Paley's constructions.
    Paley(paley::Construction),
    /// Hartley matrix of odd order.
    Hartley,
}

impl Kind {
    const ALL: [Self; 3] = [
        Self::Paley(paley::Construction::One),
        Self::Paley(paley::Construction::Two),
        Self::Hartley,
    ];

    /// Its name in manifests.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Paley(paley::Construction::One) => "paley1",
            Self::Paley(paley::Construction::Two) => "paley2",
            Self::Hartley => "hartley",
        }
    }

    /// The construction of this name in manifests.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether there is a matrix of this order.
    fn has_order(self, order: usize) -> bool {
        match self {
            Self::Paley(construction) => construction.has_order(order),
            Self::Hartley => order >= 3 && order % 2 == 1,
        }
    }
}

/// A dense orthogonal matrix, and what its product kernel needs.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    kind: Kind,
    order: usize,
    /// Row-major, orthonormal.
    dense: Vec<f32>,
    product: Product,
}

#[derive(Clone, Debug)]
enum Product {
    Paley { forward: paley_product::Codes, transposed: paley_product::Codes, scale: f32 },
    Hartley { coefficients: Vec<[f32; 2]>, scale: f32 },
}

impl Factor {
    /// The matrix of a construction and an order, to be used with a Sylvester matrix of order
    /// `sylvester`, whose 1/√`sylvester` the product takes over.
    #[expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]
    pub(super) fn new(kind: Kind, order: usize, sylvester: usize) -> Result<Self, RotationError> {
        if order > MAX_ORDER {
            let order = u64::try_from(order).unwrap_or(u64::MAX);
            return Err(RotationError::FactorTooLarge { order, limit: MAX_ORDER });
        }
        if !kind.has_order(order) {
            let order = u64::try_from(order).unwrap_or(u64::MAX);
            return Err(RotationError::NoFactor { kind: kind.name(), order });
        }
        let scale = (1.0 / (order as f64 * sylvester as f64).sqrt()) as f32;
        let (dense, product) = match kind {
            Kind::Paley(construction) => {
                let matrix = paley::matrix(construction, order);
                let entry = (1.0 / (order as f64).sqrt()) as f32;
                let dense = matrix.iter().map(|&sign| f32::from(sign) * entry).collect();
                let forward = paley_product::Codes::new(order, |i, j| matrix[i * order + j]);
                let transposed = paley_product::Codes::new(order, |i, j| matrix[j * order + i]);
                (dense, Product::Paley { forward, transposed, scale })
            }
            Kind::Hartley => {
                let coefficients = hartley::half_coefficients(order, order * sylvester);
                (hartley::matrix(order), Product::Hartley { coefficients, scale })
            }
        };
        Ok(Self { kind, order, dense, product })
    }

    /// Its construction.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Rows, and columns.
    pub(super) fn order(&self) -> usize {
        self.order
    }

    /// The orthonormal matrix, row-major.
    pub(super) fn dense(&self) -> &[f32] {
        &self.dense
    }

    /// Elements of scratch space that [`Factor::apply`] needs.
    pub(super) fn scratch_len(&self) -> usize {
        match self.product {
            Product::Paley { .. } => paley_product::scratch_len(self.order),
            Product::Hartley { .. } => hartley_product::scratch_len(self.order),
        }
    }

    /// Multiplies a block of `order` rows by the matrix over √`sylvester`, or by its transpose.
    pub(super) fn apply(&self, block: &mut [f32], transposed: bool, scratch: &mut [f32]) {
        match &self.product {
            Product::Paley { transposed: codes, scale, .. } if transposed => {
                paley_product::product(block, codes, *scale, scratch);
            }
            Product::Paley { forward, scale, .. } => {
                paley_product::product(block, forward, *scale, scratch);
            }
            Product::Hartley { coefficients, scale } => {
                hartley_product::product(block, self.order, coefficients, *scale, scratch);
            }
        }
    }
}
