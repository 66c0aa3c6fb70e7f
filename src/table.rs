//! Tables for people.

use std::fmt;

use comfy_table::{CellAlignment, Row, presets};

/// A table; its text has no blanks at the end of a line.
pub struct Table(comfy_table::Table);

/// A table with `headers`; the columns in `numbers` are aligned to the right.
pub fn with_headers(headers: &[&str], numbers: &[usize]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_header(headers.iter().copied());
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Table(table)
}

impl Table {
    /// Adds a row of cells.
    pub fn add_row(&mut self, row: impl Into<Row>) {
        self.0.add_row(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}
