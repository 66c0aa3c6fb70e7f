//! What is told on stderr, which may be gone or full: then no one listens, and work goes on.

use std::fmt::Display;
use std::io::{self, Write};

/// Tells a line.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
