//! What an evaluation found, for people and for programs.

use std::fmt::Write;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_runtime::perplexity::evaluate::Outcome;
use tessera_runtime::perplexity::{Distribution, Estimate};

use crate::models::Model;
use crate::table;

/// What an evaluation found.
pub struct Report {
    /// The model that the others are compared with.
    pub reference: Option<String>,
    /// The file they are compared with.
    pub from_logits: Option<String>,
    /// Tokens of a chunk.
    pub context: usize,
    /// Chunks.
    pub chunks: usize,
    /// Every model.
    pub models: Vec<ModelReport>,
}

/// What was found of a model. Probabilities are in percent, as llama-perplexity prints them; what
/// compares with a reference is null without one.
#[derive(Serialize)]
pub struct ModelReport {
    /// As the user named it.
    model: String,
    /// What was made of it.
    scheme: String,
    /// Bits per weight of its linears, scales and padding included.
    bits_per_weight: f64,
    ppl: f64,
    ppl_error: f64,
    ppl_ref: Option<f64>,
    ppl_ref_error: Option<f64>,
    ppl_ratio: Option<f64>,
    ppl_ratio_error: Option<f64>,
    ln_ppl_ratio: Option<f64>,
    ln_ppl_ratio_error: Option<f64>,
    ppl_difference: Option<f64>,
    ppl_difference_error: Option<f64>,
    ln_ppl_correlation: Option<f64>,
    mean_kld: Option<f64>,
    mean_kld_error: Option<f64>,
    max_kld: Option<f64>,
    kld_99_9: Option<f64>,
    kld_99: Option<f64>,
    kld_95: Option<f64>,
    kld_90: Option<f64>,
    median_kld: Option<f64>,
    kld_10: Option<f64>,
    kld_5: Option<f64>,
    kld_1: Option<f64>,
    min_kld: Option<f64>,
    mean_dp: Option<f64>,
    mean_dp_error: Option<f64>,
    max_dp: Option<f64>,
    min_dp: Option<f64>,
    rms_dp: Option<f64>,
    rms_dp_error: Option<f64>,
    same_top: Option<f64>,
    same_top_error: Option<f64>,
    /// Tokens scored.
    tokens: usize,
    /// Seconds that its layers and its head took.
    seconds: f64,
    /// Accumulators of the 4-bit engine that did not fit 16 bits.
    saturated: u64,
    /// Δp in percent, for the text.
    #[serde(skip)]
    delta_p: Option<Distribution>,
}

fn percent(estimate: Estimate) -> Estimate {
    Estimate { value: 100.0 * estimate.value, error: 100.0 * estimate.error }
}

impl ModelReport {
    /// The figures of one model.
    pub fn new(model: &Model, bits_per_weight: f64, outcome: &Outcome) -> Self {
        let summary = &outcome.summary;
        let comparison = summary.comparison.as_ref();
        let kld = comparison.map(|comparison| &comparison.kld);
        let delta_p = comparison.map(|comparison| comparison.delta_p);
        let mean_dp = delta_p.map(|delta_p| percent(delta_p.mean));
        let rms_dp = comparison.map(|comparison| percent(comparison.rms_delta_p));
        let same_top = comparison.map(|comparison| percent(comparison.same_top));
        ModelReport {
            model: model.name.clone(),
            scheme: model.form.clone(),
            bits_per_weight,
            ppl: summary.ppl.value,
            ppl_error: summary.ppl.error,
            ppl_ref: comparison.map(|c| c.ppl_ref.value),
            ppl_ref_error: comparison.map(|c| c.ppl_ref.error),
            ppl_ratio: comparison.map(|c| c.ratio.value),
            ppl_ratio_error: comparison.map(|c| c.ratio.error),
            ln_ppl_ratio: comparison.map(|c| c.ln_ratio.value),
            ln_ppl_ratio_error: comparison.map(|c| c.ln_ratio.error),
            ppl_difference: comparison.map(|c| c.difference.value),
            ppl_difference_error: comparison.map(|c| c.difference.error),
            ln_ppl_correlation: comparison.map(|c| c.correlation),
            mean_kld: kld.map(|kld| kld.mean.value),
            mean_kld_error: kld.map(|kld| kld.mean.error),
            max_kld: kld.map(|kld| kld.maximum),
            kld_99_9: kld.map(|kld| kld.p99_9),
            kld_99: kld.map(|kld| kld.p99),
            kld_95: kld.map(|kld| kld.p95),
            kld_90: kld.map(|kld| kld.p90),
            median_kld: kld.map(|kld| kld.median),
            kld_10: kld.map(|kld| kld.p10),
            kld_5: kld.map(|kld| kld.p5),
            kld_1: kld.map(|kld| kld.p1),
            min_kld: kld.map(|kld| kld.minimum),
            mean_dp: mean_dp.map(|mean| mean.value),
            mean_dp_error: mean_dp.map(|mean| mean.error),
            max_dp: delta_p.map(|delta_p| 100.0 * delta_p.maximum),
            min_dp: delta_p.map(|delta_p| 100.0 * delta_p.minimum),
            rms_dp: rms_dp.map(|rms| rms.value),
            rms_dp_error: rms_dp.map(|rms| rms.error),
            same_top: same_top.map(|same| same.value),
            same_top_error: same_top.map(|same| same.error),
            tokens: summary.tokens,
            seconds: outcome.seconds,
            saturated: model.saturated(),
            delta_p,
        }
    }

    /// Every figure, a line each, by llama-perplexity's names.
    fn list(&self, out: &mut String) -> std::fmt::Result {
        let estimate =
            |out: &mut String, name: &str, value: Option<f64>, error: Option<f64>| match value
                .zip(error)
            {
                Some((value, error)) => writeln!(out, "{name:<30}: {value:10.6} ± {error:10.6}"),
                None => Ok(()),
            };
        let line = |out: &mut String, name: &str, value: Option<f64>| match value {
            Some(value) => writeln!(out, "{name:<30}: {value:10.6}"),
            None => Ok(()),
        };
        let percent = |out: &mut String, name: &str, value: Option<f64>, error: Option<f64>| match (
            value, error,
        ) {
            (Some(value), Some(error)) => {
                writeln!(out, "{name:<30}: {value:7.3} ± {error:5.3} %")
            }
            (Some(value), None) => writeln!(out, "{name:<30}: {value:7.3} %"),
            _ => Ok(()),
        };
        estimate(out, "Mean PPL(Q)", Some(self.ppl), Some(self.ppl_error))?;
        if self.ppl_ref.is_none() {
            return Ok(());
        }
        estimate(out, "Mean PPL(base)", self.ppl_ref, self.ppl_ref_error)?;
        let correlation = self.ln_ppl_correlation.map(|correlation| 100.0 * correlation);
        percent(out, "Cor(ln(PPL(Q)), ln(PPL(base)))", correlation, None)?;
        estimate(out, "Mean ln(PPL(Q)/PPL(base))", self.ln_ppl_ratio, self.ln_ppl_ratio_error)?;
        estimate(out, "Mean PPL(Q)/PPL(base)", self.ppl_ratio, self.ppl_ratio_error)?;
        estimate(out, "Mean PPL(Q)-PPL(base)", self.ppl_difference, self.ppl_difference_error)?;
        writeln!(out)?;
        estimate(out, "Mean    KLD", self.mean_kld, self.mean_kld_error)?;
        for (name, value) in [
            ("Maximum KLD", self.max_kld),
            ("99.9%   KLD", self.kld_99_9),
            ("99.0%   KLD", self.kld_99),
            ("95.0%   KLD", self.kld_95),
            ("90.0%   KLD", self.kld_90),
            ("Median  KLD", self.median_kld),
            ("10.0%   KLD", self.kld_10),
            (" 5.0%   KLD", self.kld_5),
            (" 1.0%   KLD", self.kld_1),
            ("Minimum KLD", self.min_kld),
        ] {
            line(out, name, value)?;
        }
        writeln!(out)?;
        percent(out, "Mean    Δp", self.mean_dp, self.mean_dp_error)?;
        if let Some(delta_p) = &self.delta_p {
            for (name, value) in [
                ("Maximum Δp", delta_p.maximum),
                ("99.9%   Δp", delta_p.p99_9),
                ("99.0%   Δp", delta_p.p99),
                ("95.0%   Δp", delta_p.p95),
                ("90.0%   Δp", delta_p.p90),
                ("75.0%   Δp", delta_p.p75),
                ("Median  Δp", delta_p.median),
                ("25.0%   Δp", delta_p.p25),
                ("10.0%   Δp", delta_p.p10),
                (" 5.0%   Δp", delta_p.p5),
                (" 1.0%   Δp", delta_p.p1),
                (" 0.1%   Δp", delta_p.p0_1),
                ("Minimum Δp", delta_p.minimum),
            ] {
                percent(out, name, Some(100.0 * value), None)?;
            }
        }
        percent(out, "RMS Δp", self.rms_dp, self.rms_dp_error)?;
        percent(out, "Same top p", self.same_top, self.same_top_error)
    }
}

impl Report {
    /// One JSON object per model, a line each.
    pub fn json(&self) -> anyhow::Result<String> {
        let mut out = String::new();
        for model in &self.models {
            writeln!(out, "{}", serde_json::to_string(model)?)?;
        }
        Ok(out)
    }

    /// For people: every figure of one model, or a table of several.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let tokens = self.models.first().map_or(0, |model| model.tokens);
        let chunks = if self.chunks == 1 { "chunk" } else { "chunks" };
        write!(out, "{} {chunks} of {}, {tokens} tokens scored", self.chunks, self.context)?;
        match self.reference.as_ref().or(self.from_logits.as_ref()) {
            Some(reference) => writeln!(out, "; base: {}\n", escaped(reference))?,
            None => writeln!(out, "\n")?,
        }
        match &self.models[..] {
            [model] => {
                writeln!(
                    out,
                    "{}: {}, {:.3} bits per weight\n",
                    escaped(&model.model),
                    model.scheme,
                    model.bits_per_weight
                )?;
                model.list(&mut out)?;
            }
            models => writeln!(out, "{}", ladder(models, self.compared()))?,
        }
        let saturated = self.models.iter().filter(|model| model.saturated > 0);
        for model in saturated {
            writeln!(
                out,
                "\n{}: {} accumulators saturated at 16 bits",
                escaped(&model.model),
                model.saturated,
            )?;
        }
        Ok(out)
    }

    fn compared(&self) -> bool {
        self.reference.is_some() || self.from_logits.is_some()
    }
}

/// A model's name without its folders.
fn label(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A row per model.
fn ladder(models: &[ModelReport], compared: bool) -> table::Table {
    let mut headers = vec!["model", "scheme", "bits/weight", "PPL", "±"];
    if compared {
        headers.extend([
            "PPL ratio",
            "mean KLD",
            "±",
            "median",
            "99 %",
            "max",
            "same top %",
            "RMS Δp %",
        ]);
    }
    headers.push("seconds");
    let numbers: Vec<_> = (2..headers.len()).collect();
    let mut table = table::with_headers(&headers, &numbers);
    for model in models {
        let mut row = vec![
            escaped(label(&model.model)),
            model.scheme.clone(),
            format!("{:.3}", model.bits_per_weight),
            format!("{:.4}", model.ppl),
            format!("{:.4}", model.ppl_error),
        ];
        if compared {
            let shown = |value: Option<f64>, digits: usize| {
                value.map_or_else(String::new, |value| format!("{value:.digits$}"))
            };
            row.extend([
                shown(model.ppl_ratio, 4),
                shown(model.mean_kld, 6),
                shown(model.mean_kld_error, 6),
                shown(model.median_kld, 6),
                shown(model.kld_99, 6),
                shown(model.max_kld, 6),
                shown(model.same_top, 3),
                shown(model.rms_dp, 3),
            ]);
        }
        row.push(format!("{:.1}", model.seconds));
        table.add_row(row);
    }
    table
}
