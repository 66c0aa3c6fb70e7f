//! Arguments of every command.

mod bench;
mod calibrate;
mod convert;
mod diff;
mod doctor;
mod eval;
mod inspect;
mod probe;
mod report;
mod rotate;
mod run;
mod running;
mod sensitivity;
mod validate;
mod verify;

use std::path::PathBuf;

use clap::error::ContextValue;
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use tessera_formats::escape::{escaped_message, escaped_path};

pub use bench::BenchArguments;
pub use calibrate::CalibrateArguments;
pub use convert::ConvertArguments;
pub use diff::DiffArguments;
pub use doctor::DoctorArguments;
pub use eval::EvalArguments;
pub use inspect::InspectArguments;
pub use probe::ProbeArguments;
pub use report::ReportArguments;
pub use rotate::RotateArguments;
pub use run::RunArguments;
pub use running::RunningArguments;
pub use sensitivity::SensitivityArguments;
pub use validate::{ValidateArguments, ValidateDevice};
pub use verify::VerifyArguments;

/// Offline model conversion and quantization for the Rockchip RK3588 NPU
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes:
  0  everything is in order
  1  the command worked, and what it checked is not in order, or what it compared differs
  2  wrong usage or bad input
  3  the environment lacks something (space, permission, a device)")]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a GGUF file or a pack holds, and what converting it would give
    Inspect(InspectArguments),
    /// Convert a GGUF file into a pack
    Convert(ConvertArguments),
    /// Observe what a GGUF file's linears read on a text, for better conversions
    Calibrate(CalibrateArguments),
    /// Measure what each scheme of each linear does to the logits
    Sensitivity(SensitivityArguments),
    /// Take rotations into the weights of a GGUF file, which computes what it computed
    Rotate(RotateArguments),
    /// Check a pack, and measure it against the GGUF file it was made from
    Verify(VerifyArguments),
    /// Compare two packs, or GGUF files, tensor by tensor
    Diff(DiffArguments),
    /// Measure perplexity and KL divergence of models on a text
    Eval(EvalArguments),
    /// Make the page of a report again, from its JSON
    Report(ReportArguments),
    /// Let a model continue a prompt
    Run(RunArguments),
    /// Check that a board is ready to run packs, and say how to fix what is not
    Doctor(DoctorArguments),
    /// Check that a board's NPU computes what packs rely on, and measure how fast it is
    Probe(ProbeArguments),
    /// Prove that the NPU computes what a pack says, linear by linear
    Validate(ValidateArguments),
    /// Measure how fast a model is, and what the board does meanwhile
    Bench(BenchArguments),
    /// Print a shell completion script
    Completions {
        /// Shell to complete for
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a folder
    Man {
        /// Folder, which must exist
        directory: PathBuf,
    },
}

/// The arguments of this process. Where they are none, it says why and ends here.
pub fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| harmless(error).exit())
}

/// The error with what it quotes escaped: names of files come in by patterns of a shell.
fn harmless(mut error: clap::Error) -> clap::Error {
    let mut quoted = Vec::new();
    for (kind, value) in error.context() {
        let safe = match value {
            ContextValue::String(text) => Some(ContextValue::String(escaped_path(text))),
            ContextValue::Strings(texts) => {
                Some(ContextValue::Strings(texts.iter().map(escaped_path).collect()))
            }
            _ => None,
        };
        quoted.push((kind, safe, value.to_string()));
    }
    for (kind, safe, shown) in quoted {
        match safe {
            Some(safe) => drop(error.insert(kind, safe)),
            // Advice in colours that quotes an argument.
            None if escaped_message(&shown) != shown => drop(error.remove(kind)),
            None => {}
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_are_quoted_harmlessly() {
        let evil = "x\u{1b}[2J\u{9b}1m\r\nerror: forged\u{202e}";
        for arguments in [
            &["tessera", evil][..],
            &["tessera", "inspect", "a", evil],
            &["tessera", "inspect", "a", &format!("--{evil}")],
            &["tessera", "convert", "a", "-o", "b", "--threads", evil],
            &["tessera", "convert", "a", "-o", "b", "--scheme", evil],
            &["tessera", "eval", &format!("{evil}@w9a9"), "--text", "a"],
        ] {
            let error = harmless(Arguments::try_parse_from(arguments).unwrap_err());
            let said = error.render().to_string();
            assert_eq!(escaped_message(&said), said, "{arguments:?}");
            assert!(!said.contains("\nerror: forged"), "{arguments:?}: {said}");
            assert!(said.contains("\\u{9b}"), "{arguments:?}: {said}");
        }
    }

    /// Defaults stand in the text of the help, because clap puts them after a line of blanks.
    #[test]
    fn help_tells_the_defaults_that_apply() {
        for command in Arguments::command().get_subcommands() {
            for argument in command.get_arguments().filter(|a| a.is_hide_default_value_set()) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                for value in argument.get_default_values() {
                    let expected = format!("[default: {}]", value.to_string_lossy());
                    assert!(help.ends_with(&expected), "{}: {help}", argument.get_id());
                }
            }
        }
    }
}
