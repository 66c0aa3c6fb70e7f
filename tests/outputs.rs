//! Where packs may be written, what stays when they cannot be, and what is said on which stream.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::model::Model;
use harness::{convert, run, tiny_model, verify};

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn small_model() -> Model {
    Model::new()
        .bell("blk.0.attn_norm.weight", &[64], 1.0)
        .bell("blk.0.attn_q.weight", &[64, 64], 0.1)
        .bell("blk.0.ffn_down.weight", &[64, 64], 0.1)
        .bell("token_embd.weight", &[64, 8], 0.1)
}

#[test]
fn unusual_names_of_files_are_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model().write(folder.path(), "model.gguf");
    for name in
        [&b"llama3:8b.gguf"[..], b"a b.gguf", b"back\\slash.gguf", b"not\xffutf8.gguf", b"-x"]
    {
        let input = folder.path().join(OsStr::from_bytes(name));
        fs::copy(&model, &input).unwrap();
        for output in ["pack.safetensors", "with space.safetensors", "-dash.safetensors"] {
            let pack = folder.path().join(output);
            convert(&input, &pack, &["--force"]);
            verify(&pack, &input);
        }
        let (code, said) = run(&[OsStr::new("inspect"), input.as_os_str(), OsStr::new("--json")]);
        assert_eq!(code, 0, "{said}");
    }
    let output = folder.path().join(OsStr::from_bytes(b"\xff.safetensors"));
    let (code, said) =
        run(&[OsStr::new("convert"), model.as_os_str(), OsStr::new("-o"), output.as_os_str()]);
    assert_eq!(code, 2);
    assert!(said.contains("UTF-8"), "{said}");
}

#[test]
fn what_stands_in_the_way_is_told_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model().write(folder.path(), "model.gguf");
    let path = |name: &str| folder.path().join(name);
    let refused = |output: &Path, more: &[&str], words: &str| {
        let command = ["convert", model.to_str().unwrap(), "-o", output.to_str().unwrap()];
        let before = names(folder.path());
        let (code, said) = run(&[&command[..], more].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("converting"), "{said}");
        assert_eq!(names(folder.path()), before);
    };
    fs::create_dir(path("folder.safetensors")).unwrap();
    refused(&path("folder.safetensors"), &["--force"], "is a folder");
    std::os::unix::fs::symlink("nowhere", path("link.safetensors")).unwrap();
    refused(&path("link.safetensors"), &[], "--force");
    fs::write(path("shard-00002-of-00005.safetensors"), "precious").unwrap();
    refused(&path("shard.safetensors"), &["--shard-size", "1K"], "00002-of-");
    let long = format!("{}.safetensors", "x".repeat(230));
    refused(&path(&long), &["--shard-size", "1K"], "name too long");
    // A link that leads nowhere is replaced, not followed.
    convert(&model, &path("link.safetensors"), &["--force"]);
    assert!(path("link.safetensors").symlink_metadata().unwrap().is_file());
    // A shard can have the input's name, too.
    let input = path("in-00001-of-00005.safetensors");
    fs::copy(&model, &input).unwrap();
    let output = path("in.safetensors");
    let arguments = [input.to_str().unwrap(), "-o", output.to_str().unwrap(), "--force"];
    let (code, said) = run(&[&["convert", "--shard-size", "1K"][..], &arguments].concat());
    assert_eq!(code, 2);
    assert!(said.contains("is the input"), "{said}");
    assert_eq!(fs::read(&input).unwrap(), fs::read(&model).unwrap());
}

#[test]
fn a_tensor_with_a_name_that_the_pack_needs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "blk.0.attn_q.weight.scale",
        "blk.0.attn_q.weight.tiles",
        "blk.0.attn_q.weight.tiles.1",
        "blk.0.attn_input.rotation",
        "gguf.metadata",
        "__metadata__",
    ] {
        let model = small_model().bell(name, &[3], 1.0).write(folder.path(), "model.gguf");
        let pack = folder.path().join("pack.safetensors");
        // In one file, and in several, where the two need not meet.
        for size in ["1G", "1K"] {
            let arguments = [
                "convert",
                model.to_str().unwrap(),
                "-o",
                pack.to_str().unwrap(),
                "--shard-size",
                size,
            ];
            let (code, said) = run(&arguments);
            assert_eq!(code, 2, "{name}: {said}");
            assert!(said.contains(name), "{said}");
            assert_eq!(names(folder.path()), ["model.gguf"]);
        }
    }
}

#[test]
fn force_leaves_one_pack() {
    let folder = tempfile::tempdir().unwrap();
    let packs = folder.path().join("packs");
    fs::create_dir(&packs).unwrap();
    let pack = packs.join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--shard-size", "1G"]);
    convert(&tiny_model(), &pack, &["--shard-size", "200K", "--force"]);
    verify(&packs, &tiny_model());
    convert(&tiny_model(), &pack, &["--force"]);
    assert!(!names(&packs).contains(&"pack.safetensors.index.json".to_owned()));
    verify(&pack, &tiny_model());
}

#[test]
fn every_file_holds_to_the_size_unless_one_tensor_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let tokens = vec!["token".to_owned(); 4000];
    let strings: tessera_formats::gguf::Strings = tokens.iter().collect();
    let mut model = small_model().key("tokenizer.ggml.tokens", strings);
    for layer in 1..5 {
        model = model.bell(&format!("blk.{layer}.attn_q.weight"), &[64, 64], 0.1);
    }
    let model = model.write(folder.path(), "model.gguf");
    for scheme in ["w8a8", "w4a4"] {
        // The key-values have 52 KB, a linear 4 KB and less, a header 4 KB and more.
        for size in [1, 4096, 60_000, 60_001, 64_000, 65_535, 65_536, 66_000, 70_000, 90_000] {
            let text = size.to_string();
            let options = ["--scheme", scheme, "--shard-size", &text, "--force"];
            let summary = convert(&model, &pack, &options);
            let files: Vec<PathBuf> = summary["output"]
                .as_array()
                .unwrap()
                .iter()
                .map(|path| PathBuf::from(path.as_str().unwrap()))
                .filter(|path| path.extension().unwrap() == "safetensors")
                .collect();
            let largest = files.iter().map(|file| fs::metadata(file).unwrap().len()).max().unwrap();
            let warned = !summary["warnings"].as_array().unwrap().is_empty();
            assert_eq!(largest > size, warned, "{scheme} {size}: {largest}");
            assert!(size < 64_000 || largest <= size, "{scheme} {size}: {largest}");
            verify(&files[0], &model);
            files.iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }
}

#[test]
fn a_pack_of_more_files_than_may_be_open_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 24; exec \"$0\" convert \"$1\" -o \"$2\" --shard-size 1K"])
        .arg(env!("CARGO_BIN_EXE_tessera"))
        .arg(tiny_model())
        .arg(&pack)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(names(folder.path()).len() > 40);
}

#[test]
fn nothing_is_left_of_a_pack_that_finds_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    // Files of at most 64 KiB: the writer fails, as on a full disk, with another error.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" convert \"$1\" -o \"$2\""])
        .arg(env!("CARGO_BIN_EXE_tessera"))
        .arg(tiny_model())
        .arg(&pack)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("pack.safetensors") && !said.contains("panicked"), "{said}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn readers_that_go_away_are_no_failure() {
    let model = tiny_model();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&OsStr], out: Stdio, err: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.args(arguments).stdout(out).stderr(err).status().unwrap().code()
    };
    let closed_pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let inspect = [OsStr::new("inspect"), model.as_os_str()];
    assert_eq!(run(&inspect, closed_pipe(), Stdio::null()), Some(0));
    assert_eq!(run(&inspect, full(), Stdio::null()), Some(3));
    // What is said goes nowhere; the exit code still tells.
    let missing = [OsStr::new("inspect"), OsStr::new("missing.gguf")];
    assert_eq!(run(&missing, Stdio::null(), closed_pipe()), Some(2));
    assert_eq!(run(&missing, Stdio::null(), full()), Some(2));
    let keep = folder.path().join("pack.safetensors");
    let warned = [
        OsStr::new("convert"),
        model.as_os_str(),
        OsStr::new("-o"),
        keep.as_os_str(),
        OsStr::new("--scheme"),
        OsStr::new("keep"),
    ];
    assert_eq!(run(&warned, Stdio::null(), full()), Some(0));
    // What was found is told by the exit code, whoever reads the rest.
    let damaged = folder.path().join("damaged.safetensors");
    let mut bytes = fs::read(&keep).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let verify = [OsStr::new("verify"), damaged.as_os_str()];
    assert_eq!(run(&verify, closed_pipe(), Stdio::null()), Some(1));
}

#[test]
fn json_is_all_that_stdout_gets() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    let (model, pack) = (tiny_model(), pack.to_str().unwrap().to_owned());
    let model = model.to_str().unwrap();
    for arguments in [
        &["convert", model, "-o", &pack, "--scheme", "keep", "--dry-run", "--json"][..],
        &["convert", model, "-o", &pack, "--scheme", "keep", "--json"],
        &["convert", model, "-o", &pack, "--scheme", "w4a8", "--json", "--force"],
        &["inspect", model, "--json", "--tensors"],
        &["inspect", &pack, "--json"],
        &["verify", &pack, "--json"],
        &["verify", &pack, "--json", "--source", model],
    ] {
        let output =
            harness::tessera().args(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(parsed.is_object());
        let warned = String::from_utf8_lossy(&output.stderr).contains("warning:");
        assert_eq!(warned, arguments.contains(&"keep"), "{arguments:?}");
        // The same for people: without colours where none are wanted.
        let plain: Vec<_> = arguments.iter().filter(|argument| **argument != "--json").collect();
        let output = harness::tessera().args(plain).env("NO_COLOR", "1").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
    }
}
