//! Damage by layer: a bar for each, of its linears.

use std::collections::BTreeMap;

use plotters::prelude::{Color, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, VPos};
use tessera_formats::escape::escaped;

use super::axis::Axis;
use super::color::{CLASSES, INK, LINE, PAPER, QUIET, stroke, text};
use super::{Area, Mark, Picture, failed};
use crate::report::data::{Report, Tensor};
use crate::report::number::{Number, tick};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (900, 300);

/// What a linear is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Attention.
    Attention,
    /// The feed-forward network, experts included.
    FeedForward,
    /// Anything else, such as the head.
    Other,
}

impl Class {
    /// Every class, from the bottom of a bar upwards.
    pub const ALL: [Class; 3] = [Class::Attention, Class::FeedForward, Class::Other];

    /// The class of a linear, by what it does.
    pub fn of(operator: &str) -> Self {
        if operator.starts_with("attn") {
            Class::Attention
        } else if operator.starts_with("ffn") {
            Class::FeedForward
        } else {
            Class::Other
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Class::Attention => "attention",
            Class::FeedForward => "feed-forward",
            Class::Other => "other",
        }
    }

    /// Its color.
    pub fn color(self) -> plotters::prelude::RGBColor {
        CLASSES[self as usize]
    }
}

/// Columns of pictures that go through the layers: one for each layer there is, and one for what is
/// outside of them.
pub struct Columns {
    layers: Vec<Option<u32>>,
}

impl Columns {
    /// Left end of the first column, in pixels: room for names of operators, and of ticks.
    pub const LEFT: i32 = 116;
    /// Right end of the last column.
    pub const RIGHT: i32 = 888;

    /// The columns of a report.
    pub fn new(tensors: &[Tensor]) -> Self {
        let mut layers: Vec<_> = tensors.iter().map(|tensor| tensor.layer).collect();
        layers.sort_by_key(Self::order);
        layers.dedup();
        Columns { layers }
    }

    /// Left and right end of a layer's column.
    pub fn ends(&self, layer: Option<u32>) -> (i32, i32) {
        let index =
            self.layers.binary_search_by_key(&Self::order(&layer), Self::order).unwrap_or(0);
        (self.edge(index), self.edge(index + 1))
    }

    /// What is outside the layers comes last.
    fn order(layer: &Option<u32>) -> (bool, Option<u32>) {
        (layer.is_none(), *layer)
    }

    /// Left end of the column of that number.
    fn edge(&self, index: usize) -> i32 {
        let width = usize::try_from(Self::RIGHT - Self::LEFT).unwrap_or(0);
        let offset = index.saturating_mul(width) / self.layers.len().max(1);
        Self::LEFT + i32::try_from(offset).unwrap_or(0)
    }

    /// Writes below `top` which layers the columns are.
    pub fn label(&self, area: &Area<'_>, top: i32) -> anyhow::Result<()> {
        let style = text(INK, HPos::Center, VPos::Top);
        let layers = self.layers.iter().flatten().count();
        let step = layers.div_ceil(24).max(1);
        for (index, layer) in self.layers.iter().enumerate() {
            let middle = i32::midpoint(self.edge(index), self.edge(index + 1));
            let label = match layer {
                Some(layer) if index % step == 0 => layer.to_string(),
                Some(_) => continue,
                None => "–".to_owned(),
            };
            area.draw(&Text::new(label, (middle, top), style.clone())).map_err(failed)?;
        }
        let middle = i32::midpoint(Self::LEFT, Self::RIGHT);
        area.draw(&Text::new("layer", (middle, top + 20), style)).map_err(failed)
    }
}

/// The bars; `None` where no damage is above 0.
pub fn layers(report: &Report) -> anyhow::Result<Option<Picture>> {
    let columns = Columns::new(&report.tensors);
    let mut bars: BTreeMap<_, Vec<(usize, &Tensor, f64)>> = BTreeMap::new();
    for (index, tensor) in report.tensors.iter().enumerate() {
        if let Some(damage) = tensor.damage.filter(|&damage| damage > 0.0) {
            bars.entry(tensor.layer).or_default().push((index, tensor, damage));
        }
    }
    let highest = bars.values().map(|bar| bar.iter().map(|(_, _, damage)| damage).sum::<f64>());
    let highest = highest.fold(0.0, f64::max);
    if highest <= 0.0 {
        return Ok(None);
    }
    let axis = Axis::Linear(0.0..highest * 1.05);
    Picture::draw(SIZE, |area| {
        let (top, bottom) = (12, i32::try_from(SIZE.1)? - 46);
        #[expect(clippy::cast_possible_truncation, reason = "a pixel of a picture")]
        let height =
            |value: f64| bottom - (axis.part(value) * f64::from(bottom - top)).round() as i32;
        for value in axis.ticks(6) {
            let y = height(value);
            let line = PathElement::new([(Columns::LEFT, y), (Columns::RIGHT, y)], stroke(LINE, 1));
            area.draw(&line).map_err(failed)?;
            let style = text(INK, HPos::Right, VPos::Center);
            area.draw(&Text::new(tick(value), (Columns::LEFT - 8, y), style)).map_err(failed)?;
        }
        let mut marks = Vec::new();
        for (layer, mut bar) in bars {
            bar.sort_by_key(|(index, tensor, _)| (Class::of(&tensor.operator), *index));
            let (left, right) = columns.ends(layer);
            let gap = (right - left) / 8;
            let mut sum = 0.0;
            for (index, tensor, damage) in bar {
                let ends = (height(sum), height(sum + damage));
                sum += damage;
                let corners = [(left + gap, ends.0), (right - gap, ends.1)];
                let color = Class::of(&tensor.operator).color();
                area.draw(&Rectangle::new(corners, color.filled())).map_err(failed)?;
                // A line of paper between the linears.
                if ends.0 - ends.1 > 2 {
                    let edge = [(left + gap, ends.1), (right - gap, ends.1)];
                    area.draw(&PathElement::new(edge, stroke(PAPER, 1))).map_err(failed)?;
                }
                marks.push(Mark {
                    place: [left + gap, ends.1, right - gap, ends.0],
                    title: escaped(&tensor.name),
                    field: format!("/tensors/{index}/damage"),
                    number: Number::Figure(damage),
                });
            }
        }
        let base = [(Columns::LEFT, bottom), (Columns::RIGHT, bottom)];
        area.draw(&PathElement::new(base, stroke(QUIET, 1))).map_err(failed)?;
        columns.label(area, bottom + 6)?;
        Ok(marks)
    })
    .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_classes() {
        for (operator, class) in [
            ("attn_q", Class::Attention),
            ("ffn_down_exps", Class::FeedForward),
            ("output", Class::Other),
            ("", Class::Other),
        ] {
            assert_eq!(Class::of(operator), class);
        }
    }
}
