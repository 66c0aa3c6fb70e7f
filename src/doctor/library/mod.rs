//! The vendor's library librknnrt: which copy is loaded, what it is for, its version.

mod elf;
mod search;

use std::path::Path;

use self::elf::Library;
use self::search::Copy;
use super::driver::Driver;
use super::finding::{Check, Finding};
use super::system::{System, Unread};
use super::version::Version;

/// Whether there is a library.
pub const FOUND: Check = Check {
    id: "library.found",
    title: "librknnrt",
    why: "the vendor's library is what runs matmuls on the NPU",
};

/// What it runs on.
pub const MACHINE: Check = Check {
    id: "library.machine",
    title: "librknnrt's machine",
    why: "the loader refuses a library for another machine",
};

/// Its version.
pub const VERSION: Check = Check {
    id: "library.version",
    title: "librknnrt version",
    why: "packs need the tiles, types and domains of 2.0; older ones compute other results, or none",
};

/// Whether there is only one.
pub const COPIES: Check = Check {
    id: "library.copies",
    title: "copies of librknnrt",
    why: "with several versions it depends on the program which one is loaded",
};

/// The old name of the library.
pub const API: Check = Check {
    id: "library.api",
    title: "librknn_api",
    why: "older programs load librknnrt by this name: it should be a link to it",
};

/// Whether library and driver are of one time.
pub const DRIVER: Check = Check {
    id: "library.driver",
    title: "librknnrt and driver",
    why: "a library that is newer than its driver loads, and then fails or prints rubbish",
};

/// The vendor's library for language models.
pub const RKLLM: Check = Check {
    id: "library.rkllm",
    title: "librkllmrt",
    why: "for the record: tessera does not use it",
};

/// Name of the library.
const NAME: &str = "librknnrt.so";

/// What stands before its version.
const MARK: &str = "librknnrt version: ";

/// Oldest version that works.
const OLDEST: Version = Version(2, 0, 0);

/// The first version that came with driver 0.9.8, and that driver.
const TOGETHER: (Version, Version) = (Version(2, 3, 0), Version(0, 9, 8));

/// Where the vendor publishes the library.
const SOURCE: &str = "https://github.com/airockchip/rknn-toolkit2/raw/master/rknpu2/runtime/Linux/\
                      librknn_api/aarch64/librknnrt.so";

/// The command that installs the vendor's library, in place of the file at `old`.
fn install(old: Option<&Path>) -> String {
    let remove = old.and_then(plain).map_or(String::new(), |old| format!("sudo rm {old} && "));
    format!("{remove}sudo curl -fL -o /usr/lib/librknnrt.so {SOURCE} && sudo ldconfig")
}

/// A path that can stand in a command.
fn plain(path: &Path) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+');
    path.to_str().filter(|path| path.len() <= 200 && path.chars().all(is_plain))
}

/// What is to be said of the library.
pub fn findings(system: &System, driver: &Driver) -> Vec<Finding> {
    let folders = search::folders(system);
    let copies = search::copies(system, &folders, NAME);
    let mut findings = Vec::new();
    let first = match copies.first() {
        None => {
            findings.push(FOUND.error("not found", install(None)));
            None
        }
        Some(copy) => found(system, copy, &mut findings).map(|library| (copy, library)),
    };
    if let Some((copy, library)) = first {
        findings.extend(of_library(&library, driver, install(Some(&copy.path))));
    }
    if copies.len() > 1 {
        findings.push(several(system, &copies));
    } else if !copies.is_empty() {
        findings.push(COPIES.ok("1"));
    }
    findings.push(api(system, &search::copies(system, &folders, "librknn_api.so"), &copies));
    let rkllm = search::copies(system, &folders, "librkllmrt.so");
    findings.push(match rkllm.first() {
        Some(copy) => RKLLM.ok(copy.shown()),
        None => RKLLM.ok("not installed"),
    });
    findings
}

/// Looks at the copy that the loader takes.
fn found(system: &System, copy: &Copy, findings: &mut Vec<Finding>) -> Option<Library> {
    match read(system, copy) {
        Ok(library) => {
            findings.push(FOUND.ok(copy.shown()));
            Some(library)
        }
        Err(unread) => {
            let path = copy.path.display();
            let fix = install(Some(&copy.path));
            findings.push(match (system.link(&copy.path), unread) {
                (Ok(Some(target)), Unread::Missing) => {
                    let target = target.display();
                    FOUND.error(format!("{path} is a link to {target}, which is not there"), fix)
                }
                (_, unread) => FOUND.error(format!("{path}: {unread}"), fix),
            });
            None
        }
    }
}

fn read(system: &System, copy: &Copy) -> Result<Library, Unread> {
    Library::read(system, copy.end.as_deref().map_err(Clone::clone)?, MARK)
}

fn of_library(library: &Library, driver: &Driver, fix: String) -> Vec<Finding> {
    let Some(machine) = library.machine else {
        return vec![MACHINE.error("it is no ELF file: a failed download?", fix)];
    };
    if !machine.is_boards() {
        return vec![MACHINE.error(format!("it is for {}", machine.name()), fix)];
    }
    let mut findings = vec![MACHINE.ok(machine.name())];
    let Some(version) = library.version else {
        findings.push(VERSION.warning(format!("`{MARK}` is not in it"), fix));
        return findings;
    };
    findings.push(match version < OLDEST {
        true => VERSION.error(version.to_string(), fix),
        false => VERSION.ok(version.to_string()),
    });
    if let Some(driver) = driver.version().filter(|_| driver.is_vendors()) {
        let value = format!("librknnrt {version} with driver {driver}");
        let (newer, needed) = TOGETHER;
        findings.push(match version >= newer && driver < needed {
            true => DRIVER.warning(
                format!("{value}; this library came with {needed}"),
                "sudo apt update && sudo apt full-upgrade && sudo reboot   # the driver is part of the \
                 vendor's kernel",
            ),
            false => DRIVER.ok(value),
        });
    }
    findings
}

/// Several copies: whether they are of one version.
fn several(system: &System, copies: &[Copy]) -> Finding {
    let versions: Vec<_> =
        copies.iter().map(|copy| read(system, copy).ok().and_then(|l| l.version)).collect();
    let details = copies.iter().zip(&versions).map(|(copy, version)| {
        let version = version.map_or("no version".to_owned(), |version| version.to_string());
        format!("{}: {version}", copy.shown())
    });
    let same = versions.windows(2).all(|pair| pair[0] == pair[1]);
    let value = copies.len().to_string();
    match same {
        true => COPIES.ok(format!("{value} of the same version")),
        false => COPIES.warning(
            format!("{value}, of different versions; the first is loaded"),
            "find / -xdev -name librknnrt.so 2>/dev/null   # keep /usr/lib/librknnrt.so, remove the others, \
             then `sudo ldconfig`",
        ),
    }
    .with_details(details)
}

/// The old name: nothing, or a link to the library.
fn api(system: &System, old: &[Copy], copies: &[Copy]) -> Finding {
    const LINK: &str = "sudo ln -sf librknnrt.so /usr/lib/librknn_api.so && sudo ldconfig";
    let Some(copy) = old.first() else {
        return API.ok("not installed");
    };
    let ends = |end: &Path| copies.iter().any(|copy| copy.end.as_deref() == Ok(end));
    match &copy.end {
        Ok(end) if ends(end) => API.ok(copy.shown()),
        Ok(_) => match Library::read(system, &copy.path, MARK) {
            Ok(Library { version: Some(version), .. }) => API.warning(
                format!("{} is a library of its own, {version}", copy.path.display()),
                LINK,
            ),
            _ => API.warning(format!("{} is no link to librknnrt", copy.path.display()), LINK),
        },
        Err(unread) => API.warning(format!("{}: {unread}", copy.shown()), LINK),
    }
}
