//! How two files differ beside their tensors: keys and values, and what packs record of how they
//! came to be.

use std::collections::BTreeSet;

use anyhow::Context;
use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::gguf::{Array, Metadata, Value};
use tessera_formats::pack::manifest::Manifest;
use tessera_formats::pack::{PackReader, names};

use super::file::ModelFile;

/// Keys that tell how a model is split into files, not what it is.
const OF_SPLITS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Characters of a text that are shown from before where it differs.
const BEFORE: usize = 10;

/// Characters of a text that are shown at most.
const SHOWN: usize = 50;

/// Something beside the tensors that two files have differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// A key of the model, after `metadata.`, or a field of the manifest.
    pub field: String,
    /// In A; null where it has none.
    pub a: Option<serde_json::Value>,
    /// In B; null where it has none.
    pub b: Option<serde_json::Value>,
    /// The same for people.
    #[serde(skip)]
    pub shown: (String, String),
}

/// Everything that differs, in the order of A, then of B.
pub fn differences(a: &ModelFile<'_>, b: &ModelFile<'_>) -> anyhow::Result<Vec<Difference>> {
    let mut found = Vec::new();
    let same_keys = of_metadata(a.metadata(), b.metadata(), &mut found);
    if let (Some(pack_a), Some(pack_b)) = (a.pack(), b.pack()) {
        of_manifests(manifest(pack_a)?, manifest(pack_b)?, same_keys, &mut found)?;
        of_golden(pack_a, pack_b, &mut found);
        of_placement(pack_a, pack_b, &mut found);
    }
    Ok(found)
}

/// The manifest of the first shard: of what is compared here, all shards say the same.
fn manifest(pack: &PackReader) -> anyhow::Result<&Manifest> {
    pack.manifest(0).context("the pack has no shard")
}

/// Compares keys and values; whether all are the same.
fn of_metadata(a: &Metadata, b: &Metadata, found: &mut Vec<Difference>) -> bool {
    let before = found.len();
    let names = a.iter().map(|(key, _)| key);
    let names = names.chain(b.iter().map(|(key, _)| key).filter(|key| a.get(key).is_none()));
    for key in names.filter(|key| !OF_SPLITS.contains(key)) {
        let (value_a, value_b) = (a.get(key), b.get(key));
        if !same(value_a, value_b) {
            found.push(Difference {
                field: format!("metadata.{key}"),
                a: value_a.map(to_json),
                b: value_b.map(to_json),
                shown: shown(value_a, value_b),
            });
        }
    }
    found.len() == before
}

/// Whether two values are the same, floats bit for bit.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::F32(a)), Some(Value::F32(b))) => a.to_bits() == b.to_bits(),
        (Some(Value::F64(a)), Some(Value::F64(b))) => a.to_bits() == b.to_bits(),
        (Some(Value::Array(Array::F32(a))), Some(Value::Array(Array::F32(b)))) => {
            a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
        }
        (Some(Value::Array(Array::F64(a))), Some(Value::Array(Array::F64(b)))) => {
            a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
        }
        (a, b) => a == b,
    }
}

/// A value for a program: arrays by type and length, as `inspect` gives them.
fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::F32(value) => f64::from(*value).into(),
        Value::F64(value) => (*value).into(),
        Value::Array(array) => format!("[{}; {}]", array.element_type().name(), array.len()).into(),
        other => match (other.as_u64(), other.as_i64()) {
            (Some(value), _) => value.into(),
            (None, value) => value.into(),
        },
    }
}

/// Two values for people, from where they differ.
fn shown(a: Option<&Value>, b: Option<&Value>) -> (String, String) {
    match (a, b) {
        (Some(Value::String(a)), Some(Value::String(b))) => texts(a, b),
        (Some(Value::Array(a)), Some(Value::Array(b)))
            if a.len() == b.len() && a.element_type() == b.element_type() =>
        {
            elements(a, b)
        }
        (a, b) => {
            let show = |value: Option<&Value>| match value {
                Some(value) if a.map(Value::value_type) == b.map(Value::value_type) => {
                    value.to_string()
                }
                // Of other types, or missing in one.
                Some(value @ Value::Array(_)) => value.to_string(),
                Some(value) => format!("{value} ({})", value.type_name()),
                None => String::new(),
            };
            (show(a), show(b))
        }
    }
}

/// Two texts from a little before their first difference.
fn texts(a: &str, b: &str) -> (String, String) {
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let start = common.saturating_sub(BEFORE);
    let show = |text: &str| {
        let part: String = text.chars().skip(start).take(SHOWN).collect();
        let more = text.chars().nth(start + SHOWN).is_some();
        let (before, after) = (if start > 0 { "…" } else { "" }, if more { "…" } else { "" });
        format!("\"{before}{}{after}\"", escaped(&part))
    };
    (show(a), show(b))
}

/// Two arrays of one length and type: how many elements differ, and the first that do.
fn elements(a: &Array, b: &Array) -> (String, String) {
    let differ = || {
        let pairs = a.iter().zip(b.iter()).enumerate();
        pairs.filter(|(_, (a, b))| !same(Some(a), Some(b)))
    };
    let count = differ().count();
    let (index, (first_a, first_b)) = match differ().next() {
        Some((index, (a, b))) => (index, (a.to_string(), b.to_string())),
        None => (0, (String::new(), String::new())),
    };
    let show = |value: String| format!("[{index}] {value}, {count} of {} differ", a.len());
    (show(first_a), show(first_b))
}

/// Compares what every shard of a pack says of the whole.
fn of_manifests(
    a: &Manifest,
    b: &Manifest,
    same_keys: bool,
    found: &mut Vec<Difference>,
) -> anyhow::Result<()> {
    let fields = |manifest: &Manifest| -> anyhow::Result<serde_json::Value> {
        let mut fields = serde_json::json!({
            "version": manifest.version,
            "tool": manifest.tool,
            "target": manifest.target,
            "sources": manifest.sources,
            "recipe": manifest.recipe,
            "seed": manifest.seed,
            "domain_bytes": manifest.memory.domain_bytes,
        });
        if let Some(calibration) = &manifest.calibration {
            fields["calibration"] = serde_json::to_value(calibration)?;
        }
        // Follows from the keys, whose differences are listed already.
        if same_keys {
            fields["model"] = serde_json::to_value(&manifest.model)?;
        }
        Ok(fields)
    };
    compare_json("", Some(&fields(a)?), Some(&fields(b)?), found);
    Ok(())
}

/// Adds the leaves in which two documents differ. Their depth is that of a manifest, which the
/// parser of JSON bounds.
fn compare_json(
    field: &str,
    a: Option<&serde_json::Value>,
    b: Option<&serde_json::Value>,
    found: &mut Vec<Difference>,
) {
    use serde_json::Value;
    if a == b {
        return;
    }
    let empty = Value::Null;
    match (a, b) {
        (Some(Value::Object(of_a)), Some(Value::Object(of_b))) => {
            let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
            for name in names {
                let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                compare_json(&field, of_a.get(name), of_b.get(name), found);
            }
        }
        (Some(Value::Array(of_a)), Some(Value::Array(of_b))) => {
            for index in 0..of_a.len().max(of_b.len()) {
                compare_json(&format!("{field}[{index}]"), of_a.get(index), of_b.get(index), found);
            }
        }
        // An option that is not given is null in one and may be absent in the other.
        (a, b) if a.unwrap_or(&empty) == b.unwrap_or(&empty) => {}
        (a, b) => {
            let show = |value: Option<&Value>| match value.unwrap_or(&empty) {
                Value::Null => String::new(),
                Value::String(text) => escaped(text),
                value => escaped(&value.to_string()),
            };
            found.push(Difference {
                field: field.to_owned(),
                a: a.cloned(),
                b: b.cloned(),
                shown: (show(a), show(b)),
            });
        }
    }
}

/// Compares whether there are golden vectors.
fn of_golden(a: &PackReader, b: &PackReader, found: &mut Vec<Difference>) {
    let [a, b] = [a, b].map(|pack| pack.tensor_info(names::GOLDEN_INPUTS).is_some());
    if a != b {
        let shown = (a.to_string(), b.to_string());
        found.push(Difference {
            field: "golden vectors".to_owned(),
            a: Some(a.into()),
            b: Some(b.into()),
            shown,
        });
    }
}

/// Compares where linears that both packs have are placed, and what they call their inputs.
fn of_placement(a: &PackReader, b: &PackReader, found: &mut Vec<Difference>) {
    for linear in a.linears() {
        let Some(other) = b.linear(&linear.name) else { continue };
        let mut add = |what: &str, a: serde_json::Value, b: serde_json::Value, shown| {
            if a != b {
                let field = format!("{what}.{}", linear.name);
                found.push(Difference { field, a: Some(a), b: Some(b), shown });
            }
        };
        let domains = (linear.domain.to_string(), other.domain.to_string());
        add("domain", linear.domain.into(), other.domain.into(), domains);
        let inputs = (escaped(&linear.input), escaped(&other.input));
        add("input", linear.input.as_str().into(), other.input.as_str().into(), inputs);
    }
}
