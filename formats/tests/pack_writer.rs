//! Writing shards: what stands on disk, and when nothing does.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test data is ours")]

mod pack_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pack_support::{Pack, calibrated, small};
use proptest::prelude::*;
use safetensors::SafeTensors;
use tessera_formats::npu::Scheme;
use tessera_formats::pack::manifest::Activation;
use tessera_formats::pack::{
    DATA_ALIGNMENT, Dtype, PackError, ShardWriter, TensorEntry, header_bytes, index_path,
    shard_path, write_index,
};

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn official_reader_sees_the_tensors_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for scheme in Scheme::ALL {
        let pack = small(scheme);
        let path = folder.path().join(format!("{scheme}.safetensors"));
        let finished = pack.write(&path);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(finished.bytes, bytes.len() as u64);

        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!((8 + header as u64) % DATA_ALIGNMENT, 0);
        let order: Vec<String> = pack.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        assert_eq!(metadata.offset_keys(), order);
        let read = SafeTensors::deserialize(&bytes).unwrap();
        for tensor in &pack.tensors {
            let view = read.tensor(&tensor.name).unwrap();
            assert_eq!(view.dtype(), tensor.dtype, "{}", tensor.name);
            assert!(view.shape().iter().map(|&d| d as u64).eq(tensor.shape.iter().copied()));
            assert_eq!(view.data(), tensor.bytes, "{}", tensor.name);
        }
        let manifest = metadata.metadata().as_ref().unwrap();
        assert_eq!(
            serde_json::from_str::<tessera_formats::pack::manifest::Manifest>(&manifest["tessera"])
                .unwrap(),
            pack.manifest
        );
    }
}

#[test]
fn header_order_is_data_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let pack = small(Scheme::W8A8);
    pack.write(&path);
    let bytes = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let places: Vec<usize> = pack
        .tensors
        .iter()
        .map(|tensor| text.find(&format!("\"{}\":{{\"dtype\"", tensor.name)).unwrap())
        .collect();
    assert!(places.is_sorted());
}

#[test]
fn same_input_gives_same_bytes_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let pack = small(Scheme::W4A4);
    let [first, second] = ["1", "2"].map(|name| folder.path().join(name));
    pack.write(&first);

    // Allocated at once, written backwards in pieces from two threads.
    let mut writer = ShardWriter::create(&second, pack.reserve()).unwrap();
    let offsets: Vec<u64> = pack
        .tensors
        .iter()
        .map(|tensor| {
            let offset = writer.allocate(tensor.bytes.len() as u64).unwrap();
            writer.describe(&tensor.name, tensor.dtype, &tensor.shape, offset).unwrap();
            offset
        })
        .collect();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (writer, offsets, pack) = (&writer, &offsets, &pack);
            scope.spawn(move || {
                for (tensor, &offset) in pack.tensors.iter().zip(offsets).skip(half).step_by(2) {
                    let pieces: Vec<_> = tensor.bytes.chunks(1000).enumerate().collect();
                    for (index, piece) in pieces.into_iter().rev() {
                        writer.write_at(offset + 1000 * index as u64, piece).unwrap();
                    }
                }
            });
        }
    });
    writer.finish(&pack.manifest).unwrap();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
}

#[test]
fn a_region_can_hold_several_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let pack = small(Scheme::W8A8);
    let [first, second] = ["1", "2"].map(|name| folder.path().join(name));
    pack.write(&first);
    let all: Vec<u8> = pack.tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    let mut writer = ShardWriter::create(&second, pack.reserve()).unwrap();
    let mut offset = writer.allocate(all.len() as u64).unwrap();
    writer.write_at(offset, &all).unwrap();
    for tensor in &pack.tensors {
        writer.describe(&tensor.name, tensor.dtype, &tensor.shape, offset).unwrap();
        offset += tensor.bytes.len() as u64;
    }
    writer.finish(&pack.manifest).unwrap();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
}

#[test]
fn nothing_is_left_when_dropped_or_failed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let pack = small(Scheme::W8A8);

    let writer = pack.begin(&path);
    assert_eq!(entries(folder.path()).len(), 1);
    assert!(!path.exists());
    drop(writer);
    assert_eq!(entries(folder.path()), [""; 0]);

    drop(pack.begin(&path).seal(&pack.manifest).unwrap());
    assert_eq!(entries(folder.path()), [""; 0]);

    let mut wrong = pack.manifest.clone();
    wrong.linears[0].n += 1;
    assert!(pack.begin(&path).finish(&wrong).is_err());
    assert_eq!(entries(folder.path()), [""; 0]);
}

#[test]
fn an_existing_file_is_kept_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    fs::write(&path, "precious").unwrap();
    let pack = small(Scheme::W8A8);

    let error = pack.begin(&path).finish(&pack.manifest).unwrap_err();
    assert!(matches!(error, PackError::Exists { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(entries(folder.path()), ["a.safetensors"]);

    pack.begin(&path).seal(&pack.manifest).unwrap().persist(true).unwrap();
    assert!(fs::read(&path).unwrap().len() > 4096);
    assert_eq!(entries(folder.path()), ["a.safetensors"]);
}

#[test]
fn permissions_follow_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let path = folder.path().join("a.safetensors");
    small(Scheme::W8A8).write(&path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn mistakes_of_a_caller_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let pack = small(Scheme::W8A8);
    let create = || ShardWriter::create(&path, 100).unwrap();

    let mut writer = create();
    let offset = writer.allocate(8).unwrap();
    assert!(matches!(writer.write_at(offset + 1, &[0; 8]), Err(PackError::Range { .. })));
    assert!(matches!(writer.write_at(u64::MAX, &[0; 8]), Err(PackError::Range { .. })));
    assert!(matches!(writer.describe("a", Dtype::F32, &[3], 0), Err(PackError::Range { .. })));
    assert!(matches!(
        writer.describe("a", Dtype::F32, &[1 << 40, 1 << 40], 0),
        Err(PackError::Overflow { .. })
    ));
    writer.describe("a", Dtype::F32, &[1], 0).unwrap();
    assert!(matches!(writer.describe("a", Dtype::F32, &[1], 4), Err(PackError::Duplicate { .. })));
    assert!(writer.describe("__metadata__", Dtype::F32, &[1], 4).is_err());
    assert!(matches!(writer.allocate(u64::MAX), Err(PackError::Overflow { .. })));
    assert!(matches!(
        writer.seal(&pack.manifest).unwrap_err(),
        PackError::Hole { offset: 4, end: 8, .. }
    ));

    let mut writer = create();
    writer.allocate(8).unwrap();
    writer.describe("a", Dtype::U8, &[6], 0).unwrap();
    writer.describe("b", Dtype::U8, &[4], 4).unwrap();
    assert!(matches!(
        writer.seal(&pack.manifest).unwrap_err(),
        PackError::Overlap { offset: 4, end: 6, .. }
    ));

    let mut writer = create();
    writer.allocate(8).unwrap();
    writer.describe("a", Dtype::U8, &[8], 0).unwrap();
    writer.write_at(0, &[1; 7]).unwrap();
    assert!(matches!(
        writer.seal(&pack.manifest).unwrap_err(),
        PackError::Unwritten { expected: 8, found: 7, .. }
    ));
    assert!(matches!(
        create().append("a", Dtype::F32, &[2], &[0; 7]),
        Err(PackError::Tensor { .. })
    ));

    assert!(ShardWriter::create(&path, 100_000_001).is_err());
    assert!(ShardWriter::create(&path, u64::MAX).is_err());
    assert!(ShardWriter::create(Path::new("/"), 10).is_err());
    assert!(matches!(
        ShardWriter::create(&folder.path().join("absent/a"), 10).unwrap_err(),
        PackError::Io { .. }
    ));
}

#[test]
fn tiles_after_small_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut pack = small(Scheme::W8A8);
    pack.tensors.reverse();
    let error = pack.begin(&folder.path().join("a")).finish(&pack.manifest).unwrap_err();
    assert!(matches!(error, PackError::Misaligned { .. }), "{error}");
}

#[test]
fn a_header_beyond_its_reserve_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let pack = small(Scheme::W8A8);
    let mut writer = ShardWriter::create(&path, 1).unwrap();
    pack.append_to(&mut writer);
    let mut manifest = pack.manifest.clone();
    manifest.recipe = serde_json::json!("x".repeat(5000));
    let error = writer.finish(&manifest).unwrap_err();
    assert!(matches!(error, PackError::HeaderReserve { reserved: 4088, .. }), "{error}");
}

#[test]
fn index_names_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.safetensors");
    let shards: Vec<_> = Pack::shards(2)
        .iter()
        .zip(1..)
        .map(|(pack, index)| pack.write(&shard_path(&out, index, 2).unwrap()))
        .collect();
    let path = write_index(&out, &shards, false).unwrap();
    assert_eq!(path, index_path(&out).unwrap());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut total = 0;
    let mut names = 0;
    for shard in &shards {
        let bytes = fs::read(&shard.path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in read.tensors() {
            let file = shard.path.file_name().unwrap().to_str().unwrap();
            assert_eq!(index["weight_map"][&name], file);
            total += view.data().len();
            names += 1;
        }
    }
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), names);
    assert!(matches!(write_index(&out, &shards, false), Err(PackError::Exists { .. })));
    write_index(&out, &shards, true).unwrap();
}

proptest! {
    #[test]
    fn widest_manifest_reserves_enough(
        rms in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL,
        norm in prop::num::f64::ANY,
        clip in prop::num::f32::POSITIVE,
        min in any::<i64>(),
        max in any::<i64>(),
    ) {
        let pack = calibrated(Scheme::W4A4);
        let entries: Vec<TensorEntry> = pack.entries();
        let mut planned = pack.manifest.clone();
        planned.linears[0].activation =
            Activation::Dynamic { rms_clip: Some(1.0), asymmetric: true, fitted: true };
        planned.linears[1].activation = Activation::Static { threshold: Vec::new() };
        let reserve = header_bytes(&planned.widest(), &entries).unwrap();
        let mut manifest = pack.manifest;
        manifest.linears[0].activation = Activation::Dynamic { rms_clip: Some(clip), asymmetric: true, fitted: true };
        manifest.linears[1].activation = Activation::Static { threshold: vec![clip; 2] };
        manifest.linears[1].output_error = Some(rms);
        let linear = &mut manifest.linears[0];
        linear.relative_rms = rms;
        linear.mean_clip = rms;
        let accumulator = linear.segments[0].accumulator.as_mut().unwrap();
        accumulator.min = min;
        accumulator.max = max;
        accumulator.norm = norm;
        prop_assert!(header_bytes(&manifest, &entries).unwrap() <= reserve);
    }
}
