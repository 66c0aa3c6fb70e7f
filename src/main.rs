//! The `tessera` command line: parse, dispatch, report.

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
mod validate;
mod verify;
mod weights;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::parse();
    interrupt::clean_up_when_interrupted();
    exit::report(commands::run(arguments.command))
}
