//! The published JSON schema describes what is written: no field more, none less.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test data is ours")]

mod pack_support;

use std::collections::BTreeSet;

use pack_support::{Pack, calibrated, small};
use serde_json::{Value, json};
use tessera_formats::npu::{Scheme, Target};
use tessera_formats::pack::manifest::Manifest;

fn schema() -> Value {
    serde_json::from_str(include_str!("../spec/manifest.schema.json")).unwrap()
}

/// Checks a value; `seen` collects the schema's properties that occur. Only the keywords that the
/// schema uses are known, any other is an error.
fn validate(
    root: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
    seen: &mut BTreeSet<String>,
) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at}: {what}: {value}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "properties" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                validate(root, root.pointer(pointer).unwrap(), value, at, seen)?;
            }
            "oneOf" => {
                let accepted: Vec<BTreeSet<String>> = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|rule| {
                        let mut seen = BTreeSet::new();
                        validate(root, rule, value, at, &mut seen).is_ok().then_some(seen)
                    })
                    .collect();
                let [accepted] = &accepted[..] else { return wrong("not one of the forms") };
                seen.extend(accepted.iter().cloned());
            }
            "const" if value != rule => return wrong("not the constant"),
            "enum" if !rule.as_array().unwrap().contains(value) => return wrong("not listed"),
            "type" => {
                let is = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                if !is {
                    return wrong("type");
                }
            }
            "minimum" if value.as_f64() < rule.as_f64() => return wrong("too small"),
            "maximum" if value.as_f64() > rule.as_f64() => return wrong("too large"),
            "exclusiveMinimum" if value.as_f64() <= rule.as_f64() => return wrong("too small"),
            "minItems" if value.as_array().map(Vec::len) < size(rule) => return wrong("short"),
            "maxItems" if value.as_array().map(Vec::len) > size(rule) => return wrong("long"),
            "minLength" if value.as_str().map(str::len) < size(rule) => return wrong("short"),
            "maxLength" if value.as_str().map(str::len) > size(rule) => return wrong("long"),
            "pattern" => {
                assert_eq!(rule, "^[0-9a-f]{64}$");
                let text = value.as_str().unwrap_or_default();
                let digits = text.bytes().all(|b| b"0123456789abcdef".contains(&b));
                if text.len() != 64 || !digits {
                    return wrong("pattern");
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(root, rule, item, &format!("{at}/{index}"), seen)?;
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.get(key.as_str().unwrap()).is_none() {
                        return wrong(&format!("{key} is missing"));
                    }
                }
            }
            "additionalProperties" if rule.is_object() => {
                for (key, field) in value.as_object().into_iter().flatten() {
                    validate(root, rule, field, &format!("{at}/{key}"), seen)?;
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                for (key, field) in value.as_object().into_iter().flatten() {
                    let Some(rule) = schema["properties"].get(key) else {
                        return wrong(&format!("{key} is unknown"));
                    };
                    seen.insert(format!("{}/{key}", schema["properties"]));
                    validate(root, rule, field, &format!("{at}/{key}"), seen)?;
                }
            }
            "const" | "enum" | "minimum" | "exclusiveMinimum" | "maximum" | "minItems"
            | "maxItems" | "minLength" | "maxLength" => {}
            other => panic!("keyword {other}"),
        }
    }
    Ok(())
}

fn size(rule: &Value) -> Option<usize> {
    rule.as_u64().map(|size| size as usize)
}

/// All properties of all objects of the schema.
fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    if let (Some(of), Some(_)) = (schema.get("properties"), schema.get("additionalProperties")) {
        found.extend(of.as_object().unwrap().keys().map(|key| format!("{of}/{key}")));
    }
    match schema {
        Value::Object(object) => object.values().for_each(|value| properties(value, found)),
        Value::Array(array) => array.iter().for_each(|value| properties(value, found)),
        _ => {}
    }
}

#[test]
fn what_is_written_satisfies_the_schema_and_uses_all_of_it() {
    let schema = schema();
    let mut seen = BTreeSet::new();
    let mut manifests: Vec<Manifest> =
        Scheme::ALL.iter().map(|&scheme| small(scheme).manifest).collect();
    manifests.extend(Scheme::ALL.iter().map(|&scheme| calibrated(scheme).manifest));
    manifests.extend(Pack::shards(2).into_iter().map(|pack| pack.manifest));
    manifests.push(Manifest { target: Target::rk3576(), ..small(Scheme::W8A8).manifest });
    for manifest in manifests {
        let value = serde_json::to_value(&manifest).unwrap();
        validate(&schema, &schema, &value, "", &mut seen).unwrap();
        assert_eq!(serde_json::from_value::<Manifest>(value).unwrap(), manifest);
    }
    let mut all = BTreeSet::new();
    properties(&schema, &mut all);
    assert!(all.len() > 50);
    assert_eq!(seen, all);
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let schema = schema();
    for (pointer, value) in [
        ("/format", json!("other")),
        ("/version", json!([1])),
        ("/target/domains", json!(17)),
        ("/sources", json!([])),
        ("/sources/0/sha256", json!("A")),
        ("/linears/0/n", json!(0)),
        ("/linears/0/n", json!(1u64 << 31)),
        ("/linears/0/scheme", json!("w4a16")),
        ("/linears/0/segments", json!([])),
        ("/linears/0/surprise", json!(1)),
        ("/linears/0/activation", json!({})),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": 0 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "threshold": [1.0] })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "asymmetric": 1 })),
        ("/linears/0/activation", json!({ "kind": "static" })),
        ("/linears/0/activation", json!({ "kind": "static", "threshold": [] })),
        ("/linears/0/rounding", json!("up")),
        ("/linears/0/output_error", json!(-1.0)),
        ("/linears/0/segments/0/golden", json!("0")),
        ("/inputs/0/sign_trial", json!(1u64 << 32)),
        ("/calibration", json!({})),
        ("/carried/0/shape", json!([1, 1, 1, 1, 1])),
    ] {
        let mut manifest = serde_json::to_value(small(Scheme::W8A8).manifest).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        manifest.pointer_mut(parent).unwrap()[key] = value;
        let verdict = validate(&schema, &schema, &manifest, "", &mut BTreeSet::new());
        assert!(verdict.is_err(), "{pointer}");
    }
}
