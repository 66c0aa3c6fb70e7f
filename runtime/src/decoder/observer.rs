//! Seeing what linears read.

use crate::linear::Activations;
use crate::model::ModelError;

/// Sees the input of every linear, for calibration.
///
/// Calls come one after the other, on the thread that runs a layer, so that an observer may use all
/// threads itself. Those of an input come in an order that depends on neither the machine nor the
/// number of threads: for a batch once, or by ascending expert once for each that rows come to.
pub trait Observer: Sync {
    /// `linears`, which share an input, read rows of `x`: those of `rows`, which ascend, or all. For
    /// expert linears `expert` says which of them.
    fn observe(
        &self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    );

    /// Whether nothing that comes later is of interest: rows then go no further through the layer, and
    /// what it leaves of them is of no use. Asked after every input that was shown.
    fn is_satisfied(&self) -> bool {
        false
    }
}

/// An observer, if there is one.
#[derive(Clone, Copy)]
pub(super) struct Tap<'a>(pub(super) Option<&'a dyn Observer>);

/// Why rows do not come through a layer.
#[derive(Debug)]
pub(super) enum Stop {
    /// The observer has seen what it wants.
    Satisfied,
    /// A linear failed.
    Failed(ModelError),
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Stop::Failed(error)
    }
}

impl Tap<'_> {
    pub(super) fn observe(
        self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) -> Result<(), Stop> {
        let Some(observer) = self.0 else { return Ok(()) };
        observer.observe(linears, expert, x, rows);
        if observer.is_satisfied() { Err(Stop::Satisfied) } else { Ok(()) }
    }
}
