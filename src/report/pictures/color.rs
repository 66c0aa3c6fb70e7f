//! Colors and letters of pictures. The style sheet exchanges the first four where the page is dark.

use plotters::prelude::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle, ViridisRGB};
use plotters::style::FontDesc;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Of text and axes.
pub const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// Of what matters less.
pub const QUIET: RGBColor = RGBColor(0x5c, 0x5c, 0x5c);

/// Of a grid.
pub const LINE: RGBColor = RGBColor(0xd4, 0xd4, 0xd4);

/// Behind everything.
pub const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Colors that people tell apart whatever they see, and that differ in lightness (Okabe and Ito, *Color
/// Universal Design*, 2008): blue, bluish green, orange.
pub const CLASSES: [RGBColor; 3] =
    [RGBColor(0x00, 0x72, 0xb2), RGBColor(0x00, 0x9e, 0x73), RGBColor(0xe6, 0x9f, 0x00)];

/// Height of letters, in pixels.
const LETTER: f64 = 12.0;

/// plotters writes a size of text divided by this into the SVG.
const SHRUNK: f64 = 1.24;

/// The font of the page, in a picture's size.
pub fn font() -> FontDesc<'static> {
    ("sans-serif", LETTER * SHRUNK).into_font()
}

/// Text of a color, anchored at its position.
pub fn text(color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let color = color.to_backend_color();
    TextStyle { color, ..TextStyle::from(font()).pos(Pos::new(horizontal, vertical)) }
}

/// A line of `width` pixels.
pub fn stroke(color: RGBColor, width: u32) -> ShapeStyle {
    color.stroke_width(width)
}

/// From dark to light as `part` goes from 0 to 1 (viridis), so that it is read without color, too.
pub fn heat(part: f64) -> RGBColor {
    ViridisRGB::get_color(part)
}

/// About how many pixels a text is wide: sans-serif letters are narrower than this on average.
pub fn width(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX / 16).saturating_mul(7)
}

/// A name that fits into `most` characters.
pub fn cut(name: &str, most: usize) -> String {
    let name = tessera_formats::escape::escaped(name);
    if name.chars().count() <= most {
        return name;
    }
    name.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
