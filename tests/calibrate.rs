//! `tessera calibrate`, end to end: what its file does not depend on, interruptions, merging, refusals.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use harness::model::Model;
use harness::{convert, figure, run, shared_models, short_text, tessera, tiny_model};
use serde_json::Value;
use tessera_calibration::statistics::{Statistics, StatisticsFile};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `tessera calibrate` on the short text and returns the report.
fn calibrate(model: &Path, output: &Path, more: &[&str]) -> Value {
    calibrate_on(&short_text(), model, output, more)
}

/// The same on another text.
fn calibrate_on(data: &Path, model: &Path, output: &Path, more: &[&str]) -> Value {
    let arguments = ["calibrate", text(model), "--dataset", text(data), "-o", text(output)];
    let output = tessera().args(arguments).args(more).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The short text, eight times: more tokens than pass through a layer together.
fn long_text(folder: &Path) -> PathBuf {
    let path = folder.join("long.txt");
    fs::write(&path, fs::read_to_string(short_text()).unwrap().repeat(8)).unwrap();
    path
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Models that all have another form: dense, experts, experts with a shared one.
fn models(folder: &Path) -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/golden/qwen2moe.gguf");
    let mut models = vec![tiny_model(), golden];
    models.push(Model::with_experts(&tiny_model()).write(folder, "experts.gguf"));
    let shared = shared_models("stories260K");
    models.extend(shared.map(|folder| folder.join("stories260K-as-moe-F32.gguf")));
    models
}

#[test]
fn the_file_depends_on_neither_threads_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let data = long_text(folder.path());
    for (index, model) in models(folder.path()).iter().enumerate() {
        let made = |name: &str, more: &[&str]| {
            let path = folder.path().join(format!("{index}-{name}.safetensors"));
            let more = [&["--ctx", "32", "--tokens", "1100", "--hessians"], more].concat();
            let report = calibrate_on(&data, model, &path, &more);
            assert_eq!(report["tokens"], 35 * 32, "{}", model.display());
            fs::read(path).unwrap()
        };
        let one = made("one", &["--threads", "1", "--memory-budget", "200M"]);
        let two = made("two", &["--threads", "2"]);
        let three = made("three", &["--threads", "3", "--memory-budget", "8G"]);
        assert!(one == two && two == three, "{}", model.display());
        assert!(names(folder.path()).iter().all(|name| !name.ends_with(".partial")));
        let file = StatisticsFile::open(&folder.path().join(format!("{index}-one.safetensors")));
        let file = file.unwrap();
        assert!(file.inputs().iter().all(|input| input.hessian && input.tokens >= 1120));
        assert_eq!(file.inputs().last().unwrap().linears, ["output.weight"]);
        assert_eq!(file.provenance().model[0].bytes, model.metadata().unwrap().len());
    }
}

#[test]
fn killed_runs_go_on_to_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let data = long_text(folder.path());
    let path = |name: &str| folder.path().join(name);
    let (whole, output) = (path("whole.safetensors"), path("killed.safetensors"));
    let options = ["--ctx", "64", "--tokens", "4096", "--hessians", "--threads", "2"];
    calibrate_on(&data, &model, &whole, &options);
    let work = path("killed.safetensors.partial");
    let finished = || {
        let is_states = |name: &String| name.starts_with("states-") && name.ends_with(".f32");
        let names = if work.is_dir() { names(&work) } else { Vec::new() };
        let states = names.into_iter().filter(is_states).max();
        states.map_or(0, |name| name[7..12].parse::<u32>().unwrap())
    };
    let mut kills = 0;
    for attempt in 0..40 {
        // At some moment of the layer after this one, or of the first.
        let (layer, moment) = (finished() + attempt % 2, u64::from(attempt) * 37 % 60);
        let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(["calibrate", text(&model), "--dataset", text(&data), "-o", text(&output)])
            .args(options)
            .arg("--resume")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() && (!work.is_dir() || finished() < layer) {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        kills += u32::from(!child.wait().unwrap().success());
        assert!(!names(folder.path()).iter().any(|name| name.ends_with(".part")));
        if kills == 5 {
            break;
        }
        if output.exists() {
            // It ended before it was killed.
            assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
            fs::remove_file(&output).unwrap();
        }
    }
    assert_eq!(kills, 5);
    if !output.exists() {
        calibrate_on(&data, &model, &output, &[&options[..], &["--resume"]].concat());
    }
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
    let left = ["experts.gguf", "killed.safetensors", "long.txt", "whole.safetensors"];
    assert_eq!(names(folder.path()), left);
}

#[test]
fn an_unfinished_run_is_not_mixed_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (model, story, output) = (tiny_model(), short_text(), path("s.safetensors"));
    let other = path("other.txt");
    fs::write(&other, fs::read_to_string(&story).unwrap().replace("Alice", "Bob")).unwrap();
    // Another run's folder: that of a run that stopped before its output was in place.
    fs::create_dir(&output).unwrap();
    let base = ["calibrate", text(&model), "-o", text(&output), "--tokens", "512", "--ctx", "64"];
    let with = |more: &[&str]| run(&[&base[..], more].concat());
    let (code, said) = with(&["--dataset", text(&story)]);
    assert!(code == 2 && said.contains("is a folder"), "{said}");
    fs::remove_dir(&output).unwrap();
    let work = path("s.safetensors.partial");
    interrupt(&base, &story, &work, &output);
    let before = names(&work);
    let (code, said) = with(&["--dataset", text(&story)]);
    assert!(code == 2 && said.contains("s.safetensors.partial"), "{said}");
    assert!(said.contains("hint: go on with it by `--resume`"), "{said}");
    for (more, words) in [
        (&["--dataset", text(&other)][..], "its `data` is another"),
        (&["--dataset", text(&story), "--hessians"], "its `hessians` is false, not true"),
        (&["--dataset", text(&story), "--seed", "1"], "its `seed` is 0, not 1"),
        (&["--dataset", text(&story), "--ctx", "32"], "its `context` is 64, not 32"),
    ] {
        let base: Vec<_> = base.iter().filter(|word| !more.contains(word)).copied().collect();
        let base = if more.contains(&"--ctx") { &base[..base.len() - 1] } else { &base };
        let (code, said) = run(&[base, more, &["--resume"]].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(words) && said.contains("is that of another run"), "{said}");
        assert_eq!(names(&work), before);
    }
    let (code, said) = with(&["--dataset", text(&story), "--resume"]);
    assert_eq!(code, 0, "{said}");
    assert!(!work.exists() && output.is_file());
}

/// Leaves the work folder of a run behind that was stopped before it had ended.
fn interrupt(base: &[&str], story: &Path, work: &Path, output: &Path) {
    for _ in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(base)
            .args(["--dataset", text(story)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !work.join("run.json").is_file() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if work.join("run.json").is_file() && !output.exists() {
            return;
        }
        fs::remove_file(output).unwrap();
    }
    panic!("20 runs ended before they were killed");
}

#[test]
fn reports_say_what_was_observed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let options = ["--ctx", "128", "--tokens", "100000"];
    let report = calibrate(&tiny_model(), &path("s.safetensors"), &options);
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().contains("fewer than the 100000"), "{warnings:?}");
    assert_eq!(report["data"][0]["name"], "alice.txt");
    assert_eq!(report["bytes"], path("s.safetensors").metadata().unwrap().len());
    let tokens = report["tokens"].as_u64().unwrap();
    assert!(tokens > 500 && tokens.is_multiple_of(128));
    let inputs = report["inputs"].as_array().unwrap();
    assert_eq!(inputs.len(), 5 * 4 + 1);
    let statistics = Statistics::read(&path("s.safetensors")).unwrap();
    for (input, found) in inputs.iter().zip(&statistics.inputs) {
        assert_eq!(input["linears"].as_array().unwrap().len(), found.linears.len());
        assert_eq!(input["rows"], tokens);
        let energy: f64 = found.squares.iter().sum();
        let rms = (energy / (found.tokens as f64 * found.k as f64)).sqrt();
        assert!((figure(input, "rms") - rms).abs() < 1e-12 * rms);
        let crest = f64::from(found.magnitudes.amax()) / rms;
        assert!((figure(input, "crest") - crest).abs() < 1e-9 * crest);
        assert!(figure(input, "channel_ratio") >= 1.0);
        assert_eq!(input["massive_rows"], found.massive);
        assert!(found.hessian.is_none() && found.sampled() == 256);
    }
    let kinds: Vec<_> = inputs[..4].iter().map(|input| input["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["attn_input", "attn_output_input", "ffn_input", "ffn_down_input"]);

    // For people, with experts that saw little.
    let model = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let story = short_text();
    let arguments = ["calibrate", text(&model), "--dataset", text(&story), "--ctx", "64"];
    let output = tessera()
        .args(arguments)
        .args(["--tokens", "128"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && path("experts.stats.safetensors").is_file());
    for words in [
        "128 tokens in chunks of 64, of alice.txt",
        "ffn_experts_input",
        "ffn_down_exps_input",
        "experts with fewer than 256 rows:",
        "blk.0.ffn_gate_exps.weight: 2 of 2, fewest 128 of expert 0",
        "and of 2 more inputs",
        "experts.stats.safetensors, ",
        " tokens/s, peak memory ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// Without a text, the one that the program carries is taken.
#[test]
fn there_is_a_text_for_those_who_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let arguments = ["calibrate", text(&model), "--tokens", "256", "--ctx", "64", "--json"];
    let output = tessera().args(arguments).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["tokens"], &report["warnings"]), (&256.into(), &serde_json::json!([])));
    assert_eq!(names(folder.path()), ["stories260K-Q8_0.stats.safetensors"]);
}

#[test]
fn statistics_of_texts_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let story = fs::read_to_string(short_text()).unwrap();
    let middle = story.char_indices().nth(story.chars().count() / 2).unwrap().0;
    let lines = |text: &str| format!("{}\n", serde_json::json!({ "content": text }));
    fs::write(path("one.jsonl"), lines(&story[..middle])).unwrap();
    fs::create_dir(path("two")).unwrap();
    fs::write(path("two/rest.txt"), &story[middle..]).unwrap();
    let model = tiny_model();
    let mut parts = Vec::new();
    for data in ["one.jsonl", "two"] {
        let part = path(&format!("{data}.safetensors"));
        let data = path(data);
        let arguments = ["calibrate", text(&model), "--dataset", text(&data), "-o", text(&part)];
        let options = ["--ctx", "64", "--field", "content", "--hessians"];
        let (code, said) = run(&[&arguments[..], &options].concat());
        assert_eq!(code, 0, "{said}");
        parts.push(part);
    }
    let merged = path("both.safetensors");
    let arguments = ["calibrate", "--merge", text(&parts[0]), text(&parts[1]), "-o", text(&merged)];
    let output = tessera().args(arguments).arg("--json").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [one, two, both] =
        [&parts[0], &parts[1], &merged].map(|path| Statistics::read(path).unwrap());
    assert_eq!(report["tokens"], one.provenance.tokens + two.provenance.tokens);
    assert_eq!(report["data"].as_array().unwrap().len(), 2);
    for ((one, two), both) in one.inputs.iter().zip(&two.inputs).zip(&both.inputs) {
        assert_eq!(both.tokens, one.tokens + two.tokens);
        assert_eq!(both.squares[3], one.squares[3] + two.squares[3]);
        assert_eq!(both.sampled(), 256);
    }
    // Of another model, without an output, of one file, over a file.
    let other = path("other.gguf");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&other, bytes).unwrap();
    let strange = path("strange.safetensors");
    calibrate(&other, &strange, &["--ctx", "64", "--tokens", "64", "--hessians"]);
    for (arguments, words) in [
        (&[text(&parts[0]), text(&strange), "-o", text(&path("x.safetensors"))][..], "the model"),
        (&[text(&parts[0]), text(&parts[1])], "--output"),
        (&[text(&parts[0]), "-o", text(&merged)], "--merge"),
        (&[text(&parts[0]), text(&parts[1]), "-o", text(&merged)], "--force"),
        (&[text(&parts[0]), text(&model), "-o", text(&path("x.safetensors"))], "stories260K"),
    ] {
        let (code, said) = run(&[&["calibrate", "--merge"], arguments].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!path("x.safetensors").exists());
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (model, story, output) = (tiny_model(), short_text(), path("s.safetensors"));
    let pack = path("pack.safetensors");
    convert(&model, &pack, &[]);
    fs::write(path("short.txt"), "Once").unwrap();
    fs::write(path("precious.safetensors"), "precious").unwrap();
    fs::create_dir(path("work.safetensors.partial")).unwrap();
    fs::write(path("work.safetensors.partial/thesis.txt"), "precious").unwrap();
    let adapter = Model::read(&model).key("general.type", "adapter");
    let adapter = adapter.write(folder.path(), "adapter.gguf");
    let (short, precious) = (path("short.txt"), path("precious.safetensors"));
    let (work, missing) = (path("work.safetensors"), path("missing/s.safetensors"));
    let before = names(folder.path());
    let (model, story, output) = (text(&model), text(&story), text(&output));
    for (arguments, words) in [
        (&[text(&pack), "--dataset", story, "-o", output][..], "is no GGUF file"),
        (&[text(&adapter), "--dataset", story, "-o", output], "adapter"),
        (&["no.gguf", "--dataset", story, "-o", output], "no.gguf"),
        (&[model, "--dataset", "no.txt", "-o", output], "no.txt"),
        (&[model, "--dataset", model, "-o", output], "UTF-8"),
        (&[model, "--dataset", text(&short), "-o", output], "shorter chunks with `--ctx`"),
        (&[model, "--dataset", story, "-o", "s.bin"], "NAME.safetensors"),
        (&[model, "--dataset", story, "-o", text(&missing)], "does not exist"),
        (&[model, "--dataset", story, "-o", text(&precious)], "--force"),
        (&[model, "--dataset", story, "-o", text(&work)], "is not the work folder of a run"),
        (&[model, "--dataset", story, "-o", output, "--ctx", "100000"], "was trained"),
        (&[model, "--dataset", story, "-o", output, "--ctx", "1"], "from 2 to"),
        (&[model, "--dataset", story, "-o", output, "--tokens", "0"], "--tokens 0"),
        (&[model, "--dataset", story, "-o", output, "--threads", "0"], "--threads"),
        (&[model, "--dataset", story, "-o", output, "--memory-budget", "1M"], "--ctx"),
        (
            &[model, "--dataset", story, "-o", output, "--memory-budget", "1M", "--hessians"],
            "leave `--hessians` out",
        ),
        (&["--dataset", story, "-o", output], "<MODEL>"),
    ] {
        let (code, said) = run(&[&["calibrate"], arguments].concat());
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(names(folder.path()), before);
    }
    // The input is never the output, not even by force.
    let link = path("link.safetensors");
    std::os::unix::fs::symlink(model, &link).unwrap();
    let (code, said) = run(&["calibrate", model, "--dataset", story, "-o", text(&link), "--force"]);
    assert!(code == 2 && said.contains("is an input"), "{said}");
    calibrate(&tiny_model(), &precious, &["--force", "--ctx", "32", "--tokens", "64"]);
    assert_ne!(fs::read(&precious).unwrap(), b"precious");
}

/// A weight that makes activations overflow is found at the linear that would read them.
#[test]
fn activations_that_are_not_finite_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let huge = vec![f32::MAX; 64];
    let model = Model::read(&tiny_model()).without("blk.2.ffn_norm.weight");
    let model = model.tensor("blk.2.ffn_norm.weight", &[64], &huge).write(folder.path(), "m.gguf");
    let output = folder.path().join("s.safetensors");
    let (story, arguments) = (short_text(), ["--ctx", "32", "--tokens", "64"]);
    let base = ["calibrate", text(&model), "--dataset", text(&story), "-o", text(&output)];
    let (code, said) = run(&[&base[..], &arguments].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("layer 2: the input of `blk.2.ffn_"), "{said}");
    // There is nothing to go on with.
    assert_eq!(names(folder.path()), ["m.gguf"]);
}
