//! Rotary position embedding: frequencies, their scaling, tables of cosines and sines.

use super::architecture::Pairing;

/// RoPE of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which elements of a head turn together.
    pub pairing: Pairing,
    /// Leading elements of a head that turn; the others stay.
    pub dimensions: usize,
    /// Angle per position of each pair, `[dimensions / 2]`.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub magnitude: f32,
}

/// How frequencies are made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RopeParameters {
    pub(super) pairing: Pairing,
    pub(super) dimensions: usize,
    pub(super) base: f32,
    /// 1 / the factor by which positions are stretched.
    pub(super) scale: f32,
    pub(super) yarn: Option<Yarn>,
    pub(super) magnitude: f32,
}

/// YaRN's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Yarn {
    pub(super) original_context: usize,
    pub(super) beta_fast: f32,
    pub(super) beta_slow: f32,
}

impl RopeParameters {
    /// Frequencies, each divided by its entry of `factors` where there are some.
    ///
    /// Frequency i is base^(−2i/d). YaRN (Peng et al., 2023, equations 17–23, as ggml computes
    /// them) mixes it with the scaled one by a ramp over i.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rounded once"
    )]
    pub(super) fn rope(&self, factors: Option<&[f32]>) -> Rope {
        let d = self.dimensions as f64;
        let (base, scale) = (f64::from(self.base), f64::from(self.scale));
        let ramp = self.yarn.map(|yarn| yarn.ramp(d, base));
        let frequency = |pair: usize| {
            let factor = factors.and_then(|factors| factors.get(pair)).copied().unwrap_or(1.0);
            let extrapolated = base.powf(-2.0 * pair as f64 / d) / f64::from(factor);
            let interpolated = extrapolated * scale;
            let mix = ramp.map_or(0.0, |(low, high)| {
                let y = (pair as f64 - low) / (high - low).max(0.001);
                1.0 - y.clamp(0.0, 1.0)
            });
            (interpolated * (1.0 - mix) + extrapolated * mix) as f32
        };
        Rope {
            pairing: self.pairing,
            dimensions: self.dimensions,
            frequencies: (0..self.dimensions / 2).map(frequency).collect(),
            magnitude: self.magnitude,
        }
    }
}

impl Yarn {
    /// First and last pair of the ramp, for `d` dimensions.
    #[expect(clippy::cast_precision_loss, reason = "a count of positions")]
    fn ramp(self, d: f64, base: f64) -> (f64, f64) {
        let pair = |turns: f32| {
            let wavelength =
                self.original_context as f64 / (f64::from(turns) * std::f64::consts::TAU);
            d * wavelength.ln() / (2.0 * base.ln())
        };
        (pair(self.beta_fast).floor().max(0.0), pair(self.beta_slow).ceil().min(d - 1.0))
    }
}

impl Rope {
    /// Cosines and sines for positions from `first` on, `[positions, dimensions / 2]` each.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rounded once"
    )]
    pub fn table(&self, first: usize, positions: usize) -> RopeTable {
        let pairs = self.frequencies.len();
        let mut cosines = Vec::with_capacity(positions * pairs);
        let mut sines = Vec::with_capacity(positions * pairs);
        for position in first..first + positions {
            for &frequency in &self.frequencies {
                let (sine, cosine) = (position as f64 * f64::from(frequency)).sin_cos();
                cosines.push(cosine as f32 * self.magnitude);
                sines.push(sine as f32 * self.magnitude);
            }
        }
        RopeTable { pairing: self.pairing, pairs, cosines, sines }
    }
}

/// Cosines and sines of consecutive positions.
pub struct RopeTable {
    pairing: Pairing,
    pairs: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTable {
    /// Turns one head, at the `index`-th of the table's positions.
    pub fn rotate(&self, index: usize, head: &mut [f32]) {
        let span = index * self.pairs..(index + 1) * self.pairs;
        let turns = self.cosines[span.clone()].iter().zip(&self.sines[span]);
        match self.pairing {
            Pairing::Adjacent => {
                for (pair, (cosine, sine)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    let [x, y] = *pair;
                    *pair = [x * cosine - y * sine, x * sine + y * cosine];
                }
            }
            Pairing::Halves => {
                let (xs, rest) = head.split_at_mut(self.pairs);
                for ((x, y), (cosine, sine)) in xs.iter_mut().zip(rest).zip(turns) {
                    (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairing: Pairing) -> RopeParameters {
        RopeParameters {
            pairing,
            dimensions: 4,
            base: 10000.0,
            scale: 1.0,
            yarn: None,
            magnitude: 1.0,
        }
    }

    #[test]
    fn heads_turn_by_position_times_frequency() {
        // base^(-2/4) = 0.01.
        let (s1, c1) = 3.0f32.sin_cos();
        let (s2, c2) = 0.03f32.sin_cos();
        for (pairing, expected) in [
            (
                Pairing::Adjacent,
                [c1 - 2.0 * s1, s1 + 2.0 * c1, 3.0 * c2 - 4.0 * s2, 3.0 * s2 + 4.0 * c2],
            ),
            (
                Pairing::Halves,
                [c1 - 3.0 * s1, 2.0 * c2 - 4.0 * s2, s1 + 3.0 * c1, 2.0 * s2 + 4.0 * c2],
            ),
        ] {
            let mut head = [1.0, 2.0, 3.0, 4.0];
            parameters(pairing).rope(None).table(1, 4).rotate(2, &mut head);
            for (found, expected) in head.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{head:?} {pairing:?}");
            }
        }
    }

    #[test]
    fn factors_divide_and_scales_stretch() {
        let plain = parameters(Pairing::Halves).rope(None);
        let divided = parameters(Pairing::Halves).rope(Some(&[2.0, 8.0]));
        assert_eq!(divided.frequencies, [plain.frequencies[0] / 2.0, plain.frequencies[1] / 8.0]);
        let stretched = RopeParameters { scale: 0.25, ..parameters(Pairing::Halves) }.rope(None);
        assert_eq!(stretched.frequencies[0], 0.25);
    }
}
