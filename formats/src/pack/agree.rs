//! What only all files of a pack together can show: that they belong together and fit.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::check::{Item, tiles_shape};
use super::error::PackError;
use super::header::tensor_bytes;
use super::manifest::{Manifest, Rotation};
use super::names;

/// Checks the manifests of all shards, in order, against each other: they describe one
/// conversion, names are unique, inputs and factors that are referred to exist, golden vectors are
/// complete, and the memory plan adds up.
///
/// `stored` gives the shape of a tensor, if any shard holds it.
pub(super) fn pack<'t>(
    shards: &[(&Path, &Manifest)],
    stored: impl Fn(&str) -> Option<&'t [u64]>,
) -> Result<(), PackError> {
    let Some(&(first_path, first)) = shards.first() else { return Ok(()) };
    for &(path, manifest) in shards {
        if let Some(field) = difference(first, manifest) {
            return Err(PackError::Shards {
                path: path.to_owned(),
                first: first_path.to_owned(),
                field,
            });
        }
    }

    let mut inputs = HashMap::new();
    let mut weights = HashSet::new();
    let unique = |path: &Path, list, name: &str, new: bool| {
        if new {
            return Ok(());
        }
        Err(PackError::Duplicate { path: path.to_owned(), list, name: name.to_owned() })
    };
    for &(path, manifest) in shards {
        for entry in &manifest.inputs {
            let new = inputs.insert(entry.name.as_str(), entry).is_none();
            unique(path, "`inputs`", &entry.name, new)?;
            if let Some(factor) = &entry.rotation.factor
                && stored(&factor.tensor).is_none()
            {
                let tensor = factor.tensor.clone();
                return Err(PackError::Missing { path: path.to_owned(), tensor });
            }
        }
        for entry in &manifest.linears {
            unique(path, "`linears`", &entry.name, weights.insert(entry.name.as_str()))?;
        }
        for entry in &manifest.carried {
            unique(path, "`carried`", &entry.name, weights.insert(entry.name.as_str()))?;
        }
    }

    golden(shards, stored(names::GOLDEN_INPUTS))?;

    let mut domain_bytes = vec![0u64; first.memory.domain_bytes.len()];
    let (domains, most) = (domain_bytes.len(), first.target.domains);
    let few = u32::try_from(domains).is_ok_and(|domains| domains <= most);
    let item = Item { path: first_path, name: "manifest" };
    item.check("number of memory domain_bytes", few, domains, || format!("at most {most}"))?;
    for &(path, manifest) in shards {
        let k_align = u64::from(manifest.target.k_align);
        for linear in &manifest.linears {
            let item = Item { path, name: &linear.name };
            let Some(input) = inputs.get(linear.input.as_str()) else {
                return Err(item.field("input", &linear.input, "the name of an input".into()));
            };
            let Rotation { k, size, .. } = input.rotation;
            item.equal("k", linear.k, k)?;
            let padded = size.checked_next_multiple_of(k_align).unwrap_or(u64::MAX);
            item.equal("k_padded", linear.k_padded, padded)?;
            let (dtype, shape) = tiles_shape(path, linear, linear.k_padded)?;
            let bytes = tensor_bytes(dtype, &shape)
                .ok_or_else(|| PackError::overflow(path, &linear.name))?;
            let slot = usize::try_from(linear.domain).ok().and_then(|d| domain_bytes.get_mut(d));
            let Some(slot) = slot else {
                let expected = format!("below {}", first.memory.domain_bytes.len());
                return Err(item.field("domain", linear.domain, expected));
            };
            *slot = slot.checked_add(bytes).ok_or_else(|| PackError::overflow(path, "memory"))?;
        }
    }
    let total = domain_bytes.iter().try_fold(0u64, |sum, &bytes| sum.checked_add(bytes));
    item.equal("memory tile_bytes", Some(first.memory.tile_bytes), total)?;
    item.equal("memory domain_bytes", &first.memory.domain_bytes, &domain_bytes)
}

/// Golden vectors are there for every segment, with inputs of the length of the widest linear, or
/// not at all.
fn golden(shards: &[(&Path, &Manifest)], inputs: Option<&[u64]>) -> Result<(), PackError> {
    let linears = || {
        shards
            .iter()
            .flat_map(|&(path, manifest)| manifest.linears.iter().map(move |linear| (path, linear)))
    };
    for (path, linear) in linears() {
        let item = Item { path, name: &linear.name };
        for segment in &linear.segments {
            let (found, expected) = match (&segment.golden, inputs) {
                (Some(_), Some(_)) | (None, None) => continue,
                (Some(_), None) => ("present", "absent: the pack has no `golden.inputs`"),
                (None, Some(_)) => ("absent", "present: the pack has `golden.inputs`"),
            };
            return Err(item.field("segment golden", found, expected.to_owned()));
        }
    }
    let (Some(inputs), Some(&(path, _))) = (inputs, shards.first()) else { return Ok(()) };
    let tensor = || names::GOLDEN_INPUTS.to_owned();
    match linears().map(|(_, linear)| linear.k_padded).max() {
        None => Err(PackError::Unreferenced { path: path.to_owned(), tensor: tensor() }),
        Some(k) if inputs == [names::GOLDEN_ROWS, k] => Ok(()),
        Some(k) => Err(PackError::Tensor {
            path: path.to_owned(),
            tensor: tensor(),
            expected: format!("{:?}, as wide as the widest linear", [names::GOLDEN_ROWS, k]),
            found: format!("{inputs:?}"),
        }),
    }
}

/// First field that all shards of a pack share and these two do not.
fn difference(first: &Manifest, other: &Manifest) -> Option<&'static str> {
    let count = |manifest: &Manifest| manifest.shard.map(|shard| shard.count);
    [
        ("version", first.version == other.version),
        ("tool", first.tool == other.tool),
        ("target", first.target == other.target),
        ("sources", first.sources == other.sources),
        ("model", first.model == other.model),
        ("recipe", first.recipe == other.recipe),
        ("seed", first.seed == other.seed),
        ("calibration", first.calibration == other.calibration),
        ("memory", first.memory == other.memory),
        ("shard count", count(first) == count(other)),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
}
