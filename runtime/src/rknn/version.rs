//! The version that a librknnrt says in its own file, before it is loaded.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The oldest version whose structures are those of [`abi`](super::abi): 1.6 has a `MatmulInfo` of 24
/// bytes, and would write what it returns into the wrong places.
pub const LEAST_VERSION: Version = Version { major: 2, minor: 0, patch: 0 };

/// What stands before the version.
const MARK: &[u8] = b"librknnrt version: ";

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;

/// Bytes of a library that are looked at; the largest known has 8 MB.
const MOST: u64 = 256 << 20;

/// Most characters of a version.
const LONGEST: usize = 32;

/// A version of librknnrt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Its first number.
    pub major: u32,
    /// Its second.
    pub minor: u32,
    /// Its third.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    /// The version that a library's file says; `None` if it says none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn of_file(path: &Path) -> std::io::Result<Option<Self>> {
        Self::of_reader(&mut File::open(path)?.take(MOST))
    }

    fn of_reader(reader: &mut impl Read) -> std::io::Result<Option<Self>> {
        // What a mark, or the version after it, that is cut between two reads needs of the first.
        let kept = MARK.len() + LONGEST;
        let mut buffer = Vec::with_capacity(CHUNK + kept);
        loop {
            let before = buffer.len();
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
            let end = buffer.len() == before || read == 0;
            let mut from = 0;
            while let Some(at) = find(&buffer[from..], MARK) {
                let text = &buffer[from + at + MARK.len()..];
                if text.len() < LONGEST && !end {
                    break;
                }
                if let Some(version) = Self::parse(&text[..text.len().min(LONGEST)]) {
                    return Ok(Some(version));
                }
                from += at + 1;
            }
            if end {
                return Ok(None);
            }
            buffer.drain(..buffer.len().saturating_sub(kept));
        }
    }

    /// `2.3.2` at the beginning of a text, whatever follows.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.'));
        let text = std::str::from_utf8(&text[..end.unwrap_or(text.len())]).ok()?;
        let mut parts = text.split('.').map(str::parse);
        let mut part = || parts.next()?.ok();
        Some(Version { major: part()?, minor: part()?, patch: part()? })
    }
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<String> {
        Version::of_reader(&mut &*bytes).unwrap().map(|version| version.to_string())
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
        let of = |text: &str| Version::parse(text.as_bytes()).unwrap();
        assert!(of("1.6.0") < LEAST_VERSION && of("2.0.0") >= LEAST_VERSION);
        assert!(of("2.3.2") > of("2.3.0") && of("2.10.0") > of("2.9.9"));
    }
}
