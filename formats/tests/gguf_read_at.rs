//! Reads by position stay inside their tensor, and a file that changes is noticed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, GgufError, GgufWriter, TensorInfo};

/// The byte of a tensor's data at a position.
fn byte(tensor: &TensorInfo, at: u64) -> u8 {
    u8::try_from((tensor.offset + at) * 7 % 256).expect("below 256")
}

/// Writes a model of two tensors into a directory of its own.
fn model() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    write(&path);
    (directory, path)
}

fn write(path: &Path) {
    let mut writer = GgufWriter::new();
    writer.tensor("first", GgmlType::F32, &[100, 50]).expect("a tensor");
    writer.tensor("second\u{1b}", GgmlType::Q8_0, &[32, 9]).expect("a tensor");
    let data = |tensor: &TensorInfo| (0..tensor.bytes).map(|at| byte(tensor, at)).collect();
    writer.write(&mut File::create(path).expect("a new file"), data).expect("room");
}

#[test]
fn any_range_of_a_tensor_reads_from_many_threads() {
    let (_directory, path) = model();
    let model = Gguf::open(&path).expect("a good file");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let model = &model;
            scope.spawn(move || {
                for tensor in model.tensors() {
                    for offset in (thread..tensor.bytes).step_by(61) {
                        let length = (tensor.bytes - offset).min(1 + offset % 97);
                        let mut buf = vec![0; usize::try_from(length).expect("small")];
                        model.read_at(tensor, offset, &mut buf).expect("in range");
                        let expected = (offset..offset + length).map(|at| byte(tensor, at));
                        assert!(buf.iter().copied().eq(expected));
                    }
                }
            });
        }
    });
}

#[test]
fn a_read_outside_of_its_tensor_is_refused() {
    let (_directory, path) = model();
    let model = Gguf::open(&path).expect("a good file");
    let tensor = model.tensor("first").expect("the tensor");
    assert_eq!(tensor.bytes, 20_000);
    model.read_at(tensor, 20_000, &mut []).expect("nothing at the end");
    for (offset, length) in [(20_000, 1), (19_999, 2), (0, 20_001), (u64::MAX, 1), (20_001, 0)] {
        let error = model.read_at(tensor, offset, &mut vec![0; length]).expect_err("outside");
        assert!(matches!(error, GgufError::OutOfRange { bytes: 20_000, .. }), "{error}");
    }
    let foreign = TensorInfo { shard: 1, ..tensor.clone() };
    let error = model.read_at(&foreign, 0, &mut [0]).expect_err("no such shard");
    assert!(matches!(error, GgufError::OutOfRange { .. }), "{error}");
    let forged = TensorInfo { offset: u64::MAX - 1, ..tensor.clone() };
    let error = model.read_at(&forged, 2, &mut [0]).expect_err("wraps");
    assert!(matches!(error, GgufError::OutOfRange { .. }), "{error}");
}

#[test]
fn a_file_that_shrinks_is_named_with_tensor_and_offset() {
    let (_directory, path) = model();
    let model = Gguf::open(&path).expect("a good file");
    let tensor = model.tensors()[1].clone();
    File::options()
        .write(true)
        .open(&path)
        .expect("the file")
        .set_len(tensor.offset + 10)
        .expect("a shorter file");
    model.read_at(&tensor, 0, &mut [0; 10]).expect("what is left");
    let error = model.read_at(&tensor, 4, &mut [0; 20]).expect_err("the rest");
    match &error {
        GgufError::Shrunk { offset, length: 20, tensor: Some(name), expected, .. } => {
            assert_eq!((*offset, name), (tensor.offset + 4, &tensor.name));
            assert_eq!(*expected, model.shards()[0].len());
        }
        other => panic!("{other}"),
    }
    let message = error.to_string();
    assert!(message.contains(&format!("byte {} of tensor `second\\u{{1b}}`", tensor.offset + 4)));
    assert!(error.hint().is_some());
    let error = model.check_unchanged().expect_err("shorter");
    assert!(matches!(error, GgufError::Changed { property: "length", .. }), "{error}");
}

#[test]
fn a_change_is_noticed() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("length", |path| {
            use std::io::Write;
            let mut file = File::options().append(true).open(path).expect("the file");
            file.write_all(b"x").expect("room");
        }),
        ("modification time", |path| {
            let file = File::options().write(true).open(path).expect("the file");
            file.set_modified(SystemTime::now() + Duration::from_secs(5)).expect("a new time");
        }),
        ("identity", |path| {
            let then = path.metadata().and_then(|metadata| metadata.modified()).expect("a time");
            let copy = path.with_extension("copy");
            write(&copy);
            File::options().write(true).open(&copy).expect("a file").set_modified(then).expect("x");
            std::fs::rename(&copy, path).expect("the same file system");
        }),
    ];
    for (expected, change) in changes {
        let (_directory, path) = model();
        let model = Gguf::open(&path).expect("a good file");
        model.check_unchanged().expect("no change yet");
        change(&path);
        match model.check_unchanged() {
            Err(GgufError::Changed { property, .. }) => assert_eq!(property, expected),
            // Only Unix tells one file from another that looks the same.
            other => assert!(cfg!(not(unix)) && expected == "identity", "{expected}: {other:?}"),
        }
    }
    let (_directory, path) = model();
    let model = Gguf::open(&path).expect("a good file");
    std::fs::remove_file(&path).expect("the file");
    assert!(matches!(model.check_unchanged(), Err(GgufError::Open { .. })));
}

#[test]
fn the_architecture_must_be_a_string() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    let write = |writer: &GgufWriter| {
        writer.write_header(&mut File::create(&path).expect("a new file")).expect("room");
        Gguf::open(&path).expect("a good file")
    };
    let error = write(&writer).architecture().expect_err("absent").to_string();
    assert!(error.ends_with("has no key `general.architecture`"), "{error}");
    writer.metadata("general.architecture", 7_u32).expect("a key");
    let model = write(&writer);
    let error = model.architecture().expect_err("a number").to_string();
    assert!(error.ends_with("key `general.architecture` is u32, must be string"), "{error}");
}

#[test]
fn the_key_values_are_kept_verbatim() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    writer.metadata("a", 1_u8).expect("a key");
    writer.metadata("b", &["x", ""][..]).expect("a key");
    writer.tensor("t", GgmlType::F32, &[1]).expect("a tensor");
    let mut bytes = Vec::new();
    writer.write(&mut bytes, |_| vec![0; 4]).expect("a vector takes all");
    std::fs::write(&path, &bytes).expect("room");
    let model = Gguf::open(&path).expect("a good file");
    let length = (8 + 1 + 4 + 1) + (8 + 1 + 4 + 4 + 8 + (8 + 1) + 8);
    assert_eq!(model.metadata_bytes(), &bytes[24..24 + length]);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    let long = "n".repeat(64);
    writer.metadata("k", 1_u8).expect("a new key");
    writer.tensor("t", GgmlType::F32, &[1]).expect("a new tensor");
    for (key, problem) in [("", "empty"), ("k", "second time"), ("a\0", "NUL")] {
        let error = writer.metadata(key, 1_u8).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
    }
    for alignment in [0_u32, 4, 24, 1 << 25] {
        let error = writer.metadata("general.alignment", alignment).expect_err("bad").to_string();
        assert!(error.contains("not a power of two"), "{error}");
    }
    let error = writer.metadata("general.alignment", 32_u64).expect_err("u64").to_string();
    assert!(error.contains("must be u32"), "{error}");
    for (name, ty, dims, problem) in [
        ("", GgmlType::F32, &[1][..], "empty"),
        ("t", GgmlType::F32, &[1], "second time"),
        (&long, GgmlType::F32, &[1], "at most 63"),
        ("a", GgmlType::F32, &[], "1 to 4"),
        ("a", GgmlType::F32, &[1, 1, 1, 1, 1], "1 to 4"),
        ("a", GgmlType::F32, &[1, 0], "dimension 1 is 0"),
        ("a", GgmlType::Q4_0, &[33], "multiple"),
        ("a", GgmlType::F32, &[1 << 32, 1 << 32], "2^63"),
        ("a", GgmlType::F64, &[1 << 60, 2], "2^64"),
    ] {
        let error = writer.tensor(name, ty, dims).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
    }
    let error = writer.write(&mut Vec::new(), |_| vec![0; 3]).expect_err("3 bytes").to_string();
    assert_eq!(error, "tensor `t`: 3 bytes of data, must be 4");
}
