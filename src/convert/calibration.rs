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

/// An open statistics file.
#[derive(Debug)]
pub struct Calibration {
    path: PathBuf,
    file: StatisticsFile,
    sha256: String,
}

impl Calibration {
    /// Opens the file; its large tensors are read when they are asked for.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = StatisticsFile::open(path)?;
        let sha256 = hash_file(path, &AtomicBool::new(false))?;
        Ok(Calibration { path: path.to_owned(), file, sha256 })
    }

    /// Where the statistics come from.
    pub fn provenance(&self) -> &Provenance {
        self.file.provenance()
    }

    /// Refuses a model that the statistics are not of.
    pub fn check(&self, gguf: &Gguf) -> anyhow::Result<()> {
        if self.provenance().model.is_empty() {
            return Ok(());
        }
        self.provenance()
            .check_model(&digests(gguf)?)
            .with_context(|| format!("`{}`", self.path.display()))
    }

    /// What was observed of an input of the plan.
    pub fn input(&self, plan: &Plan, input: &InputPlan) -> anyhow::Result<Option<InputStatistics>> {
        for &linear in &input.linears {
            let name = plan.linears[linear].name.as_str();
            let Some(index) = self.file.index_of(name) else { continue };
            let statistics = self.file.load(index)?;
            ensure!(
                statistics.k == input.k,
                "`{}` has statistics of {} channels for `{}`, which has {}: they are of another \
                 model",
                self.path.display(),
                statistics.k,
                Escaped(name),
                input.k,
            );
            return Ok(Some(statistics));
        }
        Ok(None)
    }

    /// What a pack records of it.
    pub fn record(&self) -> manifest::Calibration {
        let provenance = self.provenance();
        let data = provenance.data.iter().map(|source| manifest::CalibrationData {
            name: source.name.clone(),
            sha256: source.sha256.clone(),
        });
        manifest::Calibration {
            statistics_sha256: self.sha256.clone(),
            data: data.collect(),
            tokens: provenance.tokens,
            context: provenance.context,
            seed: provenance.seed,
        }
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
