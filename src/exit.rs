//! Exit codes, and how a failure is told.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use tessera_calibration::collect::CollectError;
use tessera_calibration::corpus::CorpusError;
use tessera_calibration::statistics::StatisticsError;
use tessera_formats::escape::EscapedText;
use tessera_formats::gguf::GgufError;
use tessera_formats::pack::PackError;
#[cfg(feature = "cuda")]
use tessera_runtime::linear::candle::CandleDeviceError;
use tessera_runtime::model::ResidualRotationError;
use tessera_runtime::perplexity::{ChunksError, EvaluationError};
use tessera_runtime::rknn::RknnError;

use crate::talk::say;

/// What a command that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is in order: exit code 0.
    Passed,
    /// The command worked, and what it checked is not in order, or what it compared differs: exit
    /// code 1.
    Failed,
}

/// Usage error or bad input.
const BAD_INPUT: u8 = 2;

/// The environment lacks something: space, permission, a device.
const ENVIRONMENT: u8 = 3;

/// Prints an error, if there is one, with its hint, and gives the process's exit code.
pub fn report(result: anyhow::Result<Verdict>) -> ExitCode {
    match result {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Err(error) => {
            say(format_args!("error: {}", told(&error)));
            if let Some(hint) = hint(&error) {
                say(format_args!("\nhint: {hint}"));
            }
            ExitCode::from(code(&error))
        }
    }
}

/// The message of an error. Parsers quote what they could not parse: what of it a terminal would act on
/// is escaped.
pub fn told(error: &anyhow::Error) -> String {
    EscapedText(&format!("{error:#}")).to_string()
}

/// Exit code of an error, from the kind of the I/O error at its root.
fn code(error: &anyhow::Error) -> u8 {
    match io_kind(error) {
        Some(
            ErrorKind::StorageFull
            | ErrorKind::FileTooLarge
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::OutOfMemory
            | ErrorKind::ResourceBusy
            // No more threads or processes.
            | ErrorKind::WouldBlock,
        ) => ENVIRONMENT,
        #[cfg(feature = "cuda")]
        _ if error.is::<CandleDeviceError>() => ENVIRONMENT,
        _ if error.chain().any(lacks_npu) => ENVIRONMENT,
        _ => BAD_INPUT,
    }
}

/// Whether it is the NPU or its library that is missing, busy or fails; a file that is none is bad input.
fn lacks_npu(cause: &(dyn std::error::Error + 'static)) -> bool {
    !matches!(
        cause.downcast_ref(),
        None | Some(
            RknnError::Shape { .. }
                | RknnError::Kind { .. }
                | RknnError::NoVersion { .. }
                | RknnError::TooOld { .. }
                | RknnError::Read { .. }
                | RknnError::Load { .. }
                | RknnError::Symbol { .. }
                | RknnError::Pack(_)
                | RknnError::Weights(_)
                | RknnError::Digest { .. }
                | RknnError::Unaddressable { .. }
                | RknnError::NotLoaded { .. }
        )
    )
}

/// Kind of the first I/O error in the chain.
fn io_kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// What to do about it, where the error knows.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let gguf = cause.downcast_ref::<GgufError>().and_then(GgufError::hint);
        let pack = cause.downcast_ref::<PackError>().and_then(PackError::hint);
        let other = || of_calibration(cause).or_else(|| of_rotation(cause));
        let run = || of_evaluation(cause).or_else(other).map(str::to_owned);
        gguf.map(|hint| hint.into_owned()).or(pack.map(str::to_owned)).or_else(run)
    })
}

/// What to do about a residual stream that cannot be rotated.
fn of_rotation(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    cause.downcast_ref::<ResidualRotationError>().map(|_| {
        "convert the model as it is: `tessera convert` rotates the input of every linear when the model \
         runs, whatever its graph"
    })
}

/// What to do about an evaluation that cannot be.
fn of_evaluation(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(ChunksError::TooShort { .. }) = cause.downcast_ref() {
        return Some("give a longer text, or ask for shorter chunks with `--ctx`");
    }
    match cause.downcast_ref() {
        Some(EvaluationError::Budget { .. }) => {
            Some("give more with `--memory-budget`, or ask for shorter chunks with `--ctx`")
        }
        _ => None,
    }
}

/// What to do about a calibration that cannot be.
fn of_calibration(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let collect = cause.downcast_ref().and_then(CollectError::hint);
    let statistics = || cause.downcast_ref().and_then(StatisticsError::hint);
    collect.or_else(statistics).or_else(|| cause.downcast_ref().and_then(CorpusError::hint))
}
