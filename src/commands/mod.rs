//! One file per command: arguments in, output out.

mod bench;
mod calibrate;
mod completions;
mod convert;
mod diff;
mod doctor;
mod eval;
mod inspect;
mod man;
mod probe;
mod report;
mod rotate;
mod run;
mod sensitivity;
mod validate;
mod verify;

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use tessera_formats::escape::{escaped, escaped_json, escaped_message, escaped_prose};
use tessera_formats::npu::{Board, Target};
use tessera_runtime::host::Overflow;

use crate::cli::{Command, RunningArguments};
use crate::convert::budget::Budget;
use crate::exit::Verdict;
use crate::models::{self, Opening};
use crate::recipe::Recipe;
use crate::talk::say;
use crate::text_file;

/// Memory of an evaluation and of a calibration where nothing is said.
const RUNNING_MEMORY: u64 = 2 << 30;

/// Bytes that quantizing in memory may take beside the weights, whatever the budget.
const LEAST_QUANTIZATION_MEMORY: u64 = 64 << 20;

/// Threads beyond which a machine does not profit.
const MOST_THREADS: usize = 1024;

/// Largest file of a board that is read, in bytes.
const LARGEST_BOARD: u64 = 1 << 20;

/// Runs a command.
pub fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Sensitivity(arguments) => sensitivity::run(&arguments),
        Command::Rotate(arguments) => rotate::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { directory } => man::run(&directory),
    }
}

/// How models are opened, from what the commands that run them share.
fn opening(arguments: &RunningArguments, seed: u64) -> anyhow::Result<Opening> {
    let options = arguments.options;
    let recipe = arguments.recipe.as_ref();
    let board = board(&arguments.target)?;
    let overflow = if board.int4_wraps() { Overflow::Wrap } else { Overflow::Saturate };
    let target = board.target;
    let npu = models::npu::start(arguments.device, arguments.library.as_deref(), &target)?;
    Ok(Opening {
        device: arguments.device,
        cpu_like: arguments.cpu_like,
        options,
        recipe: recipe.map(|path| Recipe::read(path, options)).transpose()?,
        calibration: arguments.calibration.clone(),
        target,
        seed,
        budget: Budget {
            // Rows are quantized while a layer's weights are in memory.
            bytes: (arguments.memory_budget.unwrap_or(RUNNING_MEMORY) / 8)
                .max(LEAST_QUANTIZATION_MEMORY),
            threads: threads(arguments.threads)?,
        },
        npu,
        overflow,
    })
}

/// Worker threads: as asked, or one per core.
fn threads(asked: Option<usize>) -> anyhow::Result<usize> {
    match asked {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(threads) => {
            ensure!(
                (1..=MOST_THREADS).contains(&threads),
                "`--threads` must be from 1 to {MOST_THREADS}",
            );
            Ok(threads)
        }
    }
}

/// Limits of the chip of that name, or of the board that a `board.json` describes.
fn target(text: &str) -> anyhow::Result<Target> {
    Ok(board(text)?.target)
}

/// The file of a board, where one is named.
fn board_file(target: &str) -> Option<&Path> {
    Some(Path::new(target)).filter(|path| path.extension().is_some_and(|found| found == "json"))
}

/// The board with the chip of that name, or the one that a `board.json` describes.
fn board(text: &str) -> anyhow::Result<Board> {
    let Some(path) = board_file(text) else {
        return Board::of_chip(text).ok_or_else(|| {
            anyhow!(
                "unknown target `{}`: use rk3588, rk3588s, rk3576 or a board's file, `NAME.json`",
                escaped(text),
            )
        });
    };
    let context = || format!("board `{}`", escaped(text));
    Board::parse(&text_file::text(path, "board", LARGEST_BOARD)?).with_context(context)
}

/// Prints a result for people on stdout, with nothing in it that steers a terminal. That its reader
/// went away is no failure of ours.
fn print(text: &str) -> anyhow::Result<()> {
    write(&escaped_message(text)).map(drop)
}

/// Prints a piece of a model's text on stdout; whether anyone reads on.
fn print_piece(text: &str) -> anyhow::Result<bool> {
    write(&escaped_prose(text))
}

/// Writes to stdout; whether anyone reads on.
fn write(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("stdout"),
    }
}

/// Prints a result as JSON on stdout.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_text_of_json(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints JSON, or lines of it, on stdout.
fn print_text_of_json(json: &str) -> anyhow::Result<()> {
    write(&escaped_json(json)).map(drop)
}

/// Tells what the user should know, on stderr.
fn warn(warnings: &[String]) {
    for warning in warnings {
        say(format_args!("warning: {warning}"));
    }
}
