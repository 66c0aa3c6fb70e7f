//! Seeing what linears read.

use crate::linear::Activations;

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
}

/// An observer, if there is one.
#[derive(Clone, Copy)]
pub(super) struct Tap<'a>(pub(super) Option<&'a dyn Observer>);

impl Tap<'_> {
    pub(super) fn observe(
        self,
        linears: &[&str],
        expert: Option<usize>,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) {
        if let Some(observer) = self.0 {
            observer.observe(linears, expert, x, rows);
        }
    }
}
