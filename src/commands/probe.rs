//! `tessera probe`: what does this board's NPU do?

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use tessera_formats::escape::escaped_path;
use tessera_formats::npu::Board;
use tessera_formats::temporary;
use tessera_runtime::rknn::open;

use crate::cli::ProbeArguments;
use crate::doctor::System;
use crate::exit::Verdict;
use crate::new_file::NewFile;
use crate::probe::{self, Request};
use crate::talk::say;

/// Asks the NPU, prints its answers and writes the board.
pub fn run(arguments: &ProbeArguments) -> anyhow::Result<Verdict> {
    let root = &arguments.root;
    let system = System::below(root).with_context(|| format!("root `{}`", escaped_path(root)))?;
    if let Some(output) = &arguments.output {
        // Not after a minute.
        let folder = temporary::folder(output);
        ensure!(folder.is_dir(), "the folder `{}` does not exist", escaped_path(folder));
        ensure!(!output.is_dir(), "the output `{}` is a folder", escaped_path(output));
        let taken = output.symlink_metadata().is_ok();
        ensure!(
            !taken || arguments.force,
            "`{}` exists: choose another name, or `--force` to replace it",
            escaped_path(output),
        );
    }
    let kind = arguments.device.into();
    // The lock is held until the library is gone.
    let (library, _lock) = open(kind, arguments.library.as_deref())?;
    let board = probe::probe(&Request {
        library: &library,
        kind,
        quick: arguments.quick,
        memory: !arguments.no_memory,
        system: &system,
    })?;
    let answers = board.probe.as_ref().ok_or_else(|| anyhow!("the board has no answers"))?;
    if arguments.json {
        super::print_json(&board)?;
    } else {
        super::print(&probe::text(&board, answers))?;
    }
    let unmeasured = probe::unmeasured(answers);
    if !unmeasured.is_empty() {
        let rates = unmeasured.join("`, `");
        super::warn(&[format!(
            "`{rates}` were not measured: they are what others report of the chip"
        )]);
    }
    if let Some(output) = &arguments.output {
        write(&board, output, arguments.force)?;
    }
    let problems = probe::problems(answers);
    for problem in &problems {
        say(format_args!("error: {problem}"));
    }
    Ok(if problems.is_empty() { Verdict::Passed } else { Verdict::Failed })
}

fn write(board: &Board, output: &Path, force: bool) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(board)? + "\n";
    let bytes = u64::try_from(text.len())?;
    let file = NewFile::create(output, bytes)?;
    file.write_at(0, text.as_bytes())?;
    file.persist(bytes, force)
}
