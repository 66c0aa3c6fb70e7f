//! A report of how the bits of a model were chosen: as JSON, and as a page that needs nothing else.
//!
//! The page is one file: styles, pictures and the few lines that sort a table are in it, and nothing
//! is loaded. What it shows is in the JSON; `docs/report.md` has the fields.

mod check;
pub mod data;
mod number;
mod output;
mod page;
mod pictures;

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;

pub use self::data::Report;
use self::data::{FORMAT, VERSION};
use crate::text_file;
use tessera_formats::escape::escaped_path;

/// The data, in the folder of a report.
pub const JSON_FILE: &str = "report.json";

/// The page, in the folder of a report.
pub const PAGE_FILE: &str = "index.html";

/// Largest report that is read, in bytes.
const LARGEST_FILE: u64 = 256 << 20;

/// What every version of a report says.
#[derive(Deserialize)]
struct Head {
    format: Option<String>,
    version: Option<[u32; 2]>,
}

/// Reads the JSON of a report.
///
/// # Errors
///
/// Where the file cannot be read, is not a report of this version, has a field that is not known, or a
/// number that cannot be.
pub fn read(path: &Path) -> anyhow::Result<Report> {
    let context = || format!("report `{}`", escaped_path(path));
    let bytes = text_file::bytes(path, "report", LARGEST_FILE)?;
    parse(&bytes).with_context(context)
}

fn parse(bytes: &[u8]) -> anyhow::Result<Report> {
    let no_report = || anyhow!("the file is not the JSON of a report, `{JSON_FILE}`");
    let head: Head = serde_json::from_slice(bytes).map_err(|_| no_report())?;
    ensure!(head.format.as_deref() == Some(FORMAT), no_report());
    let [major, minor] = head.version.context("`version` is missing")?;
    ensure!(
        [major, minor] == VERSION,
        "the version is {major}.{minor}, and this tessera reads {}.{}: use the tessera that wrote it",
        VERSION[0],
        VERSION[1],
    );
    let report = serde_json::from_slice(bytes)?;
    check::check(&report)?;
    Ok(report)
}

/// Writes `report.json` and `index.html` into `folder`, which is made where it is missing. The same
/// report gives the same bytes, and files that have them stay. Others of these names are replaced only
/// with `force`.
///
/// # Errors
///
/// Where a number of the report is none, or the files cannot be written or exist.
pub fn write(folder: &Path, report: &Report, force: bool) -> anyhow::Result<()> {
    check::check(report).context("report")?;
    let json = serde_json::to_string_pretty(report)? + "\n";
    let page = page::render(report)?;
    output::put(folder, &[(JSON_FILE, json), (PAGE_FILE, page)], force)
}
