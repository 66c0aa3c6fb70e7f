//! What a conversion did, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::npu::Scheme;

use crate::{size, table};

/// Figures of a conversion, or of a plan of one.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The GGUF file.
    pub input: String,
    /// Files written, in order; empty in a dry run.
    pub output: Vec<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Linears by scheme.
    pub schemes: BTreeMap<Scheme, SchemeSummary>,
    /// Tensors stored as they were.
    pub carried: CarriedSummary,
    /// IOMMU domains the tiles need.
    pub domains: usize,
    /// Bytes of the source.
    pub bytes_in: u64,
    /// Bytes of the pack; in a dry run of its tensors.
    pub bytes_out: u64,
    /// Mean over linears of the relative error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_relative_rms: Option<f64>,
    /// Geometric mean over the linears that GPTQ rounded of their outputs' squared error on observed
    /// activations, over that of plain rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gptq_improvement: Option<f64>,
    /// The linear with the largest relative error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Worst>,
    /// Wall time.
    pub seconds: f64,
    /// Source bytes per second, in 10⁹.
    pub gigabytes_per_second: f64,
    /// Largest resident set, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Linears of one scheme.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SchemeSummary {
    /// Tensors.
    pub tensors: usize,
    /// Matrices in them: experts count each.
    pub matrices: usize,
    /// K segments over all matrices.
    pub segments: usize,
    /// Weights, without padding.
    pub weights: u64,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes of tiles.
    pub tile_bytes: u64,
}

/// Tensors stored as they were.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CarriedSummary {
    /// Tensors.
    pub tensors: usize,
    /// Bytes.
    pub bytes: u64,
}

/// A linear and its error.
#[derive(Clone, Debug, Serialize)]
pub struct Worst {
    /// Tensor name.
    pub name: String,
    /// Relative error of its weights.
    pub relative_rms: f64,
}

impl Summary {
    /// The figures as text.
    pub fn text(&self) -> String {
        let numbers = [1, 2, 3, 4, 5, 6];
        let mut schemes = table::with_headers(
            &["scheme", "tensors", "matrices", "segments", "before", "after", "bits/weight"],
            &numbers,
        );
        for (scheme, figures) in &self.schemes {
            schemes.add_row([
                scheme.to_string(),
                figures.tensors.to_string(),
                figures.matrices.to_string(),
                figures.segments.to_string(),
                size::show(figures.source_bytes),
                size::show(figures.tile_bytes),
                format!("{:.2}", figures.bits_per_weight()),
            ]);
        }
        schemes.add_row([
            "carried".to_owned(),
            self.carried.tensors.to_string(),
            String::new(),
            String::new(),
            size::show(self.carried.bytes),
            size::show(self.carried.bytes),
            String::new(),
        ]);
        let mut text = format!("{schemes}\n\n");
        let _ = writeln!(
            text,
            "{} in, {} out, {} IOMMU domain{}",
            size::show(self.bytes_in),
            size::show(self.bytes_out),
            self.domains,
            if self.domains == 1 { "" } else { "s" },
        );
        if let (Some(mean), Some(worst)) = (self.mean_relative_rms, &self.worst) {
            let _ = writeln!(
                text,
                "relative weight error: mean {mean:.5}, worst {:.5} in {}",
                worst.relative_rms,
                escaped(&worst.name),
            );
        }
        if let Some(improvement) = self.gptq_improvement {
            let _ = writeln!(
                text,
                "GPTQ: squared error of outputs × {improvement:.3} of plain rounding's",
            );
        }
        if self.dry_run {
            let _ = writeln!(text, "nothing was written");
            return text;
        }
        let _ = write!(text, "{:.2} s, {:.3} GB/s", self.seconds, self.gigabytes_per_second);
        if let Some(peak) = self.peak_memory {
            let _ = write!(text, ", peak memory {}", size::show(peak));
        }
        text.push('\n');
        for path in &self.output {
            let _ = writeln!(text, "{}", escaped(path));
        }
        text
    }
}

impl SchemeSummary {
    /// Bits of tiles per weight of the model.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn bits_per_weight(&self) -> f64 {
        if self.weights == 0 { 0.0 } else { self.tile_bytes as f64 * 8.0 / self.weights as f64 }
    }
}
