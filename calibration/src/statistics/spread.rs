//! How a figure of rows is spread over the rows, and the weight that massive rows get.

use serde::{Deserialize, Serialize};

/// A row counts as if its rms were at most so many times the median.
const RMS_BOUND: f64 = 8.0;

/// A row counts as if its crest were at most so many times the median.
const CREST_BOUND: f64 = 4.0;

/// Count, mean and range of a figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Number of rows.
    pub count: u64,
    /// Sum over the rows.
    pub sum: f64,
    /// Least; 0 of no rows.
    pub least: f64,
    /// Greatest; 0 of no rows.
    pub greatest: f64,
}

impl Spread {
    /// Adds the figure of one row.
    pub fn add(&mut self, value: f64) {
        self.merge(&Spread { count: 1, sum: value, least: value, greatest: value });
    }

    /// Adds the figures of other rows.
    pub fn merge(&mut self, other: &Spread) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// Mean; 0 of no rows.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / super::count(self.count) }
    }
}

/// Medians over the first rows of an input.
///
/// Few tokens of a model, the first of a text above all, have rows that are a hundred or a thousand
/// times as large as any other. In a sum of squares they outweigh all others, although attention
/// hardly reads them. So rows are weighted: a row counts as if its rms and its crest were at most 8
/// and 4 times the medians.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Medians {
    /// Median of the rows' root mean squares; 0 where no row is known.
    pub rms: f64,
    /// Median of the rows' amax/rms; 0 where no row is known.
    pub crest: f64,
}

impl Medians {
    /// Of rows' rms and crest. Rows of zeros are left out.
    pub fn of(rows: &[RowFigures]) -> Self {
        let median = |figure: fn(&RowFigures) -> f64| {
            let mut values: Vec<f64> =
                rows.iter().filter(|row| row.rms > 0.0).map(figure).collect();
            let middle = values.len() / 2;
            if values.is_empty() {
                return 0.0;
            }
            *values.select_nth_unstable_by(middle, f64::total_cmp).1
        };
        Medians { rms: median(|row| row.rms), crest: median(|row| row.crest) }
    }

    /// The weight of a row's square in sums:
    /// `min(1, (8·median rms/rms)²) · min(1, (4·median crest/crest)²)`.
    pub fn weight(&self, row: &RowFigures) -> f64 {
        let bounded = |bound: f64, value: f64| {
            if bound > 0.0 && value > bound { (bound / value) * (bound / value) } else { 1.0 }
        };
        bounded(RMS_BOUND * self.rms, row.rms) * bounded(CREST_BOUND * self.crest, row.crest)
    }
}

/// Figures of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowFigures {
    /// Root mean square.
    pub rms: f64,
    /// Largest magnitude over rms; 0 of a row of zeros.
    pub crest: f64,
}

impl RowFigures {
    /// Of a row of finite elements. The sum of squares is in f64, in eight lanes.
    pub fn of(row: &[f32]) -> Self {
        let mut lanes = [0.0f64; 8];
        let mut amax = 0.0f32;
        for chunk in row.chunks(8) {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
                amax = amax.max(x.abs());
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let squares = ((a + e) + (c + g)) + ((b + f) + (d + h));
        if amax == 0.0 {
            return RowFigures::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "a row has fewer than 2^53 elements")]
        let rms = (squares / row.len() as f64).sqrt();
        RowFigures { rms, crest: f64::from(amax) / rms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn massive_rows_count_as_if_they_were_bounded() {
        let ordinary = [1.0f32, -1.0, 1.0, -1.0];
        let rows = [RowFigures::of(&ordinary); 3];
        assert_eq!(rows[0], RowFigures { rms: 1.0, crest: 1.0 });
        let medians = Medians::of(&[&rows[..], &[RowFigures::default(); 9]].concat());
        assert_eq!(medians, Medians { rms: 1.0, crest: 1.0 });
        for (row, weight) in [
            (RowFigures { rms: 8.0, crest: 4.0 }, 1.0),
            (RowFigures { rms: 80.0, crest: 1.0 }, 0.01),
            (RowFigures { rms: 1.0, crest: 40.0 }, 0.01),
            (RowFigures { rms: 16.0, crest: 8.0 }, 0.0625),
            (RowFigures::default(), 1.0),
        ] {
            assert!((medians.weight(&row) - weight).abs() < 1e-15, "{row:?}");
        }
        // Nothing but zeros was seen at first: no row is known to be massive.
        assert_eq!(Medians::default().weight(&rows[0]), 1.0);
    }

    #[test]
    fn spreads_merge() {
        let mut spread = Spread::default();
        assert_eq!(spread.mean(), 0.0);
        spread.merge(&Spread::default());
        for value in [3.0, -1.0, 4.0] {
            spread.add(value);
        }
        assert_eq!(spread, Spread { count: 3, sum: 6.0, least: -1.0, greatest: 4.0 });
        assert_eq!(spread.mean(), 2.0);
    }
}
