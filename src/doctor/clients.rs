//! Processes that have the NPU open.

use super::finding::{Check, Finding};
use super::nodes::Nodes;
use super::system::{System, Unread};

/// Other programs on the NPU.
pub const CLIENTS: Check = Check {
    id: "clients",
    title: "processes that use the NPU",
    why: "the NPU is for one process at a time: two with several domains can panic the kernel",
};

/// What is to be said of processes that have the NPU's `nodes` open.
pub fn findings(system: &System, nodes: &Nodes) -> Vec<Finding> {
    let processes = system.numbered("/proc", "");
    if processes.is_empty() {
        return vec![CLIENTS.info("not checked: /proc has no processes")];
    }
    let mut working = Vec::new();
    let mut displaying = Vec::new();
    let mut hidden: usize = 0;
    for pid in processes {
        let folder = format!("/proc/{pid}/fd");
        let files = match system.list(&folder) {
            Ok(files) => files,
            Err(Unread::Denied) => {
                hidden += 1;
                continue;
            }
            // It has ended.
            Err(_) => continue,
        };
        let open = |wanted: &[String]| {
            files.iter().any(|file| {
                let target = system.link(format!("{folder}/{file}")).ok().flatten();
                target.and_then(|t| t.to_str().map(|t| wanted.iter().any(|w| w == t))) == Some(true)
            })
        };
        let shown = || {
            let name = system.line(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} {name}").trim_end().to_owned()
        };
        if open(&nodes.work) {
            working.push(shown());
        } else if open(&nodes.cards) {
            displaying.push(shown());
        }
    }
    let unseen = match hidden {
        0 => String::new(),
        1 => "; 1 process could not be looked at".to_owned(),
        hidden => format!("; {hidden} processes could not be looked at"),
    };
    let finding = match (working.len(), displaying.len()) {
        (0, 0) if hidden == 0 => CLIENTS.ok("none"),
        (0, 0) => CLIENTS.info(format!("none seen{unseen}")).with_fix("sudo tessera doctor"),
        (0, count) => CLIENTS.info(format!(
            "none; {count} with the card open only, as display servers have{unseen}"
        )),
        (count, _) => {
            let value = format!("{count}{unseen}");
            let pid = working.first().and_then(|shown| shown.split(' ').next()).unwrap_or_default();
            CLIENTS.warning(value, format!("sudo kill {pid}   # or wait until it ends"))
        }
    };
    let details = if working.is_empty() { displaying } else { working };
    vec![finding.with_details(details)]
}
