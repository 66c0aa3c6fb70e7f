//! One way in which two tensors differ.

use std::fmt;

use serde::Serialize;
use tessera_formats::escape::Escaped;

/// Something that two tensors have differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Change {
    /// A property with two values.
    Value {
        /// What it is.
        what: &'static str,
        /// In A.
        a: String,
        /// In B.
        b: String,
    },
    /// Numbers, of which some differ.
    Numbers {
        /// What they are.
        what: &'static str,
        /// How many differ.
        changed: u64,
        /// Of how many.
        of: u64,
        /// Largest |a − b| / |a| of them, null where it is infinite; absent where it tells nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        largest_relative_change: Option<f64>,
    },
}

impl Change {
    /// A property with two values.
    pub fn value(what: &'static str, a: &str, b: &str) -> Self {
        Change::Value { what, a: a.to_owned(), b: b.to_owned() }
    }

    /// Numbers, of which some differ.
    pub fn numbers(what: &'static str, changed: u64, of: u64, largest: Option<f64>) -> Self {
        Change::Numbers { what, changed, of, largest_relative_change: largest }
    }

    /// Numbers that stand in pairs; `None` if all are the same, bit for bit.
    pub fn between(what: &'static str, a: &[f32], b: &[f32]) -> Option<Self> {
        let pairs = || a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits());
        let relative = pairs().map(|(&a, &b)| {
            let (a, b) = (f64::from(a), f64::from(b));
            if a == b { 0.0 } else { ((a - b) / a).abs() }
        });
        let largest = relative.fold(0.0, f64::max);
        let changed = u64::try_from(pairs().count()).unwrap_or(u64::MAX);
        let of = u64::try_from(a.len()).unwrap_or(u64::MAX);
        (changed > 0).then(|| Change::numbers(what, changed, of, Some(largest)))
    }
}

/// For people, in few words.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The table has a column for each.
            Change::Value { what: what @ ("scheme" | "type"), .. } => f.write_str(what),
            Change::Value { what, a, b } => write!(f, "{what} {} → {}", Escaped(a), Escaped(b)),
            Change::Numbers { what, changed, of, largest_relative_change } => {
                write!(f, "{what} {changed}/{of}")?;
                match largest_relative_change {
                    Some(largest) => write!(f, " (up to {:.2} %)", 100.0 * largest),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_and_the_largest_change_is_relative_to_the_first() {
        let change = Change::between("scales", &[1.0, 2.0, 4.0], &[1.0, 1.0, 5.0]).unwrap();
        assert_eq!(change, Change::numbers("scales", 2, 3, Some(0.5)));
        assert_eq!(change.to_string(), "scales 2/3 (up to 50.00 %)");
        assert_eq!(Change::between("scales", &[1.0], &[1.0]), None);
    }

    #[test]
    fn numbers_that_are_none_are_compared_by_their_bits() {
        assert_eq!(Change::between("scales", &[f32::NAN], &[f32::NAN]), None);
        let infinite = Change::between("scales", &[0.0], &[1.0]).unwrap();
        assert_eq!(infinite, Change::numbers("scales", 1, 1, Some(f64::INFINITY)));
        let text = serde_json::to_string(&infinite).unwrap();
        assert!(text.ends_with("\"largest_relative_change\":null}"), "{text}");
    }

    #[test]
    fn values_are_escaped() {
        let change = Change::value("calibrator", "mse", "\x1b[2J");
        assert_eq!(change.to_string(), "calibrator mse → \\u{1b}[2J");
        assert_eq!(Change::value("scheme", "w8a8", "w4a8").to_string(), "scheme");
    }
}
