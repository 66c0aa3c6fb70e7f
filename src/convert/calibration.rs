//! What a calibration observed, looked up for the inputs of a plan.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use tessera_calibration::imatrix::ImportanceMatrix;
use tessera_calibration::statistics::{FileDigest, InputStatistics, StatisticsFile};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::gguf::{Gguf, Shard};
use tessera_formats::pack::manifest;

use super::output::recorded_name;
use super::plan::{InputPlan, Plan};
use super::roles;
use crate::hash::hash_file;

/// Statistics of a model's inputs.
#[derive(Debug)]
pub enum Calibration {
    /// A statistics file.
    File {
        /// The file, whose large tensors are read when they are asked for.
        file: Box<StatisticsFile>,
        /// SHA-256 of the file.
        sha256: String,
    },
    /// Some inputs, in memory.
    Memory(Vec<InputStatistics>),
}

impl Calibration {
    /// Opens a statistics file, or an importance matrix of llama.cpp, and refuses what is not of the
    /// model.
    pub fn open(path: &Path, gguf: &Gguf) -> anyhow::Result<Self> {
        if is_importance_matrix(path)? {
            let channels = |name: &str| {
                // A head that shares the embedding is a linear of its own.
                let name = if name == roles::HEAD && gguf.tensor(name).is_none() {
                    roles::EMBEDDING
                } else {
                    name
                };
                usize::try_from(*gguf.tensor(name)?.dims.first()?).ok()
            };
            let statistics = ImportanceMatrix::read(path)?.to_statistics(channels)?;
            return Ok(Calibration::Memory(statistics.inputs));
        }
        let file = Box::new(StatisticsFile::open(path)?);
        if !file.provenance().model.is_empty() {
            let checked = file.provenance().check_model(&digests(gguf)?);
            checked.with_context(|| format!("`{}`", escaped_path(path)))?;
        }
        let sha256 = hash_file(path, &AtomicBool::new(false))?;
        Ok(Calibration::File { file, sha256 })
    }

    /// What the layers before an input were that it was observed behind, and the seed, where the
    /// statistics are of a file.
    pub fn prefix(&self) -> Option<(&str, u64)> {
        match self {
            Calibration::File { file, .. } => {
                let provenance = file.provenance();
                Some((&provenance.options.prefix, provenance.seed))
            }
            Calibration::Memory(_) => None,
        }
    }

    /// What was observed of an input of the plan.
    pub fn input(&self, plan: &Plan, input: &InputPlan) -> anyhow::Result<Option<InputStatistics>> {
        for &linear in &input.linears {
            let name = plan.linears[linear].name.as_str();
            let found = match self {
                Calibration::File { file, .. } => match file.index_of(name) {
                    Some(index) => Some(file.load(index)?),
                    None => None,
                },
                Calibration::Memory(inputs) => {
                    let reads = |input: &&InputStatistics| input.linears.iter().any(|l| l == name);
                    inputs.iter().find(reads).cloned()
                }
            };
            let Some(statistics) = found else { continue };
            ensure!(
                statistics.k == input.k,
                "the statistics are of {} channels for `{}`, which has {}: they are of another model",
                statistics.k,
                Escaped(name),
                input.k,
            );
            return Ok(Some(statistics));
        }
        Ok(None)
    }

    /// The sampled rows `[rows, k]` of what a linear reads, and k.
    pub fn sampled_rows(&self, linear: &str) -> anyhow::Result<Option<(Vec<f32>, usize)>> {
        let statistics = match self {
            Calibration::File { file, .. } => match file.index_of(linear) {
                Some(index) => file.load_sums_and_rows(index)?,
                None => return Ok(None),
            },
            Calibration::Memory(inputs) => {
                let reads = |input: &&InputStatistics| input.linears.iter().any(|l| l == linear);
                match inputs.iter().find(reads) {
                    Some(input) => input.clone(),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some((statistics.rows, statistics.k)).filter(|(rows, _)| !rows.is_empty()))
    }

    /// SHA-256 of the file, where it is one.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Calibration::File { sha256, .. } => Some(sha256),
            Calibration::Memory(_) => None,
        }
    }

    /// What a pack records of a file.
    pub fn record(&self) -> Option<manifest::Calibration> {
        let Calibration::File { file, sha256, .. } = self else { return None };
        let provenance = file.provenance();
        let data = provenance.data.iter().map(|source| manifest::CalibrationData {
            name: source.name.clone(),
            sha256: source.sha256.clone(),
        });
        Some(manifest::Calibration {
            statistics_sha256: sha256.clone(),
            data: data.collect(),
            tokens: provenance.tokens,
            context: provenance.context,
            seed: provenance.seed,
        })
    }
}

/// Whether a file is an importance matrix of llama.cpp, by its name or its first bytes.
fn is_importance_matrix(path: &Path) -> anyhow::Result<bool> {
    if path.extension().is_some_and(|extension| extension == "dat") {
        return Ok(true);
    }
    let context = || format!("`{}`", escaped_path(path));
    // Asked before opening: opening a pipe waits for its writer. The reader of statistics says no.
    if !fs::metadata(path).with_context(context)?.is_file() {
        return Ok(false);
    }
    let mut magic = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic));
    read.with_context(context)?;
    Ok(magic == b"GGUF")
}

/// The model's files and their digests.
pub fn digests(gguf: &Gguf) -> anyhow::Result<Vec<FileDigest>> {
    let never = AtomicBool::new(false);
    let digest = |shard: &Shard| {
        Ok(FileDigest {
            name: recorded_name(shard.path()),
            bytes: shard.len(),
            sha256: hash_file(shard.path(), &never)?,
        })
    };
    gguf.shards().iter().map(digest).collect()
}
