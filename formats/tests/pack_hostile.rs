//! Damaged and hostile packs: each is refused, with the right error, without a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test data is ours")]

mod pack_support;

use std::fs;
use std::path::{Path, PathBuf};

use pack_support::{Pack, Random, calibrated, small};
use serde_json::{Value, json};
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::{Activation, Rounding};
use tessera_formats::pack::{Dtype, PackError, PackReader};

/// A good file, taken apart.
struct Good {
    folder: tempfile::TempDir,
    /// Header without `__metadata__`.
    tensors: Value,
    manifest: Value,
    data: Vec<u8>,
}

impl Good {
    /// That of the small w4a4 pack.
    fn new() -> Self {
        Self::of(&small(Scheme::W4A4))
    }

    fn of(pack: &Pack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good.safetensors");
        pack.write(&path);
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let metadata = header.as_object_mut().unwrap().remove("__metadata__").unwrap();
        let manifest = serde_json::from_str(metadata["tessera"].as_str().unwrap()).unwrap();
        Good { folder, tensors: header, manifest, data: bytes[8 + length..].to_vec() }
    }

    /// Writes a file as it stands and opens it.
    fn open(&self, bytes: &[u8]) -> Result<PackReader, PackError> {
        let path = self.folder.path().join("bad.safetensors");
        fs::write(&path, bytes).unwrap();
        PackReader::open(&path)
    }

    /// A file of a header's text and the data, padded as a writer does.
    fn file(&self, header: &str) -> Vec<u8> {
        let length = (header.len() + 8).next_multiple_of(4096) - 8;
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(8 + length, b' ');
        bytes.extend_from_slice(&self.data);
        bytes
    }

    fn open_with(&self, tensors: &Value, manifest: &Value) -> Result<PackReader, PackError> {
        let mut header = tensors.clone();
        header["__metadata__"] = json!({ "tessera": manifest.to_string() });
        self.open(&self.file(&header.to_string()))
    }

    /// The header's text with a manifest, for textual changes.
    fn header(&self) -> String {
        let mut header = self.tensors.clone();
        header["__metadata__"] = json!({ "tessera": self.manifest.to_string() });
        header.to_string()
    }
}

#[test]
fn the_good_file_is_good() {
    let good = Good::new();
    good.open_with(&good.tensors, &good.manifest).unwrap();
}

#[test]
fn lengths_that_cannot_be() {
    let good = Good::new();
    let file = good.file(&good.header());
    let with_length = |length: u64| {
        let mut bytes = file.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        good.open(&bytes)
    };
    for length in [0, 1, file.len() as u64 - 7, 100_000_001, 1 << 63, u64::MAX - 7, u64::MAX] {
        let error = with_length(length).unwrap_err();
        assert!(matches!(error, PackError::HeaderLength { .. }), "{length}: {error}");
    }
    let length = u64::from_le_bytes(file[..8].try_into().unwrap());
    for wrong in [length - 4096, length + 1, length - 1, 2] {
        assert!(with_length(wrong).is_err(), "{wrong}");
    }
    for end in [0, 1, 7, 8, 9, 100, 4096, file.len() - 1] {
        assert!(good.open(&file[..end]).is_err(), "cut at {end}");
    }
    assert!(matches!(
        good.open(&file[..file.len() - 1]).unwrap_err(),
        PackError::FileLength { .. }
    ));
    let trailing = [&file[..], b"PK\x05\x06"].concat();
    let error = good.open(&trailing).unwrap_err();
    assert!(matches!(error, PackError::FileLength { .. }), "{error}");
    assert!(error.hint().unwrap().contains("appended"));
}

#[test]
fn a_sparse_file_cannot_make_the_reader_allocate_its_length() {
    let good = Good::new();
    let path = good.folder.path().join("sparse.safetensors");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &(1u64 << 39).to_le_bytes(), 0).unwrap();
    let error = PackReader::open(&path).unwrap_err();
    assert!(matches!(error, PackError::HeaderLength { limit: 100_000_000, .. }), "{error}");
}

#[test]
fn headers_that_are_not_one() {
    let good = Good::new();
    let header = good.header();
    let tensor = "\"output.weight.tiles\":";
    let tiles = &header[header.find(tensor).unwrap()..];
    let tiles = &tiles[..=tiles.find('}').unwrap()];
    let manifest = json!(good.manifest.to_string()).to_string();
    let cases: Vec<(&str, String)> = vec![
        ("not UTF-8", header.replace("output", "\u{fffd}")),
        ("no brace", format!(" {header}")),
        ("cut", header[..header.len() - 2].to_owned()),
        ("more after the object", format!("{header}{{}}")),
        ("an array", "[]".to_owned()),
        ("no manifest", good.tensors.to_string()),
        ("a tensor twice", header.replacen(tiles, &format!("{tiles},{tiles}"), 1)),
        (
            "two manifests",
            header.replacen("{\"tessera\":", &format!("{{\"tessera\":{manifest},\"tessera\":"), 1),
        ),
        (
            "metadata twice",
            header.replacen('{', &format!("{{\"__metadata__\":{{\"tessera\":{manifest}}},"), 1),
        ),
        ("metadata of numbers", header.replacen("{\"tessera\":", "{\"x\":1,\"tessera\":", 1)),
        ("an unknown type", header.replacen("\"U8\"", "\"I4\"", 1)),
        ("an unknown field", header.replacen("\"dtype\"", "\"x\":1,\"dtype\"", 1)),
        ("a negative offset", header.replacen("[0,", "[-1,", 1)),
        ("a float", header.replacen("[0,", "[0.0,", 1)),
        ("deep nesting", format!("{{\"a\":{}", "[".repeat(200_000))),
    ];
    assert!(header.contains("[0,") && header.contains("{\"tessera\":"));
    for (what, header) in cases {
        let mut bytes = good.file(&header);
        if what == "not UTF-8" {
            let at = bytes.windows(3).position(|window| window == "\u{fffd}".as_bytes()).unwrap();
            bytes[at] = 0xff;
        }
        let error = good.open(&bytes).unwrap_err();
        assert!(
            matches!(error, PackError::Header { .. } | PackError::NotAPack { .. }),
            "{what}: {error}"
        );
    }
}

#[test]
fn tensors_that_disagree_with_the_data() {
    let good = Good::new();
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 11] = [
        ("a hole", |t| t["gguf.metadata"]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 5])),
        ("an overlap", |t| {
            t["output.weight.tiles"]["data_offsets"] =
                t["blk.0.ffn_down.weight.tiles"]["data_offsets"].clone();
        }),
        ("end before begin", |t| t["gguf.metadata"]["data_offsets"] = json!([9, 4])),
        ("size is not type times shape", |t| t["gguf.metadata"]["shape"] = json!([4])),
        ("a product that wraps to the size", |t| {
            t["gguf.metadata"]["shape"] = json!([(1u64 << 63) + 1, 5, 2]);
        }),
        ("a dimension beyond 64 bits", |t| {
            let text =
                t.to_string().replacen("\"shape\":[5]", "\"shape\":[99999999999999999999]", 1);
            *t = serde_json::from_str(&text).unwrap();
        }),
        ("another shape of the same size", |t| {
            t["output.weight.tiles"]["shape"] = json!([3, 1, 32, 32]);
        }),
        ("another type of the same size", |t| t["output.weight.tiles"]["dtype"] = json!("I8")),
        ("a tensor missing", |t| drop(t.as_object_mut().unwrap().remove("gguf.metadata"))),
        ("a tensor renamed", |t| {
            let tensor = t.as_object_mut().unwrap().remove("gguf.metadata").unwrap();
            t["GGUF.metadata"] = tensor;
        }),
        ("a tensor of no bytes that nobody names", |t| {
            t["ghost"] = json!({ "dtype": "U8", "shape": [0], "data_offsets": [0, 0] });
        }),
    ];
    for (what, change) in cases {
        let mut tensors = good.tensors.clone();
        change(&mut tensors);
        assert!(tensors != good.tensors, "{what}");
        assert!(good.open_with(&tensors, &good.manifest).is_err(), "{what}");
    }
}

#[test]
fn misplaced_tensors_are_refused() {
    // The data starts off the page, and tiles stand behind a tensor of 5 bytes.
    let good = Good::new();
    let header = good.header();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&good.data);
    assert_ne!((header.len() + 8) % 4096, 0);
    assert!(matches!(good.open(&bytes).unwrap_err(), PackError::Field { field: "data start", .. }));

    let mut tensors = good.tensors.clone();
    for tensor in tensors.as_object_mut().unwrap().values_mut() {
        for end in tensor["data_offsets"].as_array_mut().unwrap() {
            *end = json!(end.as_u64().unwrap() + 5);
        }
    }
    tensors["gguf.metadata"]["data_offsets"] = json!([0, 5]);
    assert!(matches!(
        good.open_with(&tensors, &good.manifest).unwrap_err(),
        PackError::Misaligned { .. }
    ));
}

/// Every field of the manifest, wrong in every way that comes to mind: path, value.
fn wrong_fields() -> Vec<(&'static str, Value)> {
    let huge = u64::MAX;
    let hash = "0".repeat(64);
    let linear = "/linears/0";
    let mut cases = vec![
        ("/format", json!("other")),
        ("/format", json!(1)),
        ("/version", json!([0, 9])),
        ("/version", json!([1, 3])),
        ("/version", json!([2, 0])),
        ("/version", json!([1])),
        ("/version", json!([1, -1])),
        ("/version", json!("1.0")),
        ("/version", json!([huge, huge])),
        ("/tool", json!("tessera")),
        ("/target/name", json!("rk9999")),
        ("/target/name", json!("rk3576")),
        ("/target/cores", json!(0)),
        ("/target/cores", json!(4)),
        ("/target/k_align", json!(0)),
        ("/target/k_align", json!(16)),
        ("/target/k_align", json!(64)),
        ("/target/k_segment", json!(8224)),
        ("/target/k_segment", json!(32)),
        ("/target/k_segment_f16", json!(1 << 31)),
        ("/target/k_segment_f16", json!(0)),
        ("/target/domains", json!(17)),
        ("/target/domains", json!(1)),
        ("/target/domain_capacity", json!((1u64 << 32) + 1)),
        ("/sources", json!([])),
        ("/sources/0/file", json!("../m.gguf")),
        ("/sources/0/file", json!("/home/user/m.gguf")),
        ("/sources/0/file", json!("")),
        ("/sources/0/bytes", json!(-1)),
        ("/sources/0/sha256", json!("")),
        ("/sources/0/sha256", json!(hash.replace('0', "A"))),
        ("/sources/0/sha256", json!("0".repeat(65))),
        ("/model", json!(null)),
        ("/model/architecture", json!(3)),
        ("/seed", json!(-1)),
        ("/seed", json!(1.5)),
        ("/shard", json!({ "index": 1, "count": 1 })),
        ("/shard", json!({ "index": 0, "count": 2 })),
        ("/shard", json!({ "index": 3, "count": 2 })),
        ("/shard", json!({ "index": 1, "count": 4_000_000_000u32 })),
        ("/shard", json!({ "index": 1, "count": 2 })),
        ("/memory/tile_bytes", json!(0)),
        ("/memory/tile_bytes", json!(huge)),
        ("/memory/domain_bytes", json!([])),
        ("/memory/domain_bytes", json!([huge, huge])),
        ("/memory/domain_bytes", json!([0, 26624])),
        (
            "/memory/domain_bytes",
            json!([13312, 13312, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("/inputs", json!([])),
        ("/inputs/0/name", json!("")),
        ("/inputs/0/name", json!("blk.0.ffn_input")),
        ("/inputs/0/vector", json!("blk.0.ffn_input.rotation")),
        ("/inputs/0/vector", json!(null)),
        ("/inputs/2/vector", json!("blk.0.ffn_down_input.rotation")),
        ("/inputs/0/rotation/k", json!(0)),
        ("/inputs/0/rotation/k", json!(47)),
        ("/inputs/0/rotation/k", json!(1u64 << 31)),
        ("/inputs/0/rotation/size", json!(0)),
        ("/inputs/0/rotation/size", json!(47)),
        ("/inputs/0/rotation/size", json!(96)),
        ("/inputs/0/rotation/size", json!(huge)),
        ("/inputs/0/rotation/sylvester", json!(0)),
        ("/inputs/0/rotation/sylvester", json!(3)),
        ("/inputs/0/rotation/sylvester", json!(32)),
        ("/inputs/0/rotation/sylvester", json!(1u64 << 63)),
        ("/inputs/0/rotation/factor", json!(null)),
        ("/inputs/0/rotation/factor/kind", json!("random")),
        ("/inputs/0/rotation/factor/kind", json!("paley1")),
        ("/inputs/0/rotation/factor/order", json!(0)),
        ("/inputs/0/rotation/factor/order", json!(1)),
        ("/inputs/0/rotation/factor/order", json!(huge)),
        ("/inputs/0/rotation/factor/tensor", json!("blk.0.attn_norm.weight")),
        ("/linears", json!([])),
        ("/linears", json!({})),
        ("/linears/0/name", json!("")),
        ("/linears/0/name", json!("output.weight")),
        ("/linears/0/name", json!("token_embd.weight")),
        ("/linears/0/n", json!(0)),
        ("/linears/0/n", json!(19)),
        ("/linears/0/n", json!(65)),
        ("/linears/0/n", json!(huge)),
        ("/linears/0/n", json!(-20)),
        ("/linears/0/n", json!(20.0)),
        ("/linears/0/k", json!(0)),
        ("/linears/0/k", json!(47)),
        ("/linears/0/k", json!(huge)),
        ("/linears/0/experts", json!(1)),
        ("/linears/2/experts", json!(null)),
        ("/linears/2/experts", json!(0)),
        ("/linears/2/experts", json!(2)),
        ("/linears/2/experts", json!(huge)),
        ("/linears/0/n_padded", json!(32)),
        ("/linears/0/n_padded", json!(128)),
        ("/linears/0/n_padded", json!(huge)),
        ("/linears/0/k_padded", json!(32)),
        ("/linears/0/k_padded", json!(48)),
        ("/linears/0/k_padded", json!(96)),
        ("/linears/0/k_padded", json!(huge)),
        ("/linears/0/scheme", json!("w8a8")),
        ("/linears/0/scheme", json!("w4a16")),
        ("/linears/0/scheme", json!("w16a16")),
        ("/linears/0/input", json!("absent")),
        ("/linears/0/input", json!("blk.0.ffn_input")),
        ("/linears/0/granularity", json!("tensor")),
        ("/linears/0/granularity", json!("group")),
        ("/linears/4/granularity", json!("channel")),
        ("/linears/0/activation", json!(null)),
        ("/linears/0/activation", json!({})),
        ("/linears/0/activation", json!("dynamic")),
        ("/linears/0/activation", json!({ "kind": "other" })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "surprise": 1 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "threshold": [1.0] })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": 0.0 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": -2.5 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": 1e-60 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": 1e60 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "rms_clip": "2.5" })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "asymmetric": 1 })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "asymmetric": "true" })),
        ("/linears/0/activation", json!({ "kind": "dynamic", "fitted": true })),
        (
            "/linears/0/activation",
            json!({ "kind": "dynamic", "asymmetric": true, "fitted": false }),
        ),
        ("/linears/0/activation", json!({ "kind": "dynamic", "asymmetric": true, "fitted": 1 })),
        ("/linears/0/activation", json!({ "kind": "static" })),
        (
            "/linears/0/activation",
            json!({ "kind": "static", "threshold": [1.0], "asymmetric": true }),
        ),
        ("/linears/0/activation", json!({ "kind": "static", "threshold": 1.0 })),
        ("/linears/0/activation", json!({ "kind": "static", "threshold": [] })),
        ("/linears/0/activation", json!({ "kind": "static", "threshold": [1.0, 1.0] })),
        ("/linears/1/activation", json!({ "kind": "static", "threshold": [1.0] })),
        ("/linears/1/activation", json!({ "kind": "static", "threshold": [1.0, 0.0] })),
        ("/linears/1/activation", json!({ "kind": "static", "threshold": [1.0, -1.0] })),
        ("/linears/1/activation", json!({ "kind": "static", "threshold": [1e60, 1.0] })),
        ("/linears/0/activation", json!({ "kind": "static", "threshold": [1.0], "rms_clip": 2.0 })),
        ("/linears/0/rounding", json!("up")),
        ("/linears/0/rounding", json!(null)),
        ("/linears/0/correction", json!("blk.0.attn_q.weight.correction")),
        ("/linears/0/correction", json!("blk.0.attn_norm.weight")),
        ("/linears/0/output_error", json!(-0.5)),
        ("/linears/0/output_error", json!("0")),
        ("/inputs/0/sign_trial", json!(-1)),
        ("/inputs/0/sign_trial", json!(1.5)),
        ("/inputs/0/sign_trial", json!(1u64 << 32)),
        ("/calibration", json!({})),
        ("/calibration", json!([])),
        ("/linears/0/scale", json!("blk.0.attn_k.weight.scale")),
        ("/linears/0/segments", json!([])),
        ("/linears/0/segments/0/tiles", json!("output.weight.tiles")),
        ("/linears/0/segments/0/tiles", json!("blk.0.attn_q.weight.tiles.0")),
        ("/linears/0/segments/0/start", json!(32)),
        ("/linears/1/segments/1/start", json!(0)),
        ("/linears/1/segments/1/start", json!(64)),
        ("/linears/0/segments/0/length", json!(0)),
        ("/linears/0/segments/0/length", json!(48)),
        ("/linears/0/segments/0/length", json!(32)),
        ("/linears/0/segments/0/length", json!(8224)),
        ("/linears/0/segments/0/length", json!(huge - 31)),
        ("/linears/0/segments/0/sha256", json!("../../x")),
        // Without inputs, there is nothing to have results for.
        ("/linears/0/segments/0/golden", json!("0".repeat(64))),
        ("/linears/0/segments/0/accumulator", json!(null)),
        ("/linears/0/segments/0/accumulator/min", json!(1)),
        ("/linears/0/segments/0/accumulator/min", json!(-32769)),
        ("/linears/0/segments/0/accumulator/max", json!(-1)),
        ("/linears/0/segments/0/accumulator/max", json!(32768)),
        ("/linears/0/segments/0/accumulator/max", json!(huge)),
        ("/linears/0/segments/0/accumulator/certified", json!(false)),
        ("/linears/0/segments/0/accumulator/norm", json!(-1.0)),
        ("/linears/0/segments/0/accumulator/norm", json!(null)),
        ("/linears/0/relative_rms", json!(-0.5)),
        ("/linears/0/relative_rms", json!(null)),
        ("/linears/0/mean_clip", json!("1")),
        ("/linears/0/domain", json!(1)),
        ("/linears/0/domain", json!(2)),
        ("/linears/0/domain", json!(16)),
        ("/linears/0/domain", json!(huge)),
        ("/carried", json!([])),
        ("/carried/0/name", json!("")),
        ("/carried/0/name", json!("gguf.metadata")),
        ("/carried/0/name", json!("token_embd.weight")),
        ("/carried/0/ggml_type", json!("F16")),
        ("/carried/0/ggml_type", json!("Q8_0")),
        ("/carried/0/ggml_type", json!("Q9_9")),
        ("/carried/0/shape", json!([])),
        ("/carried/0/shape", json!([24])),
        ("/carried/0/shape", json!([48, 1])),
        ("/carried/0/shape", json!([1, 1, 1, 1, 48])),
        ("/carried/0/sha256", json!(3)),
        ("/carried/3/shape", json!([3, 65])),
        ("/carried/3/shape", json!([3, 68])),
        ("/carried/3/shape", json!([3, huge - 31])),
        ("/carried/3/ggml_type", json!("Q4_0")),
    ];
    cases.push((linear, json!(null)));
    cases
}

/// Fields that only a calibrated pack has, wrong.
fn wrong_fields_of_calibrated() -> Vec<(&'static str, Value)> {
    vec![
        ("/version", json!([1, 0])),
        ("/version", json!([1, 1])),
        ("/linears/0/segments/0/golden", json!(null)),
        ("/linears/0/segments/0/golden", json!("")),
        ("/linears/0/segments/0/golden", json!("0".repeat(63))),
        ("/linears/0/segments/0/golden", json!("0".repeat(65))),
        ("/linears/0/segments/0/golden", json!("0".repeat(63) + "A")),
        ("/linears/1/segments/1/golden", json!(null)),
        ("/linears/1/segments/1/golden", json!(7)),
        ("/digests/golden.inputs", json!("0")),
        ("/calibration/statistics_sha256", json!("0")),
        ("/calibration/data", json!(null)),
        ("/calibration/data/0", json!("a.txt")),
        ("/calibration/data/0/name", json!("")),
        ("/calibration/data/0/sha256", json!("a".repeat(65))),
        ("/calibration/tokens", json!(-1)),
        ("/calibration/context", json!(0.5)),
        ("/calibration/seed", json!("7")),
        ("/linears/0/activation/kind", json!("static")),
        ("/linears/0/activation/rms_clip", json!(0)),
        ("/linears/0/activation/rms_clip", json!(1e39)),
        ("/linears/3/activation/kind", json!("dynamic")),
        ("/linears/3/activation/threshold/0", json!(-1.0)),
        ("/linears/0/correction", json!("blk.0.ffn_down.weight.correction")),
        ("/linears/0/correction", json!("blk.0.attn_q.weight.scale")),
        ("/linears/0/correction", json!(null)),
        ("/linears/1/correction", json!("blk.0.attn_k.weight.correction")),
        ("/linears/2/output_error", json!(-1e-9)),
    ]
}

#[test]
fn every_wrong_field_is_refused() {
    refuses_all(&Good::new(), wrong_fields());
    refuses_all(&Good::of(&calibrated(Scheme::W4A4)), wrong_fields_of_calibrated());
    // The float engine's activations are no integers.
    for activation in [
        json!({ "kind": "dynamic", "rms_clip": 2.5 }),
        json!({ "kind": "dynamic", "asymmetric": true }),
        json!({ "kind": "static", "threshold": [1] }),
    ] {
        let good = Good::of(&small(Scheme::W16A16));
        refuses_all(&good, vec![("/linears/0/activation", activation)]);
    }
}

fn refuses_all(good: &Good, fields: Vec<(&str, Value)>) {
    for (pointer, value) in fields {
        let mut manifest = good.manifest.clone();
        set(&mut manifest, pointer, value.clone());
        assert!(manifest != good.manifest, "{pointer} = {value} changes nothing");
        match good.open_with(&good.tensors, &manifest) {
            Ok(_) => panic!("{pointer} = {value} is accepted"),
            Err(error) => {
                assert!(!matches!(error, PackError::Header { .. }), "{pointer} = {value}: {error}");
            }
        }
    }
}

#[test]
fn every_field_is_needed_and_no_other_is_known() {
    let good = Good::of(&calibrated(Scheme::W4A4));
    let optional = ["shard", "experts", "vector", "factor", "accumulator", "correction", "golden"];
    // Nothing in the file says that they should be there.
    let records = [
        "calibration",
        "sign_trial",
        "activation",
        "rms_clip",
        "asymmetric",
        "fitted",
        "rounding",
        "output_error",
    ];
    let mut pointers = Vec::new();
    objects(&good.manifest, String::new(), &mut pointers);
    let mut removed = 0;
    for pointer in &pointers {
        if pointer.starts_with("/recipe") || pointer.starts_with("/model/hyperparameters") {
            continue;
        }
        let mut manifest = good.manifest.clone();
        manifest.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
        let error = good.open_with(&good.tensors, &manifest).unwrap_err();
        assert!(matches!(error, PackError::Manifest { .. }), "{pointer}: {error}");

        let object = good.manifest.pointer(pointer).unwrap().as_object().unwrap();
        for key in object.keys() {
            let mut manifest = good.manifest.clone();
            manifest.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
            let opened = good.open_with(&good.tensors, &manifest);
            removed += 1;
            // What is fitted has a zero point.
            let needed = key == "asymmetric" && object.contains_key("fitted");
            if records.contains(&key.as_str()) && !needed {
                opened.unwrap();
                continue;
            }
            let error = opened.unwrap_err();
            // The keys of `digests` are names of tensors: without one, the manifest disagrees.
            if !optional.contains(&key.as_str()) && pointer != "/digests" {
                assert!(matches!(error, PackError::Manifest { .. }), "{pointer}/{key}: {error}");
            }
        }
    }
    assert!(removed > 100, "{removed}");
}

/// Types and shapes of the golden inputs that are not theirs, and packs that lack a part.
#[test]
fn golden_inputs_have_one_form() {
    let good = Good::of(&calibrated(Scheme::W4A4));
    assert_eq!(good.tensors["golden.inputs"]["shape"], json!([4, 96]));
    for (field, value) in [
        ("dtype", json!("U8")),
        ("shape", json!([384])),
        ("shape", json!([96, 4])),
        ("shape", json!([8, 48])),
        ("shape", json!([1, 4, 96])),
        ("shape", json!([])),
    ] {
        let mut tensors = good.tensors.clone();
        tensors["golden.inputs"][field] = value.clone();
        let error = good.open_with(&tensors, &good.manifest).unwrap_err();
        let wrong_size = value == json!([]);
        assert!(matches!(error, PackError::Tensor { .. }) || wrong_size, "{value}: {error}");
    }
    let change = |of: &dyn Fn(&mut Pack)| {
        let mut pack = calibrated(Scheme::W4A4);
        of(&mut pack);
        pack.complete();
        let path = good.folder.path().join("changed.safetensors");
        pack.begin(&path).finish(&pack.manifest).map(|_| drop(fs::remove_file(&path)))
    };
    change(&|_| ()).unwrap();
    // Wider, and narrower, than the widest linear.
    for k in [64, 128, 0] {
        let error = change(&|pack| {
            let inputs = pack.tensors.iter_mut().find(|t| t.name == "golden.inputs").unwrap();
            (inputs.shape, inputs.bytes) = (vec![4, k], vec![0; 4 * k as usize]);
        })
        .unwrap_err();
        assert!(matches!(error, PackError::Tensor { .. }), "{k}: {error}");
    }
    let error = change(&|pack| pack.tensors.retain(|t| t.name != "golden.inputs")).unwrap_err();
    assert!(matches!(error, PackError::Field { field: "segment golden", .. }), "{error}");
    let error = change(&|pack| pack.manifest.linears[3].segments[0].golden = None).unwrap_err();
    assert!(matches!(error, PackError::Field { field: "segment golden", .. }), "{error}");
    let error = change(&|pack| {
        for linear in &mut pack.manifest.linears {
            linear.segments.iter_mut().for_each(|segment| segment.golden = None);
        }
    })
    .unwrap_err();
    assert!(matches!(error, PackError::Field { field: "segment golden", .. }), "{error}");
}

#[test]
fn what_came_later_is_refused_under_the_first_version() {
    type Change = fn(&mut Pack);
    let plain = || {
        let mut pack = small(Scheme::W4A4);
        pack.manifest.version = [1, 0];
        pack
    };
    let open = |pack: &Pack| {
        let mut newest = pack.clone();
        newest.manifest.version = [1, 2];
        let good = Good::of(&newest);
        let manifest = serde_json::to_value(&pack.manifest).unwrap();
        good.open_with(&good.tensors, &manifest)
    };
    assert_eq!(open(&plain()).unwrap().manifest(0).unwrap().version, [1, 0]);
    let changes: [(&str, Change); 7] = [
        ("calibration", |pack| {
            pack.manifest.calibration = calibrated(Scheme::W4A4).manifest.calibration
        }),
        ("sign_trial", |pack| pack.manifest.inputs[3].sign_trial = Some(1)),
        ("activation", |pack| {
            pack.manifest.linears[5].activation =
                Activation::Dynamic { rms_clip: Some(3.0), asymmetric: false, fitted: false };
        }),
        ("rounding", |pack| pack.manifest.linears[5].rounding = Rounding::Gptq),
        ("output_error", |pack| pack.manifest.linears[5].output_error = Some(0.5)),
        ("golden", Pack::add_golden),
        ("BF16 scale", |pack| {
            let from = calibrated(Scheme::W4A4);
            let name = "output.weight.scale";
            let bf16 = from.tensors.iter().find(|stored| stored.name == name).unwrap().clone();
            pack.manifest.digests.insert(name.to_owned(), from.manifest.digests[name].clone());
            pack.tensors.retain(|stored| stored.name != name);
            let place = pack.tensors.iter().position(|stored| stored.dtype == Dtype::BF16).unwrap();
            pack.tensors.insert(place, bf16);
        }),
    ];
    for (what, change) in changes {
        let mut pack = plain();
        change(&mut pack);
        let error = open(&pack).unwrap_err();
        assert!(matches!(error, PackError::Field { field: "version", .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn calibrated_tensors_have_one_form() {
    let good = Good::of(&calibrated(Scheme::W4A4));
    good.open_with(&good.tensors, &good.manifest).unwrap();
    for (name, field, value) in [
        ("blk.0.attn_q.weight.correction", "dtype", json!("I32")),
        ("blk.0.attn_q.weight.correction", "shape", json!([1, 20])),
        ("blk.0.ffn_up_exps.weight.correction", "shape", json!([33, 3])),
        ("blk.0.ffn_up_exps.weight.correction", "shape", json!([99])),
        ("blk.0.attn_q.weight.scale", "dtype", json!("F16")),
        ("blk.0.attn_q.weight.scale", "shape", json!([20])),
    ] {
        let mut tensors = good.tensors.clone();
        assert_ne!(tensors[name][field], value);
        tensors[name][field] = value.clone();
        let error = good.open_with(&tensors, &good.manifest).unwrap_err();
        assert!(matches!(error, PackError::Tensor { .. }), "{name} {field} {value}: {error}");
    }
}

#[test]
fn names_in_errors_are_escaped() {
    let good = Good::new();
    let mut manifest = good.manifest.clone();
    manifest["linears"][0]["input"] = json!("\u{1b}]52;c;AAAA\u{7}");
    let error = good.open_with(&good.tensors, &manifest).unwrap_err().to_string();
    assert!(error.contains("\\u{1b}") && !error.contains('\u{1b}'), "{error}");
    manifest["\u{1b}[2J"] = json!(1);
    let error = good.open_with(&good.tensors, &manifest).unwrap_err().to_string();
    assert!(error.contains("\\u{1b}") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_version_from_the_future_is_named() {
    let good = Good::new();
    // Another version may have any fields: its number is what the user is told.
    let manifest = json!({ "format": "tessera-pack", "version": [2, 3], "unheard": "of" });
    let error = good.open_with(&good.tensors, &manifest).unwrap_err();
    assert!(matches!(error, PackError::Version { found: [2, 3], .. }), "{error}");
    assert!(error.to_string().contains("format 2.3"), "{error}");
    assert!(error.hint().unwrap().contains("update"));
}

#[test]
fn changed_bytes_change_the_hash() {
    let good = Good::new();
    let mut file = good.file(&good.header());
    let path: PathBuf = good.folder.path().join("flipped.safetensors");
    let data = file.len() - good.data.len();
    file[data] ^= 1;
    fs::write(&path, &file).unwrap();
    let pack = PackReader::open(Path::new(&path)).unwrap();
    let wrong: Vec<&str> = pack
        .linears()
        .flat_map(|linear| &linear.segments)
        .filter(|segment| pack.hash_tensor(&segment.tiles).unwrap() != segment.sha256)
        .map(|segment| segment.tiles.as_str())
        .collect();
    assert_eq!(wrong, [pack.tensors()[0].name.as_str()]);
}

#[test]
fn random_damage_never_panics() {
    let good = Good::new();
    let file = good.file(&good.header());
    let header = file.len() - good.data.len();
    let mut random = Random(11);
    let mut refused = 0;
    for _ in 0..800 {
        let mut bytes = file.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(header as u64);
            bytes[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => b"0123456789-.,:\"[]{} "[random.below(20)],
                _ => bytes[random.below(header as u64)],
            };
        }
        refused += usize::from(good.open(&bytes).is_err());
    }
    assert!(refused > 200, "{refused}");
}

/// Sets the value at a JSON pointer, which may name a key that is not there yet.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(array) => array[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
}

/// Pointers of all objects in a document.
fn objects(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                objects(value, format!("{pointer}/{key}"), found);
            }
            found.push(pointer);
        }
        Value::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                objects(value, format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
}
