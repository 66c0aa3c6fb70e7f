//! What a shared library is for, and the version that is written in it.

use std::io::Read;
use std::path::Path;

use crate::doctor::system::{System, Unread};
use tessera_runtime::rknn::Version;

/// Bytes of a library that are searched: the vendor's has about 7 MB.
const LONGEST: u64 = 64 << 20;

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
            Some(_) => Version::behind(name, &mut file.take(LONGEST))?,
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
    fn a_version_is_read_of_a_library_alone() {
        let mut bytes = header(2, 1, [183, 0]);
        bytes.extend(b"..version: 2.3.2");
        assert_eq!(read(&bytes).version, Some(Version(2, 3, 2)));
        assert_eq!(read(&bytes[1..]).version, None);
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
