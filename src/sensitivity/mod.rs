//! What each scheme of each linear does to a model's logits, measured one linear at a time.

pub mod file;
mod measure;
mod proxy;
pub mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::Gguf;
use tessera_formats::npu::Scheme;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::model::FeedForward;

use tessera_runtime::model::names;
use tessera_runtime::perplexity::Chunks;
use tessera_runtime::simulator::Simulation;

use self::file::{Demotion, LayerDivergence, Linear, Sensitivities, Setting};
use self::measure::{Measurement, Replacements};
use crate::calibrate::{self, text};
use crate::convert::calibration::{Calibration, digests};
use crate::convert::roles;
use crate::inputs;
use crate::models::{self, How, Model, ModelSpec, Opening, QuantizedCheckpoint};
use crate::options::{Overrides, SchemeChoice};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::talk::say;
pub use report::Report;

/// Scheme at which a layer's linears are demoted together: of four bits, and errors of both kinds.
const LAYER_SCHEME: Scheme = Scheme::W4A8;

/// What is to be measured.
pub struct Request<'a> {
    /// GGUF file.
    pub model: &'a Path,
    /// Texts; the one that is carried if there are none.
    pub dataset: &'a [PathBuf],
    /// Field of the lines of `.jsonl` files.
    pub field: Option<&'a str>,
    /// Statistics of the model's inputs.
    pub statistics: &'a Path,
    /// File to write.
    pub output: &'a Path,
    /// Tokens that pass through the model for each demotion.
    pub tokens: usize,
    /// Tokens of a chunk, where the user said so.
    pub context: Option<usize>,
    /// Schemes to choose from.
    pub schemes: &'a [Scheme],
    /// Options of quantization but for schemes; its rules pin linears.
    pub recipe: &'a Recipe,
    /// Whether only layers are demoted, and linears estimated.
    pub estimate: bool,
    /// Memory for weights, hidden states and logits.
    pub memory_budget: u64,
    /// Whether to go on with a run that was interrupted.
    pub resume: bool,
    /// Whether an existing file is replaced.
    pub force: bool,
    /// How the model is opened.
    pub opening: &'a Opening,
}

/// Time that was spent, for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Demoting linears one by one.
    pub measuring: Duration,
    /// Quantizing them, sampling their outputs, and demoting layers.
    pub estimating: Duration,
}

/// Measures; on an error nothing stands under the file's name, and what is finished is kept beside it.
pub fn sensitivity(request: &Request<'_>) -> anyhow::Result<Report> {
    calibrate::output::check_existing(request.output, request.force)?;
    ensure!(!request.schemes.is_empty(), "no scheme to choose from");
    let text = request.model.display().to_string();
    let spec = ModelSpec { text, path: request.model.to_owned(), how: Some(How::Float) };
    let model = Model::open(&spec, request.opening)?;
    let gguf = model.gguf().context("no GGUF file: a pack is quantized already")?;
    // Of a split, shards that were not named are read, too.
    inputs::keep(request.output, gguf.shards().iter().map(|shard| shard.path()))?;
    let checkpoint = model.checkpoint(request.opening)?;
    let named = || format!("`{}`", Escaped(&model.name));
    let decoder = Decoder::new(&*checkpoint).with_context(named)?;
    let context = calibrate::context(request.model, request.context, &decoder)?;
    let decoder = Decoder::for_context(&*checkpoint, context).with_context(named)?;
    let tokenizer = models::shared_tokenizer(&[(&model, &*checkpoint, &decoder)])?;
    let selection = text::Selection {
        dataset: request.dataset,
        field: request.field,
        tokens: request.tokens,
        seed: request.opening.seed,
    };
    let text = text::read(selection, &tokenizer, context)?;
    let chunks = Chunks::of_whole(text.chunks.concat(), context, None)?;
    let calibration = Arc::new(Calibration::open(request.statistics, gguf)?);
    let setting = Setting {
        model: digests(gguf)?,
        data: text.sources,
        context: u64::try_from(context)?,
        chunks: u64::try_from(chunks.len())?,
        seed: request.opening.seed,
        recipe: request.recipe.fingerprint(),
        statistics: calibration.digest().unwrap_or_default().to_owned(),
        target: request.opening.target.name.clone(),
        schemes: request.schemes.to_vec(),
        measured: !request.estimate,
    };
    let partial = calibrate::output::work_folder(request.output);
    let mut found = begun(request, &partial, setting)?;
    let shapes = &decoder.model().shapes;
    let used = shapes.iter().filter_map(|shape| match &shape.feed_forward {
        FeedForward::Experts(experts) => Some(experts.used),
        FeedForward::Dense { .. } => None,
    });
    let used = used.max().unwrap_or(1);
    let quantized = Quantized::new(request, gguf, &*checkpoint, &calibration, used)?;
    let run =
        Run { request, decoder: &decoder, checkpoint: &*checkpoint, chunks: &chunks, quantized };
    let spent = run.layers(&mut found, &partial).with_context(named)?;
    found.write(request.output)?;
    if partial.exists() {
        std::fs::remove_file(&partial).with_context(|| format!("`{}`", escaped_path(partial)))?;
    }
    Ok(Report::new(found, request.output, spent, text.warnings))
}

/// What an interrupted run left, or nothing.
fn begun(request: &Request<'_>, partial: &Path, setting: Setting) -> anyhow::Result<Sensitivities> {
    if !partial.exists() {
        return Ok(Sensitivities::new(setting));
    }
    ensure!(
        request.resume,
        "`{}` of an unfinished run exists: go on with it by `--resume`, or remove it to start anew",
        escaped_path(partial),
    );
    let found = Sensitivities::read(partial)?;
    ensure!(
        found.setting == setting,
        "`{}` is of another model, text, recipe or choice of options: remove it to start anew",
        escaped_path(partial),
    );
    Ok(found)
}

/// The linears at every scheme.
struct Quantized<'a> {
    own: &'a dyn Checkpoint,
    recipe: &'a Recipe,
    calibration: Arc<Calibration>,
    schemes: Vec<(Scheme, QuantizedCheckpoint<'a>)>,
    /// Experts that a token is given to.
    used: usize,
}

/// A linear at every scheme that it may have.
struct Candidates {
    linear: Linear,
    replacements: Vec<Replacements>,
}

impl<'a> Quantized<'a> {
    fn new(
        request: &Request<'a>,
        gguf: &'a Gguf,
        own: &'a dyn Checkpoint,
        calibration: &Arc<Calibration>,
        used: usize,
    ) -> anyhow::Result<Self> {
        let opening = request.opening;
        let of = |&scheme: &Scheme| {
            let scheme_only = Overrides { scheme: Some(scheme.into()), ..Overrides::default() };
            let recipe = request.recipe.clone().overridden_by(scheme_only).with_statistics(true);
            let work = (opening.seed, opening.budget, Some(Arc::clone(calibration)));
            let simulated = (Simulation::default(), Arc::default());
            let checkpoint =
                QuantizedCheckpoint::new(gguf, &recipe, &opening.target, work, simulated)?;
            Ok((scheme, checkpoint))
        };
        let schemes = request.schemes.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        let (recipe, calibration) = (request.recipe, Arc::clone(calibration));
        Ok(Quantized { own, recipe, calibration, schemes, used })
    }

    /// Of those of `names` that are converted at all.
    fn candidates(&self, names: &[String]) -> anyhow::Result<Vec<Candidates>> {
        let mut found = Vec::new();
        for name in names {
            let pinned = self.recipe.pinned(name);
            if pinned == Some(SchemeChoice::Keep) || !self.schemes.iter().any(|(_, s)| s.has(name))
            {
                continue;
            }
            found.push(
                self.of_linear(name, pinned).with_context(|| format!("`{}`", Escaped(name)))?,
            );
        }
        Ok(found)
    }

    fn of_linear(&self, name: &str, pinned: Option<SchemeChoice>) -> anyhow::Result<Candidates> {
        // A tied head is the embedding.
        let stored = if self.own.dims(name).is_some() { name } else { names::EMBEDDING };
        let own = self.own.linear(stored)?;
        let rows = self.calibration.sampled_rows(name)?;
        let (mut options, mut replacements) = (Vec::new(), Vec::new());
        for (scheme, checkpoint) in &self.schemes {
            let scheme = match pinned {
                Some(_) if !options.is_empty() => break,
                Some(pinned) => pinned.scheme().unwrap_or(*scheme),
                None => *scheme,
            };
            let linear: Arc<dyn tessera_runtime::linear::Linear> =
                Arc::from(checkpoint.linear(name)?);
            let stored = checkpoint.stored(name).context("nothing was stored")?;
            let output_error = match &rows {
                Some((rows, _)) => proxy::output_error(&*own, &*linear, rows)?,
                None => stored.weight_error * stored.weight_error,
            };
            options.push(Demotion {
                scheme,
                tile_bytes: stored.tile_bytes,
                vector_bytes: stored.vector_bytes,
                segments: u64::try_from(stored.segments)?,
                kld: None,
                kld_error: None,
                output_error,
                weight_error: stored.weight_error,
            });
            replacements.push(Replacements::from([(name.to_owned(), linear)]));
        }
        let dims = self.own.dims(stored).unwrap_or_default();
        let matrices = own.experts().unwrap_or(1);
        Ok(Candidates {
            linear: Linear {
                name: name.to_owned(),
                layer: roles::layer(name),
                weights: dims.iter().product::<u64>().max(1),
                matrices: u64::try_from(matrices)?,
                used: u64::try_from(self.used.min(matrices).max(1))?,
                pinned: pinned.is_some(),
                options,
            },
            replacements,
        })
    }
}

/// A run over all layers.
struct Run<'a> {
    request: &'a Request<'a>,
    decoder: &'a Decoder<'a>,
    checkpoint: &'a dyn Checkpoint,
    chunks: &'a Chunks,
    quantized: Quantized<'a>,
}

impl Run<'_> {
    /// Measures the layers that are not in `found` yet, and the head, keeping what is finished in
    /// `partial`.
    fn layers(&self, found: &mut Sensitivities, partial: &Path) -> anyhow::Result<Spent> {
        let layers = self.decoder.model().layers;
        let mut passes = vec![0; layers + 1];
        let names = |index: usize| match index {
            _ if index < layers => self.decoder.layer_linears(index),
            _ => vec![roles::HEAD.to_owned()],
        };
        for (index, passes) in passes.iter_mut().enumerate() {
            let schemes = match self.request.estimate {
                true => usize::from(index == self.middle()),
                false => self.request.schemes.len(),
            };
            *passes = names(index).len() * schemes + 1;
        }
        let finished = found.layers.len();
        passes[..finished].fill(0);
        let total = measure::passes(&passes) + layers as u64;
        let progress = Progress::of_steps("measuring");
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress.set(done, total);
        };
        let started = Instant::now();
        let mut measurement = Measurement::new(
            self.decoder,
            self.checkpoint,
            self.chunks,
            self.request.memory_budget,
            &mut step,
        )?;
        let pass = started.elapsed().div_f64(layers.max(1) as f64);
        say(format!(
            "{} demotions, {} passes of a layer over {} tokens: about {:.0} s, and the quantization",
            passes.iter().sum::<usize>(),
            total,
            self.chunks.tokens().len(),
            pass.as_secs_f64() * total as f64,
        ));
        let mut spent = Spent::default();
        for index in finished..=layers {
            let (linears, layer) =
                self.layer(&mut measurement, (index, &names(index)), &mut step, &mut spent)?;
            found.linears.extend(linears);
            found.layers.push(layer);
            if index < layers {
                found.write(partial)?;
            }
        }
        progress.finish();
        found.find_factors(self.middle() as u64, LAYER_SCHEME);
        Ok(spent)
    }

    /// The layer whose linears tell what errors of operators do.
    fn middle(&self) -> usize {
        self.decoder.model().layers / 2
    }

    fn layer(
        &self,
        measurement: &mut Measurement<'_>,
        (index, names): (usize, &[String]),
        step: &mut dyn FnMut(),
        spent: &mut Spent,
    ) -> anyhow::Result<(Vec<Linear>, LayerDivergence)> {
        let started = Instant::now();
        measurement.advance(index)?;
        let mut candidates = self.quantized.candidates(names)?;
        let layer = (index < self.decoder.model().layers).then_some(index as u64);
        let mut layer = LayerDivergence { layer, scheme: LAYER_SCHEME, kld: 0.0, factor: 0.0 };
        if let Some((scheme, replaced)) = together(&candidates) {
            layer.scheme = scheme;
            layer.kld = measurement.divergences(&[replaced], step)?[0].mean;
        }
        let looked_at = index == self.middle();
        if self.request.estimate && looked_at {
            let chosen = candidates.iter_mut().filter_map(|Candidates { linear, replacements }| {
                let at = layer_option(linear)?;
                Some((&mut linear.options[at], replacements[at].clone()))
            });
            let (options, replaced): (Vec<_>, Vec<_>) = chosen.unzip();
            record(options.into_iter(), measurement.divergences(&replaced, step)?);
        }
        spent.estimating += started.elapsed();
        if !self.request.estimate {
            let started = Instant::now();
            let replaced: Vec<Replacements> =
                candidates.iter_mut().flat_map(|c| std::mem::take(&mut c.replacements)).collect();
            let measured = measurement.divergences(&replaced, step)?;
            let options = candidates.iter_mut().flat_map(|c| &mut c.linear.options);
            record(options, measured);
            spent.measuring += started.elapsed();
        }
        Ok((candidates.into_iter().map(|candidates| candidates.linear).collect(), layer))
    }
}

fn record<'a>(
    options: impl Iterator<Item = &'a mut Demotion>,
    divergences: Vec<measure::Divergence>,
) {
    for (option, divergence) in options.zip(divergences) {
        option.kld = Some(divergence.mean);
        option.kld_error = Some(divergence.error);
    }
}

/// Index of the option at [`LAYER_SCHEME`], or of the last.
fn layer_option(linear: &Linear) -> Option<usize> {
    let at = linear.options.iter().position(|option| option.scheme == LAYER_SCHEME);
    at.or(linear.options.len().checked_sub(1))
}

/// All linears of a layer at [`LAYER_SCHEME`], or at their last option.
fn together(candidates: &[Candidates]) -> Option<(Scheme, Replacements)> {
    let mut replaced = BTreeMap::new();
    let mut shown = None;
    for Candidates { linear, replacements } in candidates {
        let at = layer_option(linear)?;
        shown = shown.or(Some(linear.options[at].scheme));
        replaced.extend(
            replacements[at].iter().map(|(name, linear)| (name.clone(), Arc::clone(linear))),
        );
    }
    Some((shown?, replaced.into_iter().collect()))
}
