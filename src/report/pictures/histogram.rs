//! The distribution of a linear's weights or inputs, with the magnitude at which it is clipped.

use plotters::chart::ChartBuilder;
use plotters::prelude::{Color, PathElement, Polygon, Text};
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::color::{CLASSES, INK, LINE, QUIET, font, stroke, text};
use super::{Mark, Picture, failed};
use crate::report::data::Histogram;
use crate::report::number::{Number, tick};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (280, 170);

/// A histogram that stands at `field` of the JSON; `None` where it is of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts and bins, for a picture")]
pub fn histogram(field: &str, histogram: &Histogram) -> anyhow::Result<Option<Picture>> {
    let Histogram { bin_width, counts, clip, .. } = histogram;
    let most = counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return Ok(None);
    }
    let end = bin_width * counts.len() as f64;
    // The clip is shown where it is beyond all values, too, unless it is far beyond.
    let reach = clip.filter(|&clip| clip > end).map_or(end, |clip| (clip * 1.05).min(end * 3.0));
    // One value stands above the axis, none on it.
    let vertical = Axis::Log(0.5..most as f64 * 2.0);
    Picture::draw(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(18)
            .margin_right(14)
            .x_label_area_size(24)
            .y_label_area_size(56)
            .build_cartesian_2d(Axis::Linear(0.0..reach), vertical)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .axis_style(stroke(QUIET, 1))
            .bold_line_style(stroke(LINE, 1))
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|value| tick(*value))
            .label_style(font().color(&INK))
            .draw()
            .map_err(failed)?;
        let mut outline = vec![(0.0, 0.5)];
        for (bin, &count) in counts.iter().enumerate() {
            let height = (count as f64).max(0.5);
            outline.push((bin_width * bin as f64, height));
            outline.push((bin_width * (bin + 1) as f64, height));
        }
        outline.push((end, 0.5));
        chart.draw_series([Polygon::new(outline, CLASSES[0].filled())]).map_err(failed)?;
        let mut marks = Vec::new();
        if let Some(clip) = clip.filter(|clip| (0.0..=reach).contains(clip)) {
            let line = [(clip, 0.5), (clip, most as f64 * 2.0)];
            chart.draw_series([PathElement::new(line, stroke(INK, 2))]).map_err(failed)?;
            let (x, top) = chart.backend_coord(&line[1]);
            let (_, bottom) = chart.backend_coord(&line[0]);
            let beside = if x > 200 { (HPos::Right, x - 2) } else { (HPos::Left, x + 2) };
            let style = text(INK, beside.0, VPos::Bottom);
            area.draw(&Text::new("clip", (beside.1, top - 3), style)).map_err(failed)?;
            marks.push(Mark {
                place: [x - 4, top, x + 4, bottom],
                title: "clip".to_owned(),
                field: format!("{field}/clip"),
                number: Number::Figure(clip),
            });
        }
        Ok(marks)
    })
    .map(Some)
}
