//! What is told on stderr, which may be gone or full: then no one listens, and work goes on.

use std::fmt::Display;
use std::io::{self, Write};

use tessera_formats::escape::escaped_message;

/// Characters of a line beyond which it says nothing to anyone: parsers quote what they do not
/// understand, and that may be a whole file.
const LONGEST_LINE: usize = 4000;

/// Tells something, mostly a line. Names in it are escaped where they are put into it; what other crates
/// say of a file is not, so nothing in it reaches a terminal as it stands.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", told(&text.to_string()));
}

/// What is told of a text.
fn told(text: &str) -> String {
    let lines = text.split('\n').map(|line| match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", escaped_message(&line[..end])),
        None => escaped_message(line).into_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_told_steers_a_terminal_or_fills_it() {
        assert_eq!(told("error: a\n  | \u{1b}[2J\n"), "error: a\n  | \\u{1b}[2J\n");
        let long = format!("short\n{}", "[".repeat(100_000));
        assert_eq!(told(&long).chars().count(), 6 + LONGEST_LINE + 1);
    }
}
