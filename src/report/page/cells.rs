//! Numbers and names in the page.

use maud::{Markup, html};
use tessera_formats::escape::escaped;

use crate::report::number::Number;

/// What stands where there is no number; the script that sorts tables knows it.
pub const ABSENT: &str = "–";

/// A number in a line of text.
pub fn number(field: &str, number: Number) -> Markup {
    let exact = number.exact();
    html! {
        span data-field=(field) data-value=(exact) title=(exact) { (number.shown()) }
    }
}

/// A count in a line of text.
pub fn count(field: &str, value: u64) -> Markup {
    number(field, Number::Count(value))
}

/// A count of bytes in a line of text.
pub fn bytes(field: &str, value: u64) -> Markup {
    number(field, Number::Bytes(value))
}

/// A figure in a line of text.
pub fn figure(field: &str, value: f64) -> Markup {
    number(field, Number::Figure(value))
}

/// A figure in a line of text, where there is one.
pub fn optional(number: Option<Markup>) -> Markup {
    number.unwrap_or_else(|| html! { (ABSENT) })
}

/// A number in a table, where there is one.
pub fn cell(field: &str, number: Option<Number>) -> Markup {
    html! {
        @match number.map(|number| (number.exact(), number.shown())) {
            Some((exact, shown)) => {
                td.number data-field=(field) data-value=(exact) title=(exact) { (shown) }
            }
            None => { td.number { (ABSENT) } }
        }
    }
}

/// A count in a table.
pub fn count_cell(field: &str, value: u64) -> Markup {
    cell(field, Some(Number::Count(value)))
}

/// A count of bytes in a table.
pub fn bytes_cell(field: &str, value: u64) -> Markup {
    cell(field, Some(Number::Bytes(value)))
}

/// A figure in a table, where there is one.
pub fn figure_cell(field: &str, value: Option<f64>) -> Markup {
    cell(field, value.map(Number::Figure))
}

/// The name that a row of a table is about.
pub fn name_cell(name: &str) -> Markup {
    html! { th.name scope="row" { (escaped(name)) } }
}

/// A digest.
pub fn hash(sha256: &str) -> Markup {
    html! { span.name.note { (escaped(sha256)) } }
}
