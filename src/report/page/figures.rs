//! Pictures in the page, each with what it shows in words.

use maud::{Markup, html};
use tessera_formats::escape::escaped;

use super::cells::{ABSENT, figure, optional};
use super::tables;
use crate::report::data::{HistogramOf, Report};
use crate::report::pictures::layers::Class;
use crate::report::pictures::{self, Picture};

/// Histograms shown: of the linears with the most damage.
const HISTOGRAMS: usize = 8;

/// A picture with its caption, in a frame that scrolls where the page is narrower.
fn framed(picture: &Picture, class: &str, label: &str, caption: &Markup) -> Markup {
    html! {
        figure {
            figcaption { (caption) }
            div.scroll tabindex="0" role="region" aria-label=(label) { (picture.markup(class, label)) }
        }
    }
}

/// Bits against damage.
pub fn frontier(report: &Report) -> anyhow::Result<Markup> {
    let caption = html! {
        "Dots: the best choices found, by their predicted KL divergence (ring: chosen; ×: measured). Triangles: \
         the measured models of the ladder, as far as they have similar bits. Logarithmic upwards; lower is \
         better."
    };
    let picture = pictures::frontier::frontier(report)?;
    Ok(html! {
        section aria-labelledby="frontier" {
            h2 id="frontier" { "Bits and KL divergence" }
            @match picture {
                Some(picture) => {
                    (framed(&picture, "medium", "Bits per weight against KL divergence", &caption))
                }
                None => { p.note { "There is no KL divergence to show." } }
            }
            @if !report.frontier.is_empty() { (tables::frontier(&report.frontier)) }
        }
    })
}

/// Damage by layer, and by layer and operator.
pub fn layers(report: &Report) -> anyhow::Result<Markup> {
    let bars = pictures::layers::layers(report)?;
    let map = pictures::sensitivity::map(report)?;
    let bars_caption = html! {
        "Damage, in nats, of each layer’s linears at their schemes, each alone, one upon the other. From the \
         bottom: "
        @for (index, class) in Class::ALL.into_iter().enumerate() {
            @if index > 0 { ", " }
            (swatch(class)) " " (class.name())
        }
        ". – is outside the layers."
    };
    let map_caption = html! {
        "Damage of each linear at its scheme, alone: lighter is worse, on a logarithmic scale. Struck \
         through: none, or not measured. The pointer shows a linear and its value."
    };
    Ok(html! {
        section aria-labelledby="sensitivity" {
            h2 id="sensitivity" { "Where it comes from" }
            @if let Some(bars) = &bars {
                (framed(bars, "wide", "KL divergence per layer", &bars_caption))
            }
            @match &map {
                Some(map) => {
                    (framed(map, "wide", "KL divergence per layer and operator", &map_caption))
                }
                None => { p.note { "No damage was measured." } }
            }
        }
    })
}

/// The color of a class.
fn swatch(class: Class) -> Markup {
    let color = class.color();
    html! {
        svg.swatch width="12" height="12" viewBox="0 0 12 12" aria-hidden="true" {
            rect width="12" height="12" fill=(format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)) {}
        }
    }
}

/// Histograms of the linears with the most damage.
pub fn histograms(report: &Report) -> anyhow::Result<Markup> {
    let mut order: Vec<_> = report
        .tensors
        .iter()
        .enumerate()
        .filter(|(_, tensor)| !tensor.histograms.is_empty())
        .collect();
    order.sort_by(|(_, a), (_, b)| {
        let damage = |damage: Option<f64>| damage.unwrap_or(f64::NEG_INFINITY);
        damage(b.damage).total_cmp(&damage(a.damage))
    });
    let mut shown = Vec::new();
    let linears = order.into_iter().take(HISTOGRAMS);
    let numbered = linears.flat_map(|(index, tensor)| {
        let of_linear = tensor.histograms.iter().enumerate();
        of_linear.map(move |(which, histogram)| (index, which, tensor, histogram))
    });
    for (index, which, tensor, histogram) in numbered {
        let place = format!("/tensors/{index}/histograms/{which}");
        let picture = pictures::histogram::histogram(&place, histogram)?;
        let of = match histogram.of {
            HistogramOf::Weights => "weights in steps of their scales",
            HistogramOf::Inputs => "rotated inputs",
        };
        let field = |name: &str| format!("{place}/{name}");
        let label = format!("Magnitudes of the {of} of {}", escaped(&tensor.name));
        shown.push(html! {
            figure {
                figcaption {
                    div.name { (escaped(&tensor.name)) }
                    (of) ", " (escaped(&tensor.scheme)) "; clip "
                    (optional(histogram.clip.map(|clip| figure(&field("clip"), clip))))
                    ", bins of " (figure(&field("bin_width"), histogram.bin_width))
                }
                @match picture {
                    Some(picture) => { (picture.markup("small", &label)) }
                    None => { p.note { (ABSENT) } }
                }
            }
        });
    }
    Ok(html! {
        section aria-labelledby="histograms" {
            h2 id="histograms" { "Histograms" }
            @if shown.is_empty() {
                p.note { "No histogram was taken." }
            } @else {
                p.note {
                    "Magnitudes in the linears with the most damage, counts on a logarithmic scale. Beyond \
                     the line, values are clipped: 4-bit weights on the longer side of their row one \
                     step later."
                }
                div.multiples { @for histogram in &shown { (histogram) } }
            }
        }
    })
}
