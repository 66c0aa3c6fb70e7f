//! Hostile files beside a model, through the program itself under limits of memory and time: shards,
//! statistics, importance matrices, recipes, boards, texts, logits, work folders, packs.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;
#[path = "hostile/limits.rs"]
#[allow(dead_code, reason = "each file of tests uses what it needs")]
mod limits;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use harness::model::Model;
use harness::{packs_of_every_scheme, stand_in, tiny_model};
use limits::{Outcome, tessera};
use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_formats::gguf::Value as Key;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A folder with the carried model as `model.gguf`.
fn with_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny_model(), folder.path().join("model.gguf")).unwrap();
    folder
}

/// Runs a command that must be refused with these words, and leave the folder as it is.
fn refused(folder: &TempDir, arguments: &[&str], words: &[&str]) -> Outcome {
    let before = names(folder.path());
    let outcome = tessera(folder.path(), arguments);
    assert_eq!(outcome.code, 2, "{arguments:?}: {outcome:?}");
    for word in words {
        assert!(outcome.message().contains(word), "{arguments:?}: no {word:?}: {outcome:?}");
    }
    assert_eq!(names(folder.path()), before, "{arguments:?}: {outcome:?}");
    outcome
}

/// Runs a command that must succeed.
fn done(folder: &TempDir, arguments: &[&str]) -> Outcome {
    let outcome = tessera(folder.path(), arguments);
    assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
    outcome
}

/// A model of four linears, and of other numbers for another `seed`.
fn linears(seed: &str) -> Model {
    let model = Model::new().key("general.name", seed);
    (0..4).fold(model, |model, layer| {
        model.bell(&format!("blk.{layer}.ffn_{seed}.weight"), &[64, 64], 0.1)
    })
}

/// A split in which key-values of a shard are others.
fn split(folder: &Path, stem: &str, keys: &[(&str, Key)]) -> PathBuf {
    let mut model = linears("up");
    for (key, value) in keys {
        model = model.key(key, value.clone());
    }
    model.write(folder, stem)
}

#[test]
fn shards_that_are_no_model_are_refused() {
    let shard = |no: Key, count: Key, tensors: i32| {
        [("split.no", no), ("split.count", count), ("split.tensors.count", Key::I32(tensors))]
    };
    for (name, keys, words) in [
        (
            "m-00001-of-65535.gguf",
            shard(Key::U16(0), Key::U16(65_535), 4),
            "`split.count` is 65535",
        ),
        ("m-00001-of-00000.gguf", shard(Key::U16(0), Key::U16(0), 4), "`split.count` is 0"),
        ("m-00001-of-00002.gguf", shard(Key::U16(7), Key::U16(2), 4), "split.no"),
        ("m-00003-of-00002.gguf", shard(Key::U16(2), Key::U16(2), 4), "split.no"),
        ("m-00001-of-00002.gguf", shard(Key::U16(0), Key::U16(3), 4), "00001-of-00003"),
        (
            "m-00001-of-00002.gguf",
            shard(Key::U32(0), Key::String("2".to_owned()), 4),
            "split.count",
        ),
        ("m-00001-of-00002.gguf", shard(Key::U16(0), Key::I32(-2), 4), "split.count"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        split(folder.path(), name, &keys);
        let dry = ["convert", name, "-o", "pack.safetensors"];
        refused(&folder, &["inspect", name], &[words]);
        refused(&folder, &dry, &[words]);
    }
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let (a, b) = ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf");
    let made = || {
        let folder = tempfile::tempdir().unwrap();
        linears("up").write_split(folder.path(), "m", 3);
        linears("down").write_split(folder.path(), "other", 3);
        folder
    };
    type Damage = fn(&dyn Fn(&str) -> PathBuf);
    let damages: [(&str, Damage, &str); 5] = [
        (
            "missing",
            |path| fs::remove_file(path("m-00002-of-00003.gguf")).unwrap(),
            "m-00002-of-00003.gguf",
        ),
        (
            "swapped",
            |path| {
                fs::rename(path("m-00002-of-00003.gguf"), path("x")).unwrap();
                fs::rename(path("m-00003-of-00003.gguf"), path("m-00002-of-00003.gguf")).unwrap();
                fs::rename(path("x"), path("m-00003-of-00003.gguf")).unwrap();
            },
            "split.no",
        ),
        (
            "twice",
            |path| {
                fs::copy(path("m-00001-of-00003.gguf"), path("m-00002-of-00003.gguf")).unwrap();
            },
            "split.no",
        ),
        (
            "of another model with the same tensors",
            |path| {
                let other = linears("up").bell("extra.weight", &[8], 1.0);
                other.write_split(path("").as_path(), "m2", 3);
                fs::rename(path("m2-00002-of-00003.gguf"), path("m-00002-of-00003.gguf")).unwrap();
                for number in [1, 3] {
                    fs::remove_file(path(&format!("m2-0000{number}-of-00003.gguf"))).unwrap();
                }
            },
            "split.tensors.count",
        ),
        (
            "a link to itself",
            |path| {
                fs::remove_file(path("m-00002-of-00003.gguf")).unwrap();
                symlink("m-00002-of-00003.gguf", path("m-00002-of-00003.gguf")).unwrap();
            },
            "m-00002-of-00003.gguf",
        ),
    ];
    for (name, damage, words) in damages {
        let folder = made();
        damage(&|name| folder.path().join(name));
        println!("{name}");
        refused(&folder, &["inspect", a], &[words]);
        refused(&folder, &["convert", a, "-o", "pack.safetensors"], &[words]);
    }
    // A link to a shard is that shard: its own name counts, not that of what it leads to.
    let folder = made();
    fs::rename(folder.path().join(b), folder.path().join("elsewhere")).unwrap();
    symlink("elsewhere", folder.path().join(b)).unwrap();
    done(&folder, &["convert", a, "-o", "pack.safetensors"]);
    done(&folder, &["verify", "pack.safetensors", "--source", a]);
}

/// A pack in several files, and its index.
fn sharded(folder: &TempDir) -> Value {
    let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--shard-size", "100K"];
    done(folder, &convert);
    let index = fs::read(folder.path().join("pack.safetensors.index.json")).unwrap();
    serde_json::from_slice(&index).unwrap()
}

#[test]
fn names_in_an_index_lead_nowhere_else() {
    let folder = with_model();
    let good = sharded(&folder);
    let index = "pack.safetensors.index.json";
    let (tensor, shard) = good["weight_map"].as_object().unwrap().iter().next().unwrap();
    let shard = shard.as_str().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = outside.path().join("x.safetensors");
    fs::copy(folder.path().join(shard), &elsewhere).unwrap();
    let names = [
        "../x.safetensors",
        "..",
        ".",
        "",
        "a/../../x.safetensors",
        "a/x.safetensors",
        text(&elsewhere),
        "a\0.safetensors",
        "a\\..\\x.safetensors",
        "C:x.safetensors",
        "CON",
        "nul.safetensors",
        "-rf.safetensors",
        "\u{1b}[2J.safetensors",
        &"n".repeat(300),
    ];
    for name in names {
        let mut index_of = good.clone();
        index_of["weight_map"][tensor] = json!(name);
        fs::write(folder.path().join(index), index_of.to_string()).unwrap();
        for command in [
            &["inspect", index][..],
            &["verify", index],
            &["validate", index, "--device", "sim"],
            &["eval", index, "--text", "model.gguf"],
        ] {
            let outcome = refused(&folder, command, &[]);
            // Where a name is plain, no such file is there.
            let plain = ["CON", "nul.safetensors", "-rf.safetensors", "C:x.safetensors"]
                .contains(&name)
                || name.len() > 255;
            assert!(
                plain || outcome.message().contains("is no file name"),
                "{name:?}: {outcome:?}"
            );
        }
    }
    fs::write(folder.path().join(index), good.to_string()).unwrap();
    done(&folder, &["verify", index]);
}

/// Files of statistics: the good one, and what is wrong with it.
#[test]
fn statistics_that_are_damaged_are_refused() {
    let folder = with_model();
    done(
        &folder,
        &["calibrate", "model.gguf", "--tokens", "64", "--ctx", "16", "-o", "s.safetensors"],
    );
    let good = fs::read(folder.path().join("s.safetensors")).unwrap();
    let header = usize::try_from(u64::from_le_bytes(good[..8].try_into().unwrap())).unwrap();
    let json = std::str::from_utf8(&good[8..8 + header]).unwrap();
    let with_header = |json: &str| {
        [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &good[8 + header..]].concat()
    };
    let length = |length: u64| [&length.to_le_bytes(), &good[8..]].concat();
    let mut not_finite = good.clone();
    let end = not_finite.len();
    not_finite[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
    for (name, bytes) in [
        ("empty", vec![]),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [&good[..], b"!"].concat()),
        ("header of 2^64-1 bytes", length(u64::MAX)),
        ("header of 1 TiB", length(1 << 40)),
        ("header of 0 bytes", length(0)),
        ("nested", with_header(&"[".repeat(100_000))),
        ("another format", with_header(&json.replace("tessera", "\u{202e}tess"))),
        ("another version", with_header(&json.replacen("version", "vorsion", 1))),
        ("no pack", b"PK\x03\x04 and more".to_vec()),
    ] {
        fs::write(folder.path().join("bad.safetensors"), bytes).unwrap();
        let given = ["--calibration", "bad.safetensors"];
        let convert = ["convert", "model.gguf", "-o", "pack.safetensors"];
        println!("{name}");
        refused(&folder, &[&convert[..], &given].concat(), &["bad.safetensors"]);
        let merge =
            ["calibrate", "--merge", "s.safetensors", "bad.safetensors", "-o", "m.safetensors"];
        refused(&folder, &merge, &["bad.safetensors"]);
        let sensitivity =
            ["sensitivity", "model.gguf", "-o", "x.json", "--ctx", "16", "--tokens", "64"];
        refused(&folder, &[&sensitivity[..], &given].concat(), &["bad.safetensors"]);
    }
}

/// An importance matrix in the old format: numbers, and bytes.
fn dat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn number(number: i32) -> [u8; 4] {
    number.to_le_bytes()
}

#[test]
fn importance_matrices_that_are_damaged_are_refused() {
    let name = b"blk.0.attn_q.weight";
    let named = [&number(19)[..], name].concat();
    let values = |value: f32| value.to_le_bytes().repeat(64);
    let entry = |value: f32| [&named[..], &number(1), &number(64), &values(value)].concat();
    let folder = with_model();
    let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--calibration"];
    for (what, bytes, words) in [
        ("empty", vec![], "byte 0"),
        ("no entries", dat(&[&number(0)]), "byte 0"),
        ("2^31-1 entries", dat(&[&number(i32::MAX), &entry(1.0)]), "byte 0"),
        ("-1 entries", dat(&[&number(-1), &entry(1.0)]), "byte 0"),
        ("name of 2^31-1 bytes", dat(&[&number(1), &number(i32::MAX), name]), "byte 4"),
        ("name of -5 bytes", dat(&[&number(1), &number(-5), name]), "byte 4"),
        (
            "name not UTF-8",
            dat(&[&number(1), &number(1), b"\xff", &number(1), &number(1), &[0; 4]]),
            "byte 8",
        ),
        ("2^31-1 values", dat(&[&number(1), &named, &number(1), &number(i32::MAX)]), "byte 31"),
        (
            "values cut",
            {
                let whole = dat(&[&number(1), &entry(1.0)]);
                whole[..whole.len() - 17].to_vec()
            },
            "byte 35",
        ),
        ("NaN", dat(&[&number(1), &entry(f32::NAN)]), "NaN"),
        ("negative", dat(&[&number(1), &entry(-1.0)]), "-1"),
        ("infinite", dat(&[&number(1), &entry(f32::INFINITY)]), "inf"),
        ("twice", dat(&[&number(2), &entry(1.0), &entry(1.0)]), "again"),
        (
            "63 values",
            {
                let short = &values(1.0)[..63 * 4];
                dat(&[&number(1), &named, &number(1), &number(63), short])
            },
            "63",
        ),
        ("more behind", dat(&[&number(1), &entry(1.0), &number(1), &number(0), b"!!!!"]), "byte"),
    ] {
        println!("{what}");
        fs::write(folder.path().join("bad.dat"), bytes).unwrap();
        refused(&folder, &[&convert[..], &["bad.dat"]].concat(), &["bad.dat", words]);
    }
    let matrix = |sums: &[f32], counts: &[f32]| {
        let model = Model::default().key("general.type", "imatrix");
        let model = model.key("imatrix.chunk_count", 1_u32).key("imatrix.chunk_size", 512_u32);
        let name = "blk.0.attn_q.weight";
        let dims = |values: &[f32]| [u64::try_from(values.len()).unwrap(), 1];
        let model = model.tensor(&format!("{name}.in_sum2"), &dims(sums), sums);
        model.tensor(&format!("{name}.counts"), &dims(counts), counts)
    };
    let one = |value: f32| {
        let mut sums = [1.0; 64];
        sums[7] = value;
        sums
    };
    for (what, model) in [
        ("NaN", matrix(&one(f32::NAN), &[512.0])),
        ("infinite", matrix(&one(f32::INFINITY), &[512.0])),
        ("negative", matrix(&one(-1.0), &[512.0])),
        ("count NaN", matrix(&one(1.0), &[f32::NAN])),
        ("count negative", matrix(&one(1.0), &[-512.0])),
        ("63 values", matrix(&one(1.0)[..63], &[512.0])),
        ("counts missing", matrix(&one(1.0), &[512.0]).without("blk.0.attn_q.weight.counts")),
        ("no imatrix", linears("up")),
    ] {
        println!("{what}");
        model.write(folder.path(), "bad.gguf");
        refused(&folder, &[&convert[..], &["bad.gguf"]].concat(), &["bad.gguf"]);
    }
    // Nothing was seen of this linear: it is converted as one of which nothing is known.
    matrix(&[0.0; 64], &[0.0]).write(folder.path(), "none.gguf");
    let outcome = tessera(folder.path(), &[&convert[..], &["none.gguf"]].concat());
    assert!([0, 2].contains(&outcome.code), "{outcome:?}");
}

#[test]
fn recipes_do_not_exhaust_anything() {
    let folder = with_model();
    let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--recipe", "bad.toml"];
    let rule = |pattern: &str| format!("[[rule]]\nmatch = '{pattern}'\nscheme = \"w4a8\"\n");
    for (what, recipe, words) in [
        ("arrays in arrays", format!("a = {}", "[".repeat(200_000)).into_bytes(), "bad.toml"),
        ("tables in tables", format!("a = {}", "{a=".repeat(200_000)).into_bytes(), "bad.toml"),
        ("dotted keys", format!("{}a = 1", "a.".repeat(200_000)).into_bytes(), "recursion limit"),
        ("dotted tables", format!("[{}a]", "a.".repeat(200_000)).into_bytes(), "recursion limit"),
        (
            "groups in groups",
            rule(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000))).into_bytes(),
            "rule 1",
        ),
        ("repetitions of repetitions", rule("((a{1000}){1000}){1000}").into_bytes(), "rule 1"),
        ("no pattern", rule("[").into_bytes(), "rule 1"),
        ("a key twice", b"[defaults]\nscheme = 'w8a8'\nscheme = 'w4a4'\n".to_vec(), "bad.toml"),
        ("not UTF-8", b"[defaults]\n# \xff\n".to_vec(), "bad.toml"),
        (
            "escapes",
            "[defaults]\nscheme = '\u{9b}31m\u{202e}'\n\u{7f} = 1".as_bytes().to_vec(),
            "bad.toml",
        ),
        ("unknown", b"[defaults]\ninclude = '/etc/passwd'\n".to_vec(), "include"),
    ] {
        println!("{what}");
        fs::write(folder.path().join("bad.toml"), recipe).unwrap();
        let outcome = refused(&folder, &convert, &[]);
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        assert!(outcome.stderr.len() < 20_000, "{what}: {} bytes are told", outcome.stderr.len());
    }
    let sparse = File::create(folder.path().join("bad.toml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    refused(&folder, &convert, &["bad.toml", "1099511627776 bytes"]);
    // Patterns that take others for ever are matched in linear time.
    let patterns = ["(a+)+$", "(.*)*(.*)*(.*)*x", "(x+x+)+y", "([a-z]*)*[0-9]q"];
    fs::write(folder.path().join("bad.toml"), patterns.map(rule).concat()).unwrap();
    done(&folder, &convert);
}

#[test]
fn boards_sensitivities_and_reports_are_not_believed() {
    let folder = with_model();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let nested = "[".repeat(200_000);
    let number = r#"{"format":"tessera-board","version":[1,0],"chip":"rk3588","cores":1e999}"#;
    for bytes in [
        b"".as_slice(),
        b"null",
        b"[]",
        b"{}",
        nested.as_bytes(),
        format!("{{\"format\":{nested}").as_bytes(),
        b"\xff\xfe{\0}\0",
        number.as_bytes(),
        "{\"format\":\"\u{1b}[2J\u{202e}\",\"version\":[1,0]}".as_bytes(),
        b"{\"format\":\"tessera-board\",\"version\":[99,0]}",
        b"{\"format\":\"tessera-board\",\"version\":[-1,18446744073709551616]}",
        b"{\"format\":\"tessera-sensitivities\",\"version\":[1,0],\"linears\":[{\"name\":3}]}",
        b"{\"format\":\"tessera-report\",\"version\":[1,0],\"model\":null}",
    ] {
        put("bad.json", bytes);
        refused(&folder, &["inspect", "model.gguf", "--target", "bad.json"], &["bad.json"]);
        let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--target", "bad.json"];
        refused(&folder, &convert, &["bad.json"]);
        refused(&folder, &["report", "bad.json", "-o", "page"], &["bad.json"]);
        let choose = ["convert", "model.gguf", "-o", "pack.safetensors", "--target-bpw", "5"];
        let given = ["--sensitivity", "bad.json", "--dataset", "text.txt", "--ctx", "16"];
        put("text.txt", "once upon a time ".repeat(200).as_bytes());
        refused(&folder, &[&choose[..], &given].concat(), &["bad.json"]);
    }
    File::create(folder.path().join("bad.json")).unwrap().set_len(1 << 40).unwrap();
    for arguments in [
        &["inspect", "model.gguf", "--target", "bad.json"][..],
        &["report", "bad.json", "-o", "page"],
    ] {
        refused(&folder, arguments, &["bad.json", "1099511627776 bytes"]);
    }
}

#[test]
fn texts_of_any_kind_are_read_or_refused() {
    let folder = with_model();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let words = "once upon a time there was a little girl ";
    let calibrate = |name: &'static str| {
        [
            "calibrate",
            "model.gguf",
            "--tokens",
            "64",
            "--ctx",
            "16",
            "-o",
            "s.safetensors",
            "--force",
            "--dataset",
            name,
        ]
    };
    let eval =
        |name: &'static str| ["eval", "model.gguf", "--ctx", "16", "--chunks", "1", "--text", name];
    for (name, bytes) in [
        ("no-newline.txt", words.repeat(20).into_bytes()),
        ("crlf.txt", format!("{words}\r\n").repeat(20).into_bytes()),
        ("nul.txt", format!("{words}\0").repeat(20).into_bytes()),
        ("marked.txt", format!("\u{feff}{}", words.repeat(20)).into_bytes()),
        ("line.txt", words.repeat(50_000).into_bytes()),
        ("no-blanks.txt", "a".repeat(1_000_000).into_bytes()),
        ("escapes.txt", "\u{1b}[2J\u{202e}once\u{200b} ".repeat(100).into_bytes()),
    ] {
        put(name, &bytes);
        println!("{name}");
        done(&folder, &calibrate(name));
        done(&folder, &eval(name));
    }
    fs::remove_file(folder.path().join("s.safetensors")).unwrap();
    put("empty.txt", b"");
    put("blank.txt", b" \n\r\n\t ");
    put("latin.txt", b"once upon a caf\xe9 ");
    put("half.txt", b"once upon a \xe2\x82");
    for (name, said) in [
        ("empty.txt", "empty.txt"),
        ("blank.txt", "blank.txt"),
        ("latin.txt", "15"),
        ("half.txt", "12"),
    ] {
        refused(&folder, &calibrate(name), &[name, said]);
        refused(&folder, &eval(name), &[name]);
    }
    for (name, bytes, said) in [
        ("deep.jsonl", format!("{{\"text\":{}", "[".repeat(200_000)), "line 1"),
        ("number.jsonl", "{\"text\":\"fine\"}\n{\"text\":7}\n".to_owned(), "line 2"),
        ("none.jsonl", "{\"other\":\"\u{1b}[2J\"}\n".to_owned(), "line 1"),
    ] {
        put(name, bytes.as_bytes());
        refused(&folder, &calibrate(name), &[name, said]);
    }
    // Nothing is unpacked: a bomb is so many bytes that are no text.
    put("bomb.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1\x01");
    refused(&folder, &calibrate("bomb.txt.gz"), &["bomb.txt.gz"]);
    put("bomb.zst.txt", b"\x28\xb5\x2f\xfd\x04\x00");
    refused(&folder, &calibrate("bomb.zst.txt"), &["bomb.zst.txt"]);
    File::create(folder.path().join("sparse.txt")).unwrap().set_len(1 << 40).unwrap();
    refused(&folder, &eval("sparse.txt"), &["1099511627776 bytes"]);
}

#[test]
fn log_probabilities_that_cannot_be_are_refused() {
    let folder = with_model();
    fs::copy(harness::short_text(), folder.path().join("text.txt")).unwrap();
    let eval = ["eval", "model.gguf", "--ctx", "16", "--chunks", "2"];
    done(&folder, &[&eval[..], &["--text", "text.txt", "--save-logits", "good.logits"]].concat());
    let good = fs::read(folder.path().join("good.logits")).unwrap();
    let field = |at: usize, value: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for bytes in [
        vec![],
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        field(0, 0),
        field(8, 0),
        field(8, -1),
        field(8, i32::MAX),
        field(12, 0),
        field(12, -512),
        field(12, i32::MAX),
        field(16, 0),
        field(16, -1),
        field(16, i32::MAX),
        field(20, 512),
        field(20, -1),
    ] {
        fs::write(folder.path().join("bad.logits"), bytes).unwrap();
        let from = ["eval", "model.gguf", "--from-logits", "bad.logits"];
        refused(&folder, &from, &["bad.logits"]);
        refused(
            &folder,
            &[&from[..], &["--text", "text.txt", "--ctx", "16"]].concat(),
            &["bad.logits"],
        );
    }
    done(&folder, &["eval", "model.gguf", "--from-logits", "good.logits"]);
}

/// What an unfinished calibration left, after someone else was there.
#[test]
fn a_work_folder_that_was_tampered_with_is_refused() {
    let arguments = [
        "calibrate",
        "model.gguf",
        "--tokens",
        "64",
        "--ctx",
        "16",
        "-o",
        "s.safetensors",
        "--resume",
    ];
    let made = || {
        let folder = with_model();
        fs::create_dir(folder.path().join("s.safetensors.partial")).unwrap();
        fs::write(folder.path().join("precious"), "precious").unwrap();
        folder
    };
    for name in
        ["lock", "run.json", "run.json.part", "states-00000.f32", "inputs-00001.safetensors.part"]
    {
        // A link would have what it leads to overwritten; reading a pipe would wait.
        let folder = made();
        symlink("../precious", folder.path().join("s.safetensors.partial").join(name)).unwrap();
        refused(&folder, &arguments, &["s.safetensors.partial"]);
        assert_eq!(fs::read(folder.path().join("precious")).unwrap(), b"precious", "{name}");
        let folder = made();
        let fifo = folder.path().join("s.safetensors.partial").join(name);
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        refused(&folder, &arguments, &["s.safetensors.partial"]);
    }
    for record in ["", "{}", "null", &"[".repeat(200_000), "{\"layout\":1,\"run\":\"\u{1b}[2J\"}"] {
        let folder = made();
        fs::write(folder.path().join("s.safetensors.partial/run.json"), record).unwrap();
        refused(&folder, &arguments, &["s.safetensors.partial"]);
    }
    let folder = made();
    let sparse = File::create(folder.path().join("s.safetensors.partial/run.json")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    refused(&folder, &arguments, &["run.json"]);
    // A folder with anything of someone else's is not worked in.
    let folder = made();
    fs::write(folder.path().join("s.safetensors.partial/thesis.txt"), "precious").unwrap();
    refused(&folder, &arguments, &["s.safetensors.partial"]);
}

/// A pack's header as text, and its data.
fn parts(pack: &[u8]) -> (String, &[u8]) {
    let header = usize::try_from(u64::from_le_bytes(pack[..8].try_into().unwrap())).unwrap();
    (String::from_utf8(pack[8..8 + header].to_vec()).unwrap(), &pack[8 + header..])
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Commands that read a pack; the library is one that must not be asked anything.
fn of_pack(library: &str) -> [Vec<&str>; 5] {
    [
        vec!["inspect", "bad.safetensors"],
        vec!["verify", "bad.safetensors"],
        vec!["validate", "bad.safetensors", "--device", "stand-in", "--library", library],
        vec![
            "eval",
            "bad.safetensors",
            "--text",
            "model.gguf",
            "--device",
            "stand-in",
            "--library",
            library,
        ],
        vec!["diff", "bad.safetensors", "pack.safetensors"],
    ]
}

#[test]
fn packs_with_a_header_that_cannot_be_are_refused() {
    let folder = with_model();
    done(&folder, &["convert", "model.gguf", "-o", "pack.safetensors", "--scheme", "w4a8"]);
    let good = fs::read(folder.path().join("pack.safetensors")).unwrap();
    let (header, data) = parts(&good);
    let library = stand_in();
    let replaced = |from: &str, to: &str| {
        assert!(header.contains(from), "{from}");
        joined(&header.replacen(from, to, 1), data)
    };
    let length = |length: u64| [&length.to_le_bytes(), &good[8..]].concat();
    let many: String = (0..100_000)
        .map(|index| {
            format!("\"t{index}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},")
        })
        .collect();
    let first = header.find("\"data_offsets\":[0,").unwrap();
    let end = header[first..].find(']').unwrap();
    let whole = &header[first..first + end + 1];
    for (name, bytes) in [
        ("empty", vec![]),
        ("7 bytes", good[..7].to_vec()),
        ("header of 2^64-1 bytes", length(u64::MAX)),
        ("header of 2^63 bytes", length(1 << 63)),
        ("header longer than the file", length(good.len() as u64)),
        ("header of 1 byte", length(1)),
        ("nested", joined(&format!("{{\"a\":{}", "[".repeat(200_000)), data)),
        ("blanks before the brace", joined(&format!("   {header}"), data)),
        (
            "a key twice",
            replaced(
                "{\"",
                &format!(
                    "{{\"x\":{{\"dtype\":\"U8\",\"shape\":[0],{whole}}},\"x\":{{\"dtype\":\"U8\",\"shape\":[0],{whole}}},\""
                ),
            ),
        ),
        ("100000 tensors", joined(&header.replacen('{', &format!("{{{many}"), 1), data)),
        ("an unknown type", replaced("\"dtype\":\"U8\"", "\"dtype\":\"U3\"")),
        ("a type below a byte", replaced("\"dtype\":\"U8\"", "\"dtype\":\"F4\"")),
        ("a negative offset", replaced("\"data_offsets\":[0,", "\"data_offsets\":[-1,")),
        ("an offset of a fraction", replaced("\"data_offsets\":[0,", "\"data_offsets\":[0.5,")),
        (
            "an offset of 2^64",
            replaced("\"data_offsets\":[0,", "\"data_offsets\":[18446744073709551616,"),
        ),
        ("end before begin", replaced(whole, "\"data_offsets\":[64,0]")),
        ("a shape that overflows", replaced("\"shape\":[", "\"shape\":[4294967296,4294967296,")),
        ("a shape of 0", replaced("\"shape\":[", "\"shape\":[0,")),
        ("numbers in the metadata", replaced("\"tessera\":", "\"x\":1,\"tessera\":")),
        ("trailing", [&good[..], b"PK\x05\x06"].concat()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("a gap", joined(&header, &[&[0; 64], data].concat())),
    ] {
        println!("{name}");
        fs::write(folder.path().join("bad.safetensors"), bytes).unwrap();
        for command in of_pack(text(&library)) {
            refused(&folder, &command, &["bad.safetensors"]);
        }
    }
}

#[test]
fn no_pack_that_is_wrong_reaches_the_driver() {
    let folder = with_model();
    done(&folder, &["convert", "model.gguf", "-o", "pack.safetensors", "--scheme", "w4a8"]);
    let good = fs::read(folder.path().join("pack.safetensors")).unwrap();
    let (header, data) = parts(&good);
    let library = stand_in();
    for (from, to) in [
        (r#"\"version\":[1,"#, r#"\"version\":[9,"#),
        (r#"\"n\":64"#, r#"\"n\":96"#),
        (r#"\"n\":64"#, r#"\"n\":4294967360"#),
        (r#"\"k\":64"#, r#"\"k\":32"#),
        (r#"\"k\":64"#, r#"\"k\":8192"#),
        (r#"\"k\":64"#, r#"\"k\":0"#),
        (r#"\"k_padded\":64"#, r#"\"k_padded\":128"#),
        (r#"\"n_padded\":64"#, r#"\"n_padded\":128"#),
        (r#"\"scheme\":\"w4a8\",\"input\""#, r#"\"scheme\":\"w8a8\",\"input\""#),
        (r#"\"scheme\":\"w4a8\",\"input\""#, r#"\"scheme\":\"w2a2\",\"input\""#),
        (r#"\"domain\":0"#, r#"\"domain\":17"#),
        (r#"\"k_align\":32"#, r#"\"k_align\":1"#),
        (r#"\"name\":\"rk3588\""#, r#"\"name\":\"rk9999\""#),
    ] {
        assert!(header.contains(from), "{from}");
        let bytes = joined(&header.replacen(from, to, 1), data);
        fs::write(folder.path().join("bad.safetensors"), bytes).unwrap();
        println!("{from} {to}");
        for command in of_pack(text(&library)) {
            let outcome = refused(&folder, &command, &["bad.safetensors"]);
            assert!(!outcome.stdout.contains("stand-in"), "{outcome:?}");
        }
    }
    // Bytes that are not those of their digest are found before a matmul is made of them.
    let mut bytes = good.clone();
    let at = good.len() - data.len();
    bytes[at] ^= 1;
    fs::write(folder.path().join("bad.safetensors"), bytes).unwrap();
    let [_, verify, validate, ..] = of_pack(text(&library));
    assert_eq!(tessera(folder.path(), &verify).code, 1);
    refused(&folder, &validate, &["SHA-256"]);
    fs::copy(harness::short_text(), folder.path().join("text.txt")).unwrap();
    let eval = ["eval", "bad.safetensors", "--text", "text.txt", "--ctx", "16", "--chunks", "1"];
    refused(&folder, &eval, &["SHA-256"]);
}

/// Packs of every form still open: what is refused above is refused for what is wrong with it.
#[test]
fn good_packs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for pack in packs_of_every_scheme(folder.path()) {
        let outcome = tessera(folder.path(), &["verify", text(&pack)]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}
