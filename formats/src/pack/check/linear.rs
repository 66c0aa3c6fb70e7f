//! What the format demands of a linear.

use std::path::Path;

use safetensors::Dtype;

use super::item::{Item, Named};
use super::{hash, name};
use crate::npu::tiles::{TILE_BYTES, TileLayout};
use crate::npu::{Engine, Target};
use crate::pack::error::PackError;
use crate::pack::manifest::{Accumulator, Activation, Granularity, Linear, Segment};
use crate::pack::names;

/// Alignment of tile tensors in the file: one tile.
const TILE_ALIGNMENT: u64 = TILE_BYTES as u64;

pub(super) fn linear(
    named: &mut Named<'_>,
    target: &Target,
    linear: &Linear,
) -> Result<(), PackError> {
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
        record(item, field, value)?;
    }
    if let Some(error) = linear.output_error {
        record(item, "output_error", error)?;
    }
    activation(item, linear)?;

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
    let experts = linear.experts.as_slice();
    let shape = match linear.granularity {
        Granularity::Tensor => [experts, &[1]].concat(),
        Granularity::Channel => [experts, &[segments, linear.n]].concat(),
    };
    let stored = named.tensors.get(linear.scale.as_str()).map(|tensor| tensor.dtype);
    let (dtype, alignment) = match stored {
        Some(Dtype::BF16) => (Dtype::BF16, 2),
        _ => (Dtype::F32, 4),
    };
    named.take(&linear.scale, dtype, &shape, alignment)?;
    if let Some(correction) = &linear.correction {
        item.equal("correction", correction, &names::correction(&linear.name))?;
        named.take(correction, Dtype::F32, &[experts, &[linear.n]].concat(), 4)?;
    }
    Ok(())
}

/// A figure that is a record.
fn record(item: Item<'_>, field: &'static str, value: f64) -> Result<(), PackError> {
    item.check(field, value.is_finite() && value >= 0.0, value, || "finite and ≥ 0".into())
}

fn activation(item: Item<'_>, linear: &Linear) -> Result<(), PackError> {
    let float = linear.scheme.engine() == Engine::F16;
    item.check("activation", !float || linear.activation.is_default(), "clipped", || {
        format!("absent: the activations of {} are not integers", linear.scheme)
    })?;
    let positive = |field, value: f32| {
        let wanted = || "finite and above zero".into();
        item.check(field, value.is_finite() && value > 0.0, value, wanted)
    };
    match &linear.activation {
        Activation::Dynamic { rms_clip, .. } => {
            rms_clip.map_or(Ok(()), |clip| positive("activation rms_clip", clip))
        }
        Activation::Static { threshold } => {
            item.equal("activation thresholds", threshold.len(), linear.segments.len())?;
            threshold.iter().try_for_each(|&value| positive("activation threshold", value))
        }
    }
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
    hash(item, "sha256", &segment.sha256)?;
    if let Some(golden) = &segment.golden {
        hash(item, "segment golden", golden)?;
    }
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
    record(item, "accumulator norm", *norm)
}

/// Type and shape of tiles of `length` columns.
pub(in crate::pack) fn tiles_shape(
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
