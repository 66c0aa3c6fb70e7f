//! Models that are run: GGUF files, packs, and GGUF files quantized in memory.

pub mod mixed;
pub mod npu;
mod quantized;
mod spec;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::{Gguf, Value};
use tessera_formats::npu::Target;
use tessera_formats::pack::PackReader;
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint, PackCheckpoint};
use tessera_runtime::decoder::Decoder;
use tessera_runtime::host::Overflow;
#[cfg(feature = "candle")]
use tessera_runtime::linear::candle::CandleDevice;
use tessera_runtime::rknn::Npu;
use tessera_runtime::simulator::{Arithmetic, Simulation};
use tessera_runtime::tokenizer::Tokenizer;

use crate::convert::budget::Budget;
use crate::convert::calibration::Calibration;
use crate::inspect::is_for_gguf;
use crate::options::Overrides;
use crate::recipe::Recipe;
pub use quantized::QuantizedCheckpoint;
pub use spec::{How, ModelSpec, parse};

/// What executes linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// f32: a GGUF's dequantized weights; a pack's integers with f32 activations
    Reference,
    /// The NPU's arithmetic, integer for integer
    Sim,
    /// The NPU of this board, for packs
    Rknn,
    /// A library that stands in for the vendor's, for tests of tessera itself
    StandIn,
    /// The reference by candle, on the CPU; what is quantized stays simulated
    #[cfg(feature = "candle")]
    Candle,
    /// The reference by candle, on the first NVIDIA GPU; what is quantized stays simulated
    #[cfg(feature = "cuda")]
    Cuda,
}

/// How models are opened, the same for all of a command.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What executes linears, if the user said so.
    pub device: Option<Device>,
    /// Whether GGUF files that say nothing else are run as llama.cpp's CPU backend runs them.
    pub cpu_like: bool,
    /// Options of quantization, if the user gave any.
    pub options: Overrides,
    /// The recipe, if the user gave one.
    pub recipe: Option<Recipe>,
    /// Statistics of a calibration, if the user gave them.
    pub calibration: Option<PathBuf>,
    /// Limits of the chip.
    pub target: Target,
    /// Seed of every random choice of quantization.
    pub seed: u64,
    /// Memory and threads of quantization.
    pub budget: Budget,
    /// The NPU, where it is the device of packs.
    pub npu: Option<Arc<Npu>>,
    /// What the simulated i4 engine makes of sums beyond 16 bits.
    pub overflow: Overflow,
}

impl Opening {
    /// GGUF files as they are, and packs on the simulator.
    pub fn of_files(target: Target, seed: u64, budget: Budget) -> Self {
        Opening {
            device: None,
            cpu_like: false,
            options: Overrides::default(),
            recipe: None,
            calibration: None,
            target,
            seed,
            budget,
            npu: None,
            overflow: Overflow::default(),
        }
    }

    /// Whether the user asked that GGUF files be quantized.
    fn quantizes(&self) -> bool {
        self.options != Overrides::default() || self.recipe.is_some()
    }
}

/// An open model.
pub struct Model {
    /// As the user named it.
    pub name: String,
    file: File,
    /// What is made of it, for people: `float`, `cpu-like`, `w8a8`.
    pub form: String,
    /// The same without the device: `w8a8`.
    pub scheme: String,
    /// Linears of a pack that were made of a tensor which it has, too.
    copies: Vec<String>,
    saturated: Arc<AtomicU64>,
}

enum File {
    Gguf(Box<Gguf>, Run),
    Pack(PathBuf, Simulation),
}

/// How a GGUF file is run.
enum Run {
    Float,
    CpuLike,
    Quantized(Recipe, Simulation),
}

impl Model {
    /// Opens a model; only headers are read.
    pub fn open(spec: &ModelSpec, opening: &Opening) -> anyhow::Result<Model> {
        if !is_for_gguf(&spec.path)? {
            return Self::open_pack(spec, opening);
        }
        let gguf = Gguf::open(&spec.path)?;
        let kind = gguf.metadata().get("general.type").and_then(Value::as_str);
        if let Some(kind) = kind.filter(|kind| *kind != "model") {
            bail!(
                "`{}` cannot be run: its `general.type` is `{}`",
                escaped_path(&spec.path),
                Escaped(kind),
            );
        }
        let observed = opening.calibration.is_some();
        let recipe = || {
            let recipe = opening.recipe.clone();
            let recipe = recipe.unwrap_or_else(|| Recipe::uniform(opening.options));
            recipe.with_statistics(observed)
        };
        let run = match spec.how {
            Some(How::Float) => Run::Float,
            Some(How::CpuLike) => Run::CpuLike,
            Some(How::Quantized(options)) => {
                Run::Quantized(recipe().overridden_by(options), simulation(opening))
            }
            None if opening.quantizes() => {
                ensure!(
                    !opening.cpu_like,
                    "`{}` can be quantized, or run with `--cpu-like`: name what is to be made of it, such \
                     as `FILE@w8a8` or `FILE@cpu`",
                    Escaped(&spec.text),
                );
                Run::Quantized(recipe(), simulation(opening))
            }
            None if opening.cpu_like => Run::CpuLike,
            None => Run::Float,
        };
        ensure!(
            matches!(run, Run::Quantized(..)) || opening.device != Some(Device::Sim),
            "`{}` has no integers to simulate: give a scheme, or convert it to a pack",
            Escaped(&spec.text),
        );
        ensure!(
            opening.npu.is_none() || matches!(spec.how, Some(How::Float | How::CpuLike)),
            "`{}` is a GGUF file, and the NPU executes packs: convert it with `tessera convert`",
            Escaped(&spec.text),
        );
        let form = match &run {
            #[cfg(feature = "candle")]
            Run::Float if opening.device == Some(Device::Candle) => "float, candle".to_owned(),
            #[cfg(feature = "cuda")]
            Run::Float if opening.device == Some(Device::Cuda) => "float, cuda".to_owned(),
            Run::Float => "float".to_owned(),
            Run::CpuLike => "cpu-like".to_owned(),
            Run::Quantized(recipe, simulation) => form(&recipe.summary(), *simulation),
        };
        let scheme = match &run {
            Run::Float => "float".to_owned(),
            Run::CpuLike => "cpu-like".to_owned(),
            Run::Quantized(recipe, _) => recipe.summary(),
        };
        Ok(Model {
            name: spec.text.clone(),
            file: File::Gguf(Box::new(gguf), run),
            form,
            scheme,
            copies: Vec::new(),
            saturated: Arc::default(),
        })
    }

    fn open_pack(spec: &ModelSpec, opening: &Opening) -> anyhow::Result<Model> {
        ensure!(
            spec.how.is_none(),
            "`{}` is a pack: only a GGUF file can be quantized or run like llama.cpp",
            escaped_path(&spec.path),
        );
        ensure!(
            !opening.quantizes(),
            "`{}` is a pack, and quantized already: leave `--scheme` and the other options of \
             quantization out, or name what is to be made of a GGUF file beside it, such as `FILE@w8a8`",
            escaped_path(&spec.path),
        );
        let pack = PackReader::open(&spec.path)?;
        let mut schemes: Vec<_> = pack.linears().map(|linear| linear.scheme).collect();
        schemes.sort_unstable();
        schemes.dedup();
        let schemes: Vec<_> = schemes.iter().map(|scheme| scheme.name()).collect();
        let scheme = schemes.join("+");
        let copies = pack.linears().filter(|linear| linear.name != linear.source);
        let copies = copies.map(|linear| linear.name.clone()).collect();
        let simulation = simulation(opening);
        Ok(Model {
            name: spec.text.clone(),
            form: match &opening.npu {
                Some(npu) => npu::form(&scheme, npu),
                None => form(&scheme, simulation),
            },
            scheme,
            copies,
            file: File::Pack(spec.path.clone(), simulation),
            saturated: Arc::default(),
        })
    }

    /// The checkpoint that a decoder reads.
    pub fn checkpoint(&self, opening: &Opening) -> anyhow::Result<Box<dyn Checkpoint + '_>> {
        let saturated = || Arc::clone(&self.saturated);
        Ok(match &self.file {
            #[cfg(feature = "candle")]
            File::Gguf(gguf, Run::Float) if opening.device == Some(Device::Candle) => {
                Box::new(GgufCheckpoint::on_candle(gguf, CandleDevice::cpu()))
            }
            #[cfg(feature = "cuda")]
            File::Gguf(gguf, Run::Float) if opening.device == Some(Device::Cuda) => {
                Box::new(GgufCheckpoint::on_candle(gguf, CandleDevice::cuda(0)?))
            }
            File::Gguf(gguf, Run::Float) => Box::new(GgufCheckpoint::new(gguf)),
            File::Gguf(gguf, Run::CpuLike) => Box::new(GgufCheckpoint::like_ggml(gguf)),
            File::Gguf(gguf, Run::Quantized(recipe, simulation)) => {
                let named = || format!("`{}`", Escaped(&self.name));
                let open = |path: &PathBuf| Calibration::open(path, gguf).map(Arc::new);
                let calibration = opening.calibration.as_ref().map(open).transpose();
                let work = (opening.seed, opening.budget, calibration.with_context(named)?);
                let simulated = (*simulation, saturated());
                Box::new(
                    QuantizedCheckpoint::new(gguf, recipe, &opening.target, work, simulated)
                        .with_context(named)?,
                )
            }
            File::Pack(path, simulation) => {
                let pack = PackReader::open(path)?;
                let loaded = opening.npu.as_ref().map(|npu| npu::load(npu, &pack)).transpose();
                let loaded = loaded.with_context(|| format!("`{}`", Escaped(&self.name)))?;
                let checkpoint = PackCheckpoint::open(pack, *simulation)?.counting_in(saturated());
                Box::new(match loaded {
                    Some(loaded) => checkpoint.on_npu(loaded),
                    None => checkpoint,
                })
            }
        })
    }

    /// What executes its linears.
    pub fn device(&self, opening: &Opening) -> Device {
        match (&self.file, opening.device) {
            (File::Pack(..), Some(device @ (Device::Rknn | Device::StandIn))) => device,
            #[cfg(feature = "candle")]
            (File::Gguf(_, Run::Float), Some(Device::Candle)) => Device::Candle,
            #[cfg(feature = "cuda")]
            (File::Gguf(_, Run::Float), Some(Device::Cuda)) => Device::Cuda,
            (File::Gguf(_, Run::Float | Run::CpuLike), _) => Device::Reference,
            (File::Pack(_, simulation) | File::Gguf(_, Run::Quantized(_, simulation)), _) => {
                match simulation.arithmetic {
                    Arithmetic::Integer => Device::Sim,
                    Arithmetic::FloatActivations => Device::Reference,
                }
            }
        }
    }

    /// Whether a tensor is one that the GGUF file does not have, such as a tied head in a pack.
    pub fn is_copy(&self, name: &str) -> bool {
        match &self.file {
            File::Gguf(gguf, _) => gguf.tensor(name).is_none(),
            File::Pack(..) => self.copies.iter().any(|copy| copy == name),
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.file {
            File::Gguf(gguf, _) => Some(gguf),
            File::Pack(..) => None,
        }
    }

    /// Accumulators of the 4-bit engine that did not fit 16 bits so far.
    pub fn saturated(&self) -> u64 {
        self.saturated.load(Ordering::Relaxed)
    }
}

fn simulation(opening: &Opening) -> Simulation {
    let arithmetic = match opening.device {
        Some(Device::Reference) => Arithmetic::FloatActivations,
        _ => Arithmetic::Integer,
    };
    Simulation { arithmetic, overflow: opening.overflow, ..Simulation::default() }
}

/// What a quantized model is called.
fn form(schemes: &str, simulation: Simulation) -> String {
    match simulation.arithmetic {
        Arithmetic::Integer => schemes.to_owned(),
        Arithmetic::FloatActivations => format!("{schemes}, f32 activations"),
    }
}

/// Bits per weight of a model's linears as they are stored, scales and padding included.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn bits_per_weight(checkpoint: &dyn Checkpoint, decoder: &Decoder<'_>) -> f64 {
    let (bytes, weights) = bytes_and_weights(checkpoint, decoder);
    8.0 * bytes as f64 / f64::max(weights as f64, 1.0)
}

/// Bytes that the linears take as they are stored, and their weights.
pub fn bytes_and_weights(checkpoint: &dyn Checkpoint, decoder: &Decoder<'_>) -> (u64, u64) {
    let layers = (0..decoder.model().layers).flat_map(|layer| decoder.layer_linears(layer));
    let (mut bytes, mut weights) = (0u64, 0u64);
    for name in layers.chain([decoder.head_linear().to_owned()]) {
        bytes = bytes.saturating_add(checkpoint.linear_bytes(&name));
        let dims = checkpoint.dims(&name).unwrap_or_default();
        weights = weights.saturating_add(dims.iter().product());
    }
    (bytes, weights)
}

/// The tokenizer of models, which all of them must share.
pub fn shared_tokenizer(
    models: &[(&Model, &dyn Checkpoint, &Decoder<'_>)],
) -> anyhow::Result<Tokenizer> {
    let [(first, checkpoint, decoder), rest @ ..] = models else { bail!("no model to run") };
    let key = "tokenizer.ggml.tokens";
    let tokens = |checkpoint: &dyn Checkpoint| checkpoint.metadata().get(key).cloned();
    for (other, another, _) in rest {
        ensure!(
            tokens(*another) == tokens(*checkpoint),
            "`{}` and `{}` have different vocabularies: their predictions cannot be compared",
            Escaped(&first.name),
            Escaped(&other.name),
        );
    }
    let named = || format!("`{}`", Escaped(&first.name));
    let tokenizer = Tokenizer::new(checkpoint.metadata()).with_context(named)?;
    ensure!(
        tokenizer.len() == decoder.model().vocabulary,
        "{} has {} tokens and embeddings for {}: its tokenizer belongs to another model",
        named(),
        tokenizer.len(),
        decoder.model().vocabulary,
    );
    Ok(tokenizer)
}
