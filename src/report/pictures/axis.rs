//! Axes, linear and logarithmic, with ticks that can be read.

use std::ops::{Range, RangeInclusive};

use plotters::coord::ranged1d::{
    KeyPointHint, KeyPointWeight, NoDefaultFormatting, Ranged, ValueFormatter,
};
use plotters::coord::types::RangedCoordf64;

use crate::report::number;

/// An axis.
#[derive(Clone)]
pub enum Axis {
    /// Of numbers, from the first to the second.
    Linear(Range<f64>),
    /// Of numbers above 0. What is below the range is drawn at its lower end.
    Log(Range<f64>),
}

/// Decades that a logarithmic axis has at most.
const MOST_DECADES: i32 = 12;

impl Axis {
    /// A linear axis that holds `values` with some room around them.
    pub fn linear(values: impl IntoIterator<Item = f64>, least: f64) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, least));
        let room = ((high - low) * 0.06).max(least / 2.0);
        Axis::Linear((low - room).max(0.0)..high + room)
    }

    /// A logarithmic axis that holds those of `values` that are above 0, from a tick to a tick.
    pub fn log(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (low, high) = extent(values.into_iter().filter(|&value| value > 0.0))?;
        let lowest = high * 10f64.powi(-MOST_DECADES);
        let (low, high) = (low.max(lowest).max(f64::MIN_POSITIVE), high.max(f64::MIN_POSITIVE));
        let decades = decade(low * 0.9)..=decade(high * 1.1);
        let below = ticks(decades.clone(), &[1.0, 2.0, 5.0]).filter(|&t| t <= low * 0.97).last();
        let above = ticks(decades, &[1.0, 2.0, 5.0, 10.0]).find(|&t| t >= high * 1.03);
        Some(Axis::Log(below.unwrap_or(low * 0.5)..above.unwrap_or(high * 2.0)))
    }

    /// Where a value is, from 0 at the axis' beginning to 1 at its end.
    pub fn part(&self, value: f64) -> f64 {
        let part = match self {
            Axis::Linear(range) => (value - range.start) / (range.end - range.start),
            Axis::Log(range) => {
                let value = value.max(range.start);
                (value / range.start).log10() / (range.end / range.start).log10()
            }
        };
        part.clamp(0.0, 1.0)
    }

    /// At most `most` ticks.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        let range = match self {
            Axis::Linear(range) => {
                return RangedCoordf64::from(range.clone()).key_points(most);
            }
            Axis::Log(range) => range,
        };
        let decades = decade(range.start) - 1..=decade(range.end);
        let inside = |tick: &f64| (range.start * 0.999..=range.end * 1.001).contains(tick);
        let mut found = Vec::new();
        for mantissas in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            found = ticks(decades.clone(), mantissas).filter(inside).collect();
            if found.len() <= most {
                return found;
            }
        }
        let step = found.len().div_ceil(most.max(1));
        found.into_iter().step_by(step).collect()
    }
}

/// Smallest and largest of the values.
fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |extent, value| match extent {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// The exponent of a number above 0.
#[expect(clippy::cast_possible_truncation, reason = "the exponent of an f64 is below 400")]
fn decade(value: f64) -> i32 {
    value.log10().floor() as i32
}

fn ticks(decades: RangeInclusive<i32>, mantissas: &[f64]) -> impl Iterator<Item = f64> + '_ {
    // Read from decimal digits, which gives the nearest number, and so the shortest text.
    let tick = |decade: i32, mantissa: f64| format!("{mantissa}e{decade}").parse().ok();
    decades.flat_map(move |decade| mantissas.iter().filter_map(move |&m| tick(decade, m)))
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a pixel of a picture")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.part(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Bold => self.ticks(hint.bold_points()),
            KeyPointWeight::Any => Vec::new(),
        }
    }

    fn range(&self) -> Range<f64> {
        match self {
            Axis::Linear(range) | Axis::Log(range) => range.clone(),
        }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        number::tick(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_axes_end_at_ticks() {
        for (values, range) in [
            (vec![0.003, 0.04], 0.002..0.05),
            (vec![0.03], 0.02..0.05),
            (vec![0.0, -1.0, 1.0], 0.5..2.0),
        ] {
            let axis = Axis::log(values).unwrap();
            assert_eq!(axis.range(), range);
            assert_eq!((axis.part(range.start), axis.part(range.end)), (0.0, 1.0));
            assert_eq!(axis.part(-1.0), 0.0);
            assert!(axis.ticks(10).len() >= 2);
        }
        assert!(Axis::log([0.0, -2.0]).is_none());
        for extreme in [5e-324, 1e-300, 1e39] {
            let axis = Axis::log([extreme, 1e-3]).unwrap();
            assert!(axis.ticks(8).len() <= 8);
            assert!((0.0..=1.0).contains(&axis.part(extreme)));
        }
    }

    #[test]
    fn linear_axes_have_room() {
        let axis = Axis::linear([4.0, 8.0], 1.0);
        assert!(axis.range().contains(&4.0) && axis.range().contains(&8.0));
        assert!(Axis::linear([], 1.0).range().end > 0.0);
    }
}
