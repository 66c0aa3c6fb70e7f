//! Products of matrices in the NPU's own layouts, element by element.

use super::state::Fault;

/// Types of a matmul, by their number.
pub const F16: i32 = 1;
pub const I8: i32 = 2;
pub const I4: i32 = 10;

/// Columns that are laid out together.
const SEGMENT: usize = 8192;

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

    /// Rows that stand together in A and C: M, but of libraries that round it up.
    fn rows_apart(&self, fault: Fault) -> usize {
        match fault {
            Fault::Stride if self.m > 1 => self.m.next_multiple_of(4),
            _ => self.m,
        }
    }

    fn a_index(&self, m: usize, k: usize, fault: Fault) -> usize {
        if !self.native {
            return m * self.k + k;
        }
        let together = 128 / self.bits();
        ((k / together) * self.rows_apart(fault) + m) * together + k % together
    }

    fn b_index(&self, k: usize, n: usize, fault: Fault) -> usize {
        // Long columns are cut, and each piece laid out by itself.
        let segment = if fault == Fault::OneBlock { self.k } else { SEGMENT };
        let begin = k / segment * segment;
        let columns = segment.min(self.k - begin);
        let k = k - begin;
        let rows = self.channels();
        let (tile, lane) = (n / rows, n % rows);
        let number = match fault {
            // Columns of tiles before rows.
            Fault::TileOrder => (k / 32) * (self.n / rows) + tile,
            _ => tile * (columns / 32) + k / 32,
        };
        begin * self.n + (number * rows + lane) * 32 + k % 32
    }

    fn c_index(&self, m: usize, n: usize, fault: Fault) -> usize {
        if !self.native {
            return m * self.n + n;
        }
        let together = 16 / self.result();
        ((n / together) * self.rows_apart(fault) + m) * together + n % together
    }

    /// An element: an integer, or a half in units of 2⁻²⁴. Zero behind the end.
    fn element(&self, bytes: &[u8], index: usize, high_first: bool) -> i64 {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        match self.kind {
            F16 => fixed(u16::from_le_bytes([byte(2 * index), byte(2 * index + 1)])),
            I8 => i64::from(byte(index).cast_signed()),
            _ => {
                let high = (index % 2 == 1) != high_first;
                let nibble = if high { byte(index / 2) >> 4 } else { byte(index / 2) & 15 };
                // Two's complement of four bits.
                i64::from((nibble << 4).cast_signed() >> 4)
            }
        }
    }

    /// C of A and B, all in the NPU's view. What does not fit the memory of C is lost.
    pub fn multiply(&self, a: &[u8], b: &[u8], c: &mut [u8], fault: Fault) {
        let swapped = matches!(fault, Fault::Nibbles);
        let mut rows = Vec::with_capacity(self.m * self.k);
        for m in 0..self.m {
            rows.extend((0..self.k).map(|k| self.element(a, self.a_index(m, k, fault), false)));
        }
        let mut channel = vec![0; self.k];
        for n in 0..self.n {
            for (k, weight) in channel.iter_mut().enumerate() {
                *weight = self.element(b, self.b_index(k, n, fault), swapped);
            }
            for (m, row) in rows.chunks_exact(self.k).enumerate() {
                let at = self.c_index(m, n, fault) * self.result();
                let result = self.result_of(row, &channel, fault);
                if let Some(place) = c.get_mut(at..at + self.result()) {
                    place.copy_from_slice(&result[..self.result()]);
                }
            }
        }
    }

    /// The bytes of an element of C.
    fn result_of(&self, row: &[i64], channel: &[i64], fault: Fault) -> [u8; 8] {
        let mut bytes = [0; 8];
        if self.kind == F16 {
            bytes[..4].copy_from_slice(&sum_of_groups(row, channel).to_le_bytes());
            return bytes;
        }
        let sum: i64 = row.iter().zip(channel).map(|(a, w)| a * w).sum();
        let wide = self.kind == I8 || fault == Fault::Wrap;
        if wide { sum } else { sum.clamp(i16::MIN.into(), i16::MAX.into()) }.to_le_bytes()
    }
}

/// A finite half in units of 2⁻²⁴, exactly.
fn fixed(bits: u16) -> i64 {
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), i64::from(bits & 1023));
    let magnitude = if exponent == 0 { fraction } else { (1024 + fraction) << (exponent - 1) };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Exact sums of 32 products in units of 2⁻⁴⁸, each rounded to f32, added in f32.
fn sum_of_groups(row: &[i64], channel: &[i64]) -> f32 {
    // 2⁻⁴⁸: products by it are exact, for no sum is below it.
    let unit = f32::from_bits((127 - 48) << 23);
    row.chunks(32).zip(channel.chunks(32)).fold(0.0, |sum, (a, w)| {
        let exact: i128 = a.iter().zip(w).map(|(a, w)| i128::from(*a) * i128::from(*w)).sum();
        #[expect(clippy::cast_precision_loss, reason = "to the nearest f32, ties to even")]
        let rounded = exact as f32 * unit;
        sum + rounded
    })
}
