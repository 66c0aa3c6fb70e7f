//! A pack: its provenance, its linears, where they go in memory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::{Carried, Input, Linear, MemoryPlan, Source};
use tessera_formats::pack::{PackReader, ShardFile, names};

use crate::{size, table};

/// What a pack holds.
#[derive(Clone, Debug, Serialize)]
pub struct PackReport {
    /// `pack`.
    pub kind: &'static str,
    /// Its files.
    pub files: Vec<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Format version.
    pub version: [u32; 2],
    /// Tool and version that wrote it.
    pub tool: String,
    /// Chip.
    pub target: String,
    /// Architecture of the model.
    pub architecture: String,
    /// Its scalar hyperparameters.
    pub hyperparameters: BTreeMap<String, serde_json::Value>,
    /// The files it was made from.
    pub sources: Vec<Source>,
    /// The resolved recipe.
    pub recipe: serde_json::Value,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether it has golden vectors.
    pub golden: bool,
    /// Linears by scheme.
    pub schemes: BTreeMap<Scheme, SchemeReport>,
    /// Every linear.
    pub linears: Vec<Linear>,
    /// Every input.
    pub inputs: Vec<Input>,
    /// Every carried tensor.
    pub carried: Vec<Carried>,
    /// Placement in IOMMU domains.
    pub memory: MemoryPlan,
}

/// Linears of one scheme.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SchemeReport {
    /// How many tensors.
    pub linears: usize,
    /// K segments.
    pub segments: usize,
    /// Mean of the errors recorded in the manifest.
    pub mean_relative_rms: f64,
}

impl PackReport {
    /// Reads the headers of a pack.
    #[expect(clippy::cast_precision_loss, reason = "a count, for a mean")]
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let pack = PackReader::open(path)?;
        let mut schemes: BTreeMap<_, SchemeReport> = BTreeMap::new();
        for linear in pack.linears() {
            let figures = schemes.entry(linear.scheme).or_default();
            figures.linears += 1;
            figures.segments += linear.segments.len();
            figures.mean_relative_rms += linear.relative_rms;
        }
        for figures in schemes.values_mut() {
            figures.mean_relative_rms /= figures.linears as f64;
        }
        let manifest = pack.manifest(0).context("the pack has no shard")?;
        Ok(PackReport {
            kind: "pack",
            files: pack.shards().iter().map(|shard| shard.path().display().to_string()).collect(),
            bytes: pack.shards().iter().map(ShardFile::bytes).sum(),
            version: manifest.version,
            tool: format!("{} {}", manifest.tool.name, manifest.tool.version),
            target: manifest.target.name.clone(),
            architecture: manifest.model.architecture.clone(),
            hyperparameters: manifest.model.hyperparameters.clone(),
            sources: manifest.sources.clone(),
            recipe: manifest.recipe.clone(),
            seed: manifest.seed,
            golden: pack.tensor_info(names::GOLDEN_INPUTS).is_some(),
            schemes,
            linears: pack.linears().cloned().collect(),
            inputs: pack.inputs().cloned().collect(),
            carried: pack.carried().cloned().collect(),
            memory: manifest.memory.clone(),
        })
    }

    /// The report as text; with every linear if asked.
    pub fn text(&self, tensors: bool) -> String {
        let mut text = String::new();
        for file in &self.files {
            let _ = writeln!(text, "{}", escaped(file));
        }
        let _ = writeln!(
            text,
            "tessera pack {}.{}, {}, for {}, {}, written by {}",
            self.version[0],
            self.version[1],
            escaped(&self.architecture),
            escaped(&self.target),
            size::show(self.bytes),
            escaped(&self.tool),
        );
        for source in &self.sources {
            let _ = writeln!(text, "from {}, SHA-256 {}", escaped(&source.file), source.sha256);
        }
        let mut schemes =
            table::with_headers(&["scheme", "linears", "segments", "mean rel. rms"], &[1, 2, 3]);
        for (scheme, figures) in &self.schemes {
            schemes.add_row([
                scheme.to_string(),
                figures.linears.to_string(),
                figures.segments.to_string(),
                format!("{:.6}", figures.mean_relative_rms),
            ]);
        }
        let _ = writeln!(text, "\n{schemes}\n");
        if tensors {
            let headers =
                ["linear", "scheme", "n", "k", "experts", "segments", "rel. rms", "domain"];
            let mut rows = table::with_headers(&headers, &[2, 3, 4, 5, 6, 7]);
            for linear in &self.linears {
                rows.add_row([
                    escaped(&linear.name),
                    linear.scheme.to_string(),
                    linear.n.to_string(),
                    linear.k.to_string(),
                    linear.experts.map_or(String::new(), |experts| experts.to_string()),
                    linear.segments.len().to_string(),
                    format!("{:.6}", linear.relative_rms),
                    linear.domain.to_string(),
                ]);
            }
            let _ = writeln!(text, "{rows}\n");
        }
        let _ = writeln!(
            text,
            "{} of tiles in {} IOMMU domain{}, {} tensors carried as they were{}",
            size::show(self.memory.tile_bytes),
            self.memory.domain_bytes.len(),
            if self.memory.domain_bytes.len() == 1 { "" } else { "s" },
            self.carried.len(),
            if self.golden { ", golden vectors" } else { "" },
        );
        text
    }
}
