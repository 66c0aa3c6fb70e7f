//! Versions of three numbers.

use std::fmt;

/// A version, such as 0.9.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The version that `text` begins with, whatever follows.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut number = || {
            let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let (number, after) = rest.split_at(rest.len() - digits.len());
            rest = after.strip_prefix('.').unwrap_or("");
            number.parse().ok()
        };
        Some(Version(number()?, number()?, number()?))
    }

    /// The version at the first digit of `text`.
    pub fn find(text: &str) -> Option<Self> {
        Version::parse(&text[text.find(|c: char| c.is_ascii_digit())?..])
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (text, version) in [
            ("0.9.8", Some(Version(0, 9, 8))),
            ("2.0.0b0 (35a6907d79@2024-03-24T10:31:14)", Some(Version(2, 0, 0))),
            ("2.3", None),
            ("2.3.x", None),
            ("", None),
            ("99999999999.1.1", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert_eq!(Version::find("RKNPU driver: v0.9.8"), Some(Version(0, 9, 8)));
        assert_eq!(Version::find("größe"), None);
        assert!(Version(0, 9, 8) < Version(0, 10, 0));
    }
}
