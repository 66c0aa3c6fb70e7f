//! The `tessera` command line as a library: parse, dispatch, report.
//!
//! The program is [`main`]; nothing else of it is for use from outside.

mod bench;
mod calibrate;
mod choose;
mod cli;
mod commands;
mod completion;
mod convert;
mod diff;
mod doctor;
mod eval;
mod exit;
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod inputs;
mod inspect;
mod interrupt;
mod models;
mod new_file;
mod options;
mod probe;
mod progress;
mod recipe;
mod report;
mod rotate;
mod sensitivity;
mod size;
mod space;
mod table;
mod talk;
mod text_file;
mod validate;
mod verify;
mod weights;
mod workers;

use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = cli::parse();
    interrupt::clean_up_when_interrupted();
    exit::report(commands::run(arguments.command))
}
