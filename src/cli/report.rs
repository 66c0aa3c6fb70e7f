//! Arguments of `report`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(after_help = "\
The page, `index.html`, is one file that loads nothing else; `report.json` is put beside it.

Examples:
  tessera report report/report.json -o report
  tessera report report/report.json -o report --force    in place of what another version wrote")]
pub struct ReportArguments {
    /// JSON of a report, `report.json`
    #[arg(value_name = "REPORT")]
    pub report: PathBuf,

    /// Folder of the page, which is made where it is missing
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,

    /// Replace existing files
    #[arg(long)]
    pub force: bool,
}
