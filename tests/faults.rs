//! What goes wrong while tessera works: kills, signals, full and read-only disks, inputs that change,
//! clocks that jump. Nothing is lost, nothing is half written, and the next run is fine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::model::Model;
use harness::{convert, run, short_text, tiny_model, verify};

/// How often the tests kill: a number of their environment counts for more.
fn kills() -> u32 {
    std::env::var("TESSERA_KILLS").ok().map_or(20, |count| count.parse().unwrap())
}

/// A model whose conversion takes long enough to be interrupted: 14 linears of 1 MiB and vectors.
fn model(folder: &Path) -> PathBuf {
    let model = (0..14).fold(Model::new(), |model, layer| {
        model.bell(&format!("blk.{layer}.attn_norm.weight"), &[512], 1.0).bell(
            &format!("blk.{layer}.attn_q.weight"),
            &[512, 512],
            0.05,
        )
    });
    model.bell("token_embd.weight", &[512, 8], 0.1).write(folder, "model.gguf")
}

/// A text whose logits fill more than one buffer.
fn long_text(folder: &Path) -> PathBuf {
    let path = folder.join("story.txt");
    fs::write(&path, fs::read_to_string(short_text()).unwrap().repeat(8)).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether a file under a temporary name is there.
fn is_temporary(name: &str) -> bool {
    name.starts_with(".tessera-")
}

/// The program, which heeds all signals: whatever runs the tests in the background may ignore some, and
/// what it starts inherits that.
fn program() -> Command {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    // SIGHUP, SIGINT and SIGTERM.
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 0x4003 == 0 {
        return Command::new(env!("CARGO_BIN_EXE_tessera"));
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_tessera")]);
    command
}

fn start(arguments: &[&str]) -> Child {
    program()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

/// Starts `tessera` and stops it (as `SIGSTOP` does) while `folder` holds a file under a temporary name
/// with something in it, which it is writing.
fn stopped_at_work(arguments: &[&str], folder: &Path) -> Child {
    for _ in 0..50 {
        let mut child = start(arguments);
        while child.try_wait().unwrap().is_none() {
            let at_work = || {
                let entries = fs::read_dir(folder).unwrap().flatten();
                entries.filter(|entry| is_temporary(&entry.file_name().to_string_lossy())).any(
                    |entry| entry.metadata().is_ok_and(|found| found.is_file() && found.len() > 0),
                )
            };
            if at_work() {
                signal(&child, "STOP");
                // It may have gone on meanwhile; what counts is the moment when it stands still.
                if at_work() {
                    return child;
                }
                signal(&child, "CONT");
            }
            sleep(Duration::from_micros(200));
        }
        let (status, said) = ended(child);
        assert!(status.success(), "{arguments:?}: {said}");
        for name in names(folder).iter().filter(|name| name.starts_with("out")) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
    panic!("50 runs ended before they were stopped");
}

/// Lets a stopped process go on, and waits for its end.
fn gone_on(child: Child) -> (ExitStatus, String) {
    signal(&child, "CONT");
    ended(child)
}

fn ended(child: Child) -> (ExitStatus, String) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (status, said)
}

/// How long a run takes that nothing interrupts.
fn duration(arguments: &[&str]) -> Duration {
    let started = Instant::now();
    let (status, said) = ended(start(arguments));
    assert!(status.success(), "{said}");
    started.elapsed()
}

/// Moments of `whole`, one for each kill, in an order that is none.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    let count = kills();
    (0..count).map(move |kill| whole * (kill * 7 % count * 2 + 1) / (count * 2))
}

#[test]
fn killed_conversions_leave_nothing_and_resume_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    fs::create_dir(&whole).unwrap();
    fs::create_dir(&killed).unwrap();
    let model = model(folder.path());
    let output = |folder: &Path| folder.join("out.safetensors");
    let (one, other) = (output(&whole), output(&killed));
    let command = |output: &Path, threads: &'static str| {
        ["convert", text(&model), "-o", text(output), "--threads", threads, "--shard-size", "800K"]
            .map(str::to_owned)
    };
    let arguments = command(&one, "2");
    let took = duration(&arguments.each_ref().map(String::as_str));
    let files = names(&whole);
    assert!(files.len() > 5, "{files:?}");

    // Each run goes on where the one before was killed; when one ends in time, all begins anew.
    let (mut interrupted, mut kept) = (0, 0);
    for (attempt, moment) in moments(took).enumerate() {
        let arguments = command(&other, if attempt % 2 == 0 { "1" } else { "2" });
        let mut child =
            start(&[&arguments.each_ref().map(String::as_str)[..], &["--resume"]].concat());
        sleep(moment);
        child.kill().unwrap();
        let (status, said) = ended(child);
        let left = names(&killed);
        let finished = left.contains(&"out.safetensors.partial".to_owned());
        let complete = !finished && left.contains(&"out.safetensors.index.json".to_owned());
        if status.signal().is_none() || complete {
            assert!(status.success() || complete, "{said}");
            // A kill at the very end may leave the folder that went, under a temporary name.
            let discarded = left.iter().find(|name| complete && is_temporary(name));
            if let Some(name) = discarded {
                assert!(name.ends_with("discarded.part"), "{left:?}");
                fs::remove_dir_all(killed.join(name)).unwrap();
            }
            assert_eq!(names(&killed), files);
            assert!(same_files(&whole, &killed));
            fs::remove_dir_all(&killed).unwrap();
            fs::create_dir(&killed).unwrap();
            continue;
        }
        interrupted += 1;
        // Nothing stands under the pack's name, and at most one file under a temporary one.
        let placing = left.iter().any(|name| name.starts_with("out-"));
        assert!(finished || !placing, "{left:?}");
        assert!(left.iter().filter(|name| is_temporary(name)).count() <= 1, "{left:?}");
        kept += u32::from(finished);
    }
    assert!(interrupted >= kills() / 3, "{interrupted} of {}", kills());
    println!("{interrupted} runs were killed, {kept} of them after a file was finished");
    let left = || names(&killed).contains(&"out.safetensors.partial".to_owned());
    if left() {
        // Another conversion is not mixed with it, and an unaware one does not throw it away.
        let (code, said) = run(&command(&other, "2"));
        assert!(code == 2 && said.contains("go on with it by `--resume`"), "{said}");
        let (code, said) =
            run(&[&command(&other, "2")[..], &["--resume", "--seed", "1"].map(str::to_owned)]
                .concat());
        assert!(code == 2 && said.contains("the seed differs"), "{said}");
    }
    let (code, said) = run(&[&command(&other, "2")[..], &["--resume".to_owned()]].concat());
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(&killed), files);
    assert!(same_files(&whole, &killed));
    verify(&killed, &model);
}

/// Whether two folders hold the same files with the same bytes.
fn same_files(one: &Path, other: &Path) -> bool {
    names(one) == names(other)
        && names(one)
            .iter()
            .all(|name| fs::read(one.join(name)).unwrap() == fs::read(other.join(name)).unwrap())
}

#[test]
fn killed_conversions_of_one_file_leave_no_pack_and_the_next_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = |name: &str| folder.path().join(name);
    let (whole, output) = (path("whole.safetensors"), path("out.safetensors"));
    let arguments = ["convert", text(&model), "-o", text(&output), "--force"];
    let took = duration(&["convert", text(&model), "-o", text(&whole)]);
    let mut interrupted = 0;
    for moment in moments(took) {
        let mut child = start(&arguments);
        sleep(moment);
        child.kill().unwrap();
        let (status, said) = ended(child);
        if status.signal().is_none() {
            assert!(status.success(), "{said}");
            fs::remove_file(&output).unwrap();
            continue;
        }
        interrupted += 1;
        let left = names(folder.path());
        // What an earlier kill left is gone: only this one's may be there.
        assert!(left.iter().filter(|name| is_temporary(name)).count() <= 1, "{left:?}");
        if output.exists() {
            assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
            fs::remove_file(&output).unwrap();
        }
    }
    assert!(interrupted >= kills() / 2, "{interrupted} of {}", kills());
    let (code, said) = run(&arguments);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(folder.path()), ["model.gguf", "out.safetensors", "whole.safetensors"]);
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
}

#[test]
fn killed_calibrations_go_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (whole, output) = (path("whole.safetensors"), path("out.safetensors"));
    let (model, story) = (tiny_model(), short_text());
    let arguments = |output: &Path| {
        let options = ["--ctx", "64", "--tokens", "2048", "--hessians", "--resume"];
        let command = ["calibrate", text(&model), "--dataset", text(&story), "-o", text(output)];
        command.into_iter().chain(options).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = arguments(&whole);
    let took = duration(&first.iter().map(String::as_str).collect::<Vec<_>>());
    let mut interrupted = 0;
    let again = arguments(&output);
    let again: Vec<_> = again.iter().map(String::as_str).collect();
    for moment in moments(took) {
        let mut child = start(&again);
        sleep(moment);
        child.kill().unwrap();
        let (status, said) = ended(child);
        if status.signal().is_none() {
            assert!(status.success(), "{said}");
        } else {
            interrupted += 1;
        }
        assert!(names(folder.path()).iter().all(|name| !is_temporary(name)));
        if output.exists() {
            assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
            fs::remove_file(&output).unwrap();
        }
    }
    assert!(interrupted >= kills() / 3, "{interrupted} of {}", kills());
    let (code, said) = run(&again);
    assert_eq!(code, 0, "{said}");
    assert_eq!(names(folder.path()), ["out.safetensors", "whole.safetensors"]);
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
}

#[test]
fn interrupted_by_a_signal_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let pack = folder.path().join("out.safetensors");
    let rotated = folder.path().join("out.gguf");
    let logits = folder.path().join("out.logits");
    let (tiny, story) = (tiny_model(), long_text(folder.path()));
    let options = ["--ctx", "64", "--save-logits", text(&logits)];
    let commands = [
        (&pack, &["convert", text(&model), "-o", text(&pack)][..]),
        (&rotated, &["rotate", text(&tiny), "-o", text(&rotated), "--type", "f32"]),
        (&logits, &[&["eval", text(&tiny), "--text", text(&story)][..], &options].concat()),
    ];
    for (output, arguments) in commands {
        let (code, said) = run(arguments);
        assert_eq!(code, 0, "{said}");
        let whole = fs::read(output).unwrap();
        fs::remove_file(output).unwrap();
        for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
            let mut interrupted = 0;
            for _ in 0..20 {
                let child = stopped_at_work(arguments, folder.path());
                signal(&child, name);
                let (status, said) = gone_on(child);
                if output.exists() {
                    // It had only to be renamed: then it is whole, whatever came of the signal.
                    assert!(fs::read(output).unwrap() == whole, "{arguments:?}");
                    fs::remove_file(output).unwrap();
                } else {
                    assert_eq!(status.signal(), Some(number), "{arguments:?}: {status} {said}");
                    assert!(said.contains("no half-written file is left"), "{said}");
                    interrupted += 1;
                }
                assert_eq!(names(folder.path()), ["model.gguf", "story.txt"], "{arguments:?}");
                if interrupted == 2 {
                    break;
                }
            }
            assert_eq!(interrupted, 2, "{arguments:?}");
        }
    }
    // Whoever starts it so that a signal is ignored, as `nohup` does, is heeded.
    let script = "trap '' HUP; exec \"$0\" convert \"$1\" -o \"$2\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_tessera"), text(&model), text(&pack)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none()
        && !names(folder.path()).iter().any(|n| is_temporary(n))
    {
        sleep(Duration::from_micros(200));
    }
    signal(&child, "HUP");
    let (status, said) = ended(child);
    assert!(status.success(), "{said}");
    assert_eq!(names(folder.path()), ["model.gguf", "out.safetensors", "story.txt"]);
}

#[test]
fn finished_files_are_kept_when_a_signal_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let pack = folder.path().join("out.safetensors");
    let partial = folder.path().join("out.safetensors.partial");
    let arguments = ["convert", text(&model), "-o", text(&pack), "--shard-size", "800K"];
    let mut child = start(&arguments);
    while child.try_wait().unwrap().is_none() && !partial.join("finished-00002.json").exists() {
        sleep(Duration::from_micros(200));
    }
    signal(&child, "TERM");
    let (status, _) = ended(child);
    assert_eq!(status.signal(), Some(15));
    assert_eq!(names(folder.path()), ["model.gguf", "out.safetensors.partial"]);
    assert!(!names(&partial).iter().any(|name| is_temporary(name)));

    // What is damaged meanwhile is not taken for what was written.
    let shard = names(&partial).into_iter().find(|name| name.starts_with("out-")).unwrap();
    let mut bytes = fs::read(partial.join(&shard)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(partial.join(&shard), &bytes).unwrap();
    let resume = [&arguments[..], &["--resume"]].concat();
    let (code, said) = run(&resume);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("does not have the recorded SHA-256"), "{said}");
    bytes[middle] ^= 1;
    fs::write(partial.join(&shard), &bytes).unwrap();
    // Neither is a model that is another by now.
    let original = fs::read(&model).unwrap();
    let mut other = original.clone();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&model, &other).unwrap();
    let (code, said) = run(&resume);
    assert!(code == 2 && said.contains("the model is not the one"), "{said}");
    fs::write(&model, &original).unwrap();
    // A folder that is somebody else's is not touched.
    fs::write(partial.join("notes.txt"), "mine").unwrap();
    let (code, said) = run(&resume);
    assert!(code == 2 && said.contains("is in the way"), "{said}");
    fs::remove_file(partial.join("notes.txt")).unwrap();
    // Nor is a link taken for a file: it would come to stand in the pack's place.
    let moved = folder.path().join("moved");
    fs::rename(partial.join(&shard), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, partial.join(&shard)).unwrap();
    let (code, said) = run(&resume);
    assert!(code == 2 && said.contains("is in the way"), "{said}");
    fs::rename(&moved, partial.join(&shard)).unwrap();
    let record = partial.join("finished-00001.json");
    let kept = fs::read(&record).unwrap();
    fs::write(&record, &kept[..kept.len() / 2]).unwrap();
    let (code, said) = run(&resume);
    assert!(code == 2 && said.contains("finished-00001.json` is damaged"), "{said}");
    fs::write(&record, &kept).unwrap();

    // Moments between the moves to their places and the end, too.
    let first = partial.join(&shard);
    fs::rename(&first, folder.path().join(&shard)).unwrap();
    let (code, said) = run(&resume);
    assert_eq!(code, 0, "{said}");
    assert!(!partial.exists());
    verify(&folder.path().join(&shard), &model);
}

#[test]
fn an_input_that_is_cut_short_meanwhile_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let original = model(folder.path());
    let bytes = fs::read(&original).unwrap();
    let input = folder.path().join("input.gguf");
    let pack = folder.path().join("out.safetensors");
    let arguments = ["convert", text(&input), "-o", text(&pack), "--threads", "1"];
    let half = bytes.len() as u64 / 2;
    let alterations: [(&str, &dyn Fn()); 4] = [
        ("cut short", &|| File::options().write(true).open(&input).unwrap().set_len(half).unwrap()),
        ("emptied", &|| drop(File::create(&input).unwrap())),
        ("changed", &|| {
            let mut other = bytes.clone();
            *other.last_mut().unwrap() ^= 1;
            fs::write(&input, other).unwrap();
        }),
        ("longer", &|| {
            let file = File::options().write(true).open(&input).unwrap();
            file.set_len(bytes.len() as u64 + 1).unwrap();
        }),
    ];
    for (what, alter) in alterations {
        fs::write(&input, &bytes).unwrap();
        let child = stopped_at_work(&arguments, folder.path());
        alter();
        let (status, said) = gone_on(child);
        assert_eq!(status.code(), Some(2), "{what}: {status} {said}");
        assert!(said.contains("input.gguf"), "{what}: {said}");
        assert_eq!(names(folder.path()), ["input.gguf", "model.gguf"], "{what}");
    }
    // A file that goes away, or is replaced under its name, was open before: the pack is of that one.
    fs::write(&input, &bytes).unwrap();
    convert(&input, &folder.path().join("whole.safetensors"), &[]);
    let child = stopped_at_work(&arguments, folder.path());
    fs::write(folder.path().join("new.gguf"), b"another").unwrap();
    fs::rename(folder.path().join("new.gguf"), &input).unwrap();
    let (status, said) = gone_on(child);
    assert_eq!(status.code(), Some(2), "{status} {said}");
    assert!(said.contains("input.gguf"), "{said}");
    assert_eq!(names(folder.path()), ["input.gguf", "model.gguf", "whole.safetensors"]);
}

#[test]
fn models_and_packs_that_are_cut_short_while_they_run_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, story) = (fs::read(tiny_model()).unwrap(), long_text(folder.path()));
    let model = folder.path().join("model.gguf");
    fs::write(&model, &tiny).unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&model, &pack, &["--scheme", "w8a8"]);
    let packed = fs::read(&pack).unwrap();
    let logits = folder.path().join("out.logits");
    for (file, bytes) in [(&model, &tiny), (&pack, &packed)] {
        for length in [bytes.len() / 2, 0] {
            fs::write(file, bytes).unwrap();
            let command = [
                "eval",
                text(file),
                "--text",
                text(&story),
                "--ctx",
                "64",
                "--save-logits",
                text(&logits),
            ];
            let child = stopped_at_work(&command, folder.path());
            File::options().write(true).open(file).unwrap().set_len(length as u64).unwrap();
            let (status, said) = gone_on(child);
            // All may have been read by then; what it says then is of the whole file.
            assert!(status.success() || status.code() == Some(2), "{status} {said}");
            assert!(names(folder.path()).iter().all(|name| !is_temporary(name)));
            let _ = fs::remove_file(&logits);
        }
        fs::write(file, bytes).unwrap();
    }
    let statistics = folder.path().join("out.safetensors");
    let command =
        ["calibrate", text(&model), "--dataset", text(&story), "-o", text(&statistics), "--resume"];
    let mut child = start(&command);
    let work = folder.path().join("out.safetensors.partial");
    while child.try_wait().unwrap().is_none() && !work.join("states-00001.f32").exists() {
        sleep(Duration::from_micros(200));
    }
    File::options().write(true).open(&model).unwrap().set_len(tiny.len() as u64 / 2).unwrap();
    let (status, said) = ended(child);
    assert_eq!(status.code(), Some(2), "{status} {said}");
    assert!(said.contains("model.gguf") && !statistics.exists(), "{said}");
}

/// Runs a script of `sh` with file systems of its own; `None` where that is not allowed.
fn with_mounts(script: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", script]);
    command.arg(env!("CARGO_BIN_EXE_tessera")).args(arguments);
    match command.output() {
        Ok(output) if output.status.code() != Some(77) && unshares() => Some(output),
        _ => {
            println!("skipped: no file system can be mounted here");
            None
        }
    }
}

/// Whether a process may have mounts of its own.
fn unshares() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "true"]);
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // Too small from the first: told before anything is written.
    let script = "mount -t tmpfs -o size=1M none \"$2\" || exit 77\n\
                  \"$0\" convert \"$1\" -o \"$2/out.safetensors\" && exit 1\n\
                  echo \"code $?\"; ls -A \"$2\"";
    let Some(output) = with_mounts(script, &[text(&model), text(&disk)]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 3\n", "{said}");
    assert!(said.contains("out.safetensors` needs") && said.contains("are free"), "{said}");
    assert!(!said.contains("converting"), "{said}");

    // Filled by another while it writes: stopped at work, the disk filled, let go on.
    let script = "mount -t tmpfs -o size=6M none \"$2\" || exit 77\n\
                  \"$0\" convert \"$1\" -o \"$2/out.safetensors\" --shard-size 800K --threads 1 &\n\
                  pid=$!\n\
                  until [ -e \"$2/out.safetensors.partial/finished-00002.json\" ]; do :; done\n\
                  kill -STOP $pid\n\
                  dd if=/dev/zero of=\"$2/hog\" bs=64K 2>/dev/null || true\n\
                  kill -CONT $pid\n\
                  code=0; wait $pid || code=$?\n\
                  echo \"code $code\"; ls -A \"$2\"\n\
                  rm \"$2/hog\"\n\
                  \"$0\" convert \"$1\" -o \"$2/out.safetensors\" --shard-size 800K --resume >/dev/null\n\
                  \"$0\" verify \"$2\" --source \"$1\" >/dev/null\n\
                  ls -A \"$2\"";
    let Some(output) = with_mounts(script, &[text(&model), text(&disk)]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{listed} {said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("finished files are kept, to go on with by `--resume`"), "{said}");
    assert!(said.contains("hint: free some space"), "{said}");
    assert!(listed.starts_with("code 3\nhog\nout.safetensors.partial\nout-0000"), "{listed}");
    assert!(listed.trim_end().ends_with("out.safetensors.index.json"), "{listed}");
    assert!(!listed.contains(".tessera-"), "{listed}");
}

#[test]
fn a_disk_that_cannot_be_written_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let (tiny, story) = (tiny_model(), short_text());
    let script = "mount -t tmpfs -o size=6M,ro none \"$2\" || exit 77\n\
                  cd \"$2\"\n\
                  try() { code=0; \"$@\" >/dev/null || code=$?; echo \"$code\"; }\n\
                  try \"$0\" convert \"$1\" -o out.safetensors\n\
                  try \"$0\" convert \"$1\" -o out.safetensors --shard-size 800K --resume\n\
                  try \"$0\" calibrate \"$3\" --dataset \"$4\" -o out.safetensors\n\
                  try \"$0\" rotate \"$3\" -o out.gguf\n\
                  try \"$0\" eval \"$3\" --text \"$4\" --ctx 64 --save-logits out.logits\n\
                  ls -A";
    let arguments = [text(&model), text(&disk), text(&tiny), text(&story)];
    let Some(output) = with_mounts(script, &arguments) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n3\n3\n3\n3\n", "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(said.matches("Read-only file system").count(), 5, "{said}");
}

#[test]
fn clocks_that_jump_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = |name: &str| folder.path().join(name);
    convert(&model, &path("whole.safetensors"), &[]);
    // Files from before and after all times that clocks of 32 bits can tell.
    for (index, seconds) in [0, 1 << 31, 1 << 33].into_iter().enumerate() {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().append(true).open(&model).unwrap().set_modified(time).unwrap();
        let pack = path(&format!("{index}.safetensors"));
        convert(&model, &pack, &[]);
        assert!(fs::read(&pack).unwrap() == fs::read(path("whole.safetensors")).unwrap());
    }
    // A clock that goes back and forth by years at each look at it.
    let library = path("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/jumping_clock.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o", text(&library), text(&source)])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        println!("skipped: no C compiler to make a clock with");
        return;
    }
    let jumping = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(arguments)
            .env("LD_PRELOAD", &library)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("panicked"), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (pack, sharded) = (path("jumped.safetensors"), path("sharded.safetensors"));
    jumping(&["convert", text(&model), "-o", text(&pack)]);
    assert!(fs::read(&pack).unwrap() == fs::read(path("whole.safetensors")).unwrap());
    jumping(&["convert", text(&model), "-o", text(&sharded), "--shard-size", "800K", "--resume"]);
    let (tiny, story) = (tiny_model(), short_text());
    let steady = path("steady-stats.safetensors");
    let (code, said) =
        run(&["calibrate", text(&tiny), "--dataset", text(&story), "-o", text(&steady)]);
    assert_eq!(code, 0, "{said}");
    let jumped = path("jumped-stats.safetensors");
    jumping(&["calibrate", text(&tiny), "--dataset", text(&story), "-o", text(&jumped)]);
    assert!(fs::read(&steady).unwrap() == fs::read(&jumped).unwrap());
    jumping(&["eval", text(&tiny), "--text", text(&story), "--ctx", "64", "--json"]);
    jumping(&["bench", text(&tiny), "--json"]);
}
