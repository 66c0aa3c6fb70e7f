//! Texts in JSONL: one JSON object in a line.

use std::path::Path;

use serde_json::Value;

use super::error::CorpusError;

/// The strings that lines have in `field`. Empty lines and texts are left out.
pub(super) fn documents(path: &Path, text: &str, field: &str) -> Result<Vec<String>, CorpusError> {
    let mut documents = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(line).map_err(|error| CorpusError::Json {
            path: path.to_owned(),
            line: index + 1,
            // The line that it tells of is always the first.
            reason: error.to_string().replace(" at line 1 column", " at column"),
        })?;
        let found = match value {
            Value::Object(mut object) => match object.remove(field) {
                Some(Value::String(text)) => {
                    documents.extend((!text.trim().is_empty()).then_some(text));
                    continue;
                }
                Some(other) => format!("{} in it", kind(&other)),
                None => "no such field".to_owned(),
            },
            other => kind(&other).to_owned(),
        };
        return Err(CorpusError::Field {
            path: path.to_owned(),
            line: index + 1,
            field: field.to_owned(),
            found,
        });
    }
    Ok(documents)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
