//! Loading what a layer needs: projections with their biases, norms, small matrices.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::checkpoint::Checkpoint;
use crate::linear::{Activations, Linear};
use crate::model::{ModelError, names};

/// A linear with its name and its bias.
pub(super) struct Projection {
    pub(super) name: String,
    linear: Box<dyn Linear>,
    bias: Option<Vec<f32>>,
}

impl Projection {
    /// Output channels.
    pub(super) fn n(&self) -> usize {
        self.linear.n()
    }

    /// `x · Wᵀ + b`, `[m, n]`.
    pub(super) fn apply(&self, x: &Activations<'_>) -> Result<Vec<f32>, ModelError> {
        let mut out = vec![0.0; x.rows() * self.n()];
        self.linear.apply(x, &mut out)?;
        self.add_bias(0, &mut out);
        Ok(out)
    }

    /// The same for some rows and one expert.
    pub(super) fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        let mut out = vec![0.0; rows.len() * self.n()];
        self.linear.apply_expert(expert, x, rows, &mut out)?;
        self.add_bias(expert, &mut out);
        Ok(out)
    }

    fn add_bias(&self, expert: usize, out: &mut [f32]) {
        let Some(bias) = &self.bias else { return };
        let bias = &bias[expert * self.n()..(expert + 1) * self.n()];
        for row in out.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// A checkpoint whose tensors are checked against the graph, and which remembers those it used.
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a dyn Checkpoint,
    used: RefCell<HashSet<String>>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(checkpoint: &'a dyn Checkpoint) -> Self {
        Loader { checkpoint, used: RefCell::default() }
    }

    /// Whether the tensor exists; if so it counts as used, and must have the shape.
    pub(super) fn declare(&self, name: &str, expected: &[usize]) -> Result<bool, ModelError> {
        let Some(found) = self.checkpoint.dims(name) else { return Ok(false) };
        self.used.borrow_mut().insert(name.to_owned());
        let expected: Vec<u64> = expected.iter().map(|&dim| dim as u64).collect();
        if found != expected {
            return Err(ModelError::Shape { tensor: name.to_owned(), expected, found });
        }
        Ok(true)
    }

    /// The same for a tensor that must exist.
    pub(super) fn require(&self, name: &str, expected: &[usize]) -> Result<(), ModelError> {
        match self.declare(name, expected)? {
            true => Ok(()),
            false => Err(ModelError::MissingTensor { tensor: name.to_owned() }),
        }
    }

    /// The first tensor that no part of the graph declared.
    pub(super) fn finish(&self) -> Result<(), ModelError> {
        let used = self.used.borrow();
        match self.checkpoint.names().into_iter().find(|name| !used.contains(*name)) {
            Some(name) => Err(ModelError::UnknownTensor { tensor: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Names of the linears of a layer that exist, of groups of `STEM` for `STEM` + `suffix` + `.weight`;
/// groups of which none exists are left out.
pub(super) fn existing(
    checkpoint: &dyn Checkpoint,
    layer: usize,
    suffix: &str,
    groups: &[&[&str]],
) -> Vec<Vec<String>> {
    let name = |stem: &&str| names::layer(layer, &format!("{stem}{suffix}.weight"));
    let exists = |name: &String| checkpoint.dims(name).is_some();
    let group = |stems: &&[&str]| stems.iter().map(name).filter(exists).collect::<Vec<_>>();
    groups.iter().map(group).filter(|group| !group.is_empty()).collect()
}

/// Reads a tensor that is no linear, whole.
pub(super) fn read(checkpoint: &dyn Checkpoint, name: &str) -> Result<Vec<f32>, ModelError> {
    let missing = || ModelError::MissingTensor { tensor: name.to_owned() };
    let dims = checkpoint.dims(name).ok_or_else(missing)?;
    let count = dims.iter().try_fold(1usize, |count, &dim| {
        usize::try_from(dim).ok().and_then(|dim| count.checked_mul(dim))
    });
    let mut values = vec![0.0; count.ok_or_else(missing)?];
    checkpoint.read_rows(name, 0, &mut values)?;
    Ok(values)
}

/// Reads a tensor if it exists.
pub(super) fn read_if(
    checkpoint: &dyn Checkpoint,
    name: &str,
) -> Result<Option<Vec<f32>>, ModelError> {
    checkpoint.dims(name).map(|_| read(checkpoint, name)).transpose()
}

/// Loads `STEM.weight`, with `STEM.bias` if there is one.
pub(super) fn projection(
    checkpoint: &dyn Checkpoint,
    stem: &str,
) -> Result<Projection, ModelError> {
    projection_of(checkpoint, format!("{stem}.weight"), &format!("{stem}.bias"))
}

/// Loads a linear with its bias, if there is one.
pub(super) fn projection_of(
    checkpoint: &dyn Checkpoint,
    name: String,
    bias: &str,
) -> Result<Projection, ModelError> {
    let linear = checkpoint.linear(&name)?;
    Ok(Projection { linear, bias: read_if(checkpoint, bias)?, name })
}
