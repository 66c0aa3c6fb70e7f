//! What a calibration observed, looked up for the inputs of a plan.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use tessera_calibration::statistics::{FileDigest, InputStatistics, Provenance, StatisticsFile};
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::{Gguf, Shard};
use tessera_formats::pack::manifest;

use super::output::recorded_name;
use super::plan::{InputPlan, Plan};
use crate::hash::hash_file;

/// Statistics of a model's inputs.
#[derive(Debug)]
pub enum Calibration {
    /// A statistics file.
    File {
        /// Where it is.
        path: PathBuf,
        /// The file, whose large tensors are read when they are asked for.
        file: Box<StatisticsFile>,
        /// SHA-256 of the file.
        sha256: String,
    },
    /// Some inputs, in memory.
    Memory(Vec<InputStatistics>),
}

impl Calibration {
    /// Opens a file.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = Box::new(StatisticsFile::open(path)?);
        let sha256 = hash_file(path, &AtomicBool::new(false))?;
        Ok(Calibration::File { path: path.to_owned(), file, sha256 })
    }

    /// Where the statistics of a file come from.
    pub fn provenance(&self) -> Option<&Provenance> {
        match self {
            Calibration::File { file, .. } => Some(file.provenance()),
            Calibration::Memory(_) => None,
        }
    }

    /// Refuses a model that the statistics are not of.
    pub fn check(&self, gguf: &Gguf) -> anyhow::Result<()> {
        match self {
            Calibration::File { path, file, .. } if !file.provenance().model.is_empty() => file
                .provenance()
                .check_model(&digests(gguf)?)
                .with_context(|| format!("`{}`", path.display())),
            _ => Ok(()),
        }
    }

    /// What was observed of an input of the plan.
    pub fn input(&self, plan: &Plan, input: &InputPlan) -> anyhow::Result<Option<InputStatistics>> {
        for &linear in &input.linears {
            let name = plan.linears[linear].name.as_str();
            let found = match self {
                Calibration::File { file, .. } => {
                    file.index_of(name).map(|index| file.load(index)).transpose()?
                }
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
