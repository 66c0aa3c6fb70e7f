//! What a check found, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::npu::Scheme;

use crate::table;

/// Problems listed in the text before the rest is only counted.
const LISTED: usize = 50;

/// Result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The pack.
    pub pack: String,
    /// The file it was compared with.
    pub source: Option<String>,
    /// Whether everything is in order.
    pub ok: bool,
    /// Every linear.
    pub tensors: Vec<TensorReport>,
    /// Mean over linears of the relative error.
    pub mean_relative_rms: Option<f64>,
    /// What is not in order.
    pub problems: Vec<Problem>,
}

/// One linear.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its scheme.
    pub scheme: Scheme,
    /// K segments.
    pub segments: usize,
    /// `sqrt(Σ (w − r)² / Σ w²)` of source weights w and rebuilt weights r.
    pub relative_rms: Option<f64>,
    /// `Σ w·r / sqrt(Σ w² · Σ r²)`.
    pub cosine: Option<f64>,
}

/// Something that is not in order.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Tensor or file.
    pub tensor: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Report {
    /// A report without findings.
    pub fn new(pack: &Path, source: Option<&Path>) -> Self {
        Report {
            pack: pack.display().to_string(),
            source: source.map(|source| source.display().to_string()),
            ok: true,
            tensors: Vec::new(),
            mean_relative_rms: None,
            problems: Vec::new(),
        }
    }

    /// Adds a finding.
    pub fn problem(&mut self, tensor: &str, problem: &str) {
        self.ok = false;
        self.problems.push(Problem { tensor: tensor.to_owned(), problem: problem.to_owned() });
    }

    /// Computes what depends on all tensors.
    #[expect(clippy::cast_precision_loss, reason = "a count, for a mean")]
    pub fn finish(mut self) -> Self {
        let errors: Vec<f64> = self.tensors.iter().filter_map(|t| t.relative_rms).collect();
        if !errors.is_empty() {
            self.mean_relative_rms = Some(errors.iter().sum::<f64>() / errors.len() as f64);
        }
        self
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut rows = table::with_headers(
            &["tensor", "scheme", "segments", "rel. rms", "cosine"],
            &[2, 3, 4],
        );
        for tensor in &self.tensors {
            let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.6}"));
            rows.add_row([
                escaped(&tensor.name),
                tensor.scheme.to_string(),
                tensor.segments.to_string(),
                figure(tensor.relative_rms),
                figure(tensor.cosine),
            ]);
        }
        let mut text = format!("{rows}\n\n");
        if let Some(mean) = self.mean_relative_rms {
            let _ = writeln!(text, "mean relative weight error {mean:.6}");
        }
        for problem in self.problems.iter().take(LISTED) {
            let _ = writeln!(text, "{}: {}", escaped(&problem.tensor), problem.problem);
        }
        if self.problems.len() > LISTED {
            let _ = writeln!(text, "… and {} more", self.problems.len() - LISTED);
        }
        let verdict = if self.ok { "ok" } else { "NOT ok" };
        let _ = writeln!(text, "{verdict}: {} linears checked", self.tensors.len());
        text
    }
}
