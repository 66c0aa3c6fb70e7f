//! Values in messages.

use std::fmt;

use super::value::Value;
use crate::escape::Escaped;

/// Characters of a text that are shown.
const LONGEST: usize = 40;

/// A value for a message: a number or a truth value as it is, the start of a text, quoted and
/// escaped, of an array its length and type.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(text) => {
                let start = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
                let more = if start < text.len() { "…" } else { "" };
                write!(f, "\"{}{more}\"", Escaped(&text[..start]))
            }
            Self::Array(array) => {
                write!(f, "an array of {} {}", array.len(), array.element_type().name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Array;

    #[test]
    fn values_are_brief_and_escaped() {
        for (value, shown) in [
            (Value::I8(-3), "-3"),
            (Value::F32(0.1), "0.1"),
            (Value::Bool(true), "true"),
            (Value::String("a\nb".to_owned()), "\"a\\u{a}b\""),
            (Value::String("ä".repeat(41)), &format!("\"{}…\"", "ä".repeat(40))),
            (Value::Array(Array::U16(vec![1, 2])), "an array of 2 u16"),
        ] {
            assert_eq!(value.to_string(), shown);
        }
    }
}
