//! What a measurement of sensitivities found, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::npu::Scheme;

use super::Spent;
use super::file::Sensitivities;
use super::proxy::rank_correlation;
use crate::report::data::SensitivityCorrelation;
use crate::table;

/// Linears that the text lists.
const LISTED: usize = 12;

/// What was found.
#[derive(Serialize)]
pub struct Report {
    output: String,
    linears: usize,
    tokens: u64,
    schemes: Vec<SchemeReport>,
    /// Rank correlation of estimated with measured damage, over all linears and schemes.
    correlation: Option<f64>,
    /// Seconds that demoting linears one by one took.
    measured_seconds: f64,
    /// Seconds that quantizing, sampling outputs and demoting layers took.
    estimated_seconds: f64,
    #[serde(skip)]
    found: Sensitivities,
    #[serde(skip)]
    warnings: Vec<String>,
}

/// All linears at one scheme.
#[derive(Serialize)]
struct SchemeReport {
    scheme: Scheme,
    /// Sum of the damages of all linears.
    damage: f64,
    /// Bytes of all linears.
    bytes: u64,
    /// Bits of weights and scales per weight, without padding.
    bits_per_weight: f64,
    /// Rank correlation of estimated with measured damage.
    correlation: Option<f64>,
}

impl Report {
    pub(super) fn new(
        found: Sensitivities,
        output: &Path,
        spent: Spent,
        warnings: Vec<String>,
    ) -> Self {
        let setting = &found.setting;
        let weights: u64 = found.linears.iter().map(|linear| linear.weights).sum();
        let of = |&scheme: &Scheme| {
            let mut report = SchemeReport {
                scheme,
                damage: 0.0,
                bytes: 0,
                bits_per_weight: 0.0,
                correlation: rank_correlation(&pairs(&found, Some(scheme))),
            };
            let mut bits = 0;
            for linear in &found.linears {
                // A pinned linear has what the recipe says.
                let option = linear.options.iter().find(|option| option.scheme == scheme);
                let Some(option) = option.or(linear.options.first()) else { continue };
                report.damage += found.damage(linear, option).unwrap_or(0.0);
                report.bytes += option.bytes();
                bits += option.bits(linear.weights);
            }
            report.bits_per_weight = bits as f64 / weights.max(1) as f64;
            report
        };
        Report {
            output: output.display().to_string(),
            linears: found.linears.len(),
            tokens: setting.chunks * setting.context,
            schemes: setting.schemes.iter().map(of).collect(),
            correlation: rank_correlation(&pairs(&found, None)),
            measured_seconds: spent.measuring.as_secs_f64(),
            estimated_seconds: spent.estimating.as_secs_f64(),
            found,
            warnings,
        }
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How estimates agree with measurements, and what both took.
    pub fn correlation(&self) -> Option<SensitivityCorrelation> {
        self.correlation.map(|spearman| SensitivityCorrelation {
            spearman,
            seconds_measured: self.measured_seconds,
            seconds_proxy: self.estimated_seconds,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} linears, demoted one by one over {} tokens: {}\n\n",
            self.linears,
            self.tokens,
            escaped(&self.output),
        );
        let headers =
            ["all linears at", "bits/weight", "bytes", "sum of damages", "rank correlation"];
        let mut all = table::with_headers(&headers, &[1, 2, 3, 4]);
        for scheme in &self.schemes {
            all.add_row([
                scheme.scheme.name().to_owned(),
                format!("{:.3}", scheme.bits_per_weight),
                scheme.bytes.to_string(),
                format!("{:.6}", scheme.damage),
                shown(scheme.correlation),
            ]);
        }
        let _ = writeln!(text, "{all}\n");
        let schemes: Vec<&str> =
            self.found.setting.schemes.iter().map(|scheme| scheme.name()).collect();
        let headers: Vec<&str> = ["most damaged"].into_iter().chain(schemes).collect();
        let numbers: Vec<usize> = (1..headers.len()).collect();
        let mut worst = table::with_headers(&headers, &numbers);
        let mut linears: Vec<_> = self.found.linears.iter().collect();
        let damage = |linear: &super::file::Linear| {
            let of = linear.options.iter().filter_map(|option| self.found.damage(linear, option));
            of.fold(0.0, f64::max)
        };
        linears.sort_by(|a, b| damage(b).total_cmp(&damage(a)));
        for linear in linears.iter().take(LISTED) {
            let cells = self.found.setting.schemes.iter().map(|scheme| {
                let option = linear.options.iter().find(|option| option.scheme == *scheme);
                let damage = option.and_then(|option| self.found.damage(linear, option));
                damage.map_or(String::new(), |damage| format!("{damage:.7}"))
            });
            let pinned = if linear.pinned { " (pinned)" } else { "" };
            let name = format!("{}{pinned}", escaped(&linear.name));
            worst.add_row([name].into_iter().chain(cells).collect::<Vec<_>>());
        }
        let _ = writeln!(text, "{worst}\n");
        let _ = match (self.found.setting.measured, self.correlation) {
            (true, Some(correlation)) => writeln!(
                text,
                "estimates from outputs on sampled rows: rank correlation {correlation:.3} with these; they took \
                 {:.1} s, measuring each linear {:.1} s more",
                self.estimated_seconds, self.measured_seconds,
            ),
            (true, None) => Ok(()),
            (false, _) => writeln!(
                text,
                "estimates, in {:.1} s: errors of outputs on sampled rows, times what their layer makes of \
                 them; without `--estimate` each linear is measured",
                self.estimated_seconds,
            ),
        };
        text
    }
}

fn shown(correlation: Option<f64>) -> String {
    correlation.map_or(String::new(), |correlation| format!("{correlation:.3}"))
}

/// Estimated and measured damage, where there are both, but for the layer whose measurements the
/// estimates are made of.
fn pairs(found: &Sensitivities, scheme: Option<Scheme>) -> Vec<(f64, f64)> {
    let middle = u64::try_from(found.layers.len().saturating_sub(1) / 2).ok();
    let others = found.linears.iter().filter(|linear| linear.layer != middle);
    let options =
        others.flat_map(|linear| linear.options.iter().map(move |option| (linear, option)));
    options
        .filter(|(_, option)| scheme.is_none_or(|scheme| scheme == option.scheme))
        .filter_map(|(linear, option)| Some((found.estimate(linear, option)?, option.kld?)))
        .collect()
}
