//! A model with other linears in place of some of its own.

use std::collections::HashMap;
use std::sync::Arc;

use tessera_formats::gguf::Metadata;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::linear::{Activations, Linear, LinearError};

/// A model with other linears in place of some of its own.
pub struct Mixed<'a> {
    own: &'a dyn Checkpoint,
    others: &'a HashMap<String, Arc<dyn Linear>>,
}

impl<'a> Mixed<'a> {
    /// A model, and the linears that replace its own, by name.
    pub fn new(own: &'a dyn Checkpoint, others: &'a HashMap<String, Arc<dyn Linear>>) -> Self {
        Mixed { own, others }
    }
}

impl Checkpoint for Mixed<'_> {
    fn metadata(&self) -> &Metadata {
        self.own.metadata()
    }

    fn names(&self) -> Vec<&str> {
        self.own.names()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        // A tied head is a linear of its own once it is replaced.
        let other = || self.others.get(name).map(|other| vec![other.k() as u64, other.n() as u64]);
        self.own.dims(name).or_else(other)
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        self.own.read_rows(name, first, out)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        self.own.linear_bytes(name)
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        match self.others.get(name) {
            Some(linear) => Ok(Box::new(Shared(Arc::clone(linear)))),
            None => self.own.linear(name),
        }
    }
}

/// A linear that several layers hold.
struct Shared(Arc<dyn Linear>);

impl Linear for Shared {
    fn experts(&self) -> Option<usize> {
        self.0.experts()
    }

    fn n(&self) -> usize {
        self.0.n()
    }

    fn k(&self) -> usize {
        self.0.k()
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        self.0.apply(x, out)
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        self.0.apply_expert(expert, x, rows, out)
    }
}
