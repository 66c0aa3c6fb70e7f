//! What was found, for people and for programs.

use std::fmt::Write;

use serde::Serialize;
use tessera_formats::escape::{Escaped, escaped};

use super::board::Board;
use super::finding::{Finding, Severity};
use super::system::System;
use crate::table;

/// Result of an examination.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this tessera.
    tessera: &'static str,
    /// Folder that stood for `/`.
    root: String,
    /// Whether it is a board with this NPU.
    board: bool,
    /// The machine's name.
    machine: Option<String>,
    /// The worst severity.
    pub verdict: Severity,
    /// Findings of each severity.
    counts: Counts,
    /// What was found, in the order of the checks.
    findings: Vec<Finding>,
    /// Checks that make no sense here.
    not_applicable: Vec<&'static str>,
}

/// Findings of each severity.
#[derive(Clone, Copy, Debug, Serialize)]
struct Counts {
    error: usize,
    warning: usize,
    info: usize,
    ok: usize,
}

impl Report {
    /// A report of `findings`, of which `checks` could be.
    pub fn new(
        system: &System,
        board: &Board,
        findings: Vec<Finding>,
        checks: impl Iterator<Item = &'static str>,
    ) -> Self {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        Report {
            tessera: env!("CARGO_PKG_VERSION"),
            root: system.root().display().to_string(),
            board: board.chip().is_some(),
            machine: board.name.clone(),
            verdict: findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Ok),
            counts: Counts {
                error: count(Severity::Error),
                warning: count(Severity::Warning),
                info: count(Severity::Info),
                ok: count(Severity::Ok),
            },
            not_applicable: checks
                .filter(|id| findings.iter().all(|finding| finding.id != *id))
                .collect(),
            findings,
        }
    }

    /// The report as text: what is wrong, the worst first, then what is in order.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(machine) = &self.machine {
            let _ = writeln!(text, "{}\n", Escaped(machine));
        }
        for severity in Severity::WORST_FIRST {
            for finding in self.of(severity).filter(|_| severity != Severity::Ok) {
                tell(finding, &mut text);
            }
        }
        if self.counts.ok > 0 {
            let mut rows = table::with_headers(&["in order", ""], &[]);
            for finding in self.of(Severity::Ok) {
                rows.add_row([finding.title.to_owned(), escaped(&finding.value)]);
            }
            let _ = writeln!(text, "{rows}\n");
        }
        let Counts { error, warning, info, ok } = self.counts;
        let _ = writeln!(
            text,
            "{error} {}, {warning} {}, {info} for information, {ok} in order, {} not applicable",
            if error == 1 { "error" } else { "errors" },
            if warning == 1 { "warning" } else { "warnings" },
            self.not_applicable.len(),
        );
        text
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }
}

/// Tells a finding that is not in order.
fn tell(finding: &Finding, text: &mut String) {
    let Finding { severity, title, value, details, why, fix, .. } = finding;
    let _ = writeln!(text, "{}: {title}: {}", severity.word(), Escaped(value));
    for detail in details {
        let _ = writeln!(text, "       {}", Escaped(detail));
    }
    let _ = writeln!(text, "  why: {why}");
    if let Some(fix) = fix {
        let _ = writeln!(text, "  fix: {fix}");
    }
    text.push('\n');
}
