//! Names from untrusted files, made safe to print.

use std::fmt;

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
}
