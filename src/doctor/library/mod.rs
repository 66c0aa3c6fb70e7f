//! The vendor's library librknnrt: which copy is loaded, what it is for, its version.

mod elf;
mod search;

use std::path::Path;

use self::elf::{Library, Machine};
use self::search::Copy;
use super::driver::Driver;
use super::finding::{Check, Finding};
use super::system::{System, Unread};
use tessera_runtime::rknn::{LEAST_VERSION, LIBRARY, VERSION_MARK, Version};

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
const NAME: &str = LIBRARY;

/// The first version that came with driver 0.9.8, and that driver.
const TOGETHER: (Version, Version) = (Version(2, 3, 0), Version(0, 9, 8));

/// Where the vendor publishes the library.
const SOURCE: &str = "https://github.com/airockchip/rknn-toolkit2/raw/master/rknpu2/runtime/Linux/\
                      librknn_api/aarch64/librknnrt.so";

/// The command that installs the vendor's library, in place of the file at `old`.
fn install(old: Option<&Path>) -> String {
    let remove = old.and_then(plain).map_or(String::new(), |old| format!("sudo rm {old} && "));
    format!(
        "curl -fLO {SOURCE} && {remove}sudo install -m 755 librknnrt.so /usr/lib/ && sudo ldconfig"
    )
}

/// A path that can stand in a command.
fn plain(path: &Path) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+');
    path.to_str().filter(|path| path.len() <= 200 && path.chars().all(is_plain))
}

/// A copy of the library, and what is in it.
type Held = (Copy, Result<Library, Unread>);

/// What is to be said of the library.
pub fn findings(system: &System, driver: &Driver) -> Vec<Finding> {
    let folders = search::folders(system);
    let copies: Vec<Held> = search::copies(system, &folders, NAME)
        .into_iter()
        .map(|copy| {
            let library =
                copy.end.clone().and_then(|end| Library::read(system, &end, VERSION_MARK));
            (copy, library)
        })
        .collect();
    let mut findings = Vec::new();
    match copies.iter().find(|(_, library)| is_taken(library)).or(copies.first()) {
        None => findings.push(FOUND.error("not found", install(None))),
        Some((copy, Err(unread))) => findings.push(unusable(system, copy, unread)),
        Some((copy, Ok(library))) => {
            findings.push(FOUND.ok(copy.shown()));
            findings.extend(of_library(library, driver, install(Some(&copy.path))));
        }
    }
    if !copies.is_empty() {
        findings.push(several(&copies));
    }
    findings.push(api(system, &search::copies(system, &folders, "librknn_api.so"), &copies));
    let rkllm = search::copies(system, &folders, "librkllmrt.so");
    findings.push(match rkllm.first() {
        Some(copy) => RKLLM.ok(copy.shown()),
        None => RKLLM.ok("not installed"),
    });
    findings
}

/// Whether the loader stops at a file: it passes over what it cannot open and what is for another machine,
/// and fails at what is no library.
fn is_taken(library: &Result<Library, Unread>) -> bool {
    library.as_ref().is_ok_and(|library| library.machine.is_none_or(Machine::is_boards))
}

/// A copy that cannot be opened.
fn unusable(system: &System, copy: &Copy, unread: &Unread) -> Finding {
    let path = copy.path.display();
    let value = match (system.link(&copy.path), unread) {
        (Ok(Some(target)), Unread::Missing) => {
            format!("{path} is a link to {}, which is not there", target.display())
        }
        _ => format!("{path}: {unread}"),
    };
    FOUND.error(value, install(Some(&copy.path)))
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
        findings.push(VERSION.warning(format!("`{VERSION_MARK}` is not in it"), fix));
        return findings;
    };
    findings.push(match version < LEAST_VERSION {
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

/// Whether there is one version, and nothing broken beside it. Libraries for other machines are no copies.
fn several(copies: &[Held]) -> Finding {
    let details = copies.iter().map(|(copy, library)| {
        let what = match library {
            Ok(Library { version: Some(version), machine: Some(machine) }) => {
                format!("{version}, {}", machine.name())
            }
            Ok(_) => "no version".to_owned(),
            Err(unread) => unread.to_string(),
        };
        format!("{}: {what}", copy.shown())
    });
    let versions: Vec<_> = copies
        .iter()
        .filter(|(_, library)| is_taken(library))
        .map(|(_, library)| library.as_ref().ok().and_then(|library| library.version))
        .collect();
    let broken = copies.iter().find(|(_, library)| library.is_err());
    let finding = match broken.filter(|_| copies.len() > 1) {
        _ if versions.windows(2).any(|pair| pair[0] != pair[1]) => COPIES.warning(
            format!("{}, of different versions; the first is loaded", versions.len()),
            "find / -xdev -name librknnrt.so 2>/dev/null   # keep the newest in /usr/lib, remove the \
             others, then `sudo ldconfig`",
        ),
        Some((copy, _)) => COPIES.warning(
            "one cannot be opened",
            match plain(&copy.path) {
                Some(path) => format!("sudo rm {path} && sudo ldconfig"),
                None => "remove it, then `sudo ldconfig`".to_owned(),
            },
        ),
        None if versions.len() > 1 => COPIES.ok(format!("{} of the same version", versions.len())),
        None => COPIES.ok(versions.len().to_string()),
    };
    if copies.len() > 1 { finding.with_details(details) } else { finding }
}

/// The old name: nothing, or a link to the library.
fn api(system: &System, old: &[Copy], copies: &[Held]) -> Finding {
    const LINK: &str = "sudo ln -sf librknnrt.so /usr/lib/librknn_api.so && sudo ldconfig";
    let Some(copy) = old.first() else {
        return API.ok("not installed");
    };
    let ends = |end: &Path| copies.iter().any(|(copy, _)| copy.end.as_deref() == Ok(end));
    match &copy.end {
        Ok(end) if ends(end) => API.ok(copy.shown()),
        Ok(_) => match Library::read(system, &copy.path, VERSION_MARK) {
            Ok(Library { version: Some(version), .. }) => API.warning(
                format!("{} is a library of its own, {version}", copy.path.display()),
                LINK,
            ),
            _ => API.warning(format!("{} is no link to librknnrt", copy.path.display()), LINK),
        },
        Err(unread) => API.warning(format!("{}: {unread}", copy.shown()), LINK),
    }
}
