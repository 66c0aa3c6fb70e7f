//! Seeing what linears read.

use crate::linear::Activations;

/// Sees the input of every linear, for calibration.
pub trait Observer: Sync {
    /// `linears`, which share an input, are about to read rows of `x`: those of `rows`, or all. For
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
