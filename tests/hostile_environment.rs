//! A hostile environment: files that are none, outputs that are inputs, no room, no end, many threads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;
#[path = "hostile/limits.rs"]
#[allow(dead_code, reason = "each file of tests uses what it needs")]
mod limits;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::model::Model;
use harness::{short_text, tiny_model};
use limits::{Outcome, finish, tessera, with_stdin};
use tempfile::TempDir;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::GgufWriter;

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A folder with a model and a text.
fn with_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny_model(), folder.path().join("model.gguf")).unwrap();
    fs::copy(short_text(), folder.path().join("text.txt")).unwrap();
    folder
}

/// Runs a command that must be refused as bad input or by the system, and leave the folder as it is.
fn refused(folder: &TempDir, arguments: &[&str], codes: &[i32], words: &str) -> Outcome {
    let before = names(folder.path());
    let outcome = tessera(folder.path(), arguments);
    assert!(codes.contains(&outcome.code), "{arguments:?}: {outcome:?}");
    assert!(outcome.stderr.contains(words), "{arguments:?}: no {words:?}: {outcome:?}");
    assert_eq!(names(folder.path()), before, "{arguments:?}: {outcome:?}");
    outcome
}

/// Commands with `FILE` where a file is read, for every kind of file that one is.
const READERS: &[&[&str]] = &[
    &["inspect", "FILE"],
    &["convert", "FILE", "-o", "x.safetensors"],
    &["convert", "model.gguf", "-o", "x.safetensors", "--recipe", "FILE"],
    &["convert", "model.gguf", "-o", "x.safetensors", "--calibration", "FILE"],
    &["convert", "model.gguf", "-o", "x.safetensors", "--calibration", "FILE.dat"],
    &["convert", "model.gguf", "-o", "x.safetensors", "--target", "FILE.json"],
    &["convert", "model.gguf", "-o", "x.safetensors", "--dataset", "FILE.txt", "--ctx", "16"],
    &["calibrate", "FILE", "-o", "x.safetensors"],
    &["calibrate", "model.gguf", "-o", "x.safetensors", "--dataset", "FILE.txt"],
    &["calibrate", "--merge", "FILE", "FILE", "-o", "x.safetensors"],
    &["sensitivity", "FILE", "-o", "x.json"],
    &["rotate", "FILE", "-o", "x.gguf"],
    &["verify", "FILE"],
    &["verify", "FILE.safetensors.index.json"],
    &["diff", "FILE", "model.gguf"],
    &["eval", "FILE", "--text", "text.txt"],
    &["eval", "model.gguf", "--text", "FILE"],
    &["eval", "model.gguf", "--from-logits", "FILE"],
    &["eval", "model.gguf", "--reference", "FILE", "--text", "text.txt"],
    &["eval", "model.gguf", "--text", "text.txt", "--device", "rknn", "--library", "FILE"],
    &["run", "FILE", "-p", "Once"],
    &["report", "FILE", "-o", "page"],
    &["validate", "FILE", "--device", "sim"],
    &["validate", "pack.safetensors", "--device", "stand-in", "--library", "FILE"],
    &["validate", "pack.safetensors", "--device", "sim", "--reference", "FILE"],
    &["probe", "--device", "stand-in", "--library", "FILE"],
];

/// Endings that `FILE` has in some of them.
const ENDINGS: [&str; 5] = ["", ".dat", ".json", ".txt", ".safetensors.index.json"];

#[test]
fn what_is_no_file_is_never_waited_for() {
    let folder = with_model();
    let done = tessera(folder.path(), &["convert", "model.gguf", "-o", "pack.safetensors"]);
    assert_eq!(done.code, 0, "{done:?}");
    let mut listeners = Vec::new();
    for ending in ENDINGS {
        let path = |kind: &str| folder.path().join(format!("{kind}{ending}"));
        let made = Command::new("mkfifo").arg(path("fifo")).status().unwrap();
        assert!(made.success());
        listeners.push(UnixListener::bind(path("socket")).unwrap());
        symlink("/dev/zero", path("zero")).unwrap();
        symlink("/dev/stdin", path("stdin")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink(path("loop"), path("loop")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
    }
    for arguments in READERS {
        for kind in ["fifo", "socket", "zero", "stdin", "folder", "loop", "dangling"] {
            let arguments: Vec<_> = arguments.iter().map(|a| a.replace("FILE", kind)).collect();
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let before = names(folder.path());
            // Standard input is a pipe that nobody closes.
            let (reader, writer) = std::io::pipe().unwrap();
            let outcome = with_stdin(folder.path(), &arguments, Stdio::from(reader));
            drop(writer);
            assert!([2, 3].contains(&outcome.code), "{arguments:?}: {outcome:?}");
            assert!(outcome.stderr.contains(kind), "{arguments:?}: {outcome:?}");
            assert_eq!(names(folder.path()), before, "{arguments:?}");
        }
    }
}

/// Commands with `OUT` where a file is written, and the ending that it must have.
const WRITERS: &[(&[&str], &str)] = &[
    (&["convert", "model.gguf", "-o", "OUT"], ".safetensors"),
    (&["rotate", "model.gguf", "-o", "OUT"], ".gguf"),
    (&["calibrate", "model.gguf", "--tokens", "64", "--ctx", "16", "-o", "OUT"], ".safetensors"),
    (
        &[
            "sensitivity",
            "model.gguf",
            "--tokens",
            "32",
            "--ctx",
            "16",
            "--calibration",
            "stats.safetensors",
            "--schemes",
            "w8a8",
            "-o",
            "OUT",
        ],
        ".json",
    ),
    (
        &[
            "eval",
            "model.gguf",
            "--text",
            "text.txt",
            "--ctx",
            "16",
            "--chunks",
            "1",
            "--save-logits",
            "OUT",
        ],
        ".logits",
    ),
];

/// A folder with the inputs of all of them.
fn with_statistics() -> TempDir {
    let folder = with_model();
    let calibrate =
        ["calibrate", "model.gguf", "--tokens", "64", "--ctx", "16", "-o", "stats.safetensors"];
    let outcome = tessera(folder.path(), &[&calibrate[..], &["--hessians"]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    folder
}

/// The command with its output, and `--force` where there is one.
fn writing<'a>(arguments: &[&'a str], out: &'a str, force: bool) -> Vec<&'a str> {
    let mut command: Vec<_> = arguments.iter().map(|&a| if a == "OUT" { out } else { a }).collect();
    if force && arguments[0] != "eval" {
        command.push("--force");
    }
    command
}

#[test]
fn places_where_nothing_can_be_written_are_refused() {
    let folder = with_statistics();
    for (arguments, ending) in WRITERS {
        let missing = format!("missing/out{ending}");
        refused(&folder, &writing(arguments, &missing, false), &[2], "missing");
        let directory = format!("directory{ending}");
        fs::create_dir_all(folder.path().join(&directory)).unwrap();
        refused(&folder, &writing(arguments, &directory, true), &[2], &directory);
        // The system's own folders take no files, not even root's.
        let read_only = format!("/proc/sys/out{ending}");
        let outcome =
            refused(&folder, &writing(arguments, &read_only, false), &[2, 3], "/proc/sys");
        assert!(!outcome.stderr.contains("hint: report"), "{outcome:?}");
        let through = format!("text.txt/out{ending}");
        refused(&folder, &writing(arguments, &through, false), &[2], "text.txt");
        let long = format!("{}{ending}", "n".repeat(300));
        refused(&folder, &writing(arguments, &long, false), &[2], "nnn");
    }
    refused(&folder, &["man", "missing"], &[2], "missing");
}

#[test]
fn pipes_and_devices_are_not_written_into() {
    let folder = with_statistics();
    for (arguments, ending) in WRITERS {
        let fifo = format!("fifo{ending}");
        if !folder.path().join(&fifo).exists() {
            let made = Command::new("mkfifo").arg(folder.path().join(&fifo)).status().unwrap();
            assert!(made.success());
        }
        let full = format!("full{ending}");
        if folder.path().join(&full).symlink_metadata().is_err() {
            symlink("/dev/full", folder.path().join(&full)).unwrap();
        }
        // Without --force both are in the way, whatever they are.
        refused(&folder, &writing(arguments, &fifo, false), &[2], &fifo);
        refused(&folder, &writing(arguments, &full, false), &[2], &full);
        // With it, a new file takes their place; the device itself is left alone.
        if arguments[0] != "eval" {
            let outcome = tessera(folder.path(), &writing(arguments, &full, true));
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert!(folder.path().join(&full).symlink_metadata().unwrap().is_file());
        }
    }
    let mode = fs::metadata("/dev/full").unwrap();
    assert!(!mode.is_file());
}

#[test]
fn no_input_gives_way_to_an_output() {
    let folder = with_statistics();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("rules.toml"), "[defaults]\nscheme = 'w8a8'\n").unwrap();
    let inputs = ["model.gguf", "stats.safetensors", "rules.toml", "text.txt"];
    let before: Vec<_> = inputs.map(|name| fs::read(path(name)).unwrap()).into();
    fs::create_dir(path("sub")).unwrap();
    for (arguments, ending) in WRITERS {
        let more: &[&str] = match arguments[0] {
            "convert" => &["--calibration", "stats.safetensors", "--recipe", "rules.toml"],
            "calibrate" => &["--recipe", "rules.toml", "--dataset", "text.txt"],
            "sensitivity" => &["--recipe", "rules.toml", "--dataset", "text.txt"],
            _ => &[],
        };
        for input in inputs {
            let is_read = arguments.contains(&input) || more.contains(&input);
            if !is_read {
                continue;
            }
            let (link, hard) = (format!("link{ending}"), format!("hard{ending}"));
            symlink(input, path(&link)).unwrap();
            fs::hard_link(path(input), path(&hard)).unwrap();
            let mut outputs =
                vec![link.clone(), hard.clone(), format!("sub/../{link}"), format!("./{hard}")];
            if input.ends_with(ending) {
                outputs.extend([input.to_owned(), format!("./sub/..//{input}")]);
            }
            for out in &outputs {
                let command = [&writing(arguments, out, true)[..], more].concat();
                refused(&folder, &command, &[2], "");
            }
            fs::remove_file(path(&link)).unwrap();
            fs::remove_file(path(&hard)).unwrap();
        }
    }
    let merge = ["calibrate", "--merge", "stats.safetensors", "stats.safetensors", "--force", "-o"];
    refused(&folder, &[&merge[..], &["sub/../stats.safetensors"]].concat(), &[2], "is an input");
    let after: Vec<_> = inputs.map(|name| fs::read(path(name)).unwrap()).into();
    assert!(before == after);
    // A report's page must not be the report.
    fs::create_dir(path("page")).unwrap();
    let report = serde_json::to_string(&harness::report::report()).unwrap();
    fs::write(path("report.json"), &report).unwrap();
    fs::hard_link(path("report.json"), path("page/index.html")).unwrap();
    refused(&folder, &["report", "report.json", "-o", "page", "--force"], &[2], "is an input");
    assert_eq!(fs::read_to_string(path("report.json")).unwrap(), report);
}

#[test]
fn threads_are_as_many_as_are_sensible() {
    let folder = with_model();
    let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--force", "--threads"];
    for threads in ["0", "1025", "1000000000", "18446744073709551616", "-1", "many"] {
        let threads = format!("--threads={threads}");
        let outcome = tessera(folder.path(), &[&convert[..5], &[&threads]].concat());
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.contains("--threads"), "{outcome:?}");
    }
    // The environment's word is not taken: neither so many threads, nor none.
    for threads in ["1000000000", "0", "-1", "\u{1b}[2J"] {
        for arguments in [
            &convert[..5],
            &["eval", "model.gguf", "--text", "text.txt", "--ctx", "16", "--chunks", "1"],
            &["verify", "pack.safetensors", "--source", "model.gguf"],
            &["inspect", "model.gguf"],
        ] {
            let mut command = Command::new("sh");
            let limits = "ulimit -v 1000000; ulimit -t 5; exec \"$0\" \"$@\"";
            command.args(["-c", limits, env!("CARGO_BIN_EXE_tessera")]).args(arguments);
            command
                .current_dir(folder.path())
                .env("RAYON_NUM_THREADS", threads)
                .stdin(Stdio::null());
            let outcome = finish(command);
            assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
        }
    }
    // More than the system gives: told as what it is.
    let mut command = Command::new("sh");
    let limits = "ulimit -v 300000; exec \"$0\" \"$@\"";
    command.args(["-c", limits, env!("CARGO_BIN_EXE_tessera")]).args(convert).arg("1024");
    command.current_dir(folder.path()).stdin(Stdio::null());
    let outcome = finish(command);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.stderr.contains("1024 worker threads cannot be started"), "{outcome:?}");
}

#[test]
fn streams_that_are_closed_or_full_are_no_harm() {
    let folder = with_model();
    let run = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_tessera")]).current_dir(folder.path());
        finish(command)
    };
    assert_eq!(run("exec \"$0\" inspect model.gguf <&-").code, 0);
    assert_eq!(run("exec \"$0\" inspect model.gguf <&- >&-").code, 0);
    assert_eq!(run("exec \"$0\" inspect missing.gguf <&- 2>&-").code, 2);
    for arguments in
        ["inspect model.gguf", "inspect model.gguf --json", "--help", "completions bash"]
    {
        let outcome = run(&format!("exec \"$0\" {arguments} >/dev/full"));
        assert!(outcome.code == 3 || arguments == "--help", "{arguments}: {outcome:?}");
    }
    // With no streams at all, none of what is opened takes their place: the pack is a pack.
    let outcome = run("exec \"$0\" convert model.gguf -o pack.safetensors <&- >&- 2>&-");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let verify = ["verify", "pack.safetensors", "--source", "model.gguf"];
    assert_eq!(tessera(folder.path(), &verify).code, 0);
}

/// Writes a header, and a file that is as long as it says and almost all a hole.
fn sparse(path: &Path, dims: &[u64]) -> bool {
    let mut writer = GgufWriter::new();
    writer.metadata("general.architecture", "llama").unwrap();
    writer.tensor("blk.0.ffn_up.weight", GgmlType::F32, dims).unwrap();
    let mut file = File::create(path).unwrap();
    writer.write_header(&mut file).unwrap();
    file.set_len(writer.file_bytes()).is_ok()
}

#[test]
fn sparse_files_of_many_terabytes_are_not_read_into_memory() {
    let folder = tempfile::tempdir().unwrap();
    // 16 TiB, or what the file system has for the largest.
    let lengths = [42_u32, 41, 40, 39];
    let model = folder.path().join("model.gguf");
    let Some(bits) = lengths
        .into_iter()
        .find(|&bits| sparse(&model, &[1 << (bits / 2), 1 << (bits - bits / 2)]))
    else {
        println!("skipped: the file system has no files of 2 TiB");
        return;
    };
    println!("{} TiB", 4_u64 << bits >> 40);
    let inspect = tessera(folder.path(), &["inspect", "model.gguf"]);
    assert_eq!(inspect.code, 0, "{inspect:?}");
    for scheme in ["w4a4", "w16a16"] {
        let convert = ["convert", "model.gguf", "-o", "pack.safetensors", "--scheme", scheme];
        refused(&folder, &convert, &[2, 3], "");
        refused(&folder, &[&convert[..], &["--dry-run"]].concat(), &[2, 3], "");
    }
    // A header that is a hole.
    File::create(&model).unwrap().set_len(4 << bits).unwrap();
    refused(&folder, &["inspect", "model.gguf"], &[2], "byte 0");
}

#[test]
fn many_tensors_and_long_rows_do_not_exhaust_anything() {
    let folder = tempfile::tempdir().unwrap();
    // Many tensors of one element: names are looked up without comparing all of them.
    let mut writer = GgufWriter::new();
    writer.metadata("general.architecture", "llama").unwrap();
    let count = 65_536;
    for index in 0..count {
        writer.tensor(format!("blk.{index}.attn_norm.weight"), GgmlType::F32, &[1]).unwrap();
    }
    let mut file = File::create(folder.path().join("model.gguf")).unwrap();
    writer.write_header(&mut file).unwrap();
    file.set_len(writer.file_bytes()).unwrap();
    let inspect = tessera(folder.path(), &["inspect", "model.gguf", "--tensors"]);
    assert_eq!(inspect.code, 0, "{}", inspect.stderr);
    assert!(inspect.stdout.contains("blk.65535.attn_norm.weight"));
    let outcome =
        tessera(folder.path(), &["convert", "model.gguf", "-o", "p.safetensors", "--dry-run"]);
    assert!([0, 2].contains(&outcome.code), "{outcome:?}");
    // One tensor with K = 1 and N = 2^31, and the other way round.
    for dims in [[1, 1_u64 << 31], [1 << 31, 1]] {
        if !sparse(&folder.path().join("model.gguf"), &dims) {
            println!("skipped: the file system has no files of 8 GiB");
            continue;
        }
        let convert = ["convert", "model.gguf", "-o", "p.safetensors", "--memory-budget", "64M"];
        refused(&folder, &convert, &[2], "blk.0.ffn_up.weight");
    }
}

#[test]
fn names_of_unfinished_files_cannot_be_foretold() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let folder = with_model();
        let before = names(folder.path());
        // A pack of some size, and a machine that is slow enough to be looked at.
        let mut model = Model::new();
        for layer in 0..48 {
            model = model.bell(&format!("blk.{layer}.ffn_up.weight"), &[512, 512], 0.1);
        }
        model.write(folder.path(), "model.gguf");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(["convert", "model.gguf", "-o", "pack.safetensors", "--threads", "1"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut found = None;
        while child.try_wait().unwrap().is_none() {
            let new = names(folder.path())
                .into_iter()
                .find(|name| !before.contains(name) && name != "pack.safetensors");
            found = found.or(new);
            std::thread::sleep(Duration::from_micros(200));
        }
        let found = found.expect("a file under another name, for a while");
        assert!(found.starts_with(".tessera-") && found.ends_with(".part"), "{found}");
        seen.push(found);
    }
    assert_ne!(seen[0], seen[1]);
    assert!(seen[0].len() >= ".tessera-".len() + 6 + ".part".len(), "{seen:?}");
}

#[test]
fn nothing_says_who_made_a_file_or_where() {
    let folder = with_statistics();
    let absolute = folder.path().to_str().unwrap().to_owned();
    let path = |name: &str| format!("{absolute}/{name}");
    let (model, stats, text) = (path("model.gguf"), path("stats2.safetensors"), path("text.txt"));
    let (pack, rotated, logits) =
        (path("pack.safetensors"), path("rotated.gguf"), path("l.logits"));
    let calibrate =
        ["calibrate", &model, "--dataset", &text, "--tokens", "64", "--ctx", "16", "-o", &stats];
    let marked = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.args(arguments).env("USER", "secret-user").env("LOGNAME", "secret-user");
        command
            .env("HOSTNAME", "secret-host")
            .env("HOME", "/home/secret-user")
            .stdin(Stdio::null());
        let outcome = finish(command);
        assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
    };
    marked(&calibrate);
    marked(&["convert", &model, "-o", &pack, "--calibration", &stats]);
    marked(&["rotate", &model, "-o", &rotated]);
    marked(&[
        "eval",
        &model,
        "--text",
        &text,
        "--ctx",
        "16",
        "--chunks",
        "1",
        "--save-logits",
        &logits,
    ]);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let folder_name = folder.path().file_name().unwrap().to_str().unwrap();
    for file in [&stats, &pack, &rotated, &logits] {
        let bytes = fs::read(file).unwrap();
        let contains =
            |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        for secret in ["secret-user", "secret-host", absolute.as_str(), folder_name, "/home/"] {
            assert!(!contains(secret), "{file} says {secret:?}");
        }
        // A name of few letters may be there by chance.
        assert!(host.trim().len() < 6 || !contains(host.trim()), "{file} says {host:?}");
    }
}

#[test]
fn stopping_and_going_on_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for layer in 0..24 {
        model = model.bell(&format!("blk.{layer}.ffn_up.weight"), &[512, 256], 0.1);
    }
    model.write(folder.path(), "model.gguf");
    let done = tessera(folder.path(), &["convert", "model.gguf", "-o", "quiet.safetensors"]);
    assert_eq!(done.code, 0, "{done:?}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(["convert", "model.gguf", "-o", "disturbed.safetensors"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A stopped process returns from the calls it waits in, as after any signal.
    let pid = child.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &pid]).stderr(Stdio::null()).status().unwrap();
        sent.success()
    };
    let (mut stops, started) = (0, Instant::now());
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "hangs");
        for name in ["-STOP", "-CONT", "-WINCH", "-CHLD", "-URG"] {
            stops += u32::from(signal(name));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    assert!(stops >= 3, "{stops} signals");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("quiet.safetensors") == read("disturbed.safetensors"));
}
