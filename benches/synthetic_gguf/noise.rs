//! Weights that look like weights: normal values, with a scale of its own for every row.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use tessera_formats::ggml::GgmlType;

/// Elements of a block of Q8_0 and of Q4_0.
const BLOCK: usize = 32;

/// Offsets at which a row may begin in the pool; a power of two and a multiple of [`BLOCK`].
const PERIOD: usize = 1 << 20;

/// Standard deviation of the logarithm of a row's scale.
const SPREAD: f32 = 0.25;

/// A pool of normal values, encoded once; rows begin at random places in it.
pub struct Noise {
    random: ChaCha8Rng,
    values: Vec<f32>,
    pool: Pool,
}

/// The values of the pool in one ggml type, for a standard deviation of 1.
enum Pool {
    F16,
    /// Per block: scale and integers.
    Q8_0(Vec<(f32, [i8; BLOCK])>),
    /// Per block: scale and integers from 0 to 15 with 8 for zero, element i beside element i + 16.
    Q4_0(Vec<(f32, [u8; BLOCK / 2])>),
}

impl Noise {
    /// A pool for rows of at most `longest_row` elements in `ty`; `None` for a type that is not
    /// written here.
    pub fn new(seed: u64, ty: GgmlType, longest_row: usize) -> Option<Self> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(key);
        let length = (PERIOD + longest_row).next_multiple_of(BLOCK);
        let values: Vec<f32> = std::iter::repeat_with(|| normal_pair(random.next_u64()))
            .take(length / 2)
            .flatten()
            .collect();
        let blocks = values.as_chunks::<BLOCK>().0.iter();
        let pool = match ty {
            GgmlType::F16 => Pool::F16,
            GgmlType::Q8_0 => Pool::Q8_0(blocks.map(q8_0).collect()),
            GgmlType::Q4_0 => Pool::Q4_0(blocks.map(q4_0).collect()),
            _ => return None,
        };
        Some(Noise { random, values, pool })
    }

    /// A row of `k` weights in the pool's type, appended to `bytes`. Their standard deviation is
    /// 1/√k times a factor of the row.
    pub fn weights(&mut self, k: usize, bytes: &mut Vec<u8>) {
        let (offset, scale) = self.place(k);
        match &self.pool {
            Pool::F16 => {
                let row: Vec<f32> =
                    self.values[offset..offset + k].iter().map(|value| value * scale).collect();
                let mut rounded = vec![f16::ZERO; k];
                rounded.convert_from_f32_slice(&row);
                bytes.extend(rounded.iter().flat_map(|value| value.to_le_bytes()));
            }
            Pool::Q8_0(blocks) => {
                for (block_scale, integers) in &blocks[offset / BLOCK..][..k / BLOCK] {
                    bytes.extend_from_slice(&f16::from_f32(block_scale * scale).to_le_bytes());
                    bytes.extend(integers.iter().map(|integer| integer.cast_unsigned()));
                }
            }
            Pool::Q4_0(blocks) => {
                for (block_scale, nibbles) in &blocks[offset / BLOCK..][..k / BLOCK] {
                    bytes.extend_from_slice(&f16::from_f32(block_scale * scale).to_le_bytes());
                    bytes.extend_from_slice(nibbles);
                }
            }
        }
    }

    /// A row of `k` weights in F32, appended to `bytes`.
    pub fn float_weights(&mut self, k: usize, bytes: &mut Vec<u8>) {
        let (offset, scale) = self.place(k);
        let row = &self.values[offset..offset + k];
        bytes.extend(row.iter().flat_map(|value| (value * scale).to_le_bytes()));
    }

    /// `k` positive values around 1 in F32, appended to `bytes`.
    pub fn gains(&mut self, k: usize, bytes: &mut Vec<u8>) {
        let (offset, _) = self.place(k);
        let row = &self.values[offset..offset + k];
        bytes.extend(row.iter().flat_map(|value| libm::expf(SPREAD * value).to_le_bytes()));
    }

    /// Where the next row begins in the pool, and its scale.
    fn place(&mut self, k: usize) -> (usize, f32) {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below PERIOD")]
        let mut position = || (self.random.next_u64() % PERIOD as u64) as usize;
        let (offset, factor) = (position() / BLOCK * BLOCK, self.values[position()]);
        #[expect(clippy::cast_precision_loss, reason = "a row is shorter than 2^24")]
        let scale = libm::expf(SPREAD * factor) / (k as f32).sqrt();
        (offset, scale)
    }
}

/// Two independent normal values from 64 random bits (Box and Muller 1958).
fn normal_pair(bits: u64) -> [f32; 2] {
    const UNIT: f64 = 1.0 / (1_u64 << 32) as f64;
    let radius = (-2.0 * libm::log(((bits >> 32) as f64 + 1.0) * UNIT)).sqrt();
    let (sine, cosine) = libm::sincos(std::f64::consts::TAU * ((bits & 0xffff_ffff) as f64) * UNIT);
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
    [(radius * cosine) as f32, (radius * sine) as f32]
}

/// A block as ggml quantizes it: scale amax/127, round to nearest.
#[expect(clippy::cast_possible_truncation, reason = "the quotient is within ±127")]
fn q8_0(values: &[f32; BLOCK]) -> (f32, [i8; BLOCK]) {
    let amax = values.iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
    let scale = amax / 127.0;
    (scale, values.map(|value| (value / scale).round() as i8))
}

/// A block as ggml quantizes it: the value of largest magnitude becomes −8.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 15")]
fn q4_0(values: &[f32; BLOCK]) -> (f32, [u8; BLOCK / 2]) {
    let largest = values
        .iter()
        .fold(0.0_f32, |max, &value| if value.abs() > max.abs() { value } else { max });
    let scale = largest / -8.0;
    let integers = values.map(|value| ((value / scale + 8.5) as u8).min(15));
    (scale, std::array::from_fn(|index| integers[index] | integers[index + BLOCK / 2] << 4))
}

#[cfg(test)]
mod tests {
    use tessera_formats::ggml::dequantize;

    use super::*;

    #[test]
    fn every_type_holds_the_same_weights() {
        const K: usize = 2048;
        let row = |ty| {
            let mut bytes = Vec::new();
            Noise::new(7, ty, K).expect("a type that is written").weights(K, &mut bytes);
            let mut weights = vec![0.0; K];
            dequantize(ty, &bytes, &mut weights).expect("a whole row");
            weights
        };
        let exact = row(GgmlType::F16);
        let energy = |row: &[f32]| row.iter().map(|weight| weight * weight).sum::<f32>();
        assert!((0.2..5.0).contains(&energy(&exact)), "{}", energy(&exact));
        for (ty, least, most) in [(GgmlType::Q8_0, 1e-3, 1e-2), (GgmlType::Q4_0, 2e-2, 1.5e-1)] {
            let difference: Vec<f32> =
                row(ty).iter().zip(&exact).map(|(found, exact)| found - exact).collect();
            let error = (energy(&difference) / energy(&exact)).sqrt();
            assert!((least..most).contains(&error), "{ty:?}: {error}");
        }
    }

    #[test]
    fn values_are_normal() {
        let noise = Noise::new(1, GgmlType::F16, 0).expect("a type that is written");
        let count = noise.values.len() as f64;
        let moment =
            |power| noise.values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / count;
        for (power, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            assert!((moment(power) - expected).abs() < 0.03, "moment {power}: {}", moment(power));
        }
    }
}
