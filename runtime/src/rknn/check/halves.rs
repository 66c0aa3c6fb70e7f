//! The f16 engine against the model of its sums: products are summed exactly 32 at a time, each sum is rounded to f32,
//! and these are added in f32.

use half::f16;
use tessera_formats::npu::tiles::TileLayout;

use super::super::{RknnError, Shape};
use super::Trial;
use super::operands::{count, place_of_a};

/// Products that are summed exactly.
const GROUP: usize = 32;

/// Channels of a tile; the lane of a channel is its number within one.
const LANES: usize = 16;

/// How large the halves of a test are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All finite halves with exponents from −14 to 8, so that sums stay finite.
    Wide,
    /// As activations and weights are: near a bell curve of width 1.
    Bell,
    /// Half of them subnormal.
    Small,
}

/// Rows and weights that are halves.
#[derive(Clone, Debug)]
pub struct Halves {
    shape: Shape,
    rows: Vec<f16>,
    weights: Vec<f16>,
}

/// Results that are not the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deviations {
    /// Results that were compared.
    pub results: u64,
    /// Those that differ in channels whose number is a multiple of 16.
    pub lane_zero: u64,
    /// Those that differ in others.
    pub elsewhere: u64,
    /// Those that differ and are what one exact sum, lowered by 2^(4·C − 44), gives; C is the greatest sum of two
    /// quarters of exponents. Third parties report that of lane 0.
    pub explained: u64,
}

impl Halves {
    /// Halves that repeat after long.
    pub fn random(shape: Shape, spread: Spread, seed: u32) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x6a09_e667;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, _, low, high] = state.to_le_bytes();
            u16::from_le_bytes([low, high])
        };
        let mut half = move || match spread {
            Spread::Wide => {
                let bits = next();
                let exponent = 1 + (bits >> 10 & 31) % 23;
                f16::from_bits(bits & 0x83ff | exponent << 10)
            }
            Spread::Bell => {
                let sum: f32 = (0..12).map(|_| f32::from(next()) / 65536.0).sum();
                f16::from_f32(sum - 6.0)
            }
            Spread::Small => {
                let bits = next();
                let small = bits & 0x83ff;
                f16::from_bits(if bits & 0x400 == 0 { small } else { small | 0x1400 })
            }
        };
        let [m, k, n] = [shape.m, shape.k, shape.n].map(count);
        let rows = (0..m * k).map(|_| half()).collect();
        Halves { shape, rows, weights: (0..n * k).map(|_| half()).collect() }
    }

    /// Runs them, and compares.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn run(&self, trial: &mut Trial) -> Result<Deviations, RknnError> {
        let [k, n] = [self.shape.k, self.shape.n].map(count);
        let layout = TileLayout::new(self.shape.engine, n, k).map_err(|_| RknnError::Shape {
            what: self.shape.to_string(),
            why: "weights of this shape have no tiles",
        })?;
        let mut tiles = vec![0; layout.bytes()];
        for (at, weight) in self.weights.iter().enumerate() {
            let place = 2 * layout.element_index(at / k, at % k);
            tiles[place..place + 2].copy_from_slice(&weight.to_le_bytes());
        }
        trial.set_weights(&tiles)?;
        for (at, value) in self.rows.iter().enumerate() {
            let place = 2 * place_of_a(self.shape, at / k, at % k);
            let bytes = trial.matmul().activations();
            bytes[place..place + 2].copy_from_slice(&value.to_le_bytes());
        }
        trial.run()?;
        Ok(self.compare(&trial.results()))
    }

    /// Compares results, `[m, n]`.
    fn compare(&self, results: &[f64]) -> Deviations {
        let [k, n] = [self.shape.k, self.shape.n].map(count);
        let mut deviations = Deviations::default();
        for (at, &found) in results.iter().enumerate() {
            let (row, channel) = (&self.rows[at / n * k..][..k], at % n);
            let groups = groups(row, &self.weights[channel * k..][..k]);
            deviations.results += 1;
            if f64::from(sum(groups.iter().map(|group| group.0))) == found {
                continue;
            }
            if channel.is_multiple_of(LANES) {
                deviations.lane_zero += 1;
            } else {
                deviations.elsewhere += 1;
            }
            if one_is_lowered(&groups, found) {
                deviations.explained += 1;
            }
        }
        deviations
    }
}

impl std::ops::AddAssign for Deviations {
    fn add_assign(&mut self, other: Self) {
        self.results += other.results;
        self.lane_zero += other.lane_zero;
        self.elsewhere += other.elsewhere;
        self.explained += other.explained;
    }
}

/// Whether a result is what a row and a channel of weights give if one exact sum is lowered, as third parties report
/// of channels whose number is a multiple of 16.
pub fn is_lowered(row: &[f16], channel: &[f16], found: f32) -> bool {
    one_is_lowered(&groups(row, channel), found.into())
}

fn one_is_lowered(groups: &[(i128, i128)], found: f64) -> bool {
    let lowered = |low: usize| {
        let exact = groups.iter().enumerate();
        sum(exact.map(|(at, (sum, less))| if at == low { sum - less } else { *sum }))
    };
    (0..groups.len()).any(|low| f64::from(lowered(low)) == found)
}

/// Of each 32 products their sum, and how much less it may be in lane 0, in units of 2⁻⁴⁸.
fn groups(row: &[f16], channel: &[f16]) -> Vec<(i128, i128)> {
    let of_group = |(row, channel): (&[f16], &[f16])| {
        let (mut sum, mut greatest) = (0, 0);
        for (a, w) in row.iter().zip(channel) {
            let product = fixed(*a) * fixed(*w);
            sum += product;
            if product != 0 {
                greatest = greatest.max(quarter(*a) + quarter(*w));
            }
        }
        (sum, 1 << (4 * greatest + 4))
    };
    row.chunks(GROUP).zip(channel.chunks(GROUP)).map(of_group).collect()
}

/// A finite half in units of 2⁻²⁴.
fn fixed(half: f16) -> i128 {
    let (exponent, fraction) = (half.to_bits() >> 10 & 31, i128::from(half.to_bits() & 1023));
    let magnitude = if exponent == 0 { fraction } else { (1024 + fraction) << (exponent - 1) };
    if half.is_sign_negative() { -magnitude } else { magnitude }
}

/// A quarter of a half's exponent, with its bias.
fn quarter(half: f16) -> u16 {
    (half.to_bits() >> 10 & 31).max(1) >> 2
}

/// Exact sums in units of 2⁻⁴⁸, each rounded to f32 and added in f32.
#[expect(clippy::cast_precision_loss, reason = "to the nearest f32, ties to even")]
fn sum(groups: impl Iterator<Item = i128>) -> f32 {
    let unit = f32::from_bits((127 - 48) << 23);
    groups.fold(0.0, |sum, group| sum + group as f32 * unit)
}

#[cfg(test)]
mod tests {
    use tessera_formats::npu::Engine;

    use super::super::shape;
    use super::*;

    #[test]
    fn deviations_are_counted_by_lane() {
        let shape = shape(Engine::F16, 4, 64, 2, 0);
        for spread in [Spread::Wide, Spread::Bell, Spread::Small] {
            let halves = Halves::random(shape, spread, 3);
            let of = |at: usize| {
                let (row, channel) = (at / 32, at % 32);
                groups(&halves.rows[row * 64..][..64], &halves.weights[channel * 64..][..64])
            };
            let right: Vec<f64> =
                (0..4 * 32).map(|at| sum(of(at).iter().map(|group| group.0)).into()).collect();
            assert!(right.iter().all(|value| value.is_finite()) && right.iter().any(|v| *v != 0.0));
            let none = Deviations { results: 128, ..Deviations::default() };
            assert_eq!(halves.compare(&right), none);
            // Channel 16 of row 1 with its second sum lowered, and channel 5 of row 2 by something else.
            let mut wrong = right.clone();
            let groups = of(32 + 16);
            wrong[32 + 16] = sum([groups[0].0, groups[1].0 - groups[1].1].into_iter()).into();
            let seen = u64::from(wrong[32 + 16] != right[32 + 16]);
            wrong[64 + 5] = f64::MAX;
            #[expect(clippy::cast_possible_truncation, reason = "an f32, or beyond them")]
            let narrow = |at: usize| wrong[at] as f32;
            let [row, other] = [&halves.rows[64..128], &halves.rows[128..192]];
            let [channel, fifth] = [16, 5].map(|n| &halves.weights[n * 64..][..64]);
            assert!(is_lowered(row, channel, narrow(32 + 16)));
            assert!(!is_lowered(other, fifth, narrow(64 + 5)));
            let found = halves.compare(&wrong);
            let expected =
                Deviations { results: 128, lane_zero: seen, elsewhere: 1, explained: seen };
            assert_eq!(found, expected, "{spread:?}");
        }
    }
}
