//! Split models open whole from any shard, or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, GgufError, GgufWriter, MOST_SHARDS, SplitProblem, Value};

/// What a shard says of the split.
struct Shard {
    number: Option<Value>,
    count: Option<Value>,
    tensors: Option<Value>,
    architecture: Option<&'static str>,
    names: Vec<&'static str>,
}

impl Shard {
    /// A shard as llama-gguf-split writes it: keys of the model in the first one only.
    fn good(number: u16, count: u16, tensors: i32, names: &[&'static str]) -> Self {
        Self {
            number: Some(number.into()),
            count: Some(count.into()),
            tensors: Some(tensors.into()),
            architecture: (number == 0).then_some("llama"),
            names: names.to_vec(),
        }
    }

    fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        if let Some(architecture) = self.architecture {
            writer.metadata("general.architecture", architecture).expect("a key");
            writer.metadata("general.alignment", 64_u32).expect("a key");
        }
        for (key, value) in [
            ("split.no", &self.number),
            ("split.count", &self.count),
            ("split.tensors.count", &self.tensors),
        ] {
            if let Some(value) = value {
                writer.metadata(key, value.clone()).expect("a key");
            }
        }
        for name in &self.names {
            writer.tensor(*name, GgmlType::I8, &[4, 2]).expect("a tensor");
        }
        let mut file = File::create(path).expect("a new file");
        writer.write(&mut file, |tensor| tensor.name.repeat(8).into_bytes()).expect("room");
    }
}

/// The three shards of a good model; the first has no tensors, as with --no-tensor-first-split.
fn three() -> [Shard; 3] {
    [Shard::good(0, 3, 3, &[]), Shard::good(1, 3, 3, &["b", "c"]), Shard::good(2, 3, 3, &["a"])]
}

fn path_of(directory: &Path, number: usize, count: usize) -> PathBuf {
    directory.join(format!("model-{number:05}-of-{count:05}.gguf"))
}

fn write(directory: &Path, shards: &[Shard]) {
    for (position, shard) in shards.iter().enumerate() {
        shard.write(&path_of(directory, position + 1, shards.len()));
    }
}

#[test]
fn a_split_model_opens_from_any_shard() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &three());
    for number in 1..=3 {
        let model = Gguf::open(&path_of(directory.path(), number, 3)).expect("a good model");
        assert_eq!(model.architecture().expect("a string"), "llama");
        assert_eq!(model.alignment(), 64);
        let paths: Vec<_> = model.shards().iter().map(|shard| shard.path().to_owned()).collect();
        assert_eq!(paths, [1, 2, 3].map(|number| path_of(directory.path(), number, 3)));
        assert_eq!(model.shards()[1].alignment(), 32);
        let names: Vec<_> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["b", "c", "a"]);
        for (name, shard) in [("b", 1), ("c", 1), ("a", 2)] {
            let tensor = model.tensor(name).expect("the tensor");
            assert_eq!(tensor.shard, shard);
            let mut data = [0; 8];
            model.read_at(tensor, 0, &mut data).expect("in range");
            assert_eq!(data, name.repeat(8).as_bytes());
        }
        model.check_unchanged().expect("no change");
    }
}

#[test]
fn one_shard_is_a_model_whatever_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("any.gguf");
    Shard::good(0, 1, 1, &["a"]).write(&path);
    assert_eq!(Gguf::open(&path).expect("a good model").tensors().len(), 1);
    let named = path_of(directory.path(), 2, 5);
    Shard { number: None, count: None, tensors: None, ..Shard::good(0, 1, 1, &["a"]) }
        .write(&named);
    assert_eq!(Gguf::open(&named).expect("not a shard").shards().len(), 1);
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    fn key(key: &'static str, found: &str, expected: &str) -> SplitProblem {
        SplitProblem::Key { key, found: found.to_owned(), expected: expected.to_owned() }
    }
    type Change = fn(&mut [Shard; 3]);
    let cases: [(&str, Change, usize, SplitProblem); 12] = [
        ("second is third", |s| s[1].number = Some(2_u16.into()), 2, key("split.no", "2", "1")),
        ("third is second", |s| s[2].number = Some(1_u16.into()), 3, key("split.no", "1", "2")),
        ("number past count", |s| s[2].number = Some(3_u16.into()), 3, {
            key("split.no", "3", "below 3")
        }),
        ("negative number", |s| s[1].number = Some((-1_i32).into()), 2, {
            key("split.no", "-1", "0 or more")
        }),
        ("no number", |s| s[1].number = None, 2, key("split.no", "absent", "below 3")),
        ("other count", |s| s[1].count = Some(4_u16.into()), 2, key("split.count", "4", "3")),
        ("no count", |s| s[2].count = None, 3, key("split.count", "absent", "above 2")),
        ("other total", |s| s[1].tensors = Some(4.into()), 2, {
            key("split.tensors.count", "4", "3")
        }),
        (
            "wrong total",
            |s| s.iter_mut().for_each(|shard| shard.tensors = Some(4.into())),
            1,
            SplitProblem::Tensors { found: 3, expected: 4 },
        ),
        ("other architecture", |s| s[1].architecture = Some("q\u{1b}2"), 2, {
            key("general.architecture", "`q\\u{1b}2`", "`llama`")
        }),
        ("count of 65535", |s| s[0].count = Some(u16::MAX.into()), 1, {
            SplitProblem::ShardCount { found: 65535, limit: MOST_SHARDS }
        }),
        ("count of 0", |s| s[0].count = Some(0_u16.into()), 1, {
            SplitProblem::ShardCount { found: 0, limit: MOST_SHARDS }
        }),
    ];
    for (name, change, number, expected) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let mut shards = three();
        change(&mut shards);
        write(directory.path(), &shards);
        let error = Gguf::open(&path_of(directory.path(), 1, 3)).expect_err(name);
        assert!(!error.to_string().contains(char::is_control), "{error}");
        match &error {
            GgufError::Split { path, problem } => {
                assert_eq!(*problem, expected, "{name}: {error}");
                assert_eq!(*path, path_of(directory.path(), number, 3), "{name}: {error}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut shards = three();
    shards[2].names = vec!["b"];
    write(directory.path(), &shards);
    let error = Gguf::open(&path_of(directory.path(), 1, 3)).expect_err("b twice");
    let other = path_of(directory.path(), 2, 3);
    let expected = SplitProblem::Duplicate { tensor: "b".to_owned(), other };
    assert!(matches!(&error, GgufError::Split { problem, .. } if *problem == expected), "{error}");
}

#[test]
fn missing_shards_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for (removed, given) in [(&[1][..], 2), (&[2], 1), (&[2], 3), (&[1, 2], 3), (&[2, 3], 1)] {
        write(directory.path(), &three());
        for number in removed {
            std::fs::remove_file(path_of(directory.path(), *number, 3)).expect("the shard");
        }
        let error = Gguf::open(&path_of(directory.path(), given, 3)).expect_err("a shard missing");
        let (number, others) = (removed[0] as u64, removed.len() as u64 - 1);
        match &error {
            GgufError::Split { path, problem } => {
                assert_eq!(*path, path_of(directory.path(), removed[0], 3));
                assert_eq!(*problem, SplitProblem::Missing { number, count: 3, others });
            }
            other => panic!("{other}"),
        }
        assert!(error.hint().is_some_and(|hint| hint.contains("one folder")), "{error}");
    }
}

#[test]
fn a_renamed_shard_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["model.gguf", "model-00002-of-00003.gguf", "model-00001-of-00004.gguf"] {
        let path = directory.path().join(name);
        Shard::good(0, 3, 3, &["a"]).write(&path);
        let error = Gguf::open(&path).expect_err(name);
        let expected = SplitProblem::Name { number: 1, count: 3 };
        assert!(
            matches!(&error, GgufError::Split { problem, .. } if *problem == expected),
            "{error}"
        );
        assert!(error.to_string().contains("`-00001-of-00003.gguf`"), "{error}");
    }
}

#[test]
fn a_count_of_another_type_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    Shard { count: Some("3".into()), ..Shard::good(0, 3, 3, &["a"]) }.write(&path);
    let error = Gguf::open(&path).expect_err("a string");
    assert!(
        matches!(&error, GgufError::KeyType { key, found: "string", .. } if key == "split.count"),
        "{error}"
    );
}

#[test]
fn a_shard_that_is_no_gguf_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), &three());
    let broken = path_of(directory.path(), 3, 3);
    std::fs::write(&broken, "<!DOCTYPE html>").expect("room");
    match Gguf::open(&path_of(directory.path(), 1, 3)).expect_err("an error page") {
        GgufError::Malformed { path, offset: 0, .. } => assert_eq!(path, broken),
        other => panic!("{other}"),
    }
}
