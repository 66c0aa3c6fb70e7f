//! The conversion proper: shard after shard, linear after linear.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use half::bf16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tessera_formats::escape::{escaped, escaped_path};
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::{Input, Linear, Manifest};
use tessera_formats::pack::{self, Dtype, FinishedShard, ShardWriter, names};

use super::inputs::PreparedInput;
use super::linear::ConvertedLinear;
use super::partial::{Finished, PartialPack};
use super::quantizer::Quantizer;
use super::shards::{self, ShardPlan};
use super::{carry, entries, output};
use crate::hash::hex;
use crate::options::Rounding;

/// A conversion under way.
pub struct Conversion<'a> {
    /// What quantizes.
    pub quantizer: Quantizer<'a>,
    /// The pack's name.
    pub output: &'a Path,
    /// Whether existing files are replaced.
    pub force: bool,
}

/// What was written.
pub struct Written {
    /// Files, in order.
    pub paths: Vec<PathBuf>,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Bytes of the largest.
    pub largest: u64,
    /// Every linear.
    pub linears: Vec<WrittenLinear>,
}

/// What the summary says of a linear.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenLinear {
    /// Its name.
    pub name: String,
    /// Its scheme.
    pub scheme: Scheme,
    /// Matrices in it.
    pub matrices: usize,
    /// K segments of each.
    pub segments: usize,
    /// Relative error of its weights.
    pub relative_rms: f64,
    /// Squared error of outputs on observed activations, over that of plain rounding.
    pub improvement: Option<f64>,
    /// Whether GPTQ was wanted, and second moments were missing.
    pub lacks_hessian: bool,
}

impl Conversion<'_> {
    /// Writes every shard to its path, but those that `partial` has. `hashes` gives the digests of the
    /// source files; it is asked when the first shard is complete.
    pub fn run(
        &self,
        shards: &[ShardPlan],
        paths: &[PathBuf],
        mut common: Manifest,
        mut partial: PartialPack<'_>,
        hashes: impl FnOnce() -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Written> {
        let mut linears = Vec::new();
        let mut finished = Vec::new();
        let mut hashes = Some(hashes);
        let mut carry_on = CarryOver::default();
        if partial.count_finished()? > 0 {
            fill_in(&mut common, hashes.take())?;
        }
        for (index, (shard, path)) in shards.iter().zip(paths).enumerate() {
            if let Some(found) = partial.finished(index, &common.sources)? {
                self.skip(shard, &found, &mut carry_on)?;
                linears.extend(found.linears);
                finished.push(found.shard);
                continue;
            }
            let mut file = ShardWriter::create(path, shard.header_reserve)?;
            let mut manifest = common.clone();
            manifest.shard = shards::place(index, shards.len());
            let written = self.fill(shard, index, &mut file, &mut manifest, &mut carry_on)?;
            fill_in(&mut common, hashes.take())?;
            manifest.sources.clone_from(&common.sources);
            let sealed = file.seal(&manifest)?;
            self.quantizer.gguf.check_unchanged()?;
            finished.push(if shards.len() > 1 {
                partial.keep(index, sealed, &written)?
            } else {
                sealed.persist(self.force)?
            });
            linears.extend(written);
        }
        let written = self.place(finished, paths, linears)?;
        partial.remove()?;
        Ok(written)
    }

    /// Takes note of a shard that an earlier run finished.
    fn skip(
        &self,
        shard: &ShardPlan,
        found: &Finished,
        carry_on: &mut CarryOver,
    ) -> anyhow::Result<()> {
        let plan = self.quantizer.plan;
        let expected = shard.linears.iter().map(|&linear| &plan.linears[linear].name);
        ensure!(
            found.manifest.linears.iter().map(|linear| &linear.name).eq(expected),
            "`{}` holds other linears than this conversion puts there",
            escaped_path(&found.shard.path),
        );
        for input in &found.manifest.inputs {
            carry_on
                .factors
                .extend(input.rotation.factor.iter().map(|factor| factor.tensor.clone()));
        }
        let tensors = &self.quantizer.gguf.tensors();
        let linears = shard.linears.iter().map(|&linear| plan.linears[linear].source);
        let done = linears.chain(shard.carried.iter().copied());
        self.quantizer.progress.advance(done.map(|tensor| tensors[tensor].bytes).sum());
        Ok(())
    }

    /// Writes all tensors of a shard.
    fn fill(
        &self,
        shard: &ShardPlan,
        index: usize,
        file: &mut ShardWriter,
        manifest: &mut Manifest,
        carry_on: &mut CarryOver,
    ) -> anyhow::Result<Vec<WrittenLinear>> {
        let mut written = Vec::new();
        // Tiles stand first, and their lengths are known; what follows them is not.
        let mut regions = Vec::new();
        for &linear in &shard.linears {
            let bytes = self.quantizer.plan.linears[linear].tile_bytes();
            regions.push((linear, file.allocate(bytes)?));
        }
        for (linear, offset) in regions {
            let converted = self.linear(linear, offset, file, &mut carry_on.prepared)?;
            let entry = self.describe(linear, &converted, file, manifest)?;
            manifest.linears.push(entry);
            written.push(self.written(linear, &converted));
        }
        for &input in &shard.inputs {
            let prepared = carry_on.prepared.get(&input);
            let entry = self.input(input, prepared, &mut carry_on.factors, file, manifest)?;
            manifest.inputs.push(entry);
        }
        self.carry(shard, file, manifest)?;
        if index == 0 {
            if let Some(golden) = self.quantizer.golden {
                let bytes = golden.to_bytes();
                let shape = [names::GOLDEN_ROWS, u64::try_from(golden.columns())?];
                let name = names::GOLDEN_INPUTS;
                file.append(name, Dtype::I8, &shape, &bytes)?;
                manifest.digests.insert(name.to_owned(), hex(&Sha256::digest(&bytes)));
            }
            let bytes = self.quantizer.gguf.metadata_bytes();
            let shape = [u64::try_from(bytes.len())?];
            let name = names::GGUF_METADATA;
            file.append(name, Dtype::U8, &shape, bytes)?;
            manifest.digests.insert(name.to_owned(), hex(&Sha256::digest(bytes)));
        }
        Ok(written)
    }

    /// Puts all shards in their places, now that every one is complete, and the index if there are
    /// several. If one cannot be put there, those before it wait in the folder again.
    fn place(
        &self,
        mut shards: Vec<FinishedShard>,
        places: &[PathBuf],
        linears: Vec<WrittenLinear>,
    ) -> anyhow::Result<Written> {
        let waiting: Vec<_> = shards.iter().map(|shard| shard.path.clone()).collect();
        let mut paths = places.to_vec();
        let placed = self.place_all(&mut shards, places, &mut paths);
        if let Err(error) = placed {
            // Some files of a pack are none.
            for (shard, path) in shards.iter_mut().zip(&waiting) {
                if shard.path != *path {
                    let _ = shard.move_to(path, true);
                }
            }
            return Err(error);
        }
        if self.force {
            output::remove_replaced(self.output, &paths)?;
        }
        Ok(Written {
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
            largest: shards.iter().map(|shard| shard.bytes).max().unwrap_or(0),
            paths,
            linears,
        })
    }

    fn place_all(
        &self,
        shards: &mut [FinishedShard],
        places: &[PathBuf],
        paths: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        // Those that stand in their places stand there from an interrupted run, whose index may too.
        let all_stood = shards.iter().zip(places).all(|(shard, place)| shard.path == *place);
        for (shard, place) in shards.iter_mut().zip(places) {
            if shard.path != *place {
                shard.move_to(place, self.force)?;
            }
        }
        if shards.len() > 1 {
            paths.push(pack::write_index(self.output, shards, self.force || all_stood)?);
        }
        Ok(())
    }

    /// Writes the tensors of an input, and gives its entry.
    fn input(
        &self,
        index: usize,
        prepared: Option<&PreparedInput>,
        factors: &mut BTreeSet<String>,
        file: &mut ShardWriter,
        manifest: &mut Manifest,
    ) -> anyhow::Result<Input> {
        let plan = &self.quantizer.plan.inputs[index];
        let vector = prepared.and_then(|input| input.vector.as_deref());
        let sign_trial = prepared.and_then(|input| input.sign_trial);
        let entry = Input { sign_trial, ..entries::input(plan, vector.is_some()) };
        if let (Some(name), Some(vector)) = (&entry.vector, vector) {
            let shape = [u64::try_from(vector.len())?];
            append_floats(file, manifest, (name, Dtype::F32), &shape, vector)?;
        }
        if let (Some(factor), Some(values)) = (&entry.rotation.factor, plan.rotation.factor())
            && factors.insert(factor.tensor.clone())
        {
            let shape = [factor.order, factor.order];
            append_floats(file, manifest, (&factor.tensor, Dtype::F32), &shape, values)?;
        }
        Ok(entry)
    }

    /// Converts a linear into the region of the shard that starts at `offset`.
    fn linear(
        &self,
        index: usize,
        offset: u64,
        file: &ShardWriter,
        prepared: &mut HashMap<usize, PreparedInput>,
    ) -> anyhow::Result<ConvertedLinear> {
        let plan = &self.quantizer.plan.linears[index];
        self.quantizer.progress.name(&escaped(&plan.name));
        let input = match prepared.entry(plan.input) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.quantizer.input(plan.input)?),
        };
        let converted = self.quantizer.linear(index, input, file, offset)?;
        // What was observed can be large, and has served when the input's last linear is done.
        if self.quantizer.plan.inputs[plan.input].linears.last() == Some(&index) {
            input.observed = None;
        }
        Ok(converted)
    }

    /// Gives the tensors of a converted linear their names, and writes its scales.
    fn describe(
        &self,
        index: usize,
        converted: &ConvertedLinear,
        file: &mut ShardWriter,
        manifest: &mut Manifest,
    ) -> anyhow::Result<Linear> {
        let plan = &self.quantizer.plan.linears[index];
        let input = &self.quantizer.plan.inputs[plan.input];
        let source = &self.quantizer.gguf.tensors()[plan.source];
        let entry =
            entries::linear(plan, source, input, self.quantizer.plan.domains[index], converted);
        for (segment, converted) in entry.segments.iter().zip(&converted.segments) {
            let (dtype, shape) = entries::tiles_form(plan, converted.layout);
            file.describe(&segment.tiles, dtype, &shape, converted.offset)?;
        }
        let shape = entries::scale_shape(plan, converted.segments.len());
        let dtype = entries::scale_type(plan);
        append_floats(file, manifest, (&entry.scale, dtype), &shape, &converted.scales)?;
        if let (Some(name), Some(correction)) = (&entry.correction, &converted.correction) {
            let shape = entries::correction_shape(plan);
            append_floats(file, manifest, (name, Dtype::F32), &shape, correction)?;
        }
        Ok(entry)
    }

    fn written(&self, index: usize, converted: &ConvertedLinear) -> WrittenLinear {
        let plan = &self.quantizer.plan.linears[index];
        WrittenLinear {
            name: plan.name.clone(),
            scheme: plan.options.scheme,
            matrices: plan.matrices(),
            segments: converted.segments.len(),
            relative_rms: converted.relative_rms,
            improvement: converted.improvement,
            lacks_hessian: plan.options.rounding == Rounding::Gptq
                && converted.improvement.is_none(),
        }
    }

    /// Copies the shard's other tensors: wider types first, so that every one is aligned.
    fn carry(
        &self,
        shard: &ShardPlan,
        file: &mut ShardWriter,
        manifest: &mut Manifest,
    ) -> anyhow::Result<()> {
        let mut order: Vec<_> =
            shard.carried.iter().map(|&index| &self.quantizer.gguf.tensors()[index]).collect();
        order.sort_by_key(|tensor| std::cmp::Reverse(carry::element_bytes(tensor)));
        for tensor in order {
            self.quantizer.progress.name(&escaped(&tensor.name));
            let sha256 = carry::copy(self.quantizer.gguf, tensor, file, self.quantizer.progress)?;
            manifest.carried.push(entries::carried(tensor, Some(&sha256)));
        }
        Ok(())
    }
}

/// What later shards need of earlier ones.
#[derive(Default)]
struct CarryOver {
    /// Inputs whose linears are not all converted.
    prepared: HashMap<usize, PreparedInput>,
    /// Tensors of rotations' factors that stand in a shard.
    factors: BTreeSet<String>,
}

/// Enters the digests of the source files, once they are asked for.
fn fill_in(
    common: &mut Manifest,
    hashes: Option<impl FnOnce() -> anyhow::Result<Vec<String>>>,
) -> anyhow::Result<()> {
    if let Some(hashes) = hashes {
        for (source, sha256) in common.sources.iter_mut().zip(hashes()?) {
            source.sha256 = sha256;
        }
    }
    Ok(())
}

/// Appends a tensor of F32, or of BF16 values, and records its digest. The values can be many: they
/// become bytes piece by piece.
fn append_floats(
    file: &mut ShardWriter,
    manifest: &mut Manifest,
    (name, dtype): (&str, Dtype),
    shape: &[u64],
    values: &[f32],
) -> anyhow::Result<()> {
    const PIECE: usize = 1 << 16;
    let short = dtype == Dtype::BF16;
    let bytes = values.len() * if short { size_of::<bf16>() } else { size_of::<f32>() };
    let mut offset = file.allocate(u64::try_from(bytes)?)?;
    file.describe(name, dtype, shape, offset)?;
    let mut hasher = Sha256::new();
    for piece in values.chunks(PIECE) {
        let bytes: Vec<u8> = match short {
            true => piece.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            false => piece.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        hasher.update(&bytes);
        file.write_at(offset, &bytes)?;
        offset += u64::try_from(bytes.len())?;
    }
    manifest.digests.insert(name.to_owned(), hex(&hasher.finalize()));
    Ok(())
}
