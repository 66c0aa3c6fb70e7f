//! What errors say: nothing that a terminal acts on, whatever a file holds.

use std::error::Error;

use tessera_formats::escape::EscapedText;

/// Looks at the message of an error. Causes that other crates give are escaped where they are printed.
pub fn told(error: &dyn Error) {
    message(&error.to_string());
}

/// Looks at a message.
pub fn message(text: &str) {
    assert_eq!(EscapedText(text).to_string(), text);
}
