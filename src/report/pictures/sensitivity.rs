//! Damage by layer and operator, as a map of colors.

use plotters::prelude::{Color, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, VPos};
use tessera_formats::escape::escaped;

use super::axis::Axis;
use super::color::{INK, QUIET, cut, heat, stroke, text};
use super::layers::{Class, Columns};
use super::{Area, Mark, Picture, failed};
use crate::report::data::{Report, Tensor};
use crate::report::number::{Number, tick};

/// Width, in pixels, as of the bars above it.
const WIDTH: u32 = 900;

/// Height of a row, in pixels.
const ROW: i32 = 24;

/// Room above the rows.
const TOP: i32 = 8;

/// Room below them: labels of layers, the scale and its labels.
const BELOW: i32 = 104;

/// Operators that are shown; of a model with more, those in which the damage is largest.
const MOST_ROWS: usize = 32;

/// Letters of an operator's name.
const LABEL: usize = 15;

/// Decades that colors tell apart.
const DECADES: f64 = 6.0;

/// The map; `None` where no damage is above 0.
pub fn map(report: &Report) -> anyhow::Result<Option<Picture>> {
    let known = |tensor: &Tensor| tensor.damage.filter(|&damage| damage > 0.0);
    let largest = report.tensors.iter().filter_map(known).fold(0.0, f64::max);
    let floor = largest * 10f64.powf(-DECADES);
    let shown = report.tensors.iter().filter_map(known).map(|damage| damage.max(floor));
    let Some(scale) = Axis::log(shown) else { return Ok(None) };
    let operators = operators(&report.tensors);
    let columns = Columns::new(&report.tensors);
    let bottom = TOP + ROW * i32::try_from(operators.len())?;
    let size = (WIDTH, u32::try_from(bottom + BELOW)?);
    Picture::draw(size, |area| {
        for (row, operator) in (0..).zip(&operators) {
            let at = (Columns::LEFT - 8, TOP + ROW * row + ROW / 2);
            let style = text(INK, HPos::Right, VPos::Center);
            area.draw(&Text::new(cut(operator, LABEL), at, style)).map_err(failed)?;
        }
        let marks = cells(area, &report.tensors, &operators, &columns, &scale)?;
        columns.label(area, bottom + 6)?;
        legend(area, &scale, bottom + 56)?;
        Ok(marks)
    })
    .map(Some)
}

/// The rows: attention, feed-forward, others, each in the model's order.
fn operators(tensors: &[Tensor]) -> Vec<&str> {
    let mut found: Vec<(&str, f64)> = Vec::new();
    for tensor in tensors {
        let damage = tensor.damage.unwrap_or(0.0);
        match found.iter_mut().find(|(operator, _)| *operator == tensor.operator) {
            Some((_, most)) => *most = most.max(damage),
            None => found.push((&tensor.operator, damage)),
        }
    }
    if found.len() > MOST_ROWS {
        found.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        found.truncate(MOST_ROWS);
    }
    found.sort_by_key(|(operator, _)| Class::of(operator));
    found.into_iter().map(|(operator, _)| operator).collect()
}

fn cells(
    area: &Area<'_>,
    tensors: &[Tensor],
    operators: &[&str],
    columns: &Columns,
    scale: &Axis,
) -> anyhow::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    // Where several linears have one place, the one with the most damage is drawn last.
    let mut order: Vec<_> = tensors.iter().enumerate().collect();
    let least = |tensor: &Tensor| tensor.damage.unwrap_or(f64::NEG_INFINITY);
    order.sort_by(|(_, a), (_, b)| least(a).total_cmp(&least(b)));
    for (index, tensor) in order {
        let row = (0..).zip(operators).find(|(_, operator)| **operator == tensor.operator);
        let Some((row, _)) = row else { continue };
        let (left, right) = columns.ends(tensor.layer);
        let top: i32 = TOP + ROW * row;
        let corners = [(left, top), ((right - 1).max(left), top + ROW - 1)];
        match tensor.damage {
            Some(damage) if damage > 0.0 => {
                let color = heat(scale.part(damage));
                area.draw(&Rectangle::new(corners, color.filled())).map_err(failed)?;
            }
            // Neither dark nor light: a stroke through it.
            _ => {
                let [first, last] = corners;
                let through = [(first.0, last.1), (last.0, first.1)];
                area.draw(&Rectangle::new(corners, stroke(QUIET, 1))).map_err(failed)?;
                area.draw(&PathElement::new(through, stroke(QUIET, 1))).map_err(failed)?;
            }
        }
        if let Some(damage) = tensor.damage {
            marks.push(Mark {
                place: [left, top, right, top + ROW],
                title: format!("{}, {}", escaped(&tensor.name), escaped(&tensor.scheme)),
                field: format!("/tensors/{index}/damage"),
                number: Number::Figure(damage),
            });
        }
    }
    Ok(marks)
}

/// The scale of colors.
fn legend(area: &Area<'_>, scale: &Axis, top: i32) -> anyhow::Result<()> {
    const STEPS: i32 = 96;
    const WIDTH: i32 = 480;
    let left = Columns::LEFT;
    for step in 0..STEPS {
        let ends = [step, step + 1].map(|step| left + WIDTH * step / STEPS);
        let color = heat((f64::from(step) + 0.5) / f64::from(STEPS));
        // Each reaches under the next, so that no seam is seen between them.
        let corners = [(ends[0], top), (ends[1] + 1, top + 14)];
        area.draw(&Rectangle::new(corners, color.filled())).map_err(failed)?;
    }
    let style = text(INK, HPos::Right, VPos::Center);
    area.draw(&Text::new("damage (KLD)", (left - 8, top + 7), style)).map_err(failed)?;
    for value in scale.ticks(10) {
        #[expect(clippy::cast_possible_truncation, reason = "a pixel of a picture")]
        let x = left + (scale.part(value) * f64::from(WIDTH)).round() as i32;
        let line = PathElement::new([(x, top + 14), (x, top + 18)], stroke(QUIET, 1));
        area.draw(&line).map_err(failed)?;
        let style = text(INK, HPos::Center, VPos::Top);
        area.draw(&Text::new(tick(value), (x, top + 22), style)).map_err(failed)?;
    }
    Ok(())
}
