//! Layers quantized by what was just observed of them, for the states of what is behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_calibration::collect::{Prefix, PrefixFailure};
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::gguf::Gguf;
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint};
use tessera_runtime::decoder::{Decoder, Layer};
use tessera_runtime::linear::Linear;
use tessera_runtime::simulator::Simulation;

use crate::convert::calibration::Calibration;
use crate::models::mixed::Mixed;
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
        let mixed = Mixed::new(&float, &quantized.1);
        let decoder = Decoder::for_context(&mixed, self.context)?;
        Ok(Some(decoder.layer(index)?))
    }
}
