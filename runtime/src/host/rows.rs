//! Which rows of the activations a matrix is applied to.

/// Which rows of the activations are multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// So many, all there are.
    All(usize),
    /// These.
    Some(&'a [usize]),
}

impl Rows<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Rows::All(count) => *count,
            Rows::Some(rows) => rows.len(),
        }
    }

    /// The row at a position.
    pub(crate) fn get(&self, index: usize) -> usize {
        match self {
            Rows::All(_) => index,
            Rows::Some(rows) => rows[index],
        }
    }
}
