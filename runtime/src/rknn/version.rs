//! Versions of three numbers, and the one that a librknnrt says in its own file, before it is loaded.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The oldest version whose structures are those of [`abi`](super::abi): 1.6 has a `MatmulInfo` of 24
/// bytes, and would write what it returns into the wrong places.
pub const LEAST_VERSION: Version = Version(2, 0, 0);

/// What stands before a library's version in its file.
pub const VERSION_MARK: &str = "librknnrt version: ";

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;

/// Bytes of a library that are looked at; the largest known has 8 MB.
const MOST: u64 = 256 << 20;

/// Most characters of a version.
const LONGEST: usize = 32;

/// A version, such as 0.9.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The version that a librknnrt's file says; `None` if it says none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn of_file(path: &Path) -> std::io::Result<Option<Self>> {
        Self::behind(VERSION_MARK, &mut File::open(path)?)
    }

    /// The first version that stands behind `mark` in the first 256 MiB; `None` if none does.
    ///
    /// # Errors
    ///
    /// If a read fails.
    pub fn behind(mark: &str, reader: &mut impl Read) -> std::io::Result<Option<Self>> {
        Ok(Self::with_text(mark, reader)?.map(|(version, _)| version))
    }

    /// The same with the text that it stands in, of at most 32 bytes.
    pub(super) fn with_text(
        mark: &str,
        reader: &mut impl Read,
    ) -> std::io::Result<Option<(Self, String)>> {
        let (mut reader, mark) = (reader.take(MOST), mark.as_bytes());
        // What a mark, or the version after it, that is cut between two reads needs of the first.
        let kept = mark.len() + LONGEST;
        let mut buffer = Vec::with_capacity(CHUNK + kept);
        loop {
            let before = buffer.len();
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
            let end = buffer.len() == before || read == 0;
            let mut from = 0;
            while let Some(at) = place(&buffer[from..], mark) {
                let text = &buffer[from + at + mark.len()..];
                if text.len() < LONGEST && !end {
                    break;
                }
                let text = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
                if let Some(version) = Self::parse(&text) {
                    return Ok(Some((version, text.into_owned())));
                }
                from += at + 1;
            }
            if end {
                return Ok(None);
            }
            buffer.drain(..buffer.len().saturating_sub(kept));
        }
    }

    /// The version that a text begins with, whatever follows.
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

    /// The version at the first digit of a text.
    pub fn find(text: &str) -> Option<Self> {
        Version::parse(&text[text.find(|c: char| c.is_ascii_digit())?..])
    }
}

fn place(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<String> {
        Version::behind(VERSION_MARK, &mut &*bytes).unwrap().map(|version| version.to_string())
    }

    #[test]
    fn versions_are_found_wherever_they_stand() {
        let text = b"librknnrt version: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)";
        for before in [0, 1, CHUNK - 40, CHUNK - 19, CHUNK - 3, CHUNK, 3 * CHUNK - 21] {
            for after in [0, 5, 2 * CHUNK] {
                let library = [&vec![7u8; before][..], text, &vec![0; after]].concat();
                assert_eq!(of(&library).as_deref(), Some("2.3.2"), "{before} {after}");
            }
        }
        // A format string of the library's own comes first.
        assert_eq!(
            of(b"librknnrt version: %s\0librknnrt version: 1.6.0 (9a7b5d)").as_deref(),
            Some("1.6.0")
        );
    }

    #[test]
    fn what_says_none_has_none() {
        for bytes in [&b""[..], b"librknnrt version: ", b"librknnrt version: 2.3", b"ELF", b"2.3.2"]
        {
            assert_eq!(of(bytes), None);
        }
        let huge = b"librknnrt version: 99999999999999999999.1.1";
        assert_eq!(of(huge), None);
        assert!(Version::of_file(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn versions_are_ordered() {
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
        assert!(Version(1, 6, 0) < LEAST_VERSION && Version(2, 10, 0) > Version(2, 9, 9));
    }
}
