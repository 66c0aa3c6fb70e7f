//! Pictures: SVG drawn by plotters, and over it the marks that tell what is under the pointer.

mod axis;
mod color;
pub mod frontier;
pub mod histogram;
pub mod layers;
mod place;
pub mod sensitivity;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};

use super::number::Number;

/// Where something is drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An error of drawing. The backend writes to memory, so that there is none but our own.
fn failed(error: impl std::error::Error) -> anyhow::Error {
    anyhow::anyhow!("a picture of the report: {error}")
}

/// A picture for the page.
pub struct Picture {
    /// Width and height in pixels, at which its text is of the size of small print.
    size: (u32, u32),
    /// What plotters drew, without the element around it.
    drawn: String,
    /// What is told of it.
    marks: Vec<Mark>,
}

/// A place in a picture that stands for something in the report.
struct Mark {
    /// Left, top, right and bottom in pixels.
    place: [i32; 4],
    /// What it is, without its number.
    title: String,
    /// Place in the JSON of its number.
    field: String,
    /// Its number.
    number: Number,
}

impl Picture {
    /// A picture that `draw` makes, with its marks.
    fn draw(
        size: (u32, u32),
        draw: impl FnOnce(&Area<'_>) -> anyhow::Result<Vec<Mark>>,
    ) -> anyhow::Result<Self> {
        let mut svg = String::new();
        let marks = {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let marks = draw(&area)?;
            area.present().map_err(failed)?;
            marks
        };
        // The element is made by the page, with what plotters does not put into it.
        let drawn = svg
            .split_once('>')
            .and_then(|(_, rest)| rest.rsplit_once("</svg>"))
            .map(|(drawn, _)| drawn.to_owned());
        let drawn = drawn.ok_or_else(|| anyhow::anyhow!("plotters drew no SVG"))?;
        Ok(Picture { size, drawn, marks })
    }

    /// The picture as an element; `class` says how wide it must be to be read, `label` what it shows.
    pub fn markup(&self, class: &str, label: &str) -> Markup {
        let (width, height) = self.size;
        html! {
            svg class=(class) width=(width) height=(height) viewBox=(format!("0 0 {width} {height}"))
                role="img" aria-label=(label)
            {
                (PreEscaped(&self.drawn))
                g.marks { @for mark in &self.marks {
                    @let [left, top, right, bottom] = mark.place;
                    rect x=(left) y=(top) width=((right - left).max(1)) height=((bottom - top).max(1))
                        data-field=(mark.field) data-value=(mark.number.exact())
                    { title { (mark.title) ": " (mark.number.shown()) } }
                } }
            }
        }
    }
}
