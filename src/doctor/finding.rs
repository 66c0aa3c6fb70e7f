//! Checks, and what they found.

use serde::Serialize;

use super::system::Unread;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// In order.
    Ok,
    /// Good to know, or could not be checked.
    Info,
    /// Works, but slowly, or not for every model.
    Warning,
    /// Packs cannot run.
    Error,
}

impl Severity {
    /// All, the worst first.
    pub const WORST_FIRST: [Severity; 4] =
        [Severity::Error, Severity::Warning, Severity::Info, Severity::Ok];

    /// Its word, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that is looked at.
#[derive(Debug)]
pub struct Check {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The check.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The check's name for people.
    pub title: &'static str,
    /// What was found.
    pub value: String,
    /// Where the value is of several things: each of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Why it matters.
    pub why: &'static str,
    /// What to do: a command where one does it.
    pub fix: Option<String>,
}

impl Check {
    /// The value is in order.
    pub fn ok(&self, value: impl Into<String>) -> Finding {
        self.finding(Severity::Ok, value.into(), None)
    }

    /// The value is good to know.
    pub fn info(&self, value: impl Into<String>) -> Finding {
        self.finding(Severity::Info, value.into(), None)
    }

    /// The value makes things slow, or stops some models.
    pub fn warning(&self, value: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.finding(Severity::Warning, value.into(), Some(fix.into()))
    }

    /// With this value packs cannot run.
    pub fn error(&self, value: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.finding(Severity::Error, value.into(), Some(fix.into()))
    }

    /// There is no value, because `path` cannot be read.
    pub fn unread(&self, path: &str, unread: &Unread) -> Finding {
        let finding = self.info(format!("not checked: {path}: {unread}"));
        match unread {
            Unread::Denied => finding.with_fix("sudo tessera doctor"),
            _ => finding,
        }
    }

    fn finding(&self, severity: Severity, value: String, fix: Option<String>) -> Finding {
        let Check { id, title, why } = *self;
        Finding { id, severity, title, value, details: Vec::new(), why, fix }
    }
}

impl Finding {
    /// Things of one finding that are listed.
    const LISTED: usize = 32;

    /// The same, with what to do.
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same, with the things that it is about, of which so many are listed.
    pub fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        let mut details = details.into_iter();
        self.details = details.by_ref().take(Self::LISTED).collect();
        match details.count() {
            0 => {}
            more => self.details.push(format!("… and {more} more")),
        }
        self
    }
}
