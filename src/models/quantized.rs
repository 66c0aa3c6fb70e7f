//! A GGUF file quantized in memory, linear by linear, by the converter's own code.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use tessera_formats::gguf::{Gguf, Metadata};
use tessera_formats::npu::Target;
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint};
use tessera_runtime::host::{LinearInput, Weights};
use tessera_runtime::linear::{Linear, LinearError};
use tessera_runtime::simulator::{SimulatedLinear, Simulation};

use crate::convert::budget::Budget;
use crate::convert::calibration::Calibration;
use crate::convert::inputs::PreparedInput;
use crate::convert::linear::TileSink;
use crate::convert::plan::{LinearPlan, Plan};
use crate::convert::quantizer::Quantizer;
use crate::options::ScaleType;
use crate::progress::Progress;
use crate::recipe::Recipe;

/// A GGUF file whose linears are quantized when they are loaded, and run on the simulator.
pub struct QuantizedCheckpoint<'a> {
    gguf: &'a Gguf,
    float: GgufCheckpoint<'a>,
    plan: Plan,
    by_name: HashMap<String, usize>,
    seed: u64,
    budget: Budget,
    calibration: Option<Arc<Calibration>>,
    progress: Progress,
    inputs: Mutex<HashMap<usize, Arc<Input>>>,
    /// What became of the linears that have been quantized: how many scales there are follows from
    /// their segments.
    results: Mutex<HashMap<usize, Stored>>,
    simulation: Simulation,
    saturated: Arc<AtomicU64>,
}

/// What a pack has of a linear that was quantized.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Bytes of its tiles.
    pub tile_bytes: u64,
    /// Bytes of its scales and corrections.
    pub vector_bytes: u64,
    /// Segments of its K.
    pub segments: usize,
    /// Relative root mean square error of its weights, as stored and rotated.
    pub weight_error: f64,
}

/// An input, ready for the rows of its linears and for activations.
struct Input {
    prepared: PreparedInput,
    simulated: Arc<LinearInput>,
    /// Linears that have not been quantized yet.
    waiting: AtomicUsize,
}

impl<'a> QuantizedCheckpoint<'a> {
    /// Plans the conversion of `gguf`; nothing is read.
    pub fn new(
        gguf: &'a Gguf,
        recipe: &Recipe,
        target: &Target,
        (seed, budget, calibration): (u64, Budget, Option<Arc<Calibration>>),
        (simulation, saturated): (Simulation, Arc<AtomicU64>),
    ) -> anyhow::Result<Self> {
        let plan = Plan::new(gguf, recipe, target)?;
        let named = plan.linears.iter().enumerate();
        let by_name = named.map(|(index, linear)| (linear.name.clone(), index)).collect();
        Ok(QuantizedCheckpoint {
            gguf,
            float: GgufCheckpoint::new(gguf),
            plan,
            by_name,
            seed,
            budget,
            calibration,
            progress: Progress::silent(),
            inputs: Mutex::default(),
            results: Mutex::default(),
            simulation,
            saturated,
        })
    }

    /// What a pack stores of a linear, once it was quantized. `None` for what is carried.
    pub fn stored(&self, name: &str) -> Option<Stored> {
        let (index, _) = self.planned(name)?;
        self.results.lock().unwrap_or_else(PoisonError::into_inner).get(&index).copied()
    }

    /// Whether a linear of that name is quantized.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn planned(&self, name: &str) -> Option<(usize, &LinearPlan)> {
        let index = *self.by_name.get(name)?;
        self.plan.linears.get(index).map(|linear| (index, linear))
    }

    /// The input of a linear, prepared once for all that share it.
    fn input(&self, quantizer: &Quantizer<'_>, index: usize) -> anyhow::Result<Arc<Input>> {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = inputs.get(&index) {
            return Ok(Arc::clone(input));
        }
        let prepared = quantizer.input(index)?;
        let rotation = Arc::clone(&self.plan.inputs[index].rotation);
        let simulated = Arc::new(LinearInput::new(rotation, prepared.vector.clone()));
        let waiting = AtomicUsize::new(self.plan.inputs[index].linears.len());
        let input = Arc::new(Input { prepared, simulated, waiting });
        inputs.insert(index, Arc::clone(&input));
        Ok(input)
    }

    fn quantize(&self, index: usize, plan: &LinearPlan) -> anyhow::Result<SimulatedLinear> {
        let quantizer = Quantizer {
            gguf: self.gguf,
            plan: &self.plan,
            seed: self.seed,
            budget: self.budget,
            calibration: self.calibration.as_deref(),
            golden: None,
            progress: &self.progress,
        };
        let input = self.input(&quantizer, plan.input)?;
        let sink = MemoryTiles(Mutex::new(vec![0; usize::try_from(plan.tile_bytes())?]));
        let converted = quantizer.linear(index, &input.prepared, &sink, 0)?;
        // What was observed can be large, and has served when the input's last linear is done.
        if input.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.inputs.lock().unwrap_or_else(PoisonError::into_inner).remove(&plan.input);
        }
        let corrections = converted.correction.as_ref().map_or(0, Vec::len);
        let bytes = converted.scales.len() * scale_bytes(plan) + corrections * size_of::<f32>();
        let stored = Stored {
            tile_bytes: plan.tile_bytes(),
            vector_bytes: u64::try_from(bytes)?,
            segments: converted.segments.len(),
            weight_error: converted.relative_rms,
        };
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(index, stored);
        drop(results);
        let mut rest = sink.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut tiles = Vec::new();
        for segment in converted.segments.iter().rev() {
            tiles.push(rest.split_off(usize::try_from(segment.offset)?));
        }
        tiles.reverse();
        let weights = Weights {
            name: plan.name.clone(),
            scheme: plan.options.scheme,
            n: plan.n,
            k: plan.k,
            experts: plan.experts,
            segments: converted.segments.iter().map(|segment| segment.columns.clone()).collect(),
            granularity: plan.options.granularity,
            scales: converted.scales,
            activation: converted.activation,
            correction: converted.correction,
        };
        let (simulation, saturated) = (self.simulation, Arc::clone(&self.saturated));
        Ok(SimulatedLinear::new(
            weights,
            tiles,
            Arc::clone(&input.simulated),
            simulation,
            saturated,
        )?)
    }
}

/// Bytes of a scale in a pack.
fn scale_bytes(plan: &LinearPlan) -> usize {
    match plan.options.scale_type {
        ScaleType::F32 => 4,
        ScaleType::Bf16 => 2,
    }
}

/// Tiles in memory.
struct MemoryTiles(Mutex<Vec<u8>>);

impl TileSink for MemoryTiles {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let mut tiles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset)?;
        let place = start.checked_add(bytes.len()).and_then(|end| tiles.get_mut(start..end));
        place.ok_or_else(|| anyhow!("tiles beyond the linear's"))?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Checkpoint for QuantizedCheckpoint<'_> {
    fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    fn names(&self) -> Vec<&str> {
        let mut names = self.float.names();
        // A tied head is a linear of its own.
        let own = self.by_name.keys().map(String::as_str);
        names.extend(own.filter(|name| self.gguf.tensor(name).is_none()));
        names
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        match self.planned(name) {
            Some((_, plan)) => Some(self.gguf.tensors().get(plan.source)?.dims.clone()),
            None => self.float.dims(name),
        }
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        self.float.read_rows(name, first, out)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        let Some((index, plan)) = self.planned(name) else { return self.float.linear_bytes(name) };
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let fewest = || plan.matrices() * plan.fewest_segments * plan.n * scale_bytes(plan);
        let bytes = match results.get(&index) {
            Some(stored) => stored.vector_bytes,
            None => u64::try_from(fewest()).unwrap_or(u64::MAX),
        };
        plan.tile_bytes().saturating_add(bytes)
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        let Some((index, plan)) = self.planned(name) else { return self.float.linear(name) };
        match self.quantize(index, plan) {
            Ok(linear) => Ok(Box::new(linear)),
            Err(source) => {
                Err(LinearError::Weights { name: name.to_owned(), source: source.into() })
            }
        }
    }
}
