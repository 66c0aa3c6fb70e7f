//! Paley's Hadamard matrices: orders q + 1 and 2(q + 1) from the quadratic residues of a prime q.
//!
//! R. E. A. C. Paley, "On orthogonal matrices", Journal of Mathematics and Physics 12 (1933).

use super::factor::MAX_ORDER;

/// Which of the two constructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Construction {
    /// Order q + 1, q a prime with q ≡ 3 (mod 4).
    One,
    /// Order 2(q + 1), q a prime with q ≡ 1 (mod 4).
    Two,
}

impl Construction {
    /// The construction that has a matrix of this order; the first where both have one.
    pub(super) fn of_order(order: usize) -> Option<Self> {
        match order % 4 {
            0 if order >= 4 && is_prime(order - 1) => Some(Self::One),
            0 if order % 8 == 4 && is_prime(order / 2 - 1) => Some(Self::Two),
            _ => None,
        }
    }

    /// Whether this construction has a matrix of this order.
    pub(super) fn has_order(self, order: usize) -> bool {
        match self {
            Self::One => Self::of_order(order) == Some(Self::One),
            Self::Two => order % 8 == 4 && is_prime(order / 2 - 1),
        }
    }
}

/// The smallest order m ≤ [`MAX_ORDER`] of a Paley matrix such that `k` is m times a power of two,
/// with the construction that has it.
pub(super) fn smallest_order(k: usize) -> Option<(Construction, usize)> {
    let odd = k >> k.trailing_zeros();
    (0..=k.trailing_zeros())
        .map(|log| odd << log)
        .take_while(|&order| order <= MAX_ORDER)
        .find_map(|order| Construction::of_order(order).map(|construction| (construction, order)))
}

/// The matrix of this order, row-major, entries 1 and -1; `construction.has_order(order)` holds.
///
/// With χ the quadratic character modulo q and Q the matrix of χ(i - j): construction one is
/// `[[1, 1ᵀ], [-1, Q + I]]`; construction two is the Kronecker product of `[[0, 1ᵀ], [1, Q]]` with
/// `[[1, 1], [1, -1]]` plus that of the identity with `[[1, -1], [-1, -1]]`.
pub(super) fn matrix(construction: Construction, order: usize) -> Vec<i8> {
    let q = match construction {
        Construction::One => order - 1,
        Construction::Two => order / 2 - 1,
    };
    let mut character = vec![-1_i8; q];
    character[0] = 0;
    (1..q).for_each(|x| character[x * x % q] = 1);
    let core = |i: usize, j: usize| character[(i + q - j) % q];
    let entry = |i: usize, j: usize| match construction {
        Construction::One if i == 0 => 1,
        Construction::One if j == 0 => -1,
        Construction::One if i == j => 1,
        Construction::One => core(i - 1, j - 1),
        Construction::Two => {
            let conference = match (i / 2, j / 2) {
                (0, 0) => 0,
                (0, _) | (_, 0) => 1,
                (i, j) => core(i - 1, j - 1),
            };
            match (conference, i % 2, j % 2) {
                (0, 0, 0) => 1,
                (0, _, _) => -1,
                (sign, 1, 1) => -sign,
                (sign, _, _) => sign,
            }
        }
    };
    (0..order * order).map(|index| entry(index / order, index % order)).collect()
}

/// Trial division; orders are small.
fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_hadamard() {
        // Orders of the literature, with the construction's prime.
        let orders = [
            (Construction::One, 4),
            (Construction::One, 12),
            (Construction::One, 20),
            (Construction::One, 44),
            (Construction::One, 108),
            (Construction::One, 132),
            (Construction::One, 140),
            (Construction::One, 180),
            (Construction::One, 368),
            (Construction::Two, 12),
            (Construction::Two, 28),
            (Construction::Two, 36),
            (Construction::Two, 76),
            (Construction::Two, 108),
            (Construction::Two, 148),
        ];
        for (construction, order) in orders {
            assert!(construction.has_order(order), "{construction:?} {order}");
            let matrix = matrix(construction, order);
            assert!(matrix.iter().all(|&entry| entry == 1 || entry == -1));
            let rows: Vec<&[i8]> = matrix.chunks_exact(order).collect();
            for (i, a) in rows.iter().enumerate() {
                for (j, b) in rows.iter().enumerate() {
                    let product: i64 =
                        a.iter().zip(*b).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
                    let expected = if i == j { i64::try_from(order).unwrap() } else { 0 };
                    assert_eq!(product, expected, "{construction:?} {order} rows {i} and {j}");
                }
            }
        }
    }

    #[test]
    fn orders_without_a_prime_are_refused() {
        for order in [0, 1, 2, 3, 6, 10, 16, 52, 92, 100, 116, 156, 172, 188] {
            assert_eq!(Construction::of_order(order), None, "{order}");
        }
    }

    #[test]
    fn smallest_order_leaves_a_power_of_two() {
        use Construction::{One, Two};
        let table = [
            (12, Some((One, 12))),
            (1152, Some((Two, 36))),
            (1536, Some((One, 12))),
            (2560, Some((One, 20))),
            (2816, Some((One, 44))),
            (2880, Some((One, 180))),
            (3584, Some((Two, 28))),
            (6912, Some((One, 108))),
            (9728, Some((Two, 76))),
            (18944, Some((Two, 148))),
            (3328, Some((One, 104))),
            (172, None),
            (11008, None),
            (43, None),
            (2050, None),
        ];
        for (k, expected) in table {
            assert_eq!(smallest_order(k), expected, "{k}");
        }
    }
}
