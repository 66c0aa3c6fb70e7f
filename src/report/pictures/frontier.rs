//! Bits against damage: the frontier, the choice on it, and measured models.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::{Circle, Color, Cross, PathElement, SVGBackend, Text, TriangleMarker};
use plotters::style::text_anchor::{HPos, VPos};

use tessera_formats::escape::escaped;

use super::axis::Axis;
use super::color::{CLASSES, INK, LINE, QUIET, cut, font, stroke, text};
use super::place::Places;
use super::{Area, Mark, Picture, failed};
use crate::report::data::Report;
use crate::report::number::{Number, tick};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (680, 420);

/// Bits per weight beside the frontier that are shown, for models that are compared with it.
const BESIDE: f64 = 1.25;

/// Characters of a label.
const LABEL: usize = 18;

/// Radius of a point that can be pointed at.
const REACH: i32 = 7;

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// A point, in bits per weight and nats.
type Point = (f64, f64);

/// The picture; `None` where nothing has a KL divergence above 0.
pub fn frontier(report: &Report) -> anyhow::Result<Option<Picture>> {
    let points = &report.frontier;
    let on_it = Axis::linear(points.iter().map(|point| point.bits_per_weight), 0.5);
    let near = |bits: f64| {
        let (Axis::Linear(range) | Axis::Log(range)) = &on_it;
        points.is_empty() || (range.start - BESIDE..=range.end + BESIDE).contains(&bits)
    };
    let ladder: Vec<(usize, Point)> = report
        .ladder
        .iter()
        .enumerate()
        .filter_map(|(index, row)| Some((index, (row.bits_per_weight, row.mean_kld?))))
        .filter(|&(_, (bits, kld))| near(bits) && kld > 0.0)
        .collect();
    let klds = points
        .iter()
        .flat_map(|point| [Some(point.predicted_kld), point.measured_kld])
        .flatten()
        .chain(ladder.iter().map(|(_, (_, kld))| *kld));
    let Some(vertical) = Axis::log(klds) else { return Ok(None) };
    let bits = points.iter().map(|point| point.bits_per_weight);
    let horizontal = Axis::linear(bits.chain(ladder.iter().map(|(_, (bits, _))| *bits)), 0.5);
    Picture::draw(SIZE, |area| {
        let mut chart = chart(area, horizontal, vertical)?;
        draw(&mut chart, report, &ladder)
    })
    .map(Some)
}

fn chart<'a>(area: &Area<'a>, horizontal: Axis, vertical: Axis) -> anyhow::Result<Chart<'a>> {
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(horizontal, vertical)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .axis_style(stroke(QUIET, 1))
        .bold_line_style(stroke(LINE, 1))
        .x_labels(10)
        .y_labels(10)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style(font().color(&INK))
        .axis_desc_style(font().color(&INK))
        .x_desc("bits per weight")
        .y_desc("KL divergence, nats")
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

fn draw(
    chart: &mut Chart<'_>,
    report: &Report,
    ladder: &[(usize, Point)],
) -> anyhow::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    let mut mark = |chart: &Chart<'_>, point: Point, title: String, field: String, value| {
        let (x, y) = chart.backend_coord(&point);
        let place = [x - REACH, y - REACH, x + REACH, y + REACH];
        marks.push(Mark { place, title, field, number: Number::Figure(value) });
        (x, y)
    };
    let mut places = Places::new(frame(chart));
    let mut labels: Vec<((i32, i32), String)> = Vec::new();

    let mut line: Vec<Point> =
        report.frontier.iter().map(|point| (point.bits_per_weight, point.predicted_kld)).collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    for ends in line.windows(2) {
        let [from, to] = [0, 1].map(|end| chart.backend_coord(&ends[end]));
        let steps = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / 6).max(1);
        for step in 0..=steps {
            let x = from.0 + (to.0 - from.0) * step / steps;
            let y = from.1 + (to.1 - from.1) * step / steps;
            places.take([x - 2, y - 2, x + 2, y + 2]);
        }
    }
    let line = PathElement::new(line, stroke(QUIET, 2));
    chart.draw_series([line]).map_err(failed)?;
    for (index, point) in report.frontier.iter().enumerate() {
        let predicted = (point.bits_per_weight, point.predicted_kld);
        let bits = Number::Figure(point.bits_per_weight).shown();
        let field = |name: &str| format!("/frontier/{index}/{name}");
        let (x, y) = mark(
            chart,
            predicted,
            format!("{bits} bits per weight, predicted"),
            field("predicted_kld"),
            point.predicted_kld,
        );
        places.take([x - 3, y - 3, x + 3, y + 3]);
        if let Some(kld) = point.measured_kld {
            let measured = (point.bits_per_weight, kld);
            let link = PathElement::new(vec![predicted, measured], stroke(QUIET, 1));
            chart.draw_series([link]).map_err(failed)?;
            chart.draw_series([Cross::new(measured, 5, stroke(INK, 2))]).map_err(failed)?;
            let title = format!("{bits} bits per weight, measured");
            let (x, y) = mark(chart, measured, title, field("measured_kld"), kld);
            places.take([x - 5, y - 5, x + 5, y + 5]);
        }
        if point.chosen {
            // A ring, because what was measured may lie inside it.
            chart
                .draw_series([Circle::new(predicted, 9, stroke(CLASSES[2], 5))])
                .map_err(failed)?;
            chart.draw_series([Circle::new(predicted, 11, stroke(INK, 1))]).map_err(failed)?;
            places.take([x - 9, y - 9, x + 9, y + 9]);
            labels.push(((x, y), "chosen".to_owned()));
        }
        chart.draw_series([Circle::new(predicted, 3, QUIET.filled())]).map_err(failed)?;
    }
    for &(index, point) in ladder {
        let Some(row) = report.ladder.get(index) else { continue };
        let label = cut(&row.name, LABEL);
        let triangle = TriangleMarker::new(point, 6, CLASSES[0].filled());
        chart.draw_series([triangle]).map_err(failed)?;
        let field = format!("/ladder/{index}/mean_kld");
        let title = escaped(&row.name);
        let (x, y) = mark(chart, point, title, field, point.1);
        places.take([x - 6, y - 6, x + 6, y + 6]);
        // The choice itself may have been measured: two names for one place.
        let near = |at: (i32, i32)| (at.0 - x).abs() < REACH && (at.1 - y).abs() < REACH;
        match labels.iter_mut().find(|(at, _)| near(*at)) {
            Some((_, there)) => there.extend([", ", &label]),
            None => labels.push(((x, y), label)),
        }
    }
    for (at, label) in labels {
        // One without a place is told under the pointer, and in the table.
        let Some(([left, top, right, bottom], side)) = places.beside(at, &label) else { continue };
        let x = match side {
            HPos::Left => left,
            HPos::Right => right,
            HPos::Center => i32::midpoint(left, right),
        };
        let style = text(INK, side, VPos::Center);
        let area = chart.plotting_area().strip_coord_spec();
        let (first, highest) = area.get_base_pixel();
        let at = (x - first, i32::midpoint(top, bottom) - highest);
        area.draw(&Text::new(label, at, style)).map_err(failed)?;
    }
    Ok(marks)
}

/// The inside of the axes, in pixels of the picture.
fn frame(chart: &Chart<'_>) -> [i32; 4] {
    let (horizontal, vertical) = chart.plotting_area().get_pixel_range();
    [horizontal.start, vertical.start, horizontal.end, vertical.end]
}
