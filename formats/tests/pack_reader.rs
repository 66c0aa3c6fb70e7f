//! Reading packs: what was written comes back, from every way to name a pack.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test data is ours"
)]

mod pack_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::bf16;
use pack_support::{Pack, calibrated, sha256, small};
use tessera_formats::npu::Scheme;
use tessera_formats::pack::{Dtype, PackError, PackReader, index_path, shard_path, write_index};

fn write_sharded(folder: &Path, count: u32) -> (PathBuf, Vec<Pack>) {
    write_shards(folder, Pack::shards(count as usize))
}

fn write_shards(folder: &Path, packs: Vec<Pack>) -> (PathBuf, Vec<Pack>) {
    let out = folder.join("m.safetensors");
    let count = packs.len() as u32;
    let shards: Vec<_> = packs
        .iter()
        .zip(1..)
        .map(|(pack, index)| pack.write(&shard_path(&out, index, count).unwrap()))
        .collect();
    write_index(&out, &shards, false).unwrap();
    (out, packs)
}

/// Everything in the packs is what the reader finds.
fn assert_reads(reader: &PackReader, packs: &[Pack]) {
    assert_eq!(reader.shards().len(), packs.len());
    for (index, pack) in packs.iter().enumerate() {
        assert!(reader.manifest(index) == Some(&pack.manifest));
        for tensor in &pack.tensors {
            let info = reader.tensor_info(&tensor.name).unwrap();
            assert_eq!((info.dtype, &info.shape, info.shard), (tensor.dtype, &tensor.shape, index));
            let whole = reader.read_tensor(&tensor.name, tensor.bytes.len() as u64).unwrap();
            assert_eq!(whole, tensor.bytes, "{}", tensor.name);
            assert_eq!(reader.hash_tensor(&tensor.name).unwrap(), sha256(&tensor.bytes));
            let mut part = [0; 3];
            reader.read_tensor_at(&tensor.name, 1, &mut part).unwrap();
            assert_eq!(part, tensor.bytes[1..4]);
            let end = tensor.bytes.len() as u64;
            assert!(matches!(
                reader.read_tensor_at(&tensor.name, end - 2, &mut part),
                Err(PackError::Range { .. })
            ));
            if tensor.dtype == Dtype::F32 {
                let values = reader.read_f32(&tensor.name).unwrap();
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                assert_eq!(bytes, tensor.bytes);
            } else if tensor.dtype == Dtype::BF16 {
                let values = reader.read_f32(&tensor.name).unwrap();
                let bytes: Vec<u8> =
                    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
                assert_eq!(bytes, tensor.bytes);
            } else {
                assert!(matches!(reader.read_f32(&tensor.name), Err(PackError::Tensor { .. })));
            }
        }
        for linear in &pack.manifest.linears {
            assert_eq!(reader.linear(&linear.name), Some(linear));
            assert!(reader.input(&linear.input).is_some());
            for segment in &linear.segments {
                assert_eq!(reader.hash_tensor(&segment.tiles).unwrap(), segment.sha256);
                assert_eq!(reader.tensor_info(&segment.tiles).unwrap().offset % 1024, 0);
            }
        }
        for carried in &pack.manifest.carried {
            assert_eq!(reader.hash_tensor(&carried.name).unwrap(), carried.sha256);
        }
    }
    let count = |of: fn(&Pack) -> usize| packs.iter().map(of).sum::<usize>();
    assert_eq!(reader.tensors().len(), count(|pack| pack.tensors.len()));
    assert_eq!(reader.linears().count(), count(|pack| pack.manifest.linears.len()));
    assert_eq!(reader.inputs().count(), count(|pack| pack.manifest.inputs.len()));
    assert_eq!(reader.carried().count(), count(|pack| pack.manifest.carried.len()));
    assert!(reader.linear("absent").is_none() && reader.input("absent").is_none());
    assert!(matches!(reader.hash_tensor("absent"), Err(PackError::Missing { .. })));
}

#[test]
fn every_scheme_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    for (scheme, make) in Scheme::ALL
        .into_iter()
        .flat_map(|scheme| [(scheme, small as fn(_) -> _), (scheme, calibrated)])
    {
        let path = folder.path().join("m.safetensors");
        let _ = fs::remove_file(&path);
        let pack: Pack = make(scheme);
        pack.write(&path);
        let reader = PackReader::open(&path).unwrap();
        assert_reads(&reader, &[pack]);
        assert!(matches!(
            reader.read_tensor("output.weight.tiles", 1000),
            Err(PackError::TooLarge { limit: 1000, .. })
        ));
    }
}

#[test]
fn a_sharded_pack_opens_by_any_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (out, packs) = write_sharded(folder.path(), 3);
    let mut ways = vec![index_path(&out).unwrap(), folder.path().to_owned()];
    ways.extend((1..=3).map(|index| shard_path(&out, index, 3).unwrap()));
    for way in ways {
        assert_reads(&PackReader::open(&way).unwrap(), &packs);
    }
}

#[test]
fn a_folder_must_hold_one_pack() {
    let folder = tempfile::tempdir().unwrap();
    let open = || PackReader::open(folder.path());
    assert!(matches!(open(), Err(PackError::NotOnePack { found: 0, .. })));
    small(Scheme::W8A8).write(&folder.path().join("a.safetensors"));
    fs::write(folder.path().join("README.md"), "").unwrap();
    assert_eq!(open().unwrap().shards().len(), 1);
    write_sharded(folder.path(), 2);
    assert!(matches!(open(), Err(PackError::NotOnePack { found: 2, .. })));
}

#[test]
fn golden_vectors_belong_to_all_shards() {
    let open = |packs: Vec<Pack>| {
        let folder = tempfile::tempdir().unwrap();
        let (out, packs) = write_shards(folder.path(), packs);
        let first = shard_path(&out, 1, 2).unwrap();
        PackReader::open(&first).map(|reader| assert_reads(&reader, &packs))
    };
    open(Pack::golden_shards(2)).unwrap();
    // One segment without, in the shard that has no inputs.
    let mut packs = Pack::golden_shards(2);
    packs[1].manifest.linears[0].segments[0].golden = None;
    let error = open(packs).unwrap_err();
    assert!(matches!(error, PackError::Field { field: "segment golden", .. }), "{error}");
    assert!(error.to_string().contains("is absent, expected present"), "{error}");
    // In another shard than the first.
    let mut packs = Pack::golden_shards(2);
    let at = packs[0].tensors.iter().position(|t| t.name == "golden.inputs").unwrap();
    let inputs = packs[0].tensors.remove(at);
    packs[1].tensors.push(inputs);
    let folder = tempfile::tempdir().unwrap();
    packs.iter_mut().for_each(Pack::complete);
    let second = packs[1].begin(&folder.path().join("b")).finish(&packs[1].manifest);
    assert!(matches!(second.unwrap_err(), PackError::Unreferenced { .. }));
    // One segment with, in a pack without inputs.
    let mut packs = Pack::shards(2);
    packs[1].manifest.linears[0].segments[0].golden = Some(sha256(b"results"));
    let error = open(packs).unwrap_err();
    assert!(error.to_string().contains("is present, expected absent"), "{error}");
    // Inputs narrower than the widest linear.
    let mut packs = Pack::golden_shards(2);
    let inputs = packs[0].tensors.iter_mut().find(|t| t.name == "golden.inputs").unwrap();
    (inputs.shape, inputs.bytes) = (vec![4, 64], vec![0; 256]);
    packs[0].complete();
    let error = open(packs).unwrap_err();
    assert!(matches!(error, PackError::Tensor { .. }), "{error}");
    assert!(error.to_string().contains("as wide as the widest linear"), "{error}");
}

#[test]
fn shards_must_be_all_there_and_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let (out, mut packs) = write_sharded(folder.path(), 3);
    let [first, second, third] = [1, 2, 3].map(|index| shard_path(&out, index, 3).unwrap());
    let kept = fs::read(&second).unwrap();

    fs::remove_file(&second).unwrap();
    assert!(matches!(PackReader::open(&first), Err(PackError::Io { .. })));
    fs::copy(&third, &second).unwrap();
    assert!(matches!(PackReader::open(&first), Err(PackError::Field { field: "shard", .. })));
    assert!(matches!(PackReader::open(&second), Err(PackError::Field { field: "file name", .. })));

    packs[1].manifest.seed += 1;
    fs::remove_file(&second).unwrap();
    packs[1].write(&second);
    assert!(matches!(PackReader::open(&first), Err(PackError::Shards { field: "seed", .. })));

    fs::write(&second, kept).unwrap();
    PackReader::open(&first).unwrap();
    let renamed = folder.path().join("renamed.safetensors");
    fs::rename(&second, &renamed).unwrap();
    assert!(matches!(PackReader::open(&renamed), Err(PackError::Field { field: "file name", .. })));
}

#[test]
fn index_must_agree_with_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = write_sharded(folder.path(), 2);
    let path = index_path(&out).unwrap();
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let tensor = "output.weight.tiles";
    let other = |value: &str| match value.contains("00001") {
        true => value.replace("00001-of", "00002-of"),
        false => value.replace("00002-of", "00001-of"),
    };
    type Change = fn(&mut serde_json::Map<String, serde_json::Value>);
    let moved = other(good["weight_map"][tensor].as_str().unwrap());
    let cases: [(&str, Change); 9] = [
        ("a tensor left out", |map| drop(map.remove("output.weight.tiles"))),
        ("a tensor too many", |map| {
            let file = map.values().next().cloned().unwrap();
            map.insert("ghost".into(), file);
        }),
        ("a path upwards", |map| {
            map.insert("output.weight.tiles".into(), "../m.safetensors".into());
        }),
        ("an absolute path", |map| {
            map.insert("output.weight.tiles".into(), "/etc/passwd".into());
        }),
        ("a path downwards", |map| {
            map.insert("output.weight.tiles".into(), "a/m.safetensors".into());
        }),
        ("a NUL", |map| {
            map.insert("output.weight.tiles".into(), "m\0.safetensors".into());
        }),
        ("a missing file", |map| {
            map.insert("output.weight.tiles".into(), "absent.safetensors".into());
        }),
        ("a number", |map| {
            map.insert("output.weight.tiles".into(), 3.into());
        }),
        ("nothing", |map| map.clear()),
    ];
    let open = |index: &serde_json::Value| {
        fs::write(&path, index.to_string()).unwrap();
        PackReader::open(&path)
    };
    open(&good).unwrap();
    for (what, change) in cases {
        let mut index = good.clone();
        change(index["weight_map"].as_object_mut().unwrap());
        assert!(open(&index).is_err(), "{what}");
    }
    let mut index = good.clone();
    index["weight_map"][tensor] = moved.into();
    assert!(open(&index).is_err());
    fs::write(&path, "{").unwrap();
    assert!(matches!(PackReader::open(&path), Err(PackError::Header { .. })));
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.safetensors");
    assert!(matches!(PackReader::open(&absent), Err(PackError::Io { .. })));
    assert!(matches!(PackReader::open(Path::new("/dev/null")), Err(PackError::NotAFile { .. })));
    // A pipe would block whoever opens it.
    let pipe = folder.path().join("pipe.safetensors");
    if Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        assert!(matches!(PackReader::open(&pipe), Err(PackError::NotAFile { .. })));
    }
}

/// Runs the example of the documentation on a pack; `None` where Python has not what it needs,
/// unless `TESSERA_REQUIRE_PYTHON=1` demands it.
fn python(arguments: &[&std::ffi::OsStr]) -> Option<serde_json::Value> {
    let ready = Command::new("python3")
        .args(["-c", "import numpy"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !ready {
        let required = std::env::var_os("TESSERA_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        assert!(!required, "python3 with numpy is required");
        println!("skipped: python3 with numpy is not installed");
        return None;
    }
    let output = Command::new("python3").arg("-B").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/read_pack.py")
}

/// All weights and corrections of a pack as the example rebuilds them.
const DUMP: &str = "import json, sys; sys.path.insert(0, sys.argv[1]); import read_pack; \
    form = lambda x: x is not None and [list(x.shape), x.reshape(-1).tolist()]; \
    print(json.dumps({name: [*form(w), form(c)] \
    for name, (w, c) in read_pack.linears(sys.argv[2]).items()}))";

#[test]
fn the_example_of_the_documentation_rebuilds_every_weight() {
    let folder = tempfile::tempdir().unwrap();
    let (out, packs) = write_sharded(folder.path(), 2);
    let mut cases = vec![(index_path(&out).unwrap(), packs)];
    for scheme in Scheme::ALL {
        for (kind, pack) in [("small", small(scheme)), ("calibrated", calibrated(scheme))] {
            let path = folder.path().join(format!("{scheme}-{kind}.safetensors"));
            pack.write(&path);
            cases.push((path, vec![pack]));
        }
    }
    let example = example();
    let mut compared = 0;
    for (path, packs) in &cases {
        let folder = example.parent().unwrap();
        let arguments = ["-c".as_ref(), DUMP.as_ref(), folder.as_os_str(), path.as_os_str()];
        let Some(read) = python(&arguments) else { return };
        for pack in packs {
            for linear in &pack.manifest.linears {
                let expected = &pack.weights[&linear.name];
                let shape: Vec<u64> =
                    linear.experts.into_iter().chain([linear.n, linear.k]).collect();
                assert_eq!(read[&linear.name][0], serde_json::json!(shape), "{}", linear.name);
                let found = read[&linear.name][1].as_array().unwrap();
                assert_eq!(found.len(), expected.len());
                let amax = expected.iter().fold(0.0f64, |amax, w| amax.max(w.abs()));
                assert!(amax > 0.0);
                for (found, expected) in found.iter().zip(expected) {
                    let difference = (found.as_f64().unwrap() - expected).abs();
                    assert!(difference < 1e-5 * amax, "{}: {found} {expected}", linear.name);
                }
                let found = &read[&linear.name][2];
                if let Some(correction) = &linear.correction {
                    let shape: Vec<u64> = linear.experts.into_iter().chain([linear.n]).collect();
                    assert_eq!(found[0], serde_json::json!(shape), "{correction}");
                    let expected = pack.bytes(correction).as_chunks().0.iter();
                    let expected = expected.map(|&x| Some(f64::from(f32::from_le_bytes(x))));
                    let found = found[1].as_array().unwrap().iter().map(|x| x.as_f64());
                    assert!(found.eq(expected), "{correction}");
                } else {
                    assert_eq!(*found, false);
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 9 * 6);
    let arguments = [example.as_os_str(), cases[1].0.as_os_str()];
    let Some(read) = python(&arguments) else { return };
    for (name, weights) in &cases[1].1[0].weights {
        let squares: f64 = weights.iter().map(|w| w * w).sum();
        let rms = (squares / weights.len() as f64).sqrt();
        assert!((read[name]["rms"].as_f64().unwrap() / rms - 1.0).abs() < 1e-5);
    }
}
