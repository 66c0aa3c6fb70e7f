//! What is told on stderr, which may be gone or full: then no one listens, and work goes on.

use std::fmt::Display;
use std::io::{self, Write};

use tessera_formats::escape::escaped_message;

/// Tells a line. Names in it are escaped where they are put into it; what other crates say of a file
/// is not, so that nothing in it reaches a terminal as it stands.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{}", escaped_message(&line.to_string()));
}
