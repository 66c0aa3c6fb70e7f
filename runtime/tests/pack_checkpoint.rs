//! Packs as models: what a linear computes against the real weights that the pack was made from,
//! what is carried, and what is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test data is ours")]

#[path = "../../formats/tests/pack_support/mod.rs"]
mod pack_support;

use std::error::Error;
use std::sync::Arc;

use half::bf16;
use pack_support::{Pack, calibrated, sha256, small};
use tessera_formats::ggml::{self, GgmlType};
use tessera_formats::gguf::Value;
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::{self, Activation};
use tessera_formats::pack::{Dtype, PackReader};
use tessera_runtime::checkpoint::{Checkpoint, PackCheckpoint};
use tessera_runtime::host::{ActivationScale, Digits, LinearInput, Weights};
use tessera_runtime::linear::{Activations, Linear};
use tessera_runtime::rotation::Rotation;
use tessera_runtime::simulator::{Arithmetic, SimulatedLinear, Simulation};

/// `general.architecture` and `general.alignment`, as a GGUF file has them.
fn key_values() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    [
        text("general.architecture"),
        8u32.to_le_bytes().to_vec(),
        text("llama"),
        text("general.alignment"),
        4u32.to_le_bytes().to_vec(),
        64u32.to_le_bytes().to_vec(),
    ]
    .concat()
}

/// Replaces a tensor's bytes, and its digest unless the pack is to be damaged.
fn replace(pack: &mut Pack, name: &str, bytes: Vec<u8>, digest: bool) {
    if digest && let Some(recorded) = pack.manifest.digests.get_mut(name) {
        *recorded = sha256(&bytes);
    }
    let stored = pack.tensors.iter_mut().find(|stored| stored.name == name).unwrap();
    if name == "gguf.metadata" {
        stored.shape = vec![bytes.len() as u64];
    }
    stored.bytes = bytes;
}

/// A pack with a key-value section.
fn pack(scheme: Scheme) -> Pack {
    with_keys(small(scheme))
}

fn with_keys(mut pack: Pack) -> Pack {
    replace(&mut pack, "gguf.metadata", key_values(), true);
    pack
}

fn open(pack: &Pack, simulation: Simulation) -> Result<PackCheckpoint, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.safetensors");
    pack.write(&path);
    Ok(PackCheckpoint::open(PackReader::open(&path)?, simulation)?)
}

/// Gaussian-like rows.
fn rows(m: usize, k: usize) -> Vec<f32> {
    let mut random = pack_support::Random(99);
    (0..m * k).map(|_| (0..6).map(|_| random.unit() as f32 - 0.5).sum()).collect()
}

/// Values of an F32 or BF16 tensor.
fn floats(pack: &Pack, name: &str) -> Vec<f32> {
    let stored = pack.tensors.iter().find(|stored| stored.name == name).unwrap();
    match stored.dtype {
        Dtype::BF16 => {
            let values = stored.bytes.as_chunks().0.iter();
            values.map(|&x| bf16::from_le_bytes(x).to_f32()).collect()
        }
        _ => stored.bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
    }
}

/// Relative RMS error of a linear's results against the real weights.
fn error(pack: &Pack, name: &str, linear: &dyn Linear) -> f64 {
    let (m, n, k) = (9, linear.n(), linear.k());
    let values = rows(m, k);
    let x = Activations::new(&values, k);
    let weights = &pack.weights[name];
    let linears = &pack.manifest.linears;
    let entry = linears.iter().find(|linear| linear.name == name).unwrap();
    let correction = entry.correction.as_ref().map(|tensor| floats(pack, tensor));
    let (mut wrong, mut energy) = (0.0, 0.0);
    for matrix in 0..linear.experts().unwrap_or(1) {
        let mut out = vec![f32::NAN; m * n];
        match linear.experts() {
            None => linear.apply(&x, &mut out).unwrap(),
            Some(_) => {
                linear.apply_expert(matrix, &x, &(0..m).collect::<Vec<_>>(), &mut out).unwrap();
            }
        }
        for (x, out) in values.chunks(k).zip(out.chunks(n)) {
            for (row, &found) in out.iter().enumerate() {
                let w = &weights[(matrix * n + row) * k..][..k];
                let added = correction.as_ref().map_or(0.0, |values| values[matrix * n + row]);
                let product: f64 = x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum();
                let exact = product + f64::from(added);
                wrong += (f64::from(found) - exact).powi(2);
                energy += exact * exact;
            }
        }
    }
    (wrong / energy).sqrt()
}

/// Linears whose input has no dense factor: that of the support code is not a matrix that a
/// converter may write.
const LINEARS: [&str; 4] = [
    "blk.0.ffn_up_exps.weight",
    "blk.0.ffn_gate_exps.weight",
    "blk.0.ffn_down.weight",
    "output.weight",
];

#[test]
fn linears_compute_what_their_weights_do() {
    // What the rounding of activations to so many bits leaves.
    for (scheme, least, most) in [
        (Scheme::W16A16, 1e-5, 1e-3),
        (Scheme::W8A8, 1e-3, 1e-2),
        (Scheme::W4A8, 1e-3, 1.2e-2),
        (Scheme::W4A4, 5e-2, 1.6e-1),
    ] {
        let pack = pack(scheme);
        for arithmetic in [Arithmetic::Integer, Arithmetic::FloatActivations] {
            let simulation = Simulation { arithmetic, ..Simulation::default() };
            let checkpoint = open(&pack, simulation).unwrap();
            for name in LINEARS {
                let linear = checkpoint.linear(name).unwrap();
                let error = error(&pack, name, &*linear);
                match arithmetic {
                    Arithmetic::Integer => {
                        assert!((least..most).contains(&error), "{scheme} {name}: {error}");
                    }
                    _ => assert!(error < 1e-6, "{scheme} {name}: {error}"),
                }
            }
            assert_eq!(checkpoint.saturated(), 0);
        }
    }
    let with = |digits| {
        let pack = pack(Scheme::W4A8);
        let checkpoint = open(&pack, Simulation { digits, ..Simulation::default() }).unwrap();
        let linear = checkpoint.linear(LINEARS[2]).unwrap();
        error(&pack, LINEARS[2], &*linear)
    };
    assert!(with(Digits::Base16) < with(Digits::Base15));
}

/// The linear that the manifest describes, by the simulator's own interface.
fn described(pack: &Pack, entry: &manifest::Linear) -> SimulatedLinear {
    let inputs = &pack.manifest.inputs;
    let input = inputs.iter().find(|input| input.name == entry.input).unwrap();
    let rotation = Rotation::from_manifest(&input.rotation, None).unwrap();
    let vector = input.vector.as_ref().map(|tensor| floats(pack, tensor));
    let segments = entry.segments.iter();
    let weights = Weights {
        name: entry.name.clone(),
        scheme: entry.scheme,
        n: entry.n as usize,
        k: entry.k as usize,
        experts: entry.experts.map(|experts| experts as usize),
        segments: segments
            .clone()
            .map(|s| s.start as usize..(s.start + s.length) as usize)
            .collect(),
        granularity: entry.granularity,
        scales: floats(pack, &entry.scale),
        activation: match &entry.activation {
            &Activation::Dynamic { rms_clip, asymmetric, fitted } => {
                ActivationScale::Dynamic { rms_clip, asymmetric, fitted }
            }
            Activation::Static { threshold } => ActivationScale::Static(threshold.clone()),
        },
        correction: entry.correction.as_ref().map(|tensor| floats(pack, tensor)),
    };
    let tiles = segments.map(|segment| pack.bytes(&segment.tiles).to_vec()).collect();
    let input = LinearInput::new(Arc::new(rotation), vector);
    SimulatedLinear::new(weights, tiles, input.into(), Simulation::default(), Arc::default())
        .unwrap()
}

#[test]
fn calibrated_linears_compute_what_the_manifest_says() {
    for scheme in Scheme::ALL {
        let pack = with_keys(calibrated(scheme));
        let simulation =
            Simulation { arithmetic: Arithmetic::FloatActivations, ..Simulation::default() };
        let float = open(&pack, simulation).unwrap();
        let integer = open(&pack, Simulation::default()).unwrap();
        let mut activations = Vec::new();
        for name in LINEARS {
            let found = error(&pack, name, &*float.linear(name).unwrap());
            assert!(found < 1e-6, "{scheme} {name}: {found}");

            let linears = &pack.manifest.linears;
            let entry = linears.iter().find(|linear| linear.name == name).unwrap();
            let (n, k) = (entry.n as usize, entry.k as usize);
            let values = rows(4, k);
            let x = Activations::new(&values, k);
            let apply = |linear: &dyn Linear| {
                let mut out = vec![f32::NAN; 4 * n];
                match linear.experts() {
                    None => linear.apply(&x, &mut out).unwrap(),
                    Some(_) => linear.apply_expert(1, &x, &[0, 1, 2, 3], &mut out).unwrap(),
                }
                out
            };
            let expected = apply(&described(&pack, entry));
            assert_eq!(apply(&*integer.linear(name).unwrap()), expected, "{scheme} {name}");
            if !activations.contains(&&entry.activation) {
                activations.push(&entry.activation);
            }
        }
        assert_eq!(activations.len(), if scheme == Scheme::W16A16 { 1 } else { 4 });
    }
}

#[test]
fn keys_shapes_and_carried_tensors() {
    let pack = pack(Scheme::W8A8);
    let checkpoint = open(&pack, Simulation::default()).unwrap();
    let metadata = checkpoint.metadata();
    assert_eq!(metadata.get("general.architecture"), Some(&Value::String("llama".to_owned())));
    assert_eq!((metadata.len(), metadata.bytes()), (2, &key_values()[..]));
    assert_eq!(checkpoint.names().len(), 6 + 4);
    assert_eq!(checkpoint.dims("blk.0.ffn_up_exps.weight"), Some(vec![96, 33, 3]));
    assert_eq!(checkpoint.dims("blk.0.attn_q.weight"), Some(vec![48, 20]));
    assert_eq!(checkpoint.dims("token_embd.weight"), Some(vec![64, 3]));
    assert_eq!(checkpoint.dims("absent"), None);
    let mut norm = vec![0.0; 48];
    checkpoint.read_rows("blk.0.attn_norm.weight", 0, &mut norm).unwrap();
    assert!(norm.iter().enumerate().all(|(i, &x)| x == i as f32 * 0.5));
    let mut whole = vec![0.0; 3 * 64];
    ggml::dequantize(GgmlType::Q8_0, pack.bytes("token_embd.weight"), &mut whole).unwrap();
    let mut last = vec![0.0; 2 * 64];
    checkpoint.read_rows("token_embd.weight", 1, &mut last).unwrap();
    assert_eq!(
        last.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        whole[64..].iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
    assert!(checkpoint.read_rows("token_embd.weight", 2, &mut last).is_err());
    assert!(checkpoint.read_rows("output.weight", 0, &mut last).is_err());
    // A carried matrix is a linear of floats.
    let linear = checkpoint.linear("blk.0.gate.weight").unwrap();
    let mut out = [0.0; 2];
    linear.apply(&Activations::new(&[1.0, 10.0, 100.0], 3), &mut out).unwrap();
    assert_eq!(out, [210.0, 543.0]);
    for name in ["absent", "blk.0.attn_norm.weight"] {
        assert!(checkpoint.linear(name).is_err());
    }
}

#[test]
fn bytes_of_a_linear_are_those_of_its_tensors() {
    for pack in Scheme::ALL.into_iter().flat_map(|scheme| [small(scheme), calibrated(scheme)]) {
        let pack = with_keys(pack);
        let checkpoint = open(&pack, Simulation::default()).unwrap();
        for linear in &pack.manifest.linears {
            let tiles = linear.segments.iter().map(|segment| pack.bytes(&segment.tiles).len());
            let correction = linear.correction.as_ref().map_or(0, |name| pack.bytes(name).len());
            let stored = tiles.sum::<usize>() + pack.bytes(&linear.scale).len() + correction;
            assert_eq!(checkpoint.linear_bytes(&linear.name), stored as u64);
        }
        assert_eq!(checkpoint.linear_bytes("token_embd.weight"), 3 * 68);
    }
}

/// The whole chain of messages.
fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn damaged_and_hostile_packs_are_refused() {
    type Change = fn(&mut Pack);
    let changes: [(&str, Change, &str); 10] = [
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let mut bytes = pack.bytes("blk.0.ffn_down.weight.tiles").to_vec();
                bytes[77] ^= 1;
                replace(pack, "blk.0.ffn_down.weight.tiles", bytes, false);
            },
            "`blk.0.ffn_down.weight`: `blk.0.ffn_down.weight.tiles` does not have the SHA-256 that \
             the manifest records",
        ),
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let zero = 0.0f32.to_le_bytes().to_vec();
                replace(pack, "blk.0.ffn_down.weight.scale", zero, true);
            },
            "`blk.0.ffn_down.weight`: scale 0 of `blk.0.ffn_down.weight.scale` is 0, which is zero \
             or not finite",
        ),
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let nan = f32::NAN.to_le_bytes().to_vec();
                replace(pack, "blk.0.ffn_down.weight.scale", nan, true);
            },
            "`blk.0.ffn_down.weight`: scale 0 of `blk.0.ffn_down.weight.scale` is NaN, which is \
             zero or not finite",
        ),
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let other = 0.5f32.to_le_bytes().to_vec();
                replace(pack, "blk.0.ffn_down.weight.scale", other, false);
            },
            "`blk.0.ffn_down.weight`: `blk.0.ffn_down.weight.scale` does not have the SHA-256 that \
             the manifest records",
        ),
        (
            "blk.0.ffn_up_exps.weight",
            |pack| {
                let mut bytes = pack.bytes("blk.0.ffn_input.rotation").to_vec();
                bytes[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
                replace(pack, "blk.0.ffn_input.rotation", bytes, true);
            },
            "`blk.0.ffn_up_exps.weight`: element 2 of `blk.0.ffn_input.rotation` is inf, which is \
             zero or not finite",
        ),
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let mut bytes = pack.bytes("blk.0.ffn_down.weight.correction").to_vec();
                bytes[5] ^= 1;
                replace(pack, "blk.0.ffn_down.weight.correction", bytes, false);
            },
            "`blk.0.ffn_down.weight`: `blk.0.ffn_down.weight.correction` does not have the SHA-256 \
             that the manifest records",
        ),
        (
            "blk.0.ffn_down.weight",
            |pack| {
                let mut bytes = pack.bytes("blk.0.ffn_down.weight.correction").to_vec();
                bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
                replace(pack, "blk.0.ffn_down.weight.correction", bytes, true);
            },
            "`blk.0.ffn_down.weight`: element 1 of `blk.0.ffn_down.weight.correction` is NaN, \
             which is not finite",
        ),
        (
            "blk.0.ffn_gate_exps.weight",
            |pack| {
                let bytes = [0x80, 0xbf, 0x00, 0x80].to_vec();
                replace(pack, "blk.0.ffn_gate_exps.weight.scale", bytes, true);
            },
            "`blk.0.ffn_gate_exps.weight`: scale 1 of `blk.0.ffn_gate_exps.weight.scale` is -0, \
             which is zero or not finite",
        ),
        (
            "blk.0.attn_q.weight",
            |_| (),
            "`blk.0.attn_q.weight`: the rotation of `blk.0.attn_input`: the stored hartley factor \
             of order 3 has a wrong value at element 1",
        ),
        (
            "token_embd.weight",
            |pack| {
                let mut bytes = pack.bytes("token_embd.weight").to_vec();
                bytes[3] ^= 1;
                replace(pack, "token_embd.weight", bytes, false);
            },
            "`token_embd.weight`: `token_embd.weight` does not have the SHA-256 that the manifest \
             records",
        ),
    ];
    for (name, change, expected) in changes {
        let mut pack = with_keys(calibrated(Scheme::W8A8));
        change(&mut pack);
        let checkpoint = open(&pack, Simulation::default()).unwrap();
        let error = checkpoint.linear(name).err().unwrap();
        assert_eq!(message(&error), expected);
    }
}

#[test]
fn linears_of_one_input_share_what_they_prepare() {
    let mut pack = pack(Scheme::W8A8);
    let factor = Rotation::hartley(48).unwrap();
    let factor = factor.factor().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
    replace(&mut pack, "rotation.hartley.3", factor, true);
    let checkpoint = open(&pack, Simulation::default()).unwrap();
    let linear = |name: &str| checkpoint.linear(name).unwrap();
    let (q, k) = (linear("blk.0.attn_q.weight"), linear("blk.0.attn_k.weight"));
    let values = rows(3, 48);
    let apply = |linear: &dyn Linear, x: &Activations<'_>| {
        let mut out = vec![f32::NAN; 3 * linear.n()];
        linear.apply(x, &mut out).unwrap();
        out
    };
    // One after the other on the same rows, as on rows of their own.
    let shared = Activations::new(&values, 48);
    for linear in [&q, &k, &q] {
        let alone = apply(&**linear, &Activations::new(&values, 48));
        assert_eq!(apply(&**linear, &shared), alone);
    }
}

#[test]
fn key_values_that_are_none_are_refused() {
    for (bytes, digest, expected) in [
        (b"bytes".to_vec(), true, "the pack's `gguf.metadata`"),
        (key_values(), false, "`gguf.metadata` does not have the SHA-256"),
    ] {
        let mut pack = small(Scheme::W8A8);
        replace(&mut pack, "gguf.metadata", bytes, digest);
        let error = open(&pack, Simulation::default()).err().unwrap();
        assert!(message(&*error).starts_with(expected), "{}", message(&*error));
    }
}
