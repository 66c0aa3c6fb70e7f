//! What is wrong with an engine on a core, as it is told.

use std::fmt;

use tessera_formats::npu::Engine;

use super::super::{RknnError, Shape};
use super::Cause;

/// An element of C that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wrong {
    /// Row of activations.
    pub row: usize,
    /// Output channel.
    pub channel: usize,
    /// What the NPU gave.
    pub found: f64,
    /// What the operands' products sum to.
    pub expected: i64,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The engine.
    pub engine: Engine,
    /// The core, from 0.
    pub core: usize,
    /// The matmul in which it was seen.
    pub shape: Shape,
    /// What explains all of its results.
    pub cause: Cause,
    /// The first element that is wrong, where there are results.
    pub wrong: Option<Wrong>,
    /// Elements that are wrong.
    pub count: usize,
    /// What a call that failed returned, and what it says.
    pub call: Option<(i32, String)>,
}

impl Finding {
    pub(super) fn call(shape: Shape, core: usize, error: &RknnError) -> Self {
        let code = match error {
            RknnError::Call { code, .. } => *code,
            _ => 0,
        };
        let call = Some((code, error.to_string()));
        let engine = shape.engine;
        Finding { engine, core, shape, cause: Cause::Call, wrong: None, count: 0, call }
    }

    /// Whether the NPU did not end a run.
    pub(super) fn is_timeout(&self) -> bool {
        self.call
            .as_ref()
            .is_some_and(|(code, text)| *code != 0 && text.contains("rknn_matmul_run"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { core, shape, cause, .. } = self;
        if let Some((_, error)) = &self.call {
            return write!(f, "{cause}: core {core}: {error}");
        }
        write!(f, "{cause}: core {core}, {shape}: ")?;
        if let Some(Wrong { row, channel, found, expected }) = self.wrong {
            let all = u64::from(shape.m) * u64::from(shape.n);
            write!(
                f,
                "row {row}, channel {channel} is {found}, not {expected}, the first of {} among {all} that are wrong; ",
                self.count
            )?;
        }
        f.write_str(cause.explanation())
    }
}
