//! Tables: the ladder, the prediction, every linear, its options, the frontier.

use std::collections::BTreeSet;

use maud::{Markup, html};
use tessera_formats::escape::escaped;

use self::Head::{Numbers, Sorting, Words};
use super::cells::{
    ABSENT, bytes_cell, cell, count_cell, figure, figure_cell, name_cell, optional,
};
use crate::report::data::{FrontierPoint, Report, Tensor};
use crate::report::number::Number;

/// A table that scrolls inside its own frame; `tall` ones also downwards.
fn framed(label: &str, tall: bool, table: &Markup) -> Markup {
    html! {
        div.scroll.tall[tall] tabindex="0" role="region" aria-label=(label) { (table) }
    }
}

/// The head of a column.
enum Head<'a> {
    /// Of words.
    Words(&'a str),
    /// Of numbers.
    Numbers(&'a str),
    /// Of the numbers that the rows are sorted by, the largest first.
    Sorting(&'a str),
}

fn heads(heads: &[Head<'_>]) -> Markup {
    html! {
        thead { tr { @for head in heads { @match *head {
            Words(head) => { th scope="col" { (head) } }
            Numbers(head) => { th.number scope="col" { (head) } }
            Sorting(head) => { th.number scope="col" aria-sort="descending" { (head) } }
        } } } }
    }
}

/// Models as they were measured.
pub fn ladder(report: &Report) -> Markup {
    let table = html! {
        table {
            (heads(&[Words("model"), Numbers("bits/weight"), Numbers("bytes"), Numbers("PPL"), Numbers("±"), Numbers("mean KLD"), Numbers("±"), Numbers("same top %")]))
            tbody { @for (index, row) in report.ladder.iter().enumerate() {
                @let field = |name: &str| format!("/ladder/{index}/{name}");
                tr {
                    (name_cell(&row.name))
                    (figure_cell(&field("bits_per_weight"), Some(row.bits_per_weight)))
                    (bytes_cell(&field("bytes"), row.bytes))
                    (figure_cell(&field("ppl"), Some(row.ppl)))
                    (figure_cell(&field("ppl_error"), Some(row.ppl_error)))
                    (figure_cell(&field("mean_kld"), row.mean_kld))
                    (figure_cell(&field("mean_kld_error"), row.mean_kld_error))
                    (figure_cell(&field("same_top"), row.same_top))
                }
            } }
        }
    };
    html! {
        section aria-labelledby="ladder" {
            h2 id="ladder" { "Ladder" }
            @if report.ladder.is_empty() {
                p.note { "No model was measured." }
            } @else {
                p.note { "Measured on the evaluation text; KL divergence in nats." }
                (framed("Ladder", false, &table))
            }
        }
    }
}

/// Points of the frontier.
pub fn frontier(points: &[FrontierPoint]) -> Markup {
    let table = html! {
        table {
            (heads(&[Numbers("bits/weight"), Numbers("bytes"), Numbers("KLD predicted"), Numbers("KLD measured"), Words("chosen")]))
            tbody { @for (index, point) in points.iter().enumerate() {
                @let field = |name: &str| format!("/frontier/{index}/{name}");
                tr.chosen[point.chosen] {
                    (figure_cell(&field("bits_per_weight"), Some(point.bits_per_weight)))
                    (bytes_cell(&field("bytes"), point.bytes))
                    (figure_cell(&field("predicted_kld"), Some(point.predicted_kld)))
                    (figure_cell(&field("measured_kld"), point.measured_kld))
                    td { @if point.chosen { "chosen" } }
                }
            } }
        }
    };
    html! {
        details {
            summary { "The frontier as a table" }
            (framed("Frontier", true, &table))
        }
    }
}

/// What the choice was expected to cost, and how well sensitivities are known.
pub fn prediction(report: &Report) -> Markup {
    let prediction = &report.prediction;
    html! {
        section aria-labelledby="prediction" {
            h2 id="prediction" { "Prediction" }
            dl {
                dt { "KL divergence predicted" }
                dd { (figure("/prediction/predicted_kld", prediction.predicted_kld)) }
                dt { "measured" }
                dd { (optional(prediction.measured_kld.map(|kld| figure("/prediction/measured_kld", kld)))) }
                dt { "measured over predicted" }
                dd { (optional(prediction.ratio.map(|ratio| figure("/prediction/ratio", ratio)))) }
                dt { "text" }
                dd { (prediction.text.as_deref().map_or_else(|| ABSENT.to_owned(), escaped)) }
                @if let Some(sensitivity) = &report.sensitivity {
                    dt { "estimated and measured damage, Spearman" }
                    dd { (figure("/sensitivity/spearman", sensitivity.spearman)) }
                }
            }
        }
    }
}

/// Every linear, by falling damage.
pub fn tensors(tensors: &[Tensor]) -> Markup {
    let mut order: Vec<_> = tensors.iter().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| {
        // What has no damage comes last: below every number.
        let damage = |tensor: &Tensor| tensor.damage.unwrap_or(f64::NEG_INFINITY);
        damage(b).total_cmp(&damage(a))
    });
    let table = html! {
        table.sortable {
            (heads(&[
                Words("linear"), Sorting("damage (KLD)"), Words("scheme"), Numbers("bits/weight"),
                Numbers("bytes"), Numbers("relative error"), Numbers("layer"), Words("operator"),
                Words("pinned"), Numbers("N"), Numbers("K"), Numbers("experts"), Numbers("weights"),
                Numbers("activation clip"),
            ]))
            tbody { @for &(index, tensor) in &order {
                @let field = |name: &str| format!("/tensors/{index}/{name}");
                tr {
                    (name_cell(&tensor.name))
                    (figure_cell(&field("damage"), tensor.damage))
                    td { (escaped(&tensor.scheme)) }
                    (figure_cell(&field("bits_per_weight"), Some(tensor.bits_per_weight)))
                    (bytes_cell(&field("bytes"), tensor.bytes))
                    (figure_cell(&field("relative_error"), tensor.relative_error))
                    (cell(&field("layer"), tensor.layer.map(|layer| Number::Count(layer.into()))))
                    td.name { (escaped(&tensor.operator)) }
                    td { @if tensor.pinned { "pinned" } }
                    (count_cell(&field("n"), tensor.n))
                    (count_cell(&field("k"), tensor.k))
                    (count_cell(&field("experts"), tensor.experts))
                    (count_cell(&field("weights"), tensor.weights))
                    (figure_cell(&field("activation_clip"), tensor.activation_clip))
                }
            } }
        }
    };
    html! {
        section aria-labelledby="linears" {
            h2 id="linears" { "Linears" }
            p.note {
                "Damage is the mean KL divergence, in nats, of the model where only this linear is at its \
                 scheme. A head of the table sorts by its column."
            }
            (framed("Linears", true, &table))
            @if tensors.iter().any(|tensor| !tensor.options.is_empty()) { (options(&order)) }
        }
    }
}

/// What each linear would cost at each scheme that it could have.
fn options(order: &[(usize, &Tensor)]) -> Markup {
    let schemes: BTreeSet<&str> =
        order.iter().flat_map(|(_, t)| &t.options).map(|option| &*option.scheme).collect();
    let figures: Vec<String> = schemes
        .iter()
        .flat_map(|scheme| {
            ["damage", "bytes"].map(|figure| format!("{}: {figure}", escaped(scheme)))
        })
        .collect();
    let columns: Vec<_> = [Words("linear"), Words("chosen")]
        .into_iter()
        .chain(figures.iter().map(|figure| Numbers(figure)))
        .collect();
    let table = html! {
        table.sortable {
            (heads(&columns))
            tbody { @for &(index, tensor) in order {
                tr {
                    (name_cell(&tensor.name))
                    td { (escaped(&tensor.scheme)) }
                    @for scheme in &schemes {
                        @let option = tensor.options.iter().enumerate().find(|(_, o)| o.scheme == *scheme);
                        @match option {
                            Some((place, option)) => {
                                @let field = |name: &str| format!("/tensors/{index}/options/{place}/{name}");
                                (figure_cell(&field("damage"), Some(option.damage)))
                                (bytes_cell(&field("bytes"), option.bytes))
                            }
                            None => { (cell("", None)) (cell("", None)) }
                        }
                    }
                }
            } }
        }
    };
    html! {
        details {
            summary { "What each linear would cost at each scheme" }
            (framed("Options", true, &table))
        }
    }
}
