//! Products of matrices in the NPU's own layouts, element by element.

use super::state::Fault;

/// Types of a matmul, by their number.
pub const F16: i32 = 1;
pub const I8: i32 = 2;
pub const I4: i32 = 10;

/// Rows and columns of a matmul, and the layout of A and C.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub kind: i32,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub native: bool,
}

impl Problem {
    /// Bits of an element of A or B.
    pub fn bits(&self) -> usize {
        match self.kind {
            F16 => 16,
            I8 => 8,
            _ => 4,
        }
    }

    /// Bytes of an element of C.
    pub fn result(&self) -> usize {
        if self.kind == I4 { 2 } else { 4 }
    }

    /// Output channels of a tile.
    pub fn channels(&self) -> usize {
        match self.kind {
            F16 => 16,
            I8 => 32,
            _ => 64,
        }
    }

    fn a_index(&self, m: usize, k: usize) -> usize {
        if !self.native {
            return m * self.k + k;
        }
        let together = 128 / self.bits();
        ((k / together) * self.m + m) * together + k % together
    }

    fn b_index(&self, k: usize, n: usize, fault: Fault) -> usize {
        let rows = self.channels();
        let (tile, lane) = (n / rows, n % rows);
        let tiles_of_k = self.k / 32;
        let number = match fault {
            // Columns of tiles before rows.
            Fault::TileOrder => (k / 32) * (self.n / rows) + tile,
            _ => tile * tiles_of_k + k / 32,
        };
        (number * rows + lane) * 32 + k % 32
    }

    fn c_index(&self, m: usize, n: usize) -> usize {
        if !self.native {
            return m * self.n + n;
        }
        let together = 16 / self.result();
        ((n / together) * self.m + m) * together + n % together
    }

    fn integer(&self, bytes: &[u8], index: usize, high_first: bool) -> i64 {
        if self.kind == I8 {
            return i64::from(bytes[index].cast_signed());
        }
        let high = (index % 2 == 1) != high_first;
        let nibble = if high { bytes[index / 2] >> 4 } else { bytes[index / 2] & 15 };
        // Two's complement of four bits.
        i64::from((nibble << 4).cast_signed() >> 4)
    }

    /// C of A and B, both in the NPU's view.
    pub fn multiply(&self, a: &[u8], b: &[u8], c: &mut [u8], fault: Fault) {
        let swapped = matches!(fault, Fault::Nibbles);
        for m in 0..self.m {
            for n in 0..self.n {
                let at = self.c_index(m, n) * self.result();
                if self.kind == F16 {
                    let pairs = (0..self.k).map(|k| {
                        let half = |bytes: &[u8], at: usize| {
                            fixed(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]))
                        };
                        half(a, self.a_index(m, k)) * half(b, self.b_index(k, n, fault))
                    });
                    let products: Vec<i128> = pairs.collect();
                    c[at..at + 4].copy_from_slice(&sum_of_groups(&products).to_le_bytes());
                    continue;
                }
                let sum: i64 = (0..self.k)
                    .map(|k| {
                        self.integer(a, self.a_index(m, k), false)
                            * self.integer(b, self.b_index(k, n, fault), swapped)
                    })
                    .sum();
                if self.kind == I8 {
                    let low = sum.to_le_bytes();
                    c[at..at + 4].copy_from_slice(&low[..4]);
                } else {
                    let sum = match fault {
                        Fault::Wrap => sum,
                        _ => sum.clamp(i16::MIN.into(), i16::MAX.into()),
                    };
                    c[at..at + 2].copy_from_slice(&sum.to_le_bytes()[..2]);
                }
            }
        }
    }
}

/// A finite half in units of 2⁻²⁴, exactly.
fn fixed(bits: u16) -> i128 {
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), i128::from(bits & 1023));
    let magnitude = if exponent == 0 { fraction } else { (1024 + fraction) << (exponent - 1) };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Exact sums of 32 products in units of 2⁻⁴⁸, each rounded to f32, added in f32.
fn sum_of_groups(products: &[i128]) -> f32 {
    // 2⁻⁴⁸: products by it are exact, for no sum is below it.
    let unit = f32::from_bits((127 - 48) << 23);
    products.chunks(32).fold(0.0, |sum, group| {
        #[expect(clippy::cast_precision_loss, reason = "to the nearest f32, ties to even")]
        let rounded = group.iter().sum::<i128>() as f32 * unit;
        sum + rounded
    })
}
