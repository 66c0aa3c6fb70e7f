//! What the format demands of one shard: of its manifest, and of the tensors beside it.
//!
//! Everything is checked from the header alone. Writer and reader run the same checks, so nothing
//! is written that would not be read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{Debug, Display};
use std::path::Path;

use safetensors::Dtype;

use super::error::PackError;
use super::header::{DATA_ALIGNMENT, TensorEntry, check_version};
use super::manifest::{
    Accumulator, Carried, Factor, Granularity, Input, Linear, Manifest, Rotation, Segment,
};
use super::names;
use crate::escape::Escaped;
use crate::ggml::GgmlType;
use crate::npu::tiles::{TILE_BYTES, TileLayout};
use crate::npu::{Engine, Target};

/// Alignment of tile tensors in the file: one tile.
const TILE_ALIGNMENT: u64 = TILE_BYTES as u64;

/// Greatest N, K or expert count: sizes are `i32` in the NPU's interfaces.
const GREATEST_DIM: u64 = i32::MAX as u64;

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
        hash(item, &source.sha256)?;
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
    for entry in &manifest.inputs {
        input(&mut named, entry)?;
    }
    for entry in &manifest.linears {
        linear(&mut named, &manifest.target, entry)?;
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
    manifest.digests.values().try_for_each(|digest| hash(item, digest))
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

fn linear(named: &mut Named<'_>, target: &Target, linear: &Linear) -> Result<(), PackError> {
    let item = Item { path: named.path, name: &linear.name };
    name(item)?;
    let engine = linear.scheme.engine();
    for (field, dim) in [("n", linear.n), ("k", linear.k), ("experts", linear.experts.unwrap_or(1))]
    {
        item.dim(field, dim)?;
    }
    let tile_n = u64::try_from(engine.tile_n()).unwrap_or(u64::MAX);
    let n_padded = linear.n.checked_next_multiple_of(tile_n).unwrap_or(u64::MAX);
    item.equal("n_padded", linear.n_padded, n_padded)?;
    item.dim("n_padded", linear.n_padded)?;
    item.dim("k_padded", linear.k_padded)?;
    item.check("k_padded", linear.k_padded >= linear.k, linear.k_padded, || {
        format!("at least k, {}", linear.k)
    })?;
    item.check("domain", linear.domain < target.domains, linear.domain, || {
        format!("below {}", target.domains)
    })?;
    for (field, value) in [("relative_rms", linear.relative_rms), ("mean_clip", linear.mean_clip)] {
        item.check(field, value.is_finite() && value >= 0.0, value, || "finite and ≥ 0".into())?;
    }

    let mut end = 0u64;
    for (index, segment) in linear.segments.iter().enumerate() {
        item.equal("segment start", segment.start, end)?;
        self::segment(item, target, engine, segment)?;
        let tiles = names::tiles(&linear.name, index, linear.segments.len());
        item.equal("segment tiles", &segment.tiles, &tiles)?;
        let (dtype, shape) = tiles_shape(named.path, linear, segment.length)?;
        named.take(&segment.tiles, dtype, &shape, TILE_ALIGNMENT)?;
        end = end
            .checked_add(segment.length)
            .ok_or_else(|| PackError::overflow(named.path, &linear.name))?;
    }
    item.equal("sum of segments", end, linear.k_padded)?;

    item.equal("scale", &linear.scale, &names::scale(&linear.name))?;
    let segments = u64::try_from(linear.segments.len()).unwrap_or(u64::MAX);
    let mut shape: Vec<u64> = linear.experts.into_iter().collect();
    match linear.granularity {
        Granularity::Tensor => shape.push(1),
        Granularity::Channel => shape.extend([segments, linear.n]),
    }
    named.take(&linear.scale, Dtype::F32, &shape, 4)
}

fn segment(
    item: Item<'_>,
    target: &Target,
    engine: Engine,
    segment: &Segment,
) -> Result<(), PackError> {
    let longest = u64::try_from(target.longest_segment(engine)).unwrap_or(u64::MAX);
    let k_align = u64::from(target.k_align);
    let fits = (1..=longest).contains(&segment.length) && segment.length.is_multiple_of(k_align);
    item.check("segment length", fits, segment.length, || {
        format!("a multiple of {k_align}, at most {longest}")
    })?;
    hash(item, &segment.sha256)?;
    let range = match engine {
        Engine::F16 => None,
        Engine::I8 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        Engine::I4 => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
    };
    item.equal("accumulator present", segment.accumulator.is_some(), range.is_some())?;
    let (Some(Accumulator { min, max, certified, norm }), Some((least, greatest))) =
        (&segment.accumulator, range)
    else {
        return Ok(());
    };
    item.check("accumulator min", *min <= 0, min, || "at most 0".into())?;
    item.check("accumulator max", *max >= 0, max, || "at least 0".into())?;
    item.equal("accumulator certified", *certified, *min >= least && *max <= greatest)?;
    item.check("accumulator norm", norm.is_finite() && *norm >= 0.0, norm, || {
        "finite and ≥ 0".into()
    })
}

/// Type and shape of tiles of `length` columns.
pub(super) fn tiles_shape(
    path: &Path,
    linear: &Linear,
    length: u64,
) -> Result<(Dtype, Vec<u64>), PackError> {
    let overflow = || PackError::overflow(path, &linear.name);
    let engine = linear.scheme.engine();
    let dtype = match engine {
        Engine::F16 => Dtype::F16,
        Engine::I8 => Dtype::I8,
        Engine::I4 => Dtype::U8,
    };
    let (Ok(n), Ok(k)) = (usize::try_from(linear.n_padded), usize::try_from(length)) else {
        return Err(overflow());
    };
    let tiles = TileLayout::new(engine, n, k).map_err(|_| overflow())?.shape();
    let mut shape: Vec<u64> = linear.experts.into_iter().collect();
    for dim in tiles {
        shape.push(u64::try_from(dim).map_err(|_| overflow())?);
    }
    Ok((dtype, shape))
}

fn carried(named: &mut Named<'_>, carried: &Carried) -> Result<(), PackError> {
    let item = Item { path: named.path, name: &carried.name };
    name(item)?;
    let dims = carried.shape.len();
    item.check("dimensions", (1..=4).contains(&dims), dims, || "1 to 4".into())?;
    hash(item, &carried.sha256)?;
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

fn hash(item: Item<'_>, sha256: &str) -> Result<(), PackError> {
    let hexadecimal =
        sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    item.check("sha256", hexadecimal, sha256, || "64 lower-case hexadecimal digits".into())
}

/// The tensors of a shard that no entry of the manifest has named yet.
struct Named<'a> {
    path: &'a Path,
    data_start: u64,
    tensors: HashMap<&'a str, &'a TensorEntry>,
}

impl Named<'_> {
    /// Takes the tensor an entry names; a second entry that names it does not find it.
    fn take(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        alignment: u64,
    ) -> Result<(), PackError> {
        let path = self.path.to_owned();
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(PackError::Missing { path, tensor: name.to_owned() });
        };
        if tensor.dtype != dtype || tensor.shape != shape {
            return Err(PackError::Tensor {
                path,
                tensor: name.to_owned(),
                expected: format!("{dtype} {shape:?}"),
                found: format!("{} {:?}", tensor.dtype, tensor.shape),
            });
        }
        let offset = self
            .data_start
            .checked_add(tensor.begin)
            .ok_or_else(|| PackError::overflow(self.path, name))?;
        if !offset.is_multiple_of(alignment) {
            let tensor = name.to_owned();
            return Err(PackError::Misaligned { path, tensor, offset, alignment });
        }
        Ok(())
    }
}

/// What is being checked, for errors.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub path: &'a Path,
    pub name: &'a str,
}

impl Item<'_> {
    pub(super) fn field(
        self,
        field: &'static str,
        found: impl Display,
        expected: String,
    ) -> PackError {
        PackError::Field {
            path: self.path.to_owned(),
            item: self.name.to_owned(),
            field,
            expected,
            found: found.to_string(),
        }
    }

    pub(super) fn check(
        self,
        field: &'static str,
        holds: bool,
        found: impl Display,
        expected: impl FnOnce() -> String,
    ) -> Result<(), PackError> {
        if holds { Ok(()) } else { Err(self.field(field, found, expected())) }
    }

    pub(super) fn equal<T: PartialEq + Debug>(
        self,
        field: &'static str,
        found: T,
        expected: T,
    ) -> Result<(), PackError> {
        self.check(field, found == expected, format!("{found:?}"), || format!("{expected:?}"))
    }

    pub(super) fn dim(self, field: &'static str, found: u64) -> Result<(), PackError> {
        self.check(field, (1..=GREATEST_DIM).contains(&found), found, || {
            format!("1 to {GREATEST_DIM}")
        })
    }
}
