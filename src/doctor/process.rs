//! Who runs this process, and what it may open.

use super::finding::{Check, Finding};
use super::system::System;

/// Files that this process may open.
pub const FILES: Check = Check {
    id: "limits.files",
    title: "open files of a process",
    why: "each buffer of the NPU is an open file: with too few a model fails to load after minutes",
};

/// Files that all processes may open.
pub const SYSTEM_FILES: Check = Check {
    id: "limits.system_files",
    title: "open files of the system",
    why: "the limit of a process is worth nothing where the system's is reached first",
};

/// Open files that a large model needs.
const NEEDED: u64 = 65536;

const STATUS: &str = "/proc/self/status";
const LIMITS: &str = "/proc/self/limits";
const FILE_NR: &str = "/proc/sys/fs/file-nr";
const NR_OPEN: &str = "/proc/sys/fs/nr_open";

/// Bit of the capability to open whatever the mode says.
const DAC_OVERRIDE: u64 = 1 << 1;

/// A process's user.
#[derive(Clone, Debug)]
pub struct Process {
    /// Whether the rest was read.
    pub known: bool,
    /// Effective user.
    pub uid: u32,
    /// Effective group, and the others.
    pub groups: Vec<u32>,
    /// Whether it may open whatever the mode says.
    pub overrides: bool,
}

impl Process {
    /// Reads what this process may do.
    pub fn read(system: &System) -> Self {
        Process::parse(&system.text(STATUS).unwrap_or_default())
    }

    fn parse(status: &str) -> Self {
        let numbers = |name: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect()
        };
        let uid = numbers("Uid").get(1).copied();
        let mut groups = numbers("Groups");
        groups.extend(numbers("Gid").get(1));
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        let overrides = capabilities.map_or(uid == Some(0), |bits| bits & DAC_OVERRIDE != 0);
        Process { known: uid.is_some(), uid: uid.unwrap_or_default(), groups, overrides }
    }
}

/// What is to be said of limits.
pub fn limits(system: &System) -> Vec<Finding> {
    vec![files(system), system_files(system)]
}

fn files(system: &System) -> Finding {
    let text = match system.text(LIMITS) {
        Ok(text) => text,
        Err(unread) => return FILES.unread(LIMITS, &unread),
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.unwrap_or_default().split_whitespace().map(number);
    let (Some(Some(soft)), Some(Some(hard))) = (numbers.next(), numbers.next()) else {
        return FILES.info(format!("not checked: {LIMITS} does not tell"));
    };
    if soft >= NEEDED {
        return FILES.ok(match soft {
            u64::MAX => "unlimited".to_owned(),
            soft => soft.to_string(),
        });
    }
    let value = format!("{soft} (up to {hard} without root), {NEEDED} are needed");
    match hard >= NEEDED {
        true => FILES.warning(value, format!("ulimit -n {NEEDED}   # in the shell that runs the model")),
        false => FILES.warning(
            value,
            format!(
                "echo '* - nofile {NEEDED}' | sudo tee /etc/security/limits.d/99-npu.conf   # then log in \
                 again; for a service, LimitNOFILE={NEEDED}"
            ),
        ),
    }
}

/// A limit; no limit is the largest number.
fn number(text: &str) -> Option<u64> {
    if text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() }
}

fn system_files(system: &System) -> Finding {
    let line = match system.line(FILE_NR) {
        Ok(line) => line,
        Err(unread) => return SYSTEM_FILES.unread(FILE_NR, &unread),
    };
    // Allocated, allocated and unused, most.
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [used, _, most] = numbers[..] else {
        return SYSTEM_FILES.info(format!("not checked: {FILE_NR} holds `{line}`"));
    };
    let value = format!("{used} of {most} are open");
    if most.saturating_sub(used) < NEEDED {
        let enough = used.saturating_add(4 * NEEDED);
        return SYSTEM_FILES.warning(value, format!("sudo sysctl -w fs.file-max={enough}"));
    }
    match system.number::<u64>(NR_OPEN) {
        Ok(limit) if limit < NEEDED => SYSTEM_FILES.warning(
            format!("{value}; a process may have {limit} at most (fs.nr_open)"),
            "sudo sysctl -w fs.nr_open=1048576",
        ),
        _ => SYSTEM_FILES.ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts() {
        let text = "Name:\ttessera\nUid:\t1000\t1001\t1000\t1000\nGid:\t1000\t1002\t1000\t1000\n\
                    Groups:\t4 44 105 \nCapEff:\t0000000000000000\n";
        let process = Process::parse(text);
        assert_eq!((process.uid, process.groups), (1001, vec![4, 44, 105, 1002]));
        assert!(process.known && !process.overrides);
        let root = Process::parse("Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n");
        assert!(root.known && root.overrides);
        assert!(!Process::parse("Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\n").overrides);
        assert!(!Process::parse("\u{1b}[2J").known);
    }
}
