//! Names from untrusted files, made safe to print.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::path::Path;

/// Displays a name from a file with every character that a terminal, a log or a reader could
/// misread written as an escape: controls, bidirectional overrides, zero-width characters, and
/// the backslash itself. Long names are cut at [`Escaped::LONGEST`] characters.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Escaped<'_> {
    /// Characters of the name that are shown before it is cut with `…`.
    pub const LONGEST: usize = 200;
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, character) in self.0.chars().enumerate() {
            if position == Self::LONGEST {
                return f.write_str("…");
            }
            if is_plain(character) {
                write!(f, "{character}")?;
            } else {
                write!(f, "{}", character.escape_unicode())?;
            }
        }
        Ok(())
    }
}

/// Displays a text of several lines, such as an error's message, with every character that a terminal
/// could misread written as an escape. Unlike [`Escaped`] it leaves line ends and backslashes alone and
/// cuts nothing, so that a text that was escaped stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct EscapedText<'a>(pub &'a str);

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if is_plain(character) || matches!(character, '\n' | '\\') {
                write!(f, "{character}")
            } else {
                write!(f, "{}", character.escape_unicode())
            }
        })
    }
}

/// The name as an owned string, escaped as by [`Escaped`].
pub fn escaped(name: &str) -> String {
    Escaped(name).to_string()
}

/// A path as an owned string, escaped as by [`Escaped`], whole: its end says most.
pub fn escaped_path(path: impl AsRef<Path>) -> String {
    let path = path.as_ref().to_string_lossy();
    replaced(&path, |c| !is_plain(c), |out, c| write!(out, "{}", c.escape_unicode())).into_owned()
}

/// A whole message, in which names may have been escaped already: line breaks, tabs and backslashes
/// stay, all else that [`Escaped`] escapes is.
pub fn escaped_message(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| !is_plain(c) && !matches!(c, '\n' | '\t' | '\\'),
        |out, c| write!(out, "{}", c.escape_unicode()),
    )
}

/// JSON that says the same, with what [`Escaped`] escapes as JSON escapes it. Line breaks stand between
/// its values only, and stay.
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    replaced(
        json,
        |c| !is_plain(c) && !matches!(c, '\n' | '\t' | '\\'),
        |out, c| {
            c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        },
    )
}

/// Running text that a model gave: only what steers a terminal is escaped, because scripts of many
/// languages need characters without a width.
pub fn escaped_prose(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| c.is_control() && !matches!(c, '\n' | '\t'),
        |out, c| write!(out, "{}", c.escape_unicode()),
    )
}

/// The text with every character that `is_unsafe` in the words of `escape`.
fn replaced(
    text: &str,
    is_unsafe: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char) -> fmt::Result,
) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe(character) {
            // A string takes all that is written.
            let _ = escape(&mut safe, character);
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Whether a character prints as itself, in place, and nothing else.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && character != '\\'
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_unchanged() {
        for name in ["blk.0.attn_q.weight", "falcon-h1.block_count", "größe", "层"] {
            assert_eq!(escaped(name), name);
        }
    }

    #[test]
    fn terminal_and_bidi_characters_are_escaped() {
        assert_eq!(escaped("\x1b]52;c;AA\x07"), "\\u{1b}]52;c;AA\\u{7}");
        assert_eq!(escaped("a\nb\rc\0"), "a\\u{a}b\\u{d}c\\u{0}");
        assert_eq!(escaped("\u{202e}gnp.exe\u{200b}"), "\\u{202e}gnp.exe\\u{200b}");
        assert_eq!(escaped("back\\slash"), "back\\u{5c}slash");
    }

    #[test]
    fn texts_keep_their_lines_and_nothing_else() {
        let shown = EscapedText("a\n\\b\x1b]8;;x\x07\r\u{202e}").to_string();
        assert_eq!(shown, "a\n\\b\\u{1b}]8;;x\\u{7}\\u{d}\\u{202e}");
        assert_eq!(EscapedText(&shown).to_string(), shown);
    }

    #[test]
    fn long_names_are_cut() {
        let shown = escaped(&"a".repeat(5000));
        assert_eq!(shown.chars().count(), Escaped::LONGEST + 1);
        assert!(shown.ends_with('…'));
    }

    #[test]
    fn messages_keep_their_lines_and_what_is_escaped_already() {
        let message = "`a\\u{1b}`: line 1\n\t| \u{1b}]0;x\u{7}\u{202e}\u{9b}\r";
        let safe = "`a\\u{1b}`: line 1\n\t| \\u{1b}]0;x\\u{7}\\u{202e}\\u{9b}\\u{d}";
        assert_eq!(escaped_message(message), safe);
        assert!(matches!(escaped_message("plain\ntext"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_says_the_same() {
        let value = "\u{7f}\u{9b}\u{202e}\u{200b}\u{feff}\u{e0041}\\ \u{1b} größe";
        let json = serde_json::to_string_pretty(&[value]).unwrap();
        let safe = escaped_json(&json);
        assert!(safe.contains("\\u202e\\u200b\\ufeff\\udb40\\udc41"), "{safe}");
        assert!(!safe.contains(|c: char| c != '\n' && !is_plain(c) && c != '\\'), "{safe}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&safe).unwrap(), [value]);
    }

    #[test]
    fn prose_keeps_what_scripts_need() {
        let text = "\u{1b}[2J می\u{200c}خواهم \u{1f469}\u{200d}\u{1f52c}\n\t\u{9b}31m\r";
        let safe = "\\u{1b}[2J می\u{200c}خواهم \u{1f469}\u{200d}\u{1f52c}\n\t\\u{9b}31m\\u{d}";
        assert_eq!(escaped_prose(text), safe);
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped_path(Path::new("a\n\u{1b}[2J.gguf")), "a\\u{a}\\u{1b}[2J.gguf");
    }
}
