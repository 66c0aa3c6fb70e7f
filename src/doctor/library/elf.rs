//! What a shared library is for, and the version that is written in it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::doctor::system::{System, Unread};
use crate::doctor::version::Version;

/// Bytes of a library that are searched: the vendor's has about 7 MB.
const LONGEST: u64 = 64 << 20;

/// Bytes that are searched at once.
const PIECE: usize = 1 << 16;

/// Bytes behind the name of a version that are looked at for its numbers.
const VERSION_LENGTH: usize = 32;

/// `e_machine` of 64-bit ARM.
const AARCH64: u16 = 183;

/// A library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// What it runs on; `None` where it is no ELF file.
    pub machine: Option<Machine>,
    /// Its version.
    pub version: Option<Version>,
}

/// What an ELF file runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether it is a file of 64 bits, in little endian.
    wide: bool,
    /// `e_machine`.
    number: u16,
}

impl Machine {
    /// Whether it is what tessera and the board run.
    pub fn is_boards(self) -> bool {
        self.wide && self.number == AARCH64
    }

    /// For people.
    pub fn name(self) -> String {
        match self.number {
            3 => "32-bit x86".to_owned(),
            40 => "32-bit ARM".to_owned(),
            62 => "x86-64".to_owned(),
            AARCH64 => "64-bit ARM".to_owned(),
            243 => "RISC-V".to_owned(),
            number => format!("ELF machine {number}"),
        }
    }
}

impl Library {
    /// Reads the library at `path`, whose version stands behind `name`.
    pub fn read(system: &System, path: &Path, name: &str) -> Result<Self, Unread> {
        let (mut file, _) = system.open(path)?;
        let mut header = [0; 20];
        let machine = match file.read_exact(&mut header) {
            Ok(()) => machine(&header),
            Err(_) => None,
        };
        let version = match machine {
            Some(_) => version(file, name.as_bytes())?,
            None => None,
        };
        Ok(Library { machine, version })
    }
}

/// What the first bytes of an ELF file say that it runs on (System V ABI, ELF header).
fn machine(header: &[u8; 20]) -> Option<Machine> {
    let [0x7f, b'E', b'L', b'F', class, order, .., low, high] = *header else {
        return None;
    };
    let bytes = [low, high];
    let number = if order == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    Some(Machine { wide: class == 2 && order == 1, number })
}

/// The first version behind `name` in a file.
fn version(file: File, name: &[u8]) -> Result<Option<Version>, Unread> {
    let kept = name.len() + VERSION_LENGTH;
    let mut file = file.take(LONGEST);
    let mut piece = Vec::with_capacity(PIECE + kept);
    loop {
        let before = piece.len();
        let step = u64::try_from(PIECE).unwrap_or(u64::MAX);
        file.by_ref().take(step).read_to_end(&mut piece)?;
        let last = piece.len() == before;
        // A version at the end of a piece may go on in the next, which begins with it again.
        let searched = if last { piece.len() } else { piece.len().saturating_sub(VERSION_LENGTH) };
        for start in places(&piece[..searched], name) {
            let text = &piece[start..piece.len().min(start + VERSION_LENGTH)];
            if let Some(version) = Version::parse(&String::from_utf8_lossy(text)) {
                return Ok(Some(version));
            }
        }
        if last {
            return Ok(None);
        }
        piece.drain(..piece.len().saturating_sub(kept));
    }
}

/// Where `name` ends in `bytes`.
fn places(bytes: &[u8], name: &[u8]) -> impl Iterator<Item = usize> {
    let windows = bytes.windows(name.len()).enumerate();
    windows.filter(move |(_, window)| *window == name).map(|(start, _)| start + name.len())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn header(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut header = vec![0x7f, b'E', b'L', b'F', class, order, 1];
        header.resize(18, 0);
        header.extend(machine);
        header
    }

    fn read(bytes: &[u8]) -> Library {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lib.so"), bytes).unwrap();
        let system = System::below(folder.path()).unwrap();
        Library::read(&system, Path::new("/lib.so"), "version: ").unwrap()
    }

    #[test]
    fn a_version_is_found_wherever_it_stands() {
        for place in [20, PIECE, PIECE + 1, 2 * PIECE - 40, 2 * PIECE + 3, 3 * PIECE] {
            for shift in 0..60 {
                let mut bytes = header(2, 1, [183, 0]);
                bytes.resize(place - shift.min(place - 20), b'.');
                bytes.extend(b"version: 2.3.2");
                assert_eq!(read(&bytes).version, Some(Version(2, 3, 2)), "{place} - {shift}");
            }
        }
    }

    #[test]
    fn machines_are_told_apart() {
        let machine = |bytes: &[u8]| read(bytes).machine.map(|m| (m.is_boards(), m.name()));
        let named = |boards, name: &str| Some((boards, name.to_owned()));
        assert_eq!(machine(&header(2, 1, [183, 0])), named(true, "64-bit ARM"));
        assert_eq!(machine(&header(2, 1, [62, 0])), named(false, "x86-64"));
        assert_eq!(machine(&header(1, 1, [40, 0])), named(false, "32-bit ARM"));
        assert_eq!(machine(&header(2, 2, [0, 183])), named(false, "64-bit ARM"));
        assert_eq!(machine(b"#!/bin/sh"), None);
        assert_eq!(machine(&[b'x'; 100]), None);
        assert_eq!(read(b"version: 1.2.3").version, None);
    }
}
