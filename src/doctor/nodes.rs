//! The NPU's device nodes, and whether this process may use them.

use super::finding::{Check, Finding};
use super::process::Process;
use super::system::{Access, System};

/// The node that the runtime opens.
pub const RENDER: Check = Check {
    id: "nodes.render",
    title: "NPU device node",
    why: "librknnrt opens it; its number differs from board to board and from boot to boot",
};

/// Whether it can be opened.
pub const PERMISSION: Check = Check {
    id: "nodes.permission",
    title: "permission to use the NPU",
    why: "without reading and writing the node nothing runs",
};

/// The heaps of a driver without DRM.
pub const HEAPS: Check = Check {
    id: "nodes.heaps",
    title: "DMA heaps",
    why: "a driver built for DMA heaps takes its buffers from them",
};

/// Node of a driver that was built for DMA heaps.
const MISC: &str = "/dev/rknpu";

const DRM: &str = "/sys/class/drm";
const HEAP_FOLDER: &str = "/dev/dma_heap";

/// Heaps that the driver or its users take.
const HEAP_NAMES: [&str; 6] = [
    "system",
    "system-uncached",
    "system-dma32",
    "system-uncached-dma32",
    "cma",
    "rk-dma-heap-cma",
];

/// Bits of reading and writing, of the last three bits of a mode.
const READ_WRITE: u32 = 0o6;

/// Nodes of the NPU.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Render nodes, or the node of a driver that was built for DMA heaps.
    pub work: Vec<String>,
    /// Cards, which a display server opens, too.
    pub cards: Vec<String>,
}

impl Nodes {
    /// Looks which nodes lead to the vendor's driver.
    pub fn find(system: &System) -> Self {
        let of_npu = |prefix: &str| -> Vec<String> {
            let names = system.numbered(DRM, prefix).into_iter();
            names
                .filter(|name| {
                    let driver = system.end(format!("{DRM}/{name}/device/driver"));
                    driver.is_some_and(|driver| driver.eq_ignore_ascii_case("rknpu"))
                })
                .map(|name| format!("/dev/dri/{name}"))
                .collect()
        };
        let mut work = of_npu("renderD");
        if work.is_empty() && system.exists(MISC) {
            work.push(MISC.to_owned());
        }
        Nodes { work, cards: of_npu("card") }
    }

    /// What is to be said of them.
    pub fn findings(&self, system: &System, process: &Process) -> Vec<Finding> {
        let Some(node) = self.work.first() else {
            return vec![RENDER.error(
                "none: no DRM device has the driver RKNPU, and there is no /dev/rknpu",
                "sudo dmesg | grep -i rknpu   # says why the driver made no node",
            )];
        };
        if !system.exists(node) {
            return vec![RENDER.error(
                format!("{node} is not there, though the driver has it"),
                "sudo udevadm trigger --subsystem-match=drm; in a container, pass the device in: `--device \
                 /dev/dri`",
            )];
        }
        let mut findings = vec![RENDER.ok(self.work.join(", ")), permission(system, process, node)];
        if node == MISC {
            findings.push(heaps(system, process));
        }
        findings
    }
}

/// Whether `process` may read and write `node`.
fn permission(system: &System, process: &Process, node: &str) -> Finding {
    let access = match system.access(node) {
        Ok(access) => access,
        Err(unread) => return PERMISSION.unread(node, &unread),
    };
    let owner = format!("{node} {}", shown(system, access));
    if !process.known {
        return PERMISSION.info(format!("not checked: {owner}; this process's user is not known"));
    }
    if !may(process, access) && !system.opens(node) {
        return PERMISSION
            .error(format!("{owner}; user {}", process.uid), give(system, access, node));
    }
    if process.overrides && access.mode & 0o066 == 0 {
        return PERMISSION
            .info(format!("{owner}: for root only"))
            .with_fix(give(system, access, node));
    }
    PERMISSION.ok(owner)
}

/// The command that gives a user the node.
fn give(system: &System, access: Access, node: &str) -> String {
    match group_name(system, access.gid) {
        Some(group) if access.gid != 0 && access.mode & 0o060 == 0o060 => {
            format!("sudo usermod -aG {group} $USER   # then log in again")
        }
        _ if node == MISC => rule("KERNEL==\"rknpu\""),
        _ => rule("SUBSYSTEM==\"drm\", KERNEL==\"renderD*\""),
    }
}

fn rule(devices: &str) -> String {
    format!(
        "echo '{devices}, GROUP=\"render\", MODE=\"0660\"' | sudo tee /etc/udev/rules.d/99-rknpu.rules && sudo \
         udevadm control --reload && sudo udevadm trigger && sudo usermod -aG render $USER   # then log in again"
    )
}

fn heaps(system: &System, process: &Process) -> Finding {
    let paths = HEAP_NAMES.iter().map(|name| format!("{HEAP_FOLDER}/{name}"));
    let heaps: Vec<_> = paths.filter_map(|path| Some((system.access(&path).ok()?, path))).collect();
    let fix = rule("SUBSYSTEM==\"dma_heap\"");
    if heaps.is_empty() {
        return HEAPS.error(
            format!("{HEAP_FOLDER} has none"),
            "boot a kernel with CONFIG_DMABUF_HEAPS_SYSTEM, such as the vendor's",
        );
    }
    let details: Vec<_> =
        heaps.iter().map(|(access, path)| format!("{path} {}", shown(system, *access))).collect();
    let usable = heaps.iter().filter(|(access, path)| may(process, *access) || system.opens(path));
    match (process.known, usable.count()) {
        (false, _) => HEAPS.info("not checked: this process's user is not known"),
        (true, 0) => HEAPS.error("none can be opened", fix),
        (true, usable) if usable == heaps.len() => HEAPS.ok(format!("{usable} can be opened")),
        (true, usable) => HEAPS.warning(format!("{usable} of {} can be opened", heaps.len()), fix),
    }
    .with_details(details)
}

/// Whether `process` may read and write something, by owner and mode.
fn may(process: &Process, access: Access) -> bool {
    if process.overrides {
        return true;
    }
    let bits = if process.uid == access.uid {
        access.mode >> 6
    } else if process.groups.contains(&access.gid) {
        access.mode >> 3
    } else {
        access.mode
    };
    bits & READ_WRITE == READ_WRITE
}

/// Owner and mode, such as `root:render 0660`.
fn shown(system: &System, access: Access) -> String {
    let name = |name: Option<String>, id: u32| name.unwrap_or_else(|| id.to_string());
    let user = name(entry_name(system, "/etc/passwd", access.uid), access.uid);
    let group = name(group_name(system, access.gid), access.gid);
    format!("{user}:{group} {:04o}", access.mode)
}

fn group_name(system: &System, gid: u32) -> Option<String> {
    entry_name(system, "/etc/group", gid)
}

/// Name of a user or a group, if it can stand in a command.
fn entry_name(system: &System, path: &str, id: u32) -> Option<String> {
    let text = system.text(path).ok()?;
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
        .then_some(name)
        .filter(|name| name.chars().all(plain))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let process = Process { known: true, uid: 1000, groups: vec![44, 105], overrides: false };
        let root = Process { uid: 0, overrides: true, ..process.clone() };
        for (uid, gid, mode, allowed) in [
            (0, 105, 0o660, true),
            (0, 106, 0o660, false),
            (0, 0, 0o600, false),
            (0, 0, 0o666, true),
            (0, 44, 0o606, false),
            (1000, 0, 0o600, true),
            (1000, 105, 0o066, false),
            (0, 105, 0o640, false),
        ] {
            let access = Access { uid, gid, mode };
            assert_eq!(may(&process, access), allowed, "{access:?}");
            assert!(may(&root, access));
        }
    }
}
