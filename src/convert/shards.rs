//! Division of a pack among files, and the room their headers need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tessera_formats::gguf::Gguf;
use tessera_formats::pack::manifest::{Input, Manifest, Shard};
use tessera_formats::pack::{self, PackError, names};
use tessera_runtime::golden;

use super::entries;
use super::plan::Plan;

/// What stands in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardPlan {
    /// Indices of the plan's linears.
    pub linears: Vec<usize>,
    /// Indices of the plan's inputs whose vectors stand here.
    pub inputs: Vec<usize>,
    /// Indices of the source's tensors that are carried here.
    pub carried: Vec<usize>,
    /// Bytes kept for the header.
    pub header_reserve: u64,
    /// Bytes that the rest takes at most.
    pub data_bytes: u64,
}

/// Divides the plan into shards of at most `limit` bytes, in the order in which tensors are
/// converted. A tensor that is larger by itself has a shard of its own. Without a limit, only as
/// many shards as headers, which are of limited length, need.
pub fn divide(
    plan: &Plan,
    gguf: &Gguf,
    common: &Manifest,
    limit: Option<u64>,
) -> Result<Vec<ShardPlan>, PackError> {
    let mut division = Division::new(plan, gguf, common, limit.unwrap_or(u64::MAX))?;
    for (index, linear) in plan.linears.iter().enumerate() {
        division.add_linear(index, linear.input);
    }
    for &index in &plan.carried {
        division.add_carried(index);
    }
    Ok(division.finish())
}

/// A factor's tensor name as long as any.
const LONGEST_FACTOR: &str = "rotation.hartley.18446744073709551615";

/// Shards so far, the last one open.
struct Division<'a> {
    plan: &'a Plan,
    gguf: &'a Gguf,
    limit: u64,
    /// Bytes of the header's common part.
    common: u64,
    shards: Vec<ShardPlan>,
    bytes: u64,
    header: u64,
    placed: BTreeSet<usize>,
}

/// Bytes by which a data section can be longer than its tensors: the header's length and padding.
const FRAME: u64 = 8 + pack::DATA_ALIGNMENT;

impl<'a> Division<'a> {
    fn new(
        plan: &'a Plan,
        gguf: &'a Gguf,
        common: &Manifest,
        limit: u64,
    ) -> Result<Self, PackError> {
        let common = pack::header_bytes(&common.widest(), &[])?;
        // The golden inputs and the key-value section stand in the first shard.
        let mut bytes = length(gguf.metadata_bytes().len());
        let mut header = common + small_entry_bytes(names::GGUF_METADATA, 1);
        if let Some(columns) = plan.golden_columns() {
            bytes += length(golden::ROWS.saturating_mul(columns));
            header += small_entry_bytes(names::GOLDEN_INPUTS, 2);
        }
        Ok(Division {
            plan,
            gguf,
            limit,
            common,
            shards: vec![ShardPlan::default()],
            bytes,
            header,
            placed: BTreeSet::new(),
        })
    }

    fn add_linear(&mut self, index: usize, input: usize) {
        let linear = &self.plan.linears[index];
        let source = &self.gguf.tensors()[linear.source];
        let input_plan = &self.plan.inputs[input];
        let scales = linear.matrices() * linear.most_segments * linear.n * size_of::<f32>();
        let mut header = escaped_length(&entries::longest_linear(linear, source, input_plan))
            + small_entry_bytes(&names::scale(&linear.name), 3);
        for segment in 0..linear.most_segments {
            header += entry_bytes(&names::tiles(&linear.name, segment, 2), 5);
        }
        let mut bytes = linear.tile_bytes() + length(scales);
        if linear.options.bias_correction {
            bytes += length(linear.matrices() * linear.n * size_of::<f32>());
            header += small_entry_bytes(&names::correction(&linear.name), 2);
        }
        let new_input = !self.placed.contains(&input);
        if new_input {
            let factor = input_plan.rotation.factor().map_or(0, <[f32]>::len);
            bytes += length((input_plan.k + factor) * size_of::<f32>());
            header += escaped_length(&Input {
                sign_trial: Some(u32::MAX),
                ..entries::input(input_plan, true)
            }) + small_entry_bytes(&names::vector(&input_plan.name), 1)
                + small_entry_bytes(LONGEST_FACTOR, 2);
        }
        self.open(bytes, header);
        if new_input {
            self.placed.insert(input);
            self.last().inputs.push(input);
        }
        self.last().linears.push(index);
    }

    fn add_carried(&mut self, index: usize) {
        let tensor = &self.gguf.tensors()[index];
        let header = escaped_length(&entries::carried(tensor, None)) + entry_bytes(&tensor.name, 4);
        self.open(tensor.bytes, header);
        self.last().carried.push(index);
    }

    /// Makes room for a tensor: in the last shard, or in a new one.
    fn open(&mut self, bytes: u64, header: u64) {
        let total = self.bytes + self.header + bytes + header + FRAME;
        // An empty shard must take it, however large; one with the key-values alone is not empty.
        let header_bytes = self.header + header + FRAME;
        let full = total > self.limit || header_bytes > pack::LONGEST_HEADER;
        if full && self.bytes > 0 {
            self.close();
            self.shards.push(ShardPlan::default());
            self.bytes = 0;
            self.header = self.common;
        }
        self.bytes += bytes;
        self.header += header;
    }

    fn close(&mut self) {
        let (header, bytes) = (self.header, self.bytes);
        self.last().header_reserve = header;
        self.last().data_bytes = bytes;
    }

    fn last(&mut self) -> &mut ShardPlan {
        let last = self.shards.len() - 1;
        &mut self.shards[last]
    }

    fn finish(mut self) -> Vec<ShardPlan> {
        self.close();
        self.shards
    }
}

/// Bytes that a value takes in the manifest, which is JSON in a JSON string, with its comma.
fn escaped_length(value: &impl Serialize) -> u64 {
    let escaped = serde_json::to_string(value).and_then(|text| serde_json::to_string(&text));
    escaped.map_or(u64::MAX / 4, |text| length(text.len()))
}

/// Bytes that a tensor's entry in the header can take at most.
fn entry_bytes(name: &str, dimensions: u64) -> u64 {
    // `"NAME":{"dtype":"BF16","shape":[…],"data_offsets":[…,…]},`, numbers of up to 20 digits.
    escaped_length(&name) + 64 + 21 * (dimensions + 2)
}

/// The same with an entry in the manifest's digests.
fn small_entry_bytes(name: &str, dimensions: u64) -> u64 {
    entry_bytes(name, dimensions) + escaped_length(&name) + 64 + 8
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX / 4)
}

/// Files of a pack of `count` shards that is called `output`, in order.
pub fn paths(output: &Path, count: usize) -> Result<Vec<PathBuf>, PackError> {
    let count = number(count);
    (1..=count).map(|index| pack::shard_path(output, index, count)).collect()
}

/// Place of shard `index`, from 0, of `count`; absent in a pack of one.
pub fn place(index: usize, count: usize) -> Option<Shard> {
    (count > 1).then(|| Shard { index: number(index).saturating_add(1), count: number(count) })
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
