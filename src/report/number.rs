//! The one way that a report's numbers are written, for people and exactly.

use std::iter;

/// A number of a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Count(u64),
    /// A count of bytes.
    Bytes(u64),
    /// A figure.
    Figure(f64),
}

/// Digits of a figure that are shown.
const DIGITS: i32 = 4;

/// Between groups of three digits: U+202F, a narrow space at which no line breaks.
const GROUP: char = '\u{202f}';

impl Number {
    /// As people read it: counts in groups of three digits, bytes with a binary unit, figures with four
    /// significant digits, from 1e6 and below 1e-4 with an exponent.
    pub fn shown(self) -> String {
        match self {
            Number::Count(count) => grouped(count),
            Number::Bytes(bytes) => crate::size::show(bytes),
            Number::Figure(figure) => significant(figure),
        }
    }

    /// As the JSON has it, digit for digit.
    pub fn exact(self) -> String {
        match self {
            Number::Count(count) | Number::Bytes(count) => count.to_string(),
            Number::Figure(figure) => {
                serde_json::Number::from_f64(figure).map_or_else(String::new, |n| n.to_string())
            }
        }
    }
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    digits
        .chars()
        .enumerate()
        .flat_map(|(at, digit)| {
            let gap = at > 0 && at % 3 == first;
            gap.then_some(GROUP).into_iter().chain(iter::once(digit))
        })
        .collect()
}

fn significant(figure: f64) -> String {
    if figure == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{figure:.*e}", usize::try_from(DIGITS - 1).unwrap_or(0));
    // Of the rounded figure, so that 0.99999 is 1.000.
    let exponent =
        scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    match exponent {
        Some(exponent @ -4..=5) => {
            let decimals = usize::try_from((DIGITS - 1 - exponent).max(0)).unwrap_or(0);
            format!("{figure:.decimals$}")
        }
        _ => scientific,
    }
}

/// A tick of an axis: a number of few digits, but for what its sum lost.
pub fn tick(value: f64) -> String {
    let value = format!("{value:.5e}").parse().unwrap_or(value);
    let scientific = format!("{value:e}");
    let exponent =
        scientific.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    match exponent {
        Some(-4..=5) | None => value.to_string(),
        Some(_) => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_four_digits() {
        for (figure, shown) in [
            (0.0, "0"),
            (-0.0, "0"),
            (4.5, "4.500"),
            (0.99999, "1.000"),
            (0.012_345_6, "0.01235"),
            (0.000_1, "0.0001000"),
            (0.000_099_999_9, "0.0001000"),
            (3.214_4e-7, "3.214e-7"),
            (-2.5e-9, "-2.500e-9"),
            (123_456.7, "123457"),
            (999_999.9, "1.000e6"),
            (1.5e39, "1.500e39"),
        ] {
            assert_eq!(Number::Figure(figure).shown(), shown, "{figure}");
        }
    }

    #[test]
    fn counts_are_grouped_and_exact() {
        for (count, shown) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(Number::Count(count).shown().replace(GROUP, " "), shown);
        }
        assert_eq!(Number::Bytes(3 << 29).shown(), "1.50 GiB");
        assert_eq!(Number::Bytes(u64::MAX).exact(), "18446744073709551615");
        for figure in [0.1, 1e-7, 1e300, -0.5, 4.0] {
            assert_eq!(Number::Figure(figure).exact(), serde_json::to_string(&figure).unwrap());
        }
    }

    #[test]
    fn ticks_are_short() {
        for (value, shown) in [
            (0.0, "0"),
            (0.01, "0.01"),
            (2.0, "2"),
            (5e-7, "5e-7"),
            (1e20, "1e20"),
            (0.1 + 0.2, "0.3"),
        ] {
            assert_eq!(tick(value), shown);
        }
    }
}
