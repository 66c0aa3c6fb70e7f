//! The largest predicted divergence whose measurement is below a limit.

/// Standard errors that a measurement must stay below the limit by.
const MARGIN: f64 = 2.0;

/// Parts of the limit: nearer ones are not told apart.
const RESOLUTION: f64 = 0.01;

/// A search over predictions, each of which is measured.
#[derive(Clone, Debug)]
pub struct Search {
    limit: f64,
    /// Greatest prediction that met the limit.
    met: Option<f64>,
    /// Least prediction that did not.
    missed: Option<f64>,
    /// Measured over predicted, of the last one.
    ratio: f64,
    least: f64,
}

impl Search {
    /// For measurements of at most `limit`.
    pub fn new(limit: f64) -> Self {
        Search { limit, met: None, missed: None, ratio: 1.0, least: f64::INFINITY }
    }

    /// The prediction to try next; none if the search has come to its end.
    pub fn next(&self) -> Option<f64> {
        let (met, missed) = (self.met.unwrap_or(0.0), self.missed.unwrap_or(f64::INFINITY));
        if missed - met <= RESOLUTION * missed.min(self.limit) {
            return None;
        }
        let proposed = self.limit / self.ratio;
        if proposed > met * (1.0 + RESOLUTION) && proposed < missed {
            return Some(proposed);
        }
        match (self.met, self.missed) {
            (Some(met), Some(missed)) => Some((met * missed).sqrt()),
            (None, Some(missed)) => Some(missed / 4.0),
            // The measurement met the limit as closely as predictions can tell.
            _ => None,
        }
    }

    /// Records what was measured where `predicted` was; whether it meets the limit.
    pub fn record(&mut self, predicted: f64, measured: f64, error: f64) -> bool {
        let most = measured + MARGIN * error;
        self.least = self.least.min(measured);
        let met = most <= self.limit;
        if met {
            self.met = Some(self.met.unwrap_or(0.0).max(predicted));
        } else {
            self.missed = Some(self.missed.unwrap_or(f64::INFINITY).min(predicted));
        }
        if predicted > 0.0 && most > 0.0 {
            self.ratio = most / predicted;
        }
        met
    }

    /// The least that was measured.
    pub fn least(&self) -> f64 {
        self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds where a law of measurements crosses the limit.
    fn find(limit: f64, law: impl Fn(f64) -> f64) -> (Option<f64>, usize) {
        let mut search = Search::new(limit);
        let (mut best, mut steps) = (None, 0);
        while let Some(predicted) = search.next().filter(|_| steps < 40) {
            steps += 1;
            if search.record(predicted, law(predicted), 0.0) {
                best = Some(best.unwrap_or(0.0f64).max(predicted));
            }
        }
        (best, steps)
    }

    #[test]
    fn crossings_are_found() {
        for limit in [1e-4, 0.03, 0.5] {
            let laws: [fn(f64) -> f64; 4] =
                [|x| 1.4 * x, |x| x, |x| 0.5 * x, |x| 3.0 * x.powf(1.2)];
            for law in laws {
                let (found, steps) = find(limit, law);
                let found = found.unwrap();
                assert!(law(found) <= limit && law(found * 1.03) > limit, "{limit} {found}");
                assert!(steps <= 12, "{steps}");
            }
        }
        assert_eq!(find(1e-3, |x| x + 1.0).0, None);
    }
}
