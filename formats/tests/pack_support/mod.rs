//! Packs made by hand: tiles by the naive formula, weights by dense matrices in f64.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::{bf16, f16};
use sha2::{Digest, Sha256};
use tessera_formats::npu::{Engine, Scheme, Target};
use tessera_formats::pack::manifest::{
    Accumulator, Activation, Calibration, CalibrationData, Carried, FORMAT, Factor, Granularity,
    Input, Linear, Manifest, MemoryPlan, Model, Rotation, Rounding, Segment, Shard, Source, Tool,
    VERSION_MAJOR, VERSION_MINOR,
};
use tessera_formats::pack::{Dtype, FinishedShard, ShardWriter, TensorEntry, header_bytes};

/// A tensor to be stored.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A pack before it is written.
#[derive(Clone)]
pub struct Pack {
    pub manifest: Manifest,
    pub tensors: Vec<Stored>,
    /// Real weights `[E · N · K]` of each linear.
    pub weights: BTreeMap<String, Vec<f64>>,
}

/// What a linear of the test pack looks like.
struct Form {
    name: &'static str,
    input: usize,
    experts: Option<usize>,
    n: usize,
    segments: &'static [usize],
    granularity: Granularity,
}

const FORMS: [Form; 6] = [
    Form {
        name: "blk.0.attn_q.weight",
        input: 0,
        experts: None,
        n: 20,
        segments: &[64],
        granularity: Granularity::Channel,
    },
    Form {
        name: "blk.0.attn_k.weight",
        input: 0,
        experts: None,
        n: 70,
        segments: &[32, 32],
        granularity: Granularity::Channel,
    },
    Form {
        name: "blk.0.ffn_up_exps.weight",
        input: 1,
        experts: Some(3),
        n: 33,
        segments: &[32, 64],
        granularity: Granularity::Channel,
    },
    Form {
        name: "blk.0.ffn_gate_exps.weight",
        input: 1,
        experts: Some(2),
        n: 16,
        segments: &[96],
        granularity: Granularity::Tensor,
    },
    Form {
        name: "blk.0.ffn_down.weight",
        input: 2,
        experts: None,
        n: 32,
        segments: &[64],
        granularity: Granularity::Tensor,
    },
    Form {
        name: "output.weight",
        input: 3,
        experts: None,
        n: 129,
        segments: &[32],
        granularity: Granularity::Channel,
    },
];

/// A pack of every form of linear under one scheme: a dense factor, blocks, a padded row, no
/// rotation; vectors; segments; experts; both granularities; padding of N and K.
pub fn small(scheme: Scheme) -> Pack {
    with_zero_points(scheme, &[])
}

/// [`small`]; the certificates of linears in `zero_points` hold for activations that have one.
fn with_zero_points(scheme: Scheme, zero_points: &[usize]) -> Pack {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    let factor = |order| Factor {
        kind: "hartley".to_owned(),
        order,
        tensor: format!("rotation.hartley.{order}"),
    };
    // k, size, sylvester, order of the factor, whether there is a vector
    let forms = [
        ("blk.0.attn_input", 48, 48, 16, Some(3), true),
        ("blk.0.ffn_input", 96, 96, 32, None, true),
        ("blk.0.ffn_down_input", 40, 64, 64, None, false),
        ("output_input", 21, 21, 1, None, false),
    ];
    let mut inputs = Vec::new();
    let mut rotations = Vec::new();
    for (name, k, size, sylvester, order, has_vector) in forms {
        let dense = order.map(hartley);
        let vector: Option<Vec<f32>> = has_vector
            .then(|| (0..k).map(|_| random.sign() * (0.25 + random.unit() as f32)).collect());
        if let (Some(order), Some(dense)) = (order, &dense) {
            let stored: Vec<u8> = dense.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push(Stored {
                name: format!("rotation.hartley.{order}"),
                dtype: Dtype::F32,
                shape: vec![order as u64; 2],
                bytes: stored,
            });
        }
        if let Some(vector) = &vector {
            tensors.push(Stored {
                name: format!("{name}.rotation"),
                dtype: Dtype::F32,
                shape: vec![k as u64],
                bytes: vector.iter().flat_map(|x| x.to_le_bytes()).collect(),
            });
        }
        inputs.push(Input {
            name: name.to_owned(),
            rotation: Rotation {
                k: k as u64,
                size: size as u64,
                sylvester: sylvester as u64,
                factor: order.map(|order| factor(order as u64)),
            },
            vector: has_vector.then(|| format!("{name}.rotation")),
            equalization: if has_vector { "norm" } else { "none" }.to_owned(),
            sign_trial: None,
        });
        rotations.push((
            k,
            size,
            dense_rotation(size, order.unwrap_or(1), dense, sylvester),
            vector,
        ));
    }

    let mut linears = Vec::new();
    let mut weights = BTreeMap::new();
    let mut domain_bytes = vec![0, 0];
    for (index, form) in FORMS.iter().enumerate() {
        let (k, size, matrix, vector) = &rotations[form.input];
        let made =
            make_linear(form, (scheme, zero_points.contains(&index)), (*k, *size), &mut random);
        let domain = index as u32 % 2;
        let mut segments = Vec::new();
        let mut start = 0;
        for (s, tiles) in made.tiles.iter().enumerate() {
            domain_bytes[domain as usize] += tiles.bytes.len() as u64;
            segments.push(Segment {
                tiles: tiles.name.clone(),
                start,
                length: form.segments[s] as u64,
                sha256: sha256(&tiles.bytes),
                accumulator: made.accumulators[s].clone(),
                golden: None,
            });
            start += form.segments[s] as u64;
        }
        let rotated = &made.rotated;
        let rows = form.experts.unwrap_or(1) * form.n;
        let mut weight = vec![0.0; rows * k];
        for row in 0..rows {
            for column in 0..*k {
                let mut sum = 0.0;
                for (i, value) in rotated[row * size..(row + 1) * size].iter().enumerate() {
                    sum += matrix[i * size + column] * value;
                }
                let factor = vector.as_ref().map_or(1.0, |vector| f64::from(vector[column]));
                weight[row * k + column] = sum * factor;
            }
        }
        weights.insert(form.name.to_owned(), weight);
        linears.push(Linear {
            name: form.name.to_owned(),
            source: form.name.to_owned(),
            n: form.n as u64,
            k: *k as u64,
            experts: form.experts.map(|experts| experts as u64),
            n_padded: form.n.next_multiple_of(scheme.engine().tile_n()) as u64,
            k_padded: start,
            scheme,
            input: inputs[form.input].name.clone(),
            granularity: form.granularity,
            calibrator: "amax".to_owned(),
            activation: Activation::default(),
            rounding: Rounding::default(),
            scale: format!("{}.scale", form.name),
            correction: None,
            segments,
            relative_rms: 0.0625,
            mean_clip: 1.0,
            output_error: None,
            domain,
        });
        tensors.extend(made.tiles);
        tensors.push(made.scale);
    }

    let mut carried = Vec::new();
    let f32s: Vec<u8> = (0..48).flat_map(|i| (i as f32 * 0.5).to_le_bytes()).collect();
    let f16s: Vec<u8> = (0..6).flat_map(|i| f16::from_f32(i as f32).to_le_bytes()).collect();
    let bf16s: Vec<u8> = (0..6).flat_map(|i| bf16::from_f32(i as f32).to_le_bytes()).collect();
    let blocks: Vec<u8> = (0..3 * 2 * 34).map(|i| (i * 7 % 256) as u8).collect();
    for (name, ggml_type, dtype, shape, stored_shape, bytes) in [
        ("blk.0.attn_norm.weight", "F32", Dtype::F32, vec![48], vec![48], f32s),
        ("blk.0.gate.weight", "F16", Dtype::F16, vec![2, 3], vec![2, 3], f16s),
        ("blk.0.bias", "BF16", Dtype::BF16, vec![1, 2, 3], vec![1, 2, 3], bf16s),
        ("token_embd.weight", "Q8_0", Dtype::U8, vec![3, 64], vec![3, 68], blocks),
    ] {
        carried.push(Carried {
            name: name.to_owned(),
            ggml_type: ggml_type.to_owned(),
            shape,
            sha256: sha256(&bytes),
        });
        tensors.push(Stored { name: name.to_owned(), dtype, shape: stored_shape, bytes });
    }
    tensors.push(Stored {
        name: "gguf.metadata".to_owned(),
        dtype: Dtype::U8,
        shape: vec![5],
        bytes: b"bytes".to_vec(),
    });
    sort(&mut tensors);

    let digests = digests(&linears, &carried, &tensors);
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: [VERSION_MAJOR, VERSION_MINOR],
        tool: Tool { name: "tessera".to_owned(), version: "0.1.0".to_owned() },
        target: Target::rk3588(),
        sources: vec![Source { file: "m.gguf".to_owned(), bytes: 1, sha256: sha256(b"m") }],
        model: Model {
            architecture: "llama".to_owned(),
            hyperparameters: BTreeMap::from([("llama.block_count".to_owned(), 1.into())]),
        },
        recipe: serde_json::json!({ "rules": [] }),
        seed: 42,
        calibration: None,
        inputs,
        linears,
        carried,
        digests,
        memory: MemoryPlan { tile_bytes: domain_bytes.iter().sum(), domain_bytes },
        shard: None,
    };
    Pack { manifest, tensors, weights }
}

/// The order in which everything is aligned.
fn sort(tensors: &mut [Stored]) {
    tensors.sort_by_key(|tensor| match tensor.dtype {
        _ if tensor.name.contains(".tiles") => 0,
        Dtype::F32 => 1,
        Dtype::F16 | Dtype::BF16 => 2,
        _ => 3,
    });
}

/// [`small`] with all that came with versions 1.1 and 1.2: scales of activations (of integers),
/// corrections, BF16 scales, records of a calibration, golden vectors.
pub fn calibrated(scheme: Scheme) -> Pack {
    let Pack { mut manifest, mut tensors, weights } = with_zero_points(scheme, &[2]);
    let mut random = Random(23);
    manifest.calibration = Some(Calibration {
        statistics_sha256: sha256(b"statistics"),
        data: vec![
            CalibrationData { name: "a.txt".to_owned(), sha256: sha256(b"a") },
            CalibrationData { name: "b.jsonl".to_owned(), sha256: sha256(b"b") },
        ],
        tokens: 65_536,
        context: 512,
        seed: 7,
    });
    for (input, trial) in manifest.inputs.iter_mut().zip([0, 5]) {
        input.sign_trial = Some(trial);
        input.equalization = "observed".to_owned();
    }
    for (index, linear) in manifest.linears.iter_mut().enumerate() {
        linear.rounding = if index == 5 { Rounding::Nearest } else { Rounding::Gptq };
        linear.output_error = (index > 0).then_some(0.015_625);
        if scheme.engine() != Engine::F16 {
            linear.activation = match index {
                0..3 => Activation::Dynamic {
                    rms_clip: Some(1.5 + index as f32 / 4.0),
                    asymmetric: index > 0,
                    fitted: index == 2,
                },
                3..5 => Activation::Static {
                    threshold: linear.segments.iter().map(|_| 0.5 + random.unit() as f32).collect(),
                },
                _ => Activation::default(),
            };
        }
        if index % 2 == 0 {
            let shape: Vec<u64> = linear.experts.into_iter().chain([linear.n]).collect();
            let values = (0..shape.iter().product()).map(|_| random.unit() as f32 - 0.5);
            let name = format!("{}.correction", linear.name);
            linear.correction = Some(name.clone());
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            tensors.push(Stored { name, dtype: Dtype::F32, shape, bytes });
        }
        if index % 3 != 1 {
            let scale = tensors.iter_mut().find(|tensor| tensor.name == linear.scale).unwrap();
            let values =
                scale.bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
            scale.bytes = values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
            scale.dtype = Dtype::BF16;
        }
    }
    add_golden(&mut [&mut manifest], &mut tensors);
    sort(&mut tensors);
    manifest.digests = digests(&manifest.linears, &manifest.carried, &tensors);
    Pack { manifest, tensors, weights }
}

/// Adds golden vectors to all shards of a pack, and their inputs to the tensors of the first.
fn add_golden(manifests: &mut [&mut Manifest], first: &mut Vec<Stored>) {
    let mut k = 0;
    for linear in manifests.iter_mut().flat_map(|manifest| &mut manifest.linears) {
        k = k.max(linear.k_padded);
        for segment in &mut linear.segments {
            segment.golden = Some(sha256(segment.tiles.as_bytes()));
        }
    }
    let bytes = (0..4 * k).map(|i| (i * 37 % 256) as u8).collect();
    let name = "golden.inputs".to_owned();
    first.push(Stored { name, dtype: Dtype::I8, shape: vec![4, k], bytes });
}

struct Made {
    tiles: Vec<Stored>,
    scale: Stored,
    accumulators: Vec<Option<Accumulator>>,
    /// Dequantized rows `[E · n · size]`.
    rotated: Vec<f64>,
}

fn make_linear(
    form: &Form,
    (scheme, asymmetric): (Scheme, bool),
    (k, size): (usize, usize),
    random: &mut Random,
) -> Made {
    let engine = scheme.engine();
    let tile_n = engine.tile_n();
    let (n, n_padded) = (form.n, form.n.next_multiple_of(tile_n));
    let k_padded: usize = form.segments.iter().sum();
    assert!(k <= size && size <= k_padded);
    let experts = form.experts.unwrap_or(1);
    let per_channel = form.granularity == Granularity::Channel;

    let scales_per_expert = if per_channel { form.segments.len() * n } else { 1 };
    let scales: Vec<f32> = (0..experts * scales_per_expert)
        .map(|_| match engine {
            Engine::F16 => [0.25, 0.5, 1.0, 2.0][random.below(4)],
            // Representable in BF16, as `calibrated` stores some.
            _ => bf16::from_f64(0.001 + 0.01 * random.unit()).to_f32(),
        })
        .collect();
    let mut shape: Vec<u64> = form.experts.iter().map(|&experts| experts as u64).collect();
    if per_channel {
        shape.extend([form.segments.len() as u64, n as u64]);
    } else {
        shape.push(1);
    }
    let scale = Stored {
        name: format!("{}.scale", form.name),
        dtype: Dtype::F32,
        shape,
        bytes: scales.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };

    let mut rotated = vec![0.0; experts * n * size];
    let mut tiles = Vec::new();
    let mut accumulators = Vec::new();
    let mut start = 0;
    for (s, &length) in form.segments.iter().enumerate() {
        let elements = n_padded * length;
        let mut bytes = vec![0u8; experts * elements * engine.weight_bits() / 8];
        let (mut min, mut max, mut norm) = (0, 0, 0.0f64);
        for expert in 0..experts {
            let base = expert * elements;
            for row in 0..n {
                let scale = if per_channel {
                    scales[(expert * form.segments.len() + s) * n + row]
                } else {
                    scales[expert]
                };
                let (mut positive, mut negative, mut squares) = (0i64, 0i64, 0i64);
                for column in 0..length.min(size - start) {
                    let index = base
                        + (((row / tile_n) * (length / 32) + column / 32) * tile_n + row % tile_n)
                            * 32
                        + column % 32;
                    let value = match engine {
                        Engine::F16 => {
                            let value = f16::from_f64(random.unit() * 2.0 - 1.0);
                            bytes[2 * index..2 * index + 2].copy_from_slice(&value.to_le_bytes());
                            value.to_f64()
                        }
                        Engine::I8 => {
                            let q = random.below(255) as i32 - 127;
                            bytes[index] = q as u8;
                            f64::from(q)
                        }
                        Engine::I4 => {
                            let q = random.below(15) as i32 - 7;
                            bytes[index / 2] |= ((q as u8) & 15) << (4 * (index % 2));
                            f64::from(q)
                        }
                    };
                    positive += value.max(0.0) as i64;
                    negative += (-value).max(0.0) as i64;
                    squares += (value * value) as i64;
                    rotated[(expert * n + row) * size + start + column] = value * f64::from(scale);
                }
                if let Some((low, high)) = scheme.activation_range(asymmetric) {
                    let (low, high) = (i64::from(low), i64::from(high));
                    max = max.max(high * positive - low * negative);
                    min = min.min(low * positive - high * negative);
                    norm = norm.max((squares as f64).sqrt());
                }
            }
        }
        let certified = match engine {
            Engine::I4 => i16::try_from(min).is_ok() && i16::try_from(max).is_ok(),
            _ => i32::try_from(min).is_ok() && i32::try_from(max).is_ok(),
        };
        accumulators.push(scheme.activation_range(asymmetric).map(|_| Accumulator {
            min,
            max,
            certified,
            norm,
        }));
        let (dtype, innermost) = match engine {
            Engine::F16 => (Dtype::F16, 32),
            Engine::I8 => (Dtype::I8, 32),
            Engine::I4 => (Dtype::U8, 16),
        };
        let mut shape: Vec<u64> = form.experts.iter().map(|&experts| experts as u64).collect();
        shape.extend([n_padded / tile_n, length / 32, tile_n, innermost].map(|d| d as u64));
        let name = match form.segments.len() {
            1 => format!("{}.tiles", form.name),
            _ => format!("{}.tiles.{s}", form.name),
        };
        tiles.push(Stored { name, dtype, shape, bytes });
        start += length;
    }
    Made { tiles, scale, accumulators, rotated }
}

/// R = I ⊗ (F ⊗ S), dense, row-major.
fn dense_rotation(size: usize, order: usize, factor: Option<Vec<f32>>, p: usize) -> Vec<f64> {
    let block = order * p;
    let mut matrix = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..size {
            if row / block == column / block {
                let (r, c) = (row % block, column % block);
                let f = factor.as_ref().map_or(1.0, |f| f64::from(f[r / p * order + c / p]));
                let sign =
                    if ((r % p) & (c % p)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                matrix[row * size + column] = f * sign / (p as f64).sqrt();
            }
        }
    }
    matrix
}

/// The orthonormal Hartley matrix, its rows moved up by one: a reader that confuses it with its
/// transpose must not get away with symmetry.
fn hartley(order: usize) -> Vec<f32> {
    (order..order * (order + 1))
        .map(|index| {
            let angle = 2.0 * std::f64::consts::PI * ((index / order) * (index % order)) as f64
                / order as f64;
            ((angle.sin() + angle.cos()) / (order as f64).sqrt()) as f32
        })
        .collect()
}

impl Pack {
    /// The small w8a8 pack dealt out to `count` shards.
    pub fn shards(count: usize) -> Vec<Pack> {
        let whole = small(Scheme::W8A8);
        let mut owned: BTreeSet<String> = BTreeSet::new();
        (0..count)
            .map(|index| {
                let mut manifest = whole.manifest.clone();
                manifest.shard = Some(Shard { index: index as u32 + 1, count: count as u32 });
                let mine = |position: usize| position % count == index;
                let mut names: BTreeSet<String> = BTreeSet::new();
                retain(&mut manifest.inputs, mine);
                retain(&mut manifest.linears, |position| mine(position + 1));
                retain(&mut manifest.carried, mine);
                for input in &manifest.inputs {
                    names.extend(input.vector.clone());
                    names.extend(input.rotation.factor.as_ref().map(|f| f.tensor.clone()));
                }
                for linear in &manifest.linears {
                    names.insert(linear.scale.clone());
                    names.extend(linear.segments.iter().map(|segment| segment.tiles.clone()));
                }
                names.extend(manifest.carried.iter().map(|carried| carried.name.clone()));
                if index == 0 {
                    names.insert("gguf.metadata".to_owned());
                }
                names.retain(|name| !owned.contains(name));
                owned.extend(names.iter().cloned());
                let mut tensors = whole.tensors.clone();
                tensors.retain(|tensor| names.contains(&tensor.name));
                manifest.digests = digests(&manifest.linears, &manifest.carried, &tensors);
                let weights = manifest
                    .linears
                    .iter()
                    .map(|linear| (linear.name.clone(), whole.weights[&linear.name].clone()))
                    .collect();
                Pack { manifest, tensors, weights }
            })
            .collect()
    }

    /// The same with golden vectors.
    pub fn golden_shards(count: usize) -> Vec<Pack> {
        let mut packs = Self::shards(count);
        let mut tensors = std::mem::take(&mut packs[0].tensors);
        let mut manifests: Vec<_> = packs.iter_mut().map(|pack| &mut pack.manifest).collect();
        add_golden(&mut manifests, &mut tensors);
        packs[0].tensors = tensors;
        packs[0].complete();
        packs
    }

    /// Adds golden vectors to a pack of one file.
    pub fn add_golden(&mut self) {
        add_golden(&mut [&mut self.manifest], &mut self.tensors);
        self.complete();
    }

    /// Puts tensors in order, and records the digests of those that there are.
    pub fn complete(&mut self) {
        sort(&mut self.tensors);
        let Manifest { linears, carried, .. } = &self.manifest;
        self.manifest.digests = digests(linears, carried, &self.tensors);
    }

    /// Tensors as the header will have them.
    pub fn entries(&self) -> Vec<TensorEntry> {
        let mut begin = 0;
        self.tensors
            .iter()
            .map(|tensor| {
                let end = begin + tensor.bytes.len() as u64;
                let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
                let entry = TensorEntry { name, dtype: tensor.dtype, shape, begin, end };
                begin = end;
                entry
            })
            .collect()
    }

    /// Bytes for the header.
    pub fn reserve(&self) -> u64 {
        header_bytes(&self.manifest.widest(), &self.entries()).unwrap()
    }

    pub fn append_to(&self, writer: &mut ShardWriter) {
        for tensor in &self.tensors {
            writer.append(&tensor.name, tensor.dtype, &tensor.shape, &tensor.bytes).unwrap();
        }
    }

    /// A writer that holds all tensors.
    pub fn begin(&self, path: &Path) -> ShardWriter {
        let mut writer = ShardWriter::create(path, self.reserve()).unwrap();
        self.append_to(&mut writer);
        writer
    }

    pub fn write(&self, path: &Path) -> FinishedShard {
        self.begin(path).finish(&self.manifest).unwrap()
    }

    pub fn bytes(&self, tensor: &str) -> &[u8] {
        &self.tensors.iter().find(|stored| stored.name == tensor).unwrap().bytes
    }
}

fn retain<T>(list: &mut Vec<T>, keep: impl Fn(usize) -> bool) {
    let mut position = 0;
    list.retain(|_| {
        position += 1;
        keep(position - 1)
    });
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SplitMix64, enough for test data.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn sign(&mut self) -> f32 {
        if self.next() & 1 == 0 { 1.0 } else { -1.0 }
    }
}

/// SHA-256 of the tensors that neither a segment nor a carried entry has one for.
fn digests(
    linears: &[Linear],
    carried: &[Carried],
    tensors: &[Stored],
) -> BTreeMap<String, String> {
    let tiles = linears.iter().flat_map(|linear| linear.segments.iter().map(|s| &s.tiles));
    let elsewhere: BTreeSet<&String> = tiles.chain(carried.iter().map(|c| &c.name)).collect();
    tensors
        .iter()
        .filter(|tensor| !elsewhere.contains(&tensor.name))
        .map(|tensor| (tensor.name.clone(), sha256(&tensor.bytes)))
        .collect()
}
