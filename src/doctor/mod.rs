//! Whether a board is ready to run packs: everything is read from files below a root folder.

mod board;
mod clients;
pub mod clocks;
pub mod driver;
mod finding;
mod library;
mod memory;
mod nodes;
mod process;
mod report;
mod system;
pub mod thermal;

use self::board::Board;
use self::driver::Driver;
pub use self::finding::Severity;
use self::finding::{Check, Finding};
use self::nodes::Nodes;
use self::process::Process;
pub use self::report::Report;
pub use self::system::{System, Unread};

/// All checks, in the order of a report.
const CHECKS: [&Check; 34] = [
    &board::SOC,
    &board::KERNEL,
    &board::ENABLED,
    &driver::VENDOR,
    &driver::MAINLINE,
    &driver::VERSION,
    &driver::PARAMETERS,
    &driver::CORES,
    &driver::IOMMU,
    &driver::DOMAINS,
    &driver::SRAM,
    &driver::LOAD,
    &nodes::RENDER,
    &nodes::PERMISSION,
    &nodes::HEAPS,
    &library::FOUND,
    &library::MACHINE,
    &library::VERSION,
    &library::DRIVER,
    &library::COPIES,
    &library::API,
    &library::RKLLM,
    &clients::CLIENTS,
    &process::FILES,
    &process::SYSTEM_FILES,
    &memory::AVAILABLE,
    &memory::CMA,
    &memory::SWAP,
    &clocks::NPU,
    &clocks::DDR,
    &clocks::CPU,
    &clocks::GPU,
    &clocks::IDLE,
    &thermal::THERMAL,
];

/// Makes all checks that make sense on this machine.
pub fn examine(system: &System) -> Report {
    let board = Board::read(system);
    let mut findings = vec![board.soc()];
    if board.chip().is_some() {
        findings.extend(of_board(system, &board));
    }
    Report::new(system, &board, findings, CHECKS.iter().map(|check| check.id))
}

fn of_board(system: &System, board: &Board) -> Vec<Finding> {
    let process = Process::read(system);
    let driver = Driver::find(system);
    let mut findings = vec![board.kernel(), board::enabled(system)];
    findings.extend(driver.findings(system));
    let nodes = driver.is_vendors().then(|| Nodes::find(system));
    findings.extend(nodes.iter().flat_map(|nodes| nodes.findings(system, &process)));
    findings.extend(library::findings(system, &driver));
    findings.extend(nodes.iter().flat_map(|nodes| clients::findings(system, nodes)));
    findings.extend(process::limits(system));
    findings.extend(memory::findings(system));
    findings.extend(clocks::findings(system));
    findings.extend(thermal::findings(system));
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn no_two_checks_have_one_name() {
        let mut ids: Vec<_> = CHECKS.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), CHECKS.len());
    }

    /// What every Linux system has is read from the one that the tests run on.
    #[test]
    fn the_running_system_is_read() {
        let system = System::below(Path::new("/")).unwrap();
        assert!(Process::read(&system).known);
        let mut findings = process::limits(&system);
        findings.extend(memory::findings(&system).into_iter().take(1));
        for finding in findings {
            assert_ne!(finding.severity, Severity::Info, "{finding:?}");
        }
        clocks::findings(&system);
        thermal::findings(&system);

        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap().to_str().unwrap().to_owned();
        let nodes = Nodes { work: vec![path], cards: Vec::new() };
        let clients = clients::findings(&system, &nodes).remove(0);
        assert_eq!(clients.severity, Severity::Warning, "{clients:?}");
        let pid = format!("{} ", std::process::id());
        assert!(clients.details.iter().any(|client| client.starts_with(&pid)), "{clients:?}");
    }
}
