//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

/// A table with `headers`; the columns in `numbers` are aligned to the right.
pub fn with_headers(headers: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headers.iter().copied());
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
