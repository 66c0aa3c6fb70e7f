//! Two readers that we did not write agree with ours on every good file: those that
//! [`GgufWriter`] makes here, and the models beside the repository where there are any.

use std::fs::File;
use std::io::{BufReader, Read};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::reader::file_reader::open_gguf_file;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, GgufWriter, Strings, TensorInfo, Value};

/// Types whose size gguf-rs 0.1.8 gets wrong: it takes 256 elements for the block of every type
/// from Q2_K on, and 40 bytes for that of Q8_1.
const MIS_SIZED_BY_GGUF_RS: [&str; 9] =
    ["Q8_1", "IQ4_NL", "I8", "I16", "I32", "I64", "F64", "BF16", "MXFP4"];

/// Types that stop gguf-rs 0.1.8: it panics on the first and does not know the others.
const UNREADABLE_BY_GGUF_RS: [&str; 3] = ["NVFP4", "Q1_0", "Q2_0"];

#[test]
fn every_type_of_value_is_read_alike() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("values.gguf");
    let writer = with_every_value(GgufWriter::new());
    write(&writer, &path);
    let ours = Gguf::open(&path).expect("a good file");
    assert_eq!(ours.metadata().len(), 34);
    assert_eq!(ours.version(), 3);
    agree_with_gguf_rs(&path, &ours);
    agree_with_gguf_rs_lib(&path, &ours);
}

#[test]
fn every_tensor_type_is_sized_alike() {
    let directory = tempfile::tempdir().expect("a directory");
    for ty in GgmlType::ALL {
        let path = directory.path().join(format!("{}.gguf", ty.name()));
        let row = u64::try_from(ty.block_elements()).expect("small");
        let mut writer = GgufWriter::new();
        writer.metadata("general.architecture", "llama").expect("a key");
        // Enough elements that 256 of them fill a block whatever the type.
        writer.tensor("matrix", *ty, &[row * 4, 64]).expect("a tensor");
        writer.tensor("vector", *ty, &[row * 256]).expect("a tensor");
        writer.tensor("experts", *ty, &[row, 8, 3, 32]).expect("a tensor");
        write(&writer, &path);
        let ours = Gguf::open(&path).expect("a good file");
        agree_with_gguf_rs(&path, &ours);
        agree_with_gguf_rs_lib(&path, &ours);
    }
}

#[test]
fn alignments_and_empty_files_are_read_alike() {
    let directory = tempfile::tempdir().expect("a directory");
    for alignment in [8_u32, 16, 64, 4096, 1 << 20] {
        let path = directory.path().join(format!("{alignment}.gguf"));
        let mut writer = GgufWriter::new();
        writer.metadata("general.alignment", alignment).expect("a key");
        writer.tensor("a", GgmlType::F32, &[3]).expect("a tensor");
        writer.tensor("b", GgmlType::Q8_0, &[32, 5]).expect("a tensor");
        write(&writer, &path);
        let ours = Gguf::open(&path).expect("a good file");
        assert_eq!(ours.alignment(), u64::from(alignment));
        agree_with_gguf_rs(&path, &ours);
        agree_with_gguf_rs_lib(&path, &ours);
    }
    let path = directory.path().join("empty.gguf");
    write(&GgufWriter::new(), &path);
    let ours = Gguf::open(&path).expect("a good file");
    assert!(ours.metadata().is_empty() && ours.tensors().is_empty());
    agree_with_gguf_rs(&path, &ours);
    agree_with_gguf_rs_lib(&path, &ours);
}

#[test]
fn version_2_is_read_alike() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("version-2.gguf");
    let mut writer = with_every_value(GgufWriter::version_2());
    writer.tensor("a", GgmlType::F16, &[64, 2]).expect("a tensor");
    write(&writer, &path);
    let ours = Gguf::open(&path).expect("a good file");
    assert_eq!(ours.version(), 2);
    agree_with_gguf_rs(&path, &ours);
    // gguf-rs-lib reads version 3 only.
    assert!(open_gguf_file(&path).is_err(), "gguf-rs-lib reads version 2 now: compare with it");
}

#[test]
fn hyphenated_keys_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("falcon.gguf");
    let mut writer = GgufWriter::new();
    writer.metadata("falcon-h1.block_count", 24_u32).expect("a key");
    writer.metadata("Größe/层 with spaces", true).expect("a key");
    write(&writer, &path);
    let ours = Gguf::open(&path).expect("a good file");
    agree_with_gguf_rs(&path, &ours);
    // gguf-rs-lib wants dot-separated lower_snake_case, which real architectures are not.
    assert!(open_gguf_file(&path).is_err(), "gguf-rs-lib reads such keys now: compare with it");
}

#[test]
fn the_models_beside_the_repository_are_read_alike() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    let mut paths = Vec::new();
    for folder in std::fs::read_dir(&models).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            paths.push(file.path());
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    if paths.is_empty() {
        println!("skipped: no models in {}", models.display());
        return;
    }
    paths.sort();
    for path in &paths {
        let ours = Gguf::open(path).unwrap_or_else(|error| panic!("{error}"));
        agree_with_gguf_rs(path, &ours);
        agree_with_gguf_rs_lib(path, &ours);
        ours.check_unchanged().expect("nothing writes to the models");
    }
}

/// Adds scalars and arrays of every type, with extreme values and empty arrays.
fn with_every_value(mut writer: GgufWriter) -> GgufWriter {
    let values: [(&str, Value); 34] = [
        ("general.architecture", "llama".into()),
        ("scalar.u8", u8::MAX.into()),
        ("scalar.i8", i8::MIN.into()),
        ("scalar.u16", u16::MAX.into()),
        ("scalar.i16", i16::MIN.into()),
        ("scalar.u32", u32::MAX.into()),
        ("scalar.i32", i32::MIN.into()),
        ("scalar.f32", f32::MIN_POSITIVE.into()),
        ("scalar.bool", true.into()),
        ("scalar.no", false.into()),
        ("scalar.u64", u64::MAX.into()),
        ("scalar.i64", i64::MIN.into()),
        ("scalar.f64", f64::MAX.into()),
        ("scalar.nothing", "".into()),
        ("scalar.text", "größe 层 \u{1b}[2J \0 end".into()),
        ("array.u8", vec![0_u8, 1, 255].into()),
        ("array.i8", vec![-128_i8, 127].into()),
        ("array.u16", vec![0_u16, 65535].into()),
        ("array.i16", vec![-32768_i16, 32767].into()),
        ("array.u32", vec![0, u32::MAX].into()),
        ("array.i32", vec![i32::MIN, -1, i32::MAX].into()),
        ("array.f32", vec![-0.0_f32, 1.5, f32::MAX].into()),
        ("array.bool", vec![true, false, true].into()),
        ("array.u64", vec![0, u64::MAX].into()),
        ("array.i64", vec![i64::MIN, i64::MAX].into()),
        ("array.f64", vec![f64::MIN_POSITIVE, -2.25].into()),
        ("array.strings", (&["", "a", "größe", "▁the"][..]).into()),
        ("tokenizer.ggml.tokens", numbered(5000).into()),
        ("empty.u8", Vec::<u8>::new().into()),
        ("empty.i32", Vec::<i32>::new().into()),
        ("empty.f32", Vec::<f32>::new().into()),
        ("empty.bool", Vec::<bool>::new().into()),
        ("empty.strings", Strings::from_iter([""; 0]).into()),
        ("last", 7_u32.into()),
    ];
    for (key, value) in values {
        writer.metadata(key, value).expect("a new key");
    }
    writer
}

fn numbered(count: usize) -> Strings {
    (0..count).map(|index| format!("token {index}")).collect()
}

/// Writes a file whose tensors hold a byte pattern.
fn write(writer: &GgufWriter, path: &Path) {
    let mut file = File::create(path).expect("a new file");
    let data = |tensor: &TensorInfo| {
        (0..tensor.bytes)
            .map(|at| u8::try_from((at + tensor.offset) % 251).expect("small"))
            .collect()
    };
    writer.write(&mut file, data).expect("room on the disk");
    assert_eq!(file.metadata().expect("metadata").len(), writer.file_bytes());
    let ours = Gguf::open(path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ours.tensors(), writer.tensors());
    for tensor in ours.tensors() {
        let mut last = [0];
        ours.read_at(tensor, tensor.bytes - 1, &mut last).expect("in range");
        assert_eq!(u64::from(last[0]), (tensor.bytes - 1 + tensor.offset) % 251);
    }
}

fn agree_with_gguf_rs(path: &Path, ours: &Gguf) {
    let stops = |tensor: &TensorInfo| UNREADABLE_BY_GGUF_RS.contains(&tensor.ggml_type.name());
    let (path, stops) = (path.to_owned(), ours.tensors().iter().any(stops));
    let decoded = catch_unwind(|| decode_with_gguf_rs(path.clone()));
    if stops {
        // A panic or an error.
        assert!(!matches!(decoded, Ok(Some(_))), "gguf-rs reads {} now", path.display());
        return;
    }
    let model = decoded.expect("no panic").expect("gguf-rs reads the file");
    assert_eq!(model.get_version(), format!("v{}", ours.version()));
    assert_eq!(model.metadata().len(), ours.metadata().len(), "{}", path.display());
    for (key, value) in ours.metadata().iter() {
        assert!(same_json(value, &model.metadata()[key]), "{}: {key}", path.display());
    }
    assert_eq!(model.tensors().len(), ours.tensors().len());
    for (theirs, tensor) in model.tensors().iter().zip(ours.tensors()) {
        let name = tensor.ggml_type.name();
        assert_eq!(theirs.name, tensor.name);
        assert_eq!(theirs.kind, tensor.ggml_type.id());
        assert_eq!(theirs.shape, tensor.dims);
        assert_eq!(theirs.offset + model.data_offset(), tensor.offset, "{}", tensor.name);
        assert_eq!(
            theirs.size != tensor.bytes,
            MIS_SIZED_BY_GGUF_RS.contains(&name),
            "{name} {:?}: gguf-rs says {} bytes, we say {}",
            tensor.dims,
            theirs.size,
            tensor.bytes
        );
    }
}

/// Reads through a buffer, which gguf-rs itself does not.
fn decode_with_gguf_rs(path: PathBuf) -> Option<gguf_rs::GGUFModel> {
    let mut reader = BufReader::new(File::open(path).ok()?);
    reader.read_exact(&mut [0; 4]).ok()?;
    let order = gguf_rs::ByteOrder::LE;
    gguf_rs::GGUFContainer::new(order, Box::new(reader), u64::MAX).decode().ok()
}

/// Whether JSON has the same value; it has one type for all numbers.
fn same_json(ours: &Value, theirs: &serde_json::Value) -> bool {
    match ours {
        Value::Bool(value) => theirs.as_bool() == Some(*value),
        Value::String(value) => theirs.as_str() == Some(value),
        // As text: depending on its features serde_json widens an f32 or prints it shortest.
        Value::F32(value) => theirs.to_string().parse() == Ok(*value),
        Value::F64(value) => theirs.to_string().parse() == Ok(*value),
        Value::Array(array) => theirs.as_array().is_some_and(|theirs| {
            theirs.len() == array.len()
                && array.iter().zip(theirs).all(|(ours, theirs)| same_json(&ours, theirs))
        }),
        _ if theirs.is_u64() => theirs.as_u64() == ours.as_u64(),
        _ => theirs.is_i64() && theirs.as_i64() == ours.as_i64(),
    }
}

fn agree_with_gguf_rs_lib(path: &Path, ours: &Gguf) {
    let model = open_gguf_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(model.metadata().len(), ours.metadata().len());
    for (key, value) in ours.metadata().iter() {
        let theirs = model.metadata().get(key).expect("the key");
        assert!(same_typed(value, theirs), "{}: {key}", path.display());
    }
    assert_eq!(model.tensor_alignment(), ours.alignment());
    assert_eq!(model.tensor_infos().len(), ours.tensors().len());
    for (theirs, tensor) in model.tensor_infos().iter().zip(ours.tensors()) {
        assert_eq!(theirs.name(), tensor.name);
        assert_eq!(theirs.tensor_type().name(), tensor.ggml_type.name());
        assert_eq!(theirs.shape().dims(), tensor.dims);
        assert_eq!(theirs.element_count(), tensor.elements());
        assert_eq!(theirs.expected_data_size(), tensor.bytes, "{}", tensor.name);
        assert_eq!(model.tensor_data_offset() + theirs.data_offset(), tensor.offset);
    }
}

/// Whether type and value are the same; floats by their bits.
fn same_typed(ours: &Value, theirs: &MetadataValue) -> bool {
    match (ours, theirs) {
        (Value::U8(a), MetadataValue::U8(b)) => a == b,
        (Value::I8(a), MetadataValue::I8(b)) => a == b,
        (Value::U16(a), MetadataValue::U16(b)) => a == b,
        (Value::I16(a), MetadataValue::I16(b)) => a == b,
        (Value::U32(a), MetadataValue::U32(b)) => a == b,
        (Value::I32(a), MetadataValue::I32(b)) => a == b,
        (Value::U64(a), MetadataValue::U64(b)) => a == b,
        (Value::I64(a), MetadataValue::I64(b)) => a == b,
        (Value::F32(a), MetadataValue::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), MetadataValue::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Bool(a), MetadataValue::Bool(b)) => a == b,
        (Value::String(a), MetadataValue::String(b)) => a == b,
        (Value::Array(a), MetadataValue::Array(b)) => {
            a.len() == b.values.len()
                && u64::try_from(a.len()) == Ok(b.length)
                && a.element_type().id() == b.element_type as u32
                && a.iter().zip(&b.values).all(|(a, b)| same_typed(&a, b))
        }
        _ => false,
    }
}
