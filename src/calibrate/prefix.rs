//! Layers quantized by what was just observed of them, for the states of the layers behind.

use std::sync::Arc;

use tessera_calibration::collect::{Prefix, PrefixFailure};
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::gguf::Gguf;
use tessera_runtime::decoder::{Decoder, Layer};
use tessera_runtime::simulator::Simulation;

use crate::convert::calibration::Calibration;
use crate::models::{Opening, QuantizedCheckpoint};
use crate::recipe::Recipe;

/// Quantizes layer after layer, as converting will.
pub struct QuantizedPrefix<'a> {
    /// The source.
    pub gguf: &'a Gguf,
    /// How it is quantized.
    pub recipe: &'a Recipe,
    /// Limits, memory and threads.
    pub opening: &'a Opening,
    /// Tokens of a chunk.
    pub context: usize,
}

impl Prefix for QuantizedPrefix<'_> {
    fn layer(
        &self,
        index: usize,
        observed: &[InputStatistics],
    ) -> Result<Option<Layer>, PrefixFailure> {
        let calibration = Arc::new(Calibration::Memory(observed.to_vec()));
        let work = (self.opening.seed, self.opening.budget, Some(calibration));
        let simulated = (Simulation::default(), Arc::default());
        let checkpoint = QuantizedCheckpoint::new(
            self.gguf,
            self.recipe,
            &self.opening.target,
            work,
            simulated,
        )?;
        let decoder = Decoder::for_context(&checkpoint, self.context)?;
        Ok(Some(decoder.layer(index)?))
    }
}
