//! Statistics that are used at once and not kept.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tessera_formats::escape::escaped_path;
use tessera_formats::npu::Target;
use tessera_formats::temporary::TemporaryFolder;

use super::{Request, calibrate};
use crate::convert::budget::Budget;
use crate::models::Opening;
use crate::recipe::Recipe;

/// What stands for the text that tessera carries, where a text must be named.
const BUILT_IN: &str = "built-in";

/// What is to be observed.
pub struct Observation<'a> {
    /// GGUF file.
    pub model: &'a Path,
    /// The file that is made by the statistics: they stand in a folder beside it for a while.
    pub beside: &'a Path,
    /// Texts, or `built-in`.
    pub dataset: &'a [PathBuf],
    /// Field of the lines of `.jsonl` files.
    pub field: Option<&'a str>,
    /// Tokens to observe.
    pub tokens: usize,
    /// Tokens of a chunk, where the user said so.
    pub context: Option<usize>,
    /// Seed of the choice of chunks and of quantization.
    pub seed: u64,
    /// Memory and threads.
    pub budget: Budget,
    /// The chip.
    pub target: &'a Target,
    /// How the layers before an input are quantized; they are not where there is none.
    pub prefix: Option<&'a Recipe>,
}

/// Statistics, in a folder that goes with them.
pub struct Transient {
    /// The file.
    pub path: PathBuf,
    /// What the user should know.
    pub warnings: Vec<String>,
    _folder: TemporaryFolder,
}

/// The texts that are meant: none for the one that is carried.
pub fn texts(dataset: &[PathBuf]) -> &[PathBuf] {
    match dataset {
        [only] if only.as_os_str() == BUILT_IN => &[],
        dataset => dataset,
    }
}

/// Observes a model, with Hessians.
pub fn observe(observation: &Observation<'_>) -> anyhow::Result<Transient> {
    let folder = TemporaryFolder::beside(observation.beside)
        .with_context(|| format!("a folder beside `{}`", escaped_path(observation.beside)))?;
    let path = folder.path().join("statistics.safetensors");
    let opening =
        Opening::of_files(observation.target.clone(), observation.seed, observation.budget);
    let report = calibrate(&Request {
        model: observation.model,
        dataset: texts(observation.dataset),
        field: observation.field,
        output: Some(&path),
        tokens: observation.tokens,
        context: observation.context,
        seed: observation.seed,
        hessians: true,
        memory_budget: observation.budget.bytes,
        resume: false,
        force: false,
        prefix: observation.prefix,
        opening: &opening,
    })?;
    Ok(Transient { path, warnings: report.warnings().to_vec(), _folder: folder })
}
