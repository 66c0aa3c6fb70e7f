//! What will be done with every tensor of a model, before any weight is read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use tessera_formats::escape::{Escaped, escaped};
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::npu::tiles::TILE_K;
use tessera_formats::npu::{Engine, Target};
use tessera_formats::pack::manifest::MemoryPlan;
use tessera_runtime::accumulator::{certified_length, even_segments};
use tessera_runtime::golden::{GoldenInputs, GoldenOperands};
use tessera_runtime::rotation::Rotation;

use super::domains;
use super::roles::{self, Role};
use crate::options::{Certificate, Equalization, LinearOptions, RotationChoice, System};
use crate::recipe::Recipe;
use crate::rotate::keys::Rotated;

/// Most bytes of the rotations' dense factors. A model has a few lengths of rows, and factors of some
/// hundred KiB; sixteen are the largest there can be.
const MOST_FACTOR_BYTES: usize = 64 << 20;

/// Everything decided before weights are read.
pub struct Plan {
    /// Inputs of the linears.
    pub inputs: Vec<InputPlan>,
    /// Linears, in the source's order; a tied head last.
    pub linears: Vec<LinearPlan>,
    /// Indices of the source's tensors that are carried as they are.
    pub carried: Vec<usize>,
    /// IOMMU domain of each linear.
    pub domains: Vec<u32>,
    /// Totals of the placement.
    pub memory: MemoryPlan,
}

/// One input, rotated once for all its linears.
pub struct InputPlan {
    /// Name in the pack.
    pub name: String,
    /// Length of a row.
    pub k: usize,
    /// The orthogonal matrix.
    pub rotation: Arc<Rotation>,
    /// Where its random signs come from.
    pub signs: Signs,
    /// Where its diagonal comes from.
    pub equalization: InputEqualization,
    /// Sign vectors that are tried.
    pub sign_trials: u32,
    /// Indices of its linears.
    pub linears: Vec<usize>,
}

/// Where an input's random signs come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Signs {
    /// No rotation, no signs.
    None,
    /// From the seed and the input's name.
    Seeded,
    /// From the weight's name, as rk-llama.cpp does.
    RkLlama(String),
}

/// Where an input's diagonal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEqualization {
    /// There is none.
    None,
    /// The norm before it.
    Norm(Norm),
    /// What calibration observed.
    Observed,
}

/// Tensors of a norm, as indices into the source's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// Gain, one value per channel.
    pub gain: usize,
    /// Bias, for layer norms.
    pub bias: Option<usize>,
}

/// One linear, or one tensor of expert linears.
pub struct LinearPlan {
    /// Name in the pack.
    pub name: String,
    /// Index of its tensor in the source.
    pub source: usize,
    /// Number of experts; `None` for a plain linear.
    pub experts: Option<usize>,
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// Rows of the tiles.
    pub n_padded: usize,
    /// Columns of the tiles.
    pub k_padded: usize,
    /// Index of its input.
    pub input: usize,
    /// How it is converted.
    pub options: LinearOptions,
    /// Fewest segments that the target allows.
    pub fewest_segments: usize,
    /// Segments that suffice for any weights.
    pub most_segments: usize,
}

impl LinearPlan {
    /// The engine that executes it.
    pub fn engine(&self) -> Engine {
        self.options.scheme.engine()
    }

    /// The operands that golden inputs become for it, if there are any.
    pub fn golden_operands(
        &self,
        inputs: Option<&GoldenInputs>,
    ) -> anyhow::Result<Option<GoldenOperands>> {
        let range = self.options.scheme.activation_range(self.options.zero_point);
        let operands = inputs.map(|inputs| inputs.operands(self.engine(), range, self.k_padded));
        Ok(operands.transpose()?)
    }

    /// Matrices in the tensor: experts, or 1.
    pub fn matrices(&self) -> usize {
        self.experts.unwrap_or(1)
    }

    /// The columns of `count` segments. Ours are as even as tiles allow; a preset's are as long as
    /// its system makes them, and the last takes the rest.
    pub fn columns(&self, count: usize) -> Vec<Range<usize>> {
        if self.options.system.is_none() {
            return even_segments(self.k_padded, count, TILE_K);
        }
        let longest = self.k_padded.div_ceil(count).next_power_of_two();
        (0..self.k_padded)
            .step_by(longest)
            .map(|start| start..self.k_padded.min(start + longest))
            .collect()
    }

    /// Bytes of its tiles, over all experts. Checked when the plan was made.
    pub fn tile_bytes(&self) -> u64 {
        tile_bytes(self.engine(), self.matrices(), self.n_padded, self.k_padded).unwrap_or(u64::MAX)
    }
}

/// Bytes of tiles; `None` on overflow.
fn tile_bytes(engine: Engine, matrices: usize, n: usize, k: usize) -> Option<u64> {
    let elements = matrices.checked_mul(n)?.checked_mul(k)?;
    u64::try_from(elements.checked_mul(engine.weight_bits())? / 8).ok()
}

impl Plan {
    /// Decides for every tensor of `gguf`.
    pub fn new(gguf: &Gguf, recipe: &Recipe, target: &Target) -> anyhow::Result<Plan> {
        let mut planner = Planner::new(gguf, target);
        let mut carried = Vec::new();
        for (index, tensor) in gguf.tensors().iter().enumerate() {
            let options = planner.options(tensor, recipe)?;
            match options {
                Some(options) => planner.add(&tensor.name, index, options)?,
                None => carried.push(index),
            }
        }
        if let Some(embedding) = planner.tied_head() {
            let options = recipe
                .options(roles::HEAD, planner.given_rotated(roles::HEAD))
                .map_err(|error| anyhow!("`{}`: {error}", roles::HEAD))?;
            if let Some(options) = options {
                planner.add(roles::HEAD, embedding, options)?;
            }
        }
        let Planner { inputs, linears, .. } = planner;
        let placed: Vec<_> = linears
            .iter()
            .map(|linear: &LinearPlan| (linear.name.as_str(), linear.tile_bytes()))
            .collect();
        let (domains, memory) = domains::place(&placed, target)?;
        Ok(Plan { inputs, linears, carried, domains, memory })
    }

    /// Length of the golden inputs' rows, that of the widest linear's; `None` without linears.
    pub fn golden_columns(&self) -> Option<usize> {
        self.linears.iter().map(|linear| linear.k_padded).max()
    }

    /// Whether the placement needs no more domains than the target has.
    pub fn fits_domains(&self, target: &Target) -> bool {
        self.memory.domain_bytes.len() <= usize::try_from(target.domains).unwrap_or(usize::MAX)
    }
}

/// Collects inputs and linears.
struct Planner<'a> {
    gguf: &'a Gguf,
    target: &'a Target,
    positions: HashMap<&'a str, usize>,
    inputs: Vec<InputPlan>,
    linears: Vec<LinearPlan>,
    by_key: HashMap<InputKey, usize>,
    names: HashMap<String, usize>,
    rotations: HashMap<(RotationChoice, bool, usize), Arc<Rotation>>,
    /// Bytes of the rotations' dense factors.
    factor_bytes: usize,
}

/// What linears must agree in to share an input.
#[derive(PartialEq, Eq, Hash)]
struct InputKey {
    name: String,
    k: usize,
    rotation: RotationChoice,
    equalization: Equalization,
    signs: Signs,
    sign_trials: u32,
}

impl<'a> Planner<'a> {
    fn new(gguf: &'a Gguf, target: &'a Target) -> Self {
        let positions =
            gguf.tensors().iter().enumerate().map(|(index, t)| (t.name.as_str(), index)).collect();
        Planner {
            gguf,
            target,
            positions,
            inputs: Vec::new(),
            linears: Vec::new(),
            by_key: HashMap::new(),
            names: HashMap::new(),
            rotations: HashMap::new(),
            factor_bytes: 0,
        }
    }

    /// How the tensor is converted; `None` when it is carried.
    fn options(
        &self,
        tensor: &TensorInfo,
        recipe: &Recipe,
    ) -> anyhow::Result<Option<LinearOptions>> {
        let wanted = match Role::of(tensor) {
            Role::Linear | Role::Experts => true,
            Role::Matrix => recipe.declares_linear(&tensor.name),
            Role::Embedding | Role::Other => false,
        };
        if !wanted {
            return Ok(None);
        }
        recipe
            .options(&tensor.name, self.given_rotated(&tensor.name))
            .map_err(|error| anyhow!("`{}`: {error}", Escaped(&tensor.name)))
    }

    /// Whether the weights before the linear `name` give out its input rotated.
    fn given_rotated(&self, name: &str) -> bool {
        let rotated = Rotated::of(self.gguf.metadata());
        rotated.is_some_and(|rotated| rotated.covers(&roles::input_of(name).name))
    }

    /// Index of the embedding, when the model has a head that shares it.
    fn tied_head(&self) -> Option<usize> {
        if self.positions.contains_key(roles::HEAD) {
            return None;
        }
        let norm = format!("{}.weight", roles::HEAD_NORM);
        let embedding = *self.positions.get(roles::EMBEDDING)?;
        let is_matrix = self.gguf.tensors()[embedding].dims.len() == 2;
        (self.positions.contains_key(norm.as_str()) && is_matrix).then_some(embedding)
    }

    fn add(&mut self, name: &str, source: usize, options: LinearOptions) -> anyhow::Result<()> {
        let tensor = &self.gguf.tensors()[source];
        let shown = escaped(name);
        if !tensor.ggml_type.can_dequantize() {
            bail!(
                "`{shown}` has type {}, which cannot be dequantized: convert the model from another \
                 type, or carry the tensor with a recipe rule `scheme = \"keep\"`",
                tensor.ggml_type.name(),
            );
        }
        let dimension =
            |index: usize| usize::try_from(tensor.dims.get(index).copied().unwrap_or(1));
        let (k, n, e) = (dimension(0)?, dimension(1)?, dimension(2)?);
        let experts = (tensor.dims.len() == 3).then_some(e);
        let input = self.input(name, k, &options).with_context(|| format!("input of `{shown}`"))?;
        let engine = options.scheme.engine();
        let k_align = usize::try_from(self.target.k_align)?;
        let overflow =
            || anyhow!("`{shown}` [{e}, {n}, {k}] is larger than this machine can address");
        let n_padded = n.checked_next_multiple_of(engine.tile_n()).ok_or_else(overflow)?;
        let k_padded = self.inputs[input]
            .rotation
            .size()
            .checked_next_multiple_of(k_align)
            .ok_or_else(overflow)?;
        tile_bytes(engine, e, n_padded, k_padded).ok_or_else(overflow)?;
        let (fewest_segments, most_segments) = self.segments(k_padded, &options);
        let index = self.linears.len();
        self.inputs[input].linears.push(index);
        self.linears.push(LinearPlan {
            name: name.to_owned(),
            source,
            experts,
            n,
            k,
            n_padded,
            k_padded,
            input,
            options,
            fewest_segments,
            most_segments,
        });
        Ok(())
    }

    /// Fewest segments of K that the target allows, and a number that no weights can exceed.
    fn segments(&self, k_padded: usize, options: &LinearOptions) -> (usize, usize) {
        let engine = options.scheme.engine();
        let fewest = k_padded.div_ceil(self.target.longest_segment(engine));
        let certified = match (engine, options.system, options.certificate) {
            (Engine::I4, None, Certificate::Static) => {
                certified_length(options.scheme, options.zero_point)
            }
            _ => return (fewest, fewest),
        };
        (fewest, fewest.max(k_padded.div_ceil(certified)))
    }

    /// Index of the input that the linear `name` reads, made if it is new.
    fn input(&mut self, name: &str, k: usize, options: &LinearOptions) -> anyhow::Result<usize> {
        let source = roles::input_of(name);
        let norm = source
            .norm(|norm| self.positions.contains_key(format!("{norm}.weight").as_str()))
            .and_then(|norm| self.norm(&norm, k));
        let signs = match (options.rotation, options.system) {
            (RotationChoice::None, _) => Signs::None,
            (_, Some(System::RkLlamaV2 | System::RkLlamaV3)) => Signs::RkLlama(name.to_owned()),
            (_, None) => Signs::Seeded,
        };
        let (equalization, chosen) = match (options.equalization, norm) {
            (Equalization::Norm, Some(norm)) => (Equalization::Norm, InputEqualization::Norm(norm)),
            (Equalization::Observed, _) => (Equalization::Observed, InputEqualization::Observed),
            _ => (Equalization::None, InputEqualization::None),
        };
        let (rotation, sign_trials) = (options.rotation, options.sign_trials);
        let key = InputKey { name: source.name, k, rotation, equalization, signs, sign_trials };
        if let Some(&index) = self.by_key.get(&key) {
            return Ok(index);
        }
        let rotation = self.rotation(options.rotation, options.system.is_some(), k)?;
        // Linears that disagree in an option cannot share; the later ones are numbered.
        let count = self.names.entry(key.name.clone()).or_insert(0);
        *count += 1;
        let unique = if *count == 1 { key.name.clone() } else { format!("{}.{count}", key.name) };
        self.inputs.push(InputPlan {
            name: unique,
            k,
            rotation,
            signs: key.signs.clone(),
            equalization: chosen,
            sign_trials,
            linears: Vec::new(),
        });
        self.by_key.insert(key, self.inputs.len() - 1);
        Ok(self.inputs.len() - 1)
    }

    /// The norm of that name, when it has a gain for each of `k` channels.
    fn norm(&self, name: &str, k: usize) -> Option<Norm> {
        let vector = |suffix: &str| {
            let index = *self.positions.get(format!("{name}.{suffix}").as_str())?;
            let tensor = &self.gguf.tensors()[index];
            let fits = tensor.dims.first().copied() == u64::try_from(k).ok()
                && tensor.elements() == tensor.dims[0]
                && tensor.ggml_type.can_dequantize();
            fits.then_some(index)
        };
        Some(Norm { gain: vector("weight")?, bias: vector("bias") })
    }

    fn rotation(
        &mut self,
        choice: RotationChoice,
        padded: bool,
        k: usize,
    ) -> anyhow::Result<Arc<Rotation>> {
        if let Some(rotation) = self.rotations.get(&(choice, padded, k)) {
            return Ok(Arc::clone(rotation));
        }
        let rotation = Arc::new(match (choice, padded) {
            (RotationChoice::None, _) => Rotation::identity(k),
            (_, true) => Rotation::padded_sylvester(k)?,
            (RotationChoice::Hadamard, false) => Rotation::hadamard(k)?,
            (RotationChoice::Block, false) => Rotation::block_diagonal(k)?,
        });
        self.factor_bytes += rotation.factor().map_or(0, size_of_val);
        ensure!(
            self.factor_bytes <= MOST_FACTOR_BYTES,
            "the model has rows of too many different lengths to rotate: `--rotation block` has no \
             matrix for each",
        );
        self.rotations.insert((choice, padded, k), Arc::clone(&rotation));
        Ok(rotation)
    }
}
