//! `tessera sensitivity`, end to end: figures against `eval`, interruptions, pins, refusals.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::model::Model;
use harness::{eval, figure, run, short_text, tessera, tiny_model};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Statistics of the carried model on the short text.
fn statistics(model: &Path, folder: &Path) -> String {
    let path = folder.join("stats.safetensors");
    let data = short_text();
    tessera()
        .args(["calibrate", text(model), "--dataset", text(&data), "-o", text(&path)])
        .args(["--ctx", "64", "--tokens", "2048", "--hessians"])
        .assert()
        .success();
    text(&path).to_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The option of a linear at a scheme.
fn option<'a>(found: &'a Value, linear: &str, scheme: &str) -> &'a Value {
    let linears = found["linears"].as_array().unwrap();
    let linear = linears.iter().find(|other| other["name"] == linear).unwrap();
    let options = linear["options"].as_array().unwrap();
    options.iter().find(|option| option["scheme"] == scheme).unwrap()
}

/// What is measured of a linear is what `eval` measures of a model with this linear quantized alone,
/// but for the chunks; and the estimates tell much of it.
#[test]
fn damages_are_those_that_eval_measures() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (tiny_model(), short_text());
    let stats = statistics(&model, folder.path());
    let output = folder.path().join("s.json");
    let arguments = ["sensitivity", text(&model), "--dataset", text(&data), "--ctx", "64"];
    let more = ["--tokens", "1024", "--calibration", &stats, "--schemes", "w4a4,w8a8", "--json"];
    let printed =
        tessera().args(arguments).args(more).args(["-o", text(&output)]).output().unwrap();
    assert!(printed.status.success());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let correlation = printed["correlation"].as_f64().unwrap();
    assert!(correlation > 0.7, "{correlation}");
    let found = read(&output);
    assert_eq!(found["linears"].as_array().unwrap().len(), 36);
    for linear in ["blk.0.ffn_down.weight", "blk.2.attn_k.weight", "output.weight"] {
        for scheme in ["w4a4", "w8a8"] {
            let recipe = folder.path().join("only.toml");
            let rules = format!(
                "[[rule]]\nmatch = '.'\nscheme = 'keep'\n[[rule]]\nmatch = '^{}$'\nscheme = '{scheme}'\n",
                linear.replace('.', "\\.")
            );
            fs::write(&recipe, rules).unwrap();
            let report = eval(
                &[text(&model)],
                &[
                    &["--text", text(&data), "--ctx", "64", "--reference", text(&model)],
                    &["--recipe", text(&recipe), "--calibration", &stats][..],
                ]
                .concat(),
            );
            let (expected, demoted) =
                (figure(&report[0], "mean_kld"), option(&found, linear, scheme));
            let kld = demoted["kld"].as_f64().unwrap();
            println!("{linear} {scheme}: {kld} beside {expected}");
            assert!((0.6..1.7).contains(&(kld / expected)), "{linear} {scheme} {kld} {expected}");
        }
        let [four, eight] = ["w4a4", "w8a8"].map(|scheme| option(&found, linear, scheme));
        assert!(four["kld"].as_f64().unwrap() > 10.0 * eight["kld"].as_f64().unwrap());
        assert!(four["tile_bytes"].as_u64() <= eight["tile_bytes"].as_u64());
    }
}

/// Killed at some moments and gone on with, by other numbers of threads: the same file.
#[test]
fn interrupted_runs_give_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (tiny_model(), short_text());
    let stats = statistics(&model, folder.path());
    let whole = folder.path().join("whole.json");
    let arguments = ["sensitivity", text(&model), "--dataset", text(&data), "--ctx", "64"];
    let more = ["--tokens", "256", "--calibration", &stats, "--schemes", "w4a8,w8a8"];
    tessera().args(arguments).args(more).args(["-o", text(&whole)]).assert().success();
    let output = folder.path().join("parts.json");
    let partial = folder.path().join("parts.json.partial");
    let mut kept = 0;
    for (delay, threads) in [(60, "1"), (250, "2"), (500, "1"), (700, "3")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
            .args(arguments)
            .args(more)
            .args(["-o", text(&output), "--resume", "--force", "--threads", threads])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let finished = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(finished || !output.exists() || kept > 0);
        kept += usize::from(partial.exists());
    }
    if partial.exists() {
        // Not without being asked to, and not with other options.
        let again = [&arguments[..], &more, &["-o", text(&output), "--force"]].concat();
        assert!(run(&again).1.contains("--resume"));
        let other = [&again[..], &["--resume", "--seed", "7"]].concat();
        assert!(run(&other).1.contains("another model, text, recipe"));
    }
    tessera()
        .args(arguments)
        .args(more)
        .args(["-o", text(&output), "--resume", "--force"])
        .assert()
        .success();
    assert!(!partial.exists());
    assert_eq!(fs::read(&whole).unwrap(), fs::read(&output).unwrap(), "after {kept} interruptions");
}

/// A recipe's rules leave nothing to choose; experts and tied heads are measured as others.
#[test]
fn pinned_linears_have_one_option() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let stats = statistics(&model, folder.path());
    let recipe = folder.path().join("pins.toml");
    fs::write(
        &recipe,
        "[[rule]]\nmatch = '^output'\nscheme = 'w8a8'\n[[rule]]\nmatch = 'blk.1.attn'\nscheme = 'keep'\n",
    )
    .unwrap();
    let (data, output) = (short_text(), folder.path().join("s.json"));
    let arguments = ["sensitivity", text(&model), "--dataset", text(&data), "--ctx", "64"];
    tessera()
        .args(arguments)
        .args(["--tokens", "512", "--calibration", &stats, "--schemes", "w4a8,w16a16"])
        .args(["--recipe", text(&recipe), "-o", text(&output), "--estimate"])
        .assert()
        .success();
    let found = read(&output);
    let linears = found["linears"].as_array().unwrap();
    assert!(linears.iter().all(|linear| !linear["name"].as_str().unwrap().contains("blk.1.attn")));
    let head = linears.last().unwrap();
    assert_eq!((&head["name"], &head["pinned"]), (&"output.weight".into(), &true.into()));
    assert_eq!(head["options"].as_array().unwrap().len(), 1);
    assert_eq!(head["options"][0]["scheme"], "w8a8");
    let experts = option(&found, "blk.3.ffn_down_exps.weight", "w4a8");
    assert!(experts["output_error"].as_f64().unwrap() > 0.0);
    assert!(experts["kld"].is_null());
    for linear in found["linears"].as_array().unwrap() {
        let expected = if linear["name"].as_str().unwrap().contains("_exps") { 2 } else { 1 };
        assert_eq!((&linear["matrices"], &linear["used"]), (&expected.into(), &expected.into()));
    }
    assert_eq!(found["operators"].as_array().unwrap().len(), 7);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model();
    let stats = statistics(&model, folder.path());
    let output = folder.path().join("s.json");
    let base = ["sensitivity", text(&model), "-o", text(&output), "--ctx", "64"];
    for (more, words) in [
        (&["--schemes", "keep"][..], "no scheme to choose"),
        (&["--schemes", "w4a8,w4a8"], "twice"),
        (&["--calibration", "missing.safetensors"], "missing.safetensors"),
        (&["--dataset", "missing.txt", "--calibration", &stats], "missing.txt"),
        (&["--tokens", "0", "--calibration", &stats], "--tokens 0"),
    ] {
        let (code, said) = run(&[&base[..], more].concat());
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!output.exists());
    }
    fs::write(&output, "precious").unwrap();
    let (code, said) = run(&base);
    assert_eq!((code, said.contains("--force")), (2, true), "{said}");
}
