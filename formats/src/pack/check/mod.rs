//! What the format demands of one shard: of its manifest, and of the tensors beside it.
//!
//! Everything is checked from the header alone. Writer and reader run the same checks, so nothing
//! is written that would not be read.

mod item;
mod linear;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use safetensors::Dtype;

use super::error::PackError;
use super::header::{DATA_ALIGNMENT, TensorEntry, check_version};
use super::manifest::{Calibration, Carried, Factor, Input, Manifest, Rotation};
use super::names;
use crate::escape::Escaped;
use crate::ggml::GgmlType;
use crate::npu::Target;

pub(super) use item::Item;
use item::Named;
pub(super) use linear::tiles_shape;

/// Address space of an IOMMU domain, in bytes.
const DOMAIN_SPACE: u64 = 1 << 32;

/// Checks one shard: its manifest, and that exactly the tensors it names stand in the file, with
/// the types, shapes and alignment it dictates.
pub(super) fn shard(
    path: &Path,
    manifest: &Manifest,
    tensors: &[TensorEntry],
    data_start: u64,
) -> Result<(), PackError> {
    let item = Item { path, name: "manifest" };
    check_version(path, &manifest.format, manifest.version)?;
    item.check("data start", data_start.is_multiple_of(DATA_ALIGNMENT), data_start, || {
        format!("a multiple of {DATA_ALIGNMENT}")
    })?;
    target(item, &manifest.target)?;
    item.check("sources", !manifest.sources.is_empty(), "empty", || "at least one file".into())?;
    for source in &manifest.sources {
        let plain = names::is_plain_file_name(&source.file);
        item.check("source file", plain, &source.file, || "a file name without folders".into())?;
        hash(item, "sha256", &source.sha256)?;
    }
    if let Some(calibration) = &manifest.calibration {
        self::calibration(item, calibration)?;
    }
    if let Some(shard) = manifest.shard {
        let known = shard.index >= 1
            && shard.index <= shard.count
            && (2..=names::MOST_SHARDS).contains(&shard.count);
        item.check("shard", known, format!("{} of {}", shard.index, shard.count), || {
            format!("1 to count of 2 to {}", names::MOST_SHARDS)
        })?;
    }

    let mut named = Named { path, data_start, tensors: HashMap::new() };
    for tensor in tensors {
        named.tensors.insert(&tensor.name, tensor);
    }
    earlier_version(item, manifest, &named)?;
    for entry in &manifest.inputs {
        input(&mut named, entry)?;
    }
    for entry in &manifest.linears {
        linear::linear(&mut named, &manifest.target, entry)?;
    }
    for entry in &manifest.carried {
        carried(&mut named, entry)?;
    }
    // Factors are shared by inputs, here and in other shards: one copy in the pack.
    let factors: BTreeMap<&str, &Factor> = manifest
        .inputs
        .iter()
        .filter_map(|input| input.rotation.factor.as_ref())
        .map(|factor| (factor.tensor.as_str(), factor))
        .collect();
    for factor in factors.into_values() {
        if named.tensors.contains_key(factor.tensor.as_str()) {
            named.take(&factor.tensor, Dtype::F32, &[factor.order, factor.order], 4)?;
        }
    }
    if manifest.shard.is_none_or(|shard| shard.index == 1) {
        let bytes =
            named.tensors.get(names::GGUF_METADATA).map_or(0, |tensor| tensor.end - tensor.begin);
        named.take(names::GGUF_METADATA, Dtype::U8, &[bytes], 1)?;
        // How long its rows are depends on the linears of all shards.
        if let Some(inputs) = named.tensors.get(names::GOLDEN_INPUTS) {
            let k = inputs.shape.last().copied().unwrap_or(0);
            named.take(names::GOLDEN_INPUTS, Dtype::I8, &[names::GOLDEN_ROWS, k], 1)?;
        }
    }
    if let Some(tensor) = tensors.iter().find(|t| named.tensors.contains_key(t.name.as_str())) {
        return Err(PackError::Unreferenced { path: path.to_owned(), tensor: tensor.name.clone() });
    }
    digests(item, manifest, tensors)
}

/// Every tensor has exactly one digest: in its segment, in its carried entry, or in `digests`.
fn digests(item: Item<'_>, manifest: &Manifest, tensors: &[TensorEntry]) -> Result<(), PackError> {
    let elsewhere: HashSet<&str> = manifest
        .linears
        .iter()
        .flat_map(|linear| linear.segments.iter().map(|segment| segment.tiles.as_str()))
        .chain(manifest.carried.iter().map(|carried| carried.name.as_str()))
        .collect();
    let expected: BTreeSet<&str> = tensors
        .iter()
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !elsewhere.contains(name))
        .collect();
    let found: BTreeSet<&str> = manifest.digests.keys().map(String::as_str).collect();
    if let Some(name) = expected.symmetric_difference(&found).next() {
        let expected = "one for every tensor that has none elsewhere, and no other";
        return Err(item.field(
            "digests",
            format!("a difference in `{}`", Escaped(name)),
            expected.into(),
        ));
    }
    manifest.digests.values().try_for_each(|digest| hash(item, "sha256", digest))
}

/// A manifest has nothing that came after its version: a reader of that version would refuse it.
fn earlier_version(
    item: Item<'_>,
    manifest: &Manifest,
    named: &Named<'_>,
) -> Result<(), PackError> {
    let Manifest { linears, inputs, calibration, .. } = manifest;
    let bf16 = |name: &str| named.tensors.get(name).is_some_and(|t| t.dtype == Dtype::BF16);
    let mut segments = linears.iter().flat_map(|linear| &linear.segments);
    // With each the minor version that it came with.
    let found = [
        (1, "`calibration`", calibration.is_some()),
        (1, "`sign_trial`", inputs.iter().any(|input| input.sign_trial.is_some())),
        (1, "`activation`", linears.iter().any(|linear| !linear.activation.is_default())),
        (1, "`rounding`", linears.iter().any(|linear| !linear.rounding.is_default())),
        (1, "`correction`", linears.iter().any(|linear| linear.correction.is_some())),
        (1, "`output_error`", linears.iter().any(|linear| linear.output_error.is_some())),
        (1, "a BF16 scale", linears.iter().any(|linear| bf16(&linear.scale))),
        (2, "`golden`", segments.any(|segment| segment.golden.is_some())),
        (2, "`golden.inputs`", named.tensors.contains_key(names::GOLDEN_INPUTS)),
    ];
    let [major, minor] = manifest.version;
    match found.into_iter().find(|&(since, _, present)| present && since > minor) {
        Some((since, what, _)) => {
            let found = format!("{major}.{minor}, with {what}");
            Err(item.field("version", found, format!("{major}.{since} or later")))
        }
        None => Ok(()),
    }
}

fn calibration(item: Item<'_>, calibration: &Calibration) -> Result<(), PackError> {
    hash(item, "sha256", &calibration.statistics_sha256)?;
    for data in &calibration.data {
        item.check("calibration data", !data.name.is_empty(), "empty", || "a name".into())?;
        hash(item, "sha256", &data.sha256)?;
    }
    Ok(())
}

/// A target's limits must be those of a chip that is known, or narrower.
fn target(item: Item<'_>, target: &Target) -> Result<(), PackError> {
    let Some(chip) = Target::by_name(&target.name) else {
        return Err(item.field("target", &target.name, "the name of a known chip".into()));
    };
    item.check("target cores", (1..=chip.cores).contains(&target.cores), target.cores, || {
        format!("1 to {}", chip.cores)
    })?;
    let aligned = target.k_align > 0 && target.k_align.is_multiple_of(chip.k_align);
    item.check("target k_align", aligned, target.k_align, || {
        format!("a multiple of {}", chip.k_align)
    })?;
    for (field, longest) in
        [("target k_segment", target.k_segment), ("target k_segment_f16", target.k_segment_f16)]
    {
        let possible = (target.k_align..=chip.k_segment).contains(&longest);
        item.check(field, possible, longest, || format!("at most {}", chip.k_segment))?;
    }
    item.check(
        "target domains",
        (1..=chip.domains).contains(&target.domains),
        target.domains,
        || format!("1 to {}", chip.domains),
    )?;
    let capacity = target.domain_capacity;
    item.check("target domain_capacity", capacity <= DOMAIN_SPACE, capacity, || {
        format!("at most {DOMAIN_SPACE}")
    })
}

fn input(named: &mut Named<'_>, input: &Input) -> Result<(), PackError> {
    let item = Item { path: named.path, name: &input.name };
    name(item)?;
    let Rotation { k, size, sylvester, factor } = &input.rotation;
    item.dim("k", *k)?;
    item.dim("size", *size)?;
    item.check("size", size >= k, size, || format!("at least k, {k}"))?;
    item.check("sylvester", sylvester.is_power_of_two(), sylvester, || "a power of two".into())?;
    let mut order = 1;
    if let Some(factor) = factor {
        let known = ["paley1", "paley2", "hartley"].contains(&factor.kind.as_str());
        item.check("factor kind", known, &factor.kind, || {
            "`paley1`, `paley2` or `hartley`".into()
        })?;
        item.check("factor order", (2..=*size).contains(&factor.order), factor.order, || {
            format!("2 to {size}")
        })?;
        item.equal("factor tensor", &factor.tensor, &names::factor(&factor.kind, factor.order))?;
        order = factor.order;
    }
    let fits = sylvester.checked_mul(order).is_some_and(|block| size.is_multiple_of(block));
    item.check("size", fits, size, || format!("a multiple of {order} × {sylvester}"))?;
    if let Some(vector) = &input.vector {
        item.equal("vector", vector, &names::vector(&input.name))?;
        named.take(vector, Dtype::F32, &[*k], 4)?;
    }
    Ok(())
}

fn carried(named: &mut Named<'_>, carried: &Carried) -> Result<(), PackError> {
    let item = Item { path: named.path, name: &carried.name };
    name(item)?;
    let dims = carried.shape.len();
    item.check("dimensions", (1..=4).contains(&dims), dims, || "1 to 4".into())?;
    hash(item, "sha256", &carried.sha256)?;
    let Some(ggml_type) = GgmlType::from_name(&carried.ggml_type) else {
        return Err(item.field("ggml_type", &carried.ggml_type, "the name of a ggml type".into()));
    };
    let (dtype, alignment) = match ggml_type {
        GgmlType::F32 => (Dtype::F32, 4),
        GgmlType::F16 => (Dtype::F16, 2),
        GgmlType::Bf16 => (Dtype::BF16, 2),
        _ => (Dtype::U8, 1),
    };
    let mut shape = carried.shape.clone();
    if let (Dtype::U8, Some(last)) = (dtype, shape.last_mut()) {
        let Some(bytes) = ggml_type.row_bytes(*last) else {
            let expected = format!("whole blocks of {}", ggml_type.block_elements());
            return Err(item.field("row length", *last, expected));
        };
        *last = bytes;
    }
    named.take(&carried.name, dtype, &shape, alignment)
}

fn name(item: Item<'_>) -> Result<(), PackError> {
    item.check("name", !item.name.is_empty(), "empty", || "a name".into())
}

fn hash(item: Item<'_>, field: &'static str, sha256: &str) -> Result<(), PackError> {
    let hexadecimal =
        sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    item.check(field, hexadecimal, sha256, || "64 lower-case hexadecimal digits".into())
}
