//! How far weights are from others: relative error and cosine.

/// Sums of squares and products of weights a and the weights b that are held against them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deviation {
    /// Σ (a − b)².
    pub error: f64,
    /// Σ a².
    pub energy: f64,
    /// Σ b².
    pub other: f64,
    /// Σ a·b.
    pub product: f64,
}

impl Deviation {
    /// Adds a pair of weights.
    pub fn pair(&mut self, a: f64, b: f64) {
        self.error += (a - b) * (a - b);
        self.energy += a * a;
        self.other += b * b;
        self.product += a * b;
    }

    /// Adds the sums over other weights.
    pub fn add(&mut self, more: &Deviation) {
        self.error += more.error;
        self.energy += more.energy;
        self.other += more.other;
        self.product += more.product;
    }

    /// `sqrt(Σ (a − b)² / Σ a²)`; `None` where every a is zero and some b is not.
    pub fn relative_rms(&self) -> Option<f64> {
        if self.error == 0.0 {
            Some(0.0)
        } else {
            (self.energy != 0.0).then(|| (self.error / self.energy).sqrt())
        }
    }

    /// `Σ a·b / sqrt(Σ a² · Σ b²)`, 1 where both are zero; `None` where one is.
    pub fn cosine(&self) -> Option<f64> {
        let norms = (self.energy * self.other).sqrt();
        if norms != 0.0 {
            Some(self.product / norms)
        } else {
            (self.energy == self.other).then_some(1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(f64, f64)]) -> (Option<f64>, Option<f64>) {
        let mut sums = Deviation::default();
        for &(a, b) in pairs {
            sums.pair(a, b);
        }
        (sums.relative_rms(), sums.cosine())
    }

    #[test]
    fn errors_are_relative_to_the_first() {
        assert_eq!(of(&[(3.0, 3.0), (4.0, 4.0)]), (Some(0.0), Some(1.0)));
        assert_eq!(of(&[(3.0, 0.0), (4.0, 4.0)]), (Some(0.6), Some(0.8)));
        assert_eq!(of(&[(1.0, -2.0)]), (Some(3.0), Some(-1.0)));
    }

    #[test]
    fn zeros_have_no_direction() {
        assert_eq!(of(&[(0.0, 0.0)]), (Some(0.0), Some(1.0)));
        assert_eq!(of(&[(0.0, 1.0)]), (None, None));
        assert_eq!(of(&[(1.0, 0.0)]), (Some(1.0), None));
    }
}
