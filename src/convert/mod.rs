//! The conversion of a GGUF file into a pack.

pub mod budget;
pub mod calibration;
mod carry;
mod domains;
pub mod entries;
pub mod inputs;
pub mod linear;
mod observed;
mod output;
mod panel;
mod partial;
pub mod plan;
pub mod quantizer;
pub mod roles;
mod rows;
mod scales;
mod shards;
mod stream;
pub mod summary;
mod transform;
mod trials;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, bail, ensure};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::{Gguf, Shard, Value};
use tessera_formats::npu::{Engine, Target};
use tessera_formats::pack;
use tessera_formats::pack::manifest::{
    FORMAT, Manifest, Model, Source, Tool, VERSION_MAJOR, VERSION_MINOR,
};
use tessera_runtime::golden::GoldenInputs;

use self::budget::Budget;
use self::calibration::Calibration;
pub use self::output::{recorded_name, remove_replaced};
use self::partial::{PartialPack, Run};
use self::plan::{InputEqualization, Plan};
use self::quantizer::Quantizer;
use self::summary::{CarriedSummary, SchemeSummary, Summary, Worst};
use self::write::{Conversion, Written};
use crate::calibrate::FLOAT;
use crate::hash::{hash_file, hex};
use crate::progress::{self, Progress};
use crate::recipe::Recipe;
use crate::size;
use crate::space;
use crate::workers;

/// What is to be converted, and how.
pub struct Request<'a> {
    /// GGUF file.
    pub input: &'a Path,
    /// Pack to write.
    pub output: &'a Path,
    /// Options of every tensor.
    pub recipe: Recipe,
    /// Statistics of a calibration.
    pub calibration: Option<&'a Path>,
    /// Limits of the chip.
    pub target: Target,
    /// Seed of every random choice.
    pub seed: u64,
    /// Memory and threads.
    pub budget: Budget,
    /// Largest file.
    pub shard_size: Option<u64>,
    /// Whether to stop before anything is written.
    pub dry_run: bool,
    /// Whether an existing pack is replaced.
    pub force: bool,
    /// Whether to go on with the shards that an interrupted conversion finished.
    pub resume: bool,
}

/// Converts; on an error nothing stands under the pack's name.
pub fn convert(request: &Request<'_>) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let gguf = Gguf::open(request.input)?;
    check_kind(request, &gguf)?;
    output::check(request, &gguf)?;
    let plan = Plan::new(&gguf, &request.recipe, &request.target)?;
    output::check_names(&gguf, &plan)?;
    let calibration = request.calibration.map(|path| Calibration::open(path, &gguf)).transpose()?;
    ensure!(
        !plan.linears.is_empty() || !plan.carried.is_empty(),
        "`{}` holds no tensors: nothing to convert",
        escaped_path(request.input),
    );
    ensure!(
        plan.fits_domains(&request.target),
        "the tiles need {} IOMMU domains, and {} has {}: choose fewer bits",
        plan.memory.domain_bytes.len(),
        request.target.name,
        request.target.domains,
    );
    budget::check(&gguf, &plan, request.budget)?;
    let mut summary = plan_summary(request, &gguf, &plan);
    if let Some((prefix, seed)) = calibration.as_ref().and_then(Calibration::prefix)
        && prefix != FLOAT
        && (prefix != request.recipe.fingerprint() || seed != request.seed)
    {
        summary.warnings.push(format!(
            "the statistics were observed behind layers quantized with other options ({}, seed {seed}): \
             calibrate with those of this conversion, or with none",
            prefix.split(' ').next().unwrap_or_default(),
        ));
    }
    if request.dry_run {
        return Ok(summary);
    }
    let written = write(request, &gguf, &plan, calibration.as_ref())?;
    complete(&mut summary, &written, started);
    if let Some(limit) = request.shard_size.filter(|&limit| limit < written.largest) {
        summary.warnings.push(format!(
            "the largest file has {}, more than the {} asked for: a tensor is not divided",
            size::show(written.largest),
            size::show(limit),
        ));
    }
    Ok(summary)
}

/// Refuses an output that cannot be written, before anything else is done for it.
pub fn check_output(request: &Request<'_>) -> anyhow::Result<()> {
    output::check(request, &Gguf::open(request.input)?)
}

/// Refuses files that say of themselves that they are no model: adapters, importance matrices.
fn check_kind(request: &Request<'_>, gguf: &Gguf) -> anyhow::Result<()> {
    let kind = gguf.metadata().get("general.type").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| !["model", "mmproj"].contains(kind)) {
        bail!(
            "`{}` is not a model: its `general.type` is `{}`",
            escaped_path(request.input),
            Escaped(kind),
        );
    }
    // The plan does not need it, and the pack does: a dry run says so, too.
    gguf.architecture()?;
    Ok(())
}

/// Writes every shard, and the index of a sharded pack.
fn write(
    request: &Request<'_>,
    gguf: &Gguf,
    plan: &Plan,
    calibration: Option<&Calibration>,
) -> anyhow::Result<Written> {
    let calibrated = calibration.and_then(Calibration::record);
    let common = Manifest { calibration: calibrated, ..common_manifest(request, gguf, plan)? };
    let shards = shards::divide(plan, gguf, &common, request.shard_size)?;
    let paths = shards::paths(request.output, shards.len())?;
    let partial =
        PartialPack::open(request.output, &paths, Run::new(&common, &shards)?, request.resume)?;
    let placed = partial.placed()?;
    output::check_files(request, gguf, &paths, &placed)?;
    if placed.len() < paths.len() {
        output::check_files(request, gguf, &[pack::index_path(request.output)?], &[])?;
    }
    check_space(request, &shards, placed.len())?;
    let golden = plan.golden_columns().map(|columns| GoldenInputs::new(request.seed, columns));
    let progress = Progress::start("converting", work(gguf, plan));
    let pool = workers::pool(request.budget.threads)?;
    let cancelled = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let hashes = scope.spawn(|| hash_sources(gguf, &cancelled));
        let conversion = Conversion {
            quantizer: Quantizer {
                gguf,
                plan,
                seed: request.seed,
                budget: request.budget,
                calibration,
                golden: golden.as_ref(),
                progress: &progress,
            },
            output: request.output,
            force: request.force,
        };
        let result = pool.install(|| {
            conversion.run(&shards, &paths, common, partial, || {
                hashes.join().map_err(|_| anyhow!("the hashing thread panicked"))?
            })
        });
        // After a failure no one waits for the digests.
        cancelled.store(true, Ordering::Relaxed);
        result
    });
    progress.finish();
    result.map_err(|error| partial::kept(request.output, error))
}

/// Refuses to begin what the disk has no room for.
fn check_space(
    request: &Request<'_>,
    shards: &[shards::ShardPlan],
    finished: usize,
) -> anyhow::Result<()> {
    let bytes = shards.iter().skip(finished).map(|shard| shard.header_reserve + shard.data_bytes);
    space::check(request.output, bytes.sum())
}

/// The part of the manifest that all shards share, with digests still to be filled in.
fn common_manifest(request: &Request<'_>, gguf: &Gguf, plan: &Plan) -> anyhow::Result<Manifest> {
    let sources = gguf
        .shards()
        .iter()
        .map(|shard| Source {
            file: recorded_name(shard.path()),
            bytes: shard.len(),
            sha256: hex(&[0; 32]),
        })
        .collect();
    Ok(Manifest {
        format: FORMAT.to_owned(),
        version: [VERSION_MAJOR, VERSION_MINOR],
        tool: Tool { name: "tessera".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        target: request.target.clone(),
        sources,
        model: Model {
            architecture: gguf.architecture()?.to_owned(),
            hyperparameters: hyperparameters(gguf)?,
        },
        recipe: request.recipe.record(),
        seed: request.seed,
        calibration: None,
        inputs: Vec::new(),
        linears: Vec::new(),
        carried: Vec::new(),
        digests: BTreeMap::new(),
        memory: plan.memory.clone(),
        // The longest there is, for the room that headers need.
        shard: shards::place(usize::MAX, usize::MAX),
    })
}

/// Scalar keys of the architecture.
fn hyperparameters(gguf: &Gguf) -> anyhow::Result<BTreeMap<String, serde_json::Value>> {
    let prefix = format!("{}.", gguf.architecture()?);
    let scalar = |value: &Value| -> Option<serde_json::Value> {
        Some(match value {
            Value::Bool(value) => (*value).into(),
            Value::String(value) => value.as_str().into(),
            Value::F32(value) => f64::from(*value).into(),
            Value::F64(value) => (*value).into(),
            other => match other.as_u64() {
                Some(value) => value.into(),
                None => other.as_i64()?.into(),
            },
        })
    };
    Ok(gguf
        .metadata()
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .filter_map(|(key, value)| Some((key.to_owned(), scalar(value)?)))
        .collect())
}

/// SHA-256 of every source file, in order.
fn hash_sources(gguf: &Gguf, cancelled: &AtomicBool) -> anyhow::Result<Vec<String>> {
    gguf.shards().iter().map(|shard| hash_file(shard.path(), cancelled)).collect()
}

/// Source bytes that the conversion reads, the passes over equalized inputs included.
fn work(gguf: &Gguf, plan: &Plan) -> u64 {
    let bytes = |tensor: usize| gguf.tensors()[tensor].bytes;
    let linears: u64 = plan.linears.iter().map(|linear| bytes(linear.source)).sum();
    let carried: u64 = plan.carried.iter().map(|&tensor| bytes(tensor)).sum();
    let equalized: u64 = plan
        .inputs
        .iter()
        .filter(|input| input.equalization != InputEqualization::None)
        .flat_map(|input| &input.linears)
        .map(|&linear| bytes(plan.linears[linear].source))
        .sum();
    linears + carried + equalized
}

/// Bits per weight of a source up to which its own loss is as large as that of 4 bits: Q5_0 and
/// Q5_K have 5.5.
const COARSE_BITS: u64 = 5;

/// How much larger the KL divergence of the preset `w4` was from a Q4_0 source than from F32, on
/// stories260K and on books7m.
const COARSE_LOSS: [f64; 2] = [3.0, 3.1];

/// Figures that are known before anything is read.
fn plan_summary(request: &Request<'_>, gguf: &Gguf, plan: &Plan) -> Summary {
    let mut schemes: BTreeMap<_, SchemeSummary> = BTreeMap::new();
    let mut warnings = Vec::new();
    let (mut coarse, mut coarsest) = (0, 0);
    for linear in &plan.linears {
        let tensor = &gguf.tensors()[linear.source];
        let figures = schemes.entry(linear.options.scheme).or_default();
        figures.tensors += 1;
        figures.matrices += linear.matrices();
        figures.segments += linear.matrices() * linear.fewest_segments;
        figures.weights += tensor.elements();
        figures.source_bytes += tensor.bytes;
        figures.tile_bytes += linear.tile_bytes();
        let bits = tensor.bytes.saturating_mul(8) / tensor.elements().max(1);
        if linear.engine() == Engine::I4 && bits <= COARSE_BITS {
            coarsest += 1;
        } else if linear.engine() == Engine::I4 && bits < 8 {
            coarse += 1;
        }
    }
    if plan.linears.is_empty() {
        warnings.push(
            "no tensor is a linear by its name: all are carried; a recipe rule `linear = true` \
             makes one of a matrix"
                .to_owned(),
        );
    }
    if coarsest > 0 {
        warnings.push(format!(
            "{coarsest} tensors of the source have five bits a weight or fewer: 4-bit weights made from \
             them add their loss to it, and with a Q4_0 source the KL divergence from the original was \
             {} and {} times as large as with an F32 source where it was measured \
             (docs/calibration.md): convert from F16, BF16 or Q8_0 if you can",
            COARSE_LOSS[0], COARSE_LOSS[1],
        ));
    }
    if coarse > 0 {
        warnings.push(format!(
            "{coarse} tensors of the source have fewer than 8 bits a weight already; 4-bit weights \
             made from them add their loss to it: convert from F16, BF16 or Q8_0 if you can",
        ));
    }
    let carried = CarriedSummary {
        tensors: plan.carried.len(),
        bytes: plan.carried.iter().map(|&tensor| gguf.tensors()[tensor].bytes).sum(),
    };
    let tiles: u64 = schemes.values().map(|figures| figures.tile_bytes).sum();
    Summary {
        input: request.input.display().to_string(),
        output: Vec::new(),
        dry_run: request.dry_run,
        schemes,
        carried,
        domains: plan.memory.domain_bytes.len(),
        bytes_in: gguf.shards().iter().map(Shard::len).sum(),
        bytes_out: tiles + carried.bytes,
        mean_relative_rms: None,
        gptq_improvement: None,
        worst: None,
        seconds: 0.0,
        gigabytes_per_second: 0.0,
        peak_memory: None,
        warnings,
    }
}

/// Adds what the conversion found.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn complete(summary: &mut Summary, written: &Written, started: Instant) {
    for figures in summary.schemes.values_mut() {
        figures.segments = 0;
    }
    for linear in &written.linears {
        if let Some(figures) = summary.schemes.get_mut(&linear.scheme) {
            figures.segments += linear.segments * linear.matrices;
        }
    }
    let errors = || written.linears.iter().map(|linear| linear.relative_rms);
    if !written.linears.is_empty() {
        summary.mean_relative_rms = Some(errors().sum::<f64>() / written.linears.len() as f64);
    }
    let gains: Vec<f64> = written.linears.iter().filter_map(|linear| linear.improvement).collect();
    if !gains.is_empty() {
        let mean = gains.iter().map(|gain| gain.max(1e-12).ln()).sum::<f64>() / gains.len() as f64;
        summary.gptq_improvement = Some(mean.exp());
    }
    let uncompensated: Vec<_> =
        written.linears.iter().filter(|linear| linear.lacks_hessian).collect();
    if let Some(first) = uncompensated.first() {
        summary.warnings.push(format!(
            "the statistics have no second moments for {} linears, `{}` the first: their weights were \
             rounded to nearest; `tessera calibrate --hessians` observes them",
            uncompensated.len(),
            Escaped(&first.name),
        ));
    }
    summary.worst = written
        .linears
        .iter()
        .max_by(|one, other| one.relative_rms.total_cmp(&other.relative_rms))
        .map(|linear| Worst { name: linear.name.clone(), relative_rms: linear.relative_rms });
    summary.output = written.paths.iter().map(|path| path.display().to_string()).collect();
    summary.bytes_out = written.bytes;
    summary.seconds = started.elapsed().as_secs_f64();
    summary.gigabytes_per_second = summary.bytes_in as f64 / 1e9 / summary.seconds.max(1e-9);
    summary.peak_memory = progress::peak_memory();
}
