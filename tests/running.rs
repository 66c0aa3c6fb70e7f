//! `tessera eval` and `tessera run`: what must not depend on memory and threads, what is not text,
//! and what to do about what cannot be run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn stories() -> PathBuf {
    file("tests/data/stories260K-Q8_0.gguf")
}

fn tessera(arguments: &[&str]) -> Output {
    Command::cargo_bin("tessera").unwrap().args(arguments).output().unwrap()
}

/// Experts on the simulator, as their routes share rows in threads and budgets of any kind.
#[test]
fn experts_compute_the_same_with_any_threads_and_memory() {
    let text = file("tests/data/alice.txt");
    for model in ["llama-moe", "qwen2moe"] {
        let base = file(&format!("runtime/tests/golden/{model}.gguf"));
        let models = ["w4a8", "w16a16"].map(|scheme| format!("{}@{scheme}", base.display()));
        let run = |threads: &str, budget: &str| {
            let arguments = ["eval", &models[0], &models[1], "--reference", base.to_str().unwrap()];
            let arguments = arguments.into_iter().chain(["--text", text.to_str().unwrap()]);
            let arguments = arguments.chain(["--ctx", "16", "--chunks", "5", "--json"]);
            let arguments = arguments.chain(["--threads", threads, "--memory-budget", budget]);
            let output = tessera(&arguments.collect::<Vec<_>>());
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{threads} {budget}: {error}");
            let lines = String::from_utf8(output.stdout).unwrap();
            let reports = lines.lines().map(|line| {
                let mut report: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(report.as_object_mut().unwrap().remove("seconds").is_some());
                report
            });
            reports.collect::<Vec<_>>()
        };
        let expected = run("1", "1G");
        assert!(expected.len() == 2 && expected[0]["mean_kld"].as_f64().unwrap() > 0.0);
        for (threads, budget) in [("3", "1G"), ("2", "300K"), ("5", "400K")] {
            assert_eq!(run(threads, budget), expected, "{model} {threads} {budget}");
        }
    }
}

/// The model begins another story with its BOS, which llama.cpp does not print either.
#[test]
fn control_tokens_are_not_text() {
    let stories = stories();
    let arguments = ["run", stories.to_str().unwrap(), "--prompt", "Once upon a time"];
    let arguments = arguments.into_iter().chain(["-n", "400", "--temp", "1", "--seed", "1"]);
    let output = tessera(&arguments.collect::<Vec<_>>());
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.len() > 800 && !text.contains("<s>"), "{text}");
}

#[test]
fn what_can_be_done_is_said() {
    let (stories, text) = (stories(), file("tests/data/alice.txt"));
    let eval = ["eval", stories.to_str().unwrap(), "--text", text.to_str().unwrap()];
    for (arguments, expected) in [
        (["--ctx", "9999", "--chunks", "1"], "hint: give a longer text, or ask for shorter chunks"),
        (["--ctx", "64", "--memory-budget", "9K"], "hint: give more with `--memory-budget`"),
    ] {
        let output = tessera(&[&eval[..], &arguments].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
