//! The first lines: what was asked for, and what came out.

use maud::{Markup, html};
use tessera_formats::escape::escaped;

use super::cells::{bytes, figure};
use crate::report::data::{Budget, Report};

/// What was asked for, and what came out.
pub fn verdict(report: &Report) -> Markup {
    let chosen = report.frontier.iter().enumerate().find(|(_, point)| point.chosen);
    let prediction = &report.prediction;
    html! {
        div.verdict {
            p {
                "Asked for: "
                @if report.budget.is_empty() { "nothing in particular." }
                @for (index, budget) in report.budget.iter().enumerate() {
                    @if index > 0 { "; " }
                    (asked(index, *budget))
                    (kept(*budget, report))
                }
            }
            p {
                "Came out: "
                @if let Some(pack) = report.pack {
                    "a pack of " (bytes("/pack/bytes", pack.bytes)) ", "
                    (figure("/pack/bits_per_weight", pack.bits_per_weight))
                    " bits per weight without padding; linears of "
                }
                @if let Some((index, point)) = chosen {
                    (bytes(&format!("/frontier/{index}/bytes"), point.bytes)) ", "
                    (figure(&format!("/frontier/{index}/bits_per_weight"), point.bits_per_weight))
                    " bits per weight as stored, "
                }
                "KL divergence predicted "
                (figure("/prediction/predicted_kld", prediction.predicted_kld))
                @match prediction.measured_kld {
                    Some(kld) => {
                        ", measured " (figure("/prediction/measured_kld", kld))
                        @if let Some(ratio) = prediction.ratio {
                            " (" (figure("/prediction/ratio", ratio)) " times the prediction)"
                        }
                        @if let Some(text) = &prediction.text { " on " (escaped(text)) }
                    }
                    None => { ", not measured" }
                }
                "."
            }
        }
    }
}

fn asked(index: usize, budget: Budget) -> Markup {
    let field = format!("/budget/{index}/value");
    html! {
        @match budget {
            Budget::TargetBpw(bits) => { "at most " (figure(&field, bits)) " bits per weight" }
            Budget::TargetSize(size) => { "at most " (bytes(&field, size)) }
            Budget::MaxKld(kld) => { "a KL divergence of at most " (figure(&field, kld)) }
            Budget::Time(seconds) => { "a search of at most " (figure(&field, seconds)) " s" }
        }
    }
}

/// Whether a bound was kept, where the report can tell.
fn kept(budget: Budget, report: &Report) -> Markup {
    let kept = match budget {
        Budget::TargetBpw(bits) => report.pack.map(|pack| pack.bits_per_weight <= bits),
        Budget::TargetSize(bytes) => report.pack.map(|pack| pack.bytes <= bytes),
        Budget::MaxKld(kld) => report.prediction.measured_kld.map(|measured| measured <= kld),
        Budget::Time(_) => None,
    };
    html! {
        @match kept {
            Some(true) => { " – " strong { "✓ kept" } }
            Some(false) => { " – " strong { "✗ not kept" } }
            None => {}
        }
    }
}
