//! Layers quantized by what was just observed of them, for the states of what is behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_calibration::collect::{Prefix, PrefixFailure};
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::gguf::{Gguf, Metadata};
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint};
use tessera_runtime::decoder::{Decoder, Layer};
use tessera_runtime::linear::{Activations, Linear, LinearError};
use tessera_runtime::simulator::Simulation;

use crate::convert::calibration::Calibration;
use crate::models::{Opening, QuantizedCheckpoint};
use crate::recipe::Recipe;

/// Quantizes layer after layer, as converting will.
pub struct QuantizedPrefix<'a> {
    gguf: &'a Gguf,
    recipe: &'a Recipe,
    opening: &'a Opening,
    context: usize,
    /// Linears of the current layer that have been quantized.
    quantized: Mutex<(usize, Quantized)>,
}

/// Linears by name.
type Quantized = HashMap<String, Arc<dyn Linear>>;

impl<'a> QuantizedPrefix<'a> {
    /// Of a model, its recipe, limits and seed, and chunks of `context` tokens.
    pub fn new(gguf: &'a Gguf, recipe: &'a Recipe, opening: &'a Opening, context: usize) -> Self {
        QuantizedPrefix { gguf, recipe, opening, context, quantized: Mutex::default() }
    }
}

impl Prefix for QuantizedPrefix<'_> {
    fn layer(
        &self,
        index: usize,
        observed: &[InputStatistics],
    ) -> Result<Option<Layer>, PrefixFailure> {
        let mut quantized = self.quantized.lock().unwrap_or_else(PoisonError::into_inner);
        if quantized.0 != index {
            *quantized = (index, Quantized::new());
        }
        let missing = observed
            .iter()
            .filter(|input| input.linears.iter().any(|linear| !quantized.1.contains_key(linear)));
        let missing: Vec<_> = missing.cloned().collect();
        let names: Vec<_> = missing.iter().flat_map(|input| input.linears.clone()).collect();
        let calibration = Arc::new(Calibration::Memory(missing));
        let work = (self.opening.seed, self.opening.budget, Some(calibration));
        let simulated = (Simulation::default(), Arc::default());
        let target = &self.opening.target;
        let checkpoint = QuantizedCheckpoint::new(self.gguf, self.recipe, target, work, simulated)?;
        for name in names {
            let linear = checkpoint.linear(&name)?;
            quantized.1.insert(name, Arc::from(linear));
        }
        let float = GgufCheckpoint::new(self.gguf);
        let mixed = Mixed { float, quantized: &quantized.1 };
        let decoder = Decoder::for_context(&mixed, self.context)?;
        Ok(Some(decoder.layer(index)?))
    }
}

/// A model in floats but for some linears.
struct Mixed<'a> {
    float: GgufCheckpoint<'a>,
    quantized: &'a Quantized,
}

impl Checkpoint for Mixed<'_> {
    fn metadata(&self) -> &Metadata {
        self.float.metadata()
    }

    fn names(&self) -> Vec<&str> {
        self.float.names()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        self.float.dims(name)
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        self.float.read_rows(name, first, out)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        self.float.linear_bytes(name)
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        match self.quantized.get(name) {
            Some(linear) => Ok(Box::new(Shared(Arc::clone(linear)))),
            None => self.float.linear(name),
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
