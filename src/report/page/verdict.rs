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
            @if let Some(pack) = report.pack {
                @if let (Some(decode), Some(prefill)) =
                    (pack.decode_tokens_per_second, pack.prefill_tokens_per_second)
                {
                    p {
                        "By the board's rates its linears leave room for "
                        (figure("/pack/decode_tokens_per_second", decode))
                        " tokens/s of decoding and "
                        (figure("/pack/prefill_tokens_per_second", prefill))
                        " of prompts."
                    }
                }
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
            Budget::TargetDecode(rate) => { "at least " (figure(&field, rate)) " tokens/s of decoding" }
            Budget::TargetPrefill(rate) => { "at least " (figure(&field, rate)) " tokens/s of prompts" }
        }
    }
}

/// Whether a bound was kept, where the report can tell.
fn kept(budget: Budget, report: &Report) -> Markup {
    let kept = match budget {
        Budget::TargetBpw(bits) => report.pack.map(|pack| pack.bits_per_weight <= bits),
        Budget::TargetSize(bytes) => report.pack.map(|pack| pack.bytes <= bytes),
        Budget::MaxKld(kld) => report.prediction.measured_kld.map(|measured| measured <= kld),
        Budget::TargetDecode(rate) => {
            report.pack.and_then(|pack| pack.decode_tokens_per_second).map(|found| found >= rate)
        }
        Budget::TargetPrefill(rate) => {
            report.pack.and_then(|pack| pack.prefill_tokens_per_second).map(|found| found >= rate)
        }
    };
    html! {
        @match kept {
            Some(true) => { " – " strong { "✓ kept" } }
            Some(false) => { " – " strong { "✗ not kept" } }
            None => {}
        }
    }
}
