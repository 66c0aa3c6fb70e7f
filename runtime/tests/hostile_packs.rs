//! Damaged packs as models: every field of the manifest and every tensor, one wrong at a time. What
//! comes of it is an error, or linears that compute; never a panic.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "test data is ours")]

#[path = "../../formats/tests/pack_support/mod.rs"]
mod pack_support;

use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pack_support::{Pack, calibrated, sha256};
use serde_json::{Value, json};
use tessera_formats::npu::Scheme;
use tessera_formats::pack::PackReader;
use tessera_runtime::checkpoint::{Checkpoint, PackCheckpoint};
use tessera_runtime::linear::Activations;
use tessera_runtime::simulator::{Arithmetic, Simulation};

/// Opens a pack and applies all its linears; how many did, or why the pack cannot be opened.
fn run(path: &Path, arithmetic: Arithmetic) -> Result<usize, Box<dyn Error>> {
    let simulation = Simulation { arithmetic, ..Simulation::default() };
    let checkpoint = PackCheckpoint::open(PackReader::open(path)?, simulation)?;
    let mut applied = 0;
    for name in checkpoint.names() {
        let dims = checkpoint.dims(name).unwrap_or_default();
        checkpoint.linear_bytes(name);
        let mut row = vec![0.0; usize::try_from(dims.first().copied().unwrap_or(1).min(4096))?];
        let _ = checkpoint.read_rows(name, 0, &mut row);
        let _ = checkpoint.read_rows(name, u64::MAX, &mut row);
        let Ok(linear) = checkpoint.linear(name) else { continue };
        let (n, k) = (linear.n(), linear.k());
        assert_eq!(dims[..2], [k as u64, n as u64], "{name}");
        let values: Vec<f32> = (0..3 * k).map(|i| (i % 13) as f32 - 6.0).collect();
        let x = Activations::new(&values, k);
        let mut out = vec![f32::NAN; 3 * n];
        match linear.experts() {
            None => linear.apply(&x, &mut out)?,
            Some(experts) => {
                linear.apply_expert(experts - 1, &x, &[0, 1, 2], &mut out)?;
                assert!(linear.apply_expert(experts, &x, &[0], &mut out[..n]).is_err());
                assert!(linear.apply_expert(0, &x, &[3], &mut out[..n]).is_err());
            }
        }
        applied += 1;
    }
    Ok(applied)
}

const BOTH: [Arithmetic; 2] = [Arithmetic::Integer, Arithmetic::FloatActivations];

/// A panic's text, if there is one.
fn panic_of(path: &Path, arithmetics: &[Arithmetic]) -> Option<String> {
    arithmetics.iter().find_map(|&arithmetic| {
        let panic = catch_unwind(AssertUnwindSafe(|| run(path, arithmetic).is_ok())).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some(text.unwrap_or_else(|| format!("{:?}", panic.downcast_ref::<&str>())))
    })
}

/// JSON pointers of all values.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                places(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        found.push(at.to_owned());
    }
}

/// What a value of the manifest may be replaced by.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let sound = number.as_u64().unwrap_or(1);
            let near = [sound / 2, sound.saturating_sub(1), sound + 1, sound + 32, 2 * sound];
            let far = [0, 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
            let numbers = near.into_iter().chain(far).map(Value::from);
            numbers.chain([json!(-1), json!(1e300), json!("x"), json!(null)]).collect()
        }
        Value::String(_) => vec![json!(""), json!("w4a4"), json!("blk.0.gate.weight"), json!(7)],
        Value::Array(elements) => {
            let mut other = vec![json!([])];
            if elements.len() > 1 {
                let mut reversed = elements.clone();
                reversed.reverse();
                other.extend([json!(reversed), json!(elements[1..])]);
            }
            if let Some(last) = elements.last() {
                let mut doubled = elements.clone();
                doubled.push(last.clone());
                other.push(json!(doubled));
            }
            other
        }
        Value::Object(_) => vec![json!({}), json!(null)],
        _ => vec![json!(1), json!(null)],
    }
}

fn sound(scheme: Scheme) -> Pack {
    let mut pack = calibrated(scheme);
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let bytes = [
        text("general.architecture"),
        8u32.to_le_bytes().to_vec(),
        text("llama"),
        text("general.alignment"),
        4u32.to_le_bytes().to_vec(),
        64u32.to_le_bytes().to_vec(),
    ]
    .concat();
    replace(&mut pack, "gguf.metadata", bytes);
    pack
}

/// Replaces a tensor's bytes, with their digest.
fn replace(pack: &mut Pack, name: &str, bytes: Vec<u8>) {
    let digest = sha256(&bytes);
    let stored = pack.tensors.iter_mut().find(|stored| stored.name == name).unwrap();
    if name == "gguf.metadata" {
        stored.shape = vec![bytes.len() as u64];
    }
    stored.bytes = bytes;
    let manifest = &mut pack.manifest;
    if let Some(recorded) = manifest.digests.get_mut(name) {
        *recorded = digest.clone();
    }
    let segments = manifest.linears.iter_mut().flat_map(|linear| &mut linear.segments);
    for segment in segments.filter(|segment| segment.tiles == name) {
        segment.sha256 = digest.clone();
    }
    for carried in manifest.carried.iter_mut().filter(|carried| carried.name == name) {
        carried.sha256 = digest.clone();
    }
}

#[test]
fn damaged_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut problems = Vec::new();
    let mut cases = 0;
    for scheme in [Scheme::W4A8, Scheme::W16A16] {
        let pack = sound(scheme);
        let _ = fs::remove_file(&path);
        pack.write(&path);
        assert!(run(&path, Arithmetic::Integer).unwrap() >= 6);
        let manifest = serde_json::to_value(&pack.manifest).unwrap();
        let mut found = Vec::new();
        places(&manifest, "", &mut found);
        for place in found {
            for other in others(manifest.pointer(&place).unwrap()) {
                let what = format!("{scheme} {place} = {other}");
                let mut damaged = manifest.clone();
                *damaged.pointer_mut(&place).unwrap() = other;
                let Ok(manifest) = serde_json::from_value(damaged) else { continue };
                let pack = Pack { manifest, ..pack.clone() };
                let _ = fs::remove_file(&path);
                if pack.begin(&path).finish(&pack.manifest).is_err() {
                    continue;
                }
                cases += 1;
                if let Some(panic) = panic_of(&path, &[Arithmetic::Integer]) {
                    problems.push(format!("{what}: {panic}"));
                }
            }
        }
    }
    eprintln!("{cases} cases");
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(cases > 500, "{cases} cases");
}

#[test]
fn damaged_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut problems = Vec::new();
    for scheme in Scheme::ALL {
        let sound = sound(scheme);
        for stored in &sound.tensors {
            let filled = |four: [u8; 4]| {
                let bytes = four.into_iter().cycle().take(stored.bytes.len());
                bytes.collect::<Vec<u8>>()
            };
            let quiet = f32::NAN.to_le_bytes();
            for four in [[0; 4], [255; 4], [0x88; 4], [0x7b; 4], [0x80; 4], quiet] {
                let mut pack = sound.clone();
                replace(&mut pack, &stored.name, filled(four));
                let _ = fs::remove_file(&path);
                pack.write(&path);
                if let Some(panic) = panic_of(&path, &BOTH) {
                    problems.push(format!("{scheme} {} of {four:?}: {panic}", stored.name));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
