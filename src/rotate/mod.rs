//! Rotations taken into the weights of a GGUF model, which computes what it computed.
//!
//! The residual stream's: norm gains go into the linears behind the norms, every matrix that reads
//! states is multiplied by Rᵀ on the side that reads, every matrix that writes them by R on the side
//! that writes. The heads of values': V's rows of a head are multiplied by an orthogonal matrix, the
//! attention output's columns that read the head by its transpose. `docs/rotation.md` has the
//! equations; Ashkboos et al., *QuaRot* (arXiv 2404.00456), the idea.

pub mod keys;
mod matrix_type;
mod output;
mod pieces;
mod plan;
mod summary;
mod turn;
mod weights;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::{Gguf, GgufWriter, Shard, Value};
use tessera_runtime::checkpoint::GgufCheckpoint;
use tessera_runtime::decoder::Decoder;

use self::keys::Rotated;
pub use self::matrix_type::MatrixType;
use self::plan::{Plan, Step};
use self::summary::{Summary, Tensors};
use self::weights::Rotator;
use crate::convert::budget::Budget;
use crate::new_file::NewFile;
use crate::progress::{self, Progress};
use crate::workers;

/// Keys of a model in several files, which the new one is not.
const SPLIT: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Key of the type that most tensors have.
const FILE_TYPE: &str = "general.file_type";

/// What is to be rotated, and how.
pub struct Request<'a> {
    /// GGUF file.
    pub input: &'a Path,
    /// GGUF file to write.
    pub output: &'a Path,
    /// Seed of the signs.
    pub seed: u64,
    /// Whether the heads of values are rotated, too.
    pub heads: bool,
    /// Type of the matrices written.
    pub matrix_type: MatrixType,
    /// Memory and threads.
    pub budget: Budget,
    /// Whether an existing file is replaced.
    pub force: bool,
}

/// Rotates; on an error nothing new stands under the output's name.
pub fn rotate(request: &Request<'_>) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let gguf = Gguf::open(request.input)?;
    check_kind(request, &gguf)?;
    let checkpoint = GgufCheckpoint::new(&gguf);
    let named = || format!("`{}`", escaped_path(request.input));
    let decoder = Decoder::new(&checkpoint).with_context(named)?;
    let model = decoder.model();
    model.check_residual_rotation().with_context(named)?;
    output::check(request.output, &gguf, request.force)?;
    let ggml_type = request.matrix_type.ggml_type();
    let plan =
        Plan::new(&gguf, model, request.seed, request.heads, ggml_type).with_context(named)?;
    pieces::check(&plan, gguf.tensors(), request.budget)?;
    let mut warnings = Vec::new();
    if model.always_tied() && plan.tensors.len() > gguf.tensors().len() {
        warnings.push(format!(
            "the rotated model has a head of its own, which llama.cpp refuses in `{}` models: the file \
             is for tessera",
            Escaped(&model.architecture),
        ));
    }
    let bytes_out = write(request, &gguf, &plan)?;
    let mut tensors = Tensors::default();
    for tensor in &plan.tensors {
        match tensor.step {
            Step::Copy => tensors.copied += 1,
            Step::Ones => tensors.folded += 1,
            _ => tensors.rotated += 1,
        }
    }
    Ok(Summary {
        input: request.input.display().to_string(),
        output: request.output.display().to_string(),
        seed: request.seed,
        residual: plan.residual.rotation().to_string(),
        heads: plan.heads.first().map(|heads| heads.rotation().to_string()),
        ggml_type: ggml_type.name(),
        tensors,
        bytes_in: gguf.shards().iter().map(Shard::len).sum(),
        bytes_out,
        seconds: started.elapsed().as_secs_f64(),
        peak_memory: progress::peak_memory(),
        warnings,
    })
}

/// Refuses files that are no models, and models that are rotated already.
fn check_kind(request: &Request<'_>, gguf: &Gguf) -> anyhow::Result<()> {
    let kind = gguf.metadata().get("general.type").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "model") {
        bail!(
            "`{}` is not a model: its `general.type` is `{}`",
            escaped_path(request.input),
            Escaped(kind),
        );
    }
    if let Some(Rotated { seed, .. }) = Rotated::of(gguf.metadata()) {
        bail!("`{}` is rotated already, with seed {seed}", escaped_path(request.input));
    }
    Ok(())
}

/// Writes the new file; its length.
fn write(request: &Request<'_>, gguf: &Gguf, plan: &Plan) -> anyhow::Result<u64> {
    let header = header(request, gguf, plan)?;
    let bytes = header.file_bytes();
    let file = NewFile::create(request.output, bytes)?;
    let mut head = Vec::new();
    header.write_header(&mut head)?;
    file.write_at(0, &head)?;
    let work = plan.tensors.iter().map(|tensor| gguf.tensors()[tensor.source].bytes).sum();
    let progress = Progress::start("rotating", work);
    let pool = workers::pool(request.budget.threads)?;
    let rotator = Rotator { gguf, plan, file: &file, budget: request.budget, progress: &progress };
    let placed = header.tensors();
    let result = pool.install(|| {
        plan.tensors.iter().zip(&placed).try_for_each(|(tensor, placed)| {
            progress.name(&Escaped(&tensor.name).to_string());
            rotator.tensor(tensor, placed.offset)
        })
    });
    progress.finish();
    result?;
    gguf.check_unchanged()?;
    let written = placed.iter().map(|tensor| tensor.bytes).sum::<u64>();
    file.persist(written + u64::try_from(head.len())?, request.force)?;
    Ok(bytes)
}

/// Keys and tensors of the new file.
fn header(request: &Request<'_>, gguf: &Gguf, plan: &Plan) -> anyhow::Result<GgufWriter> {
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| !SPLIT.contains(key)) {
        match key {
            FILE_TYPE => writer.metadata(key, request.matrix_type.file_type())?,
            // What stands there says nothing, for the model is not rotated.
            keys::RESIDUAL | keys::HEADS => continue,
            _ => writer.metadata(key, value.clone())?,
        };
    }
    writer.metadata(keys::RESIDUAL, request.seed)?;
    writer.metadata(keys::HEADS, request.heads)?;
    for tensor in &plan.tensors {
        let dims = &gguf.tensors()[tensor.source].dims;
        writer.tensor(&tensor.name, tensor.ggml_type, dims)?;
    }
    Ok(writer)
}
