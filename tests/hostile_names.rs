//! Names that would steer a terminal, forge a line of a log, or be markup or a formula elsewhere: what
//! is printed of them is harmless on every way out.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;
#[path = "hostile/limits.rs"]
#[allow(dead_code, reason = "each file of tests uses what it needs")]
mod limits;

use std::fs;
use std::path::Path;

use harness::model::Model;
use harness::tiny_model;
use limits::{Outcome, steers, tessera};
use serde_json::Value;
use tempfile::TempDir;
use tessera_formats::gguf::{Gguf, Strings};

/// Clears the screen, writes the clipboard, makes a link, overwrites the line, forges one, turns text
/// around, hides; and is markup.
const EVIL: &str = "\u{1b}[2J\u{1b}]52;c;AA\u{7}\u{1b}]8;;http://x\u{7}\rok\nerror: forged\u{202e}\u{200b}\u{9b}1m\
                    <script>alert(1)</script>";

/// A tensor's name with as much of that as fits.
const LINEAR: &str = "blk.0.ffn_up\u{1b}[2J\u{9b}1m\r\nerror: forged\u{202e}\u{200b}.weight";

/// Runs a command; a line that begins as if tessera had said it must be tessera's.
fn run(folder: &TempDir, arguments: &[&str], code: i32) -> Outcome {
    let outcome = tessera(folder.path(), arguments);
    assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(
            !text.lines().any(|line| line.starts_with("error: forged")),
            "{arguments:?}: {text}"
        );
    }
    outcome
}

/// A model with such a name wherever one can stand.
fn evil_model() -> Model {
    Model::new()
        .key("general.architecture", "llama")
        .key("general.name", EVIL)
        .key(EVIL, EVIL)
        .key("tokenizer.chat_template", format!("{{{{ 7 * 7 }}}}{EVIL}"))
        .bell("blk.0.attn_norm.weight", &[64], 1.0)
        .bell(LINEAR, &[64, 64], 0.1)
        .bell("blk.0.ffn_down.weight", &[64, 64], 0.1)
}

#[test]
fn names_in_a_model_are_harmless_wherever_they_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    evil_model().write(folder.path(), "model.gguf");
    let rules = "[[rule]]\nmatch = 'ffn_up'\nlinear = true\n";
    fs::write(folder.path().join("all.toml"), rules).unwrap();
    let convert =
        ["convert", "model.gguf", "-o", "pack.safetensors", "--recipe", "all.toml", "--force"];
    for more in [&[][..], &["--json"]] {
        let outputs = [
            run(&folder, &[&["inspect", "model.gguf", "--tensors"], more].concat(), 0),
            run(&folder, &[&convert[..], &["--dry-run"], more].concat(), 0),
            run(&folder, &[&convert[..], more].concat(), 0),
            run(&folder, &[&["inspect", "pack.safetensors", "--tensors"], more].concat(), 0),
            run(
                &folder,
                &[&["verify", "pack.safetensors", "--source", "model.gguf"], more].concat(),
                0,
            ),
            run(&folder, &[&["diff", "pack.safetensors", "pack.safetensors"], more].concat(), 0),
        ];
        let shown = outputs.iter().filter(|outcome| outcome.stdout.contains("ffn_up")).count();
        assert!(shown >= 3, "the name is shown {shown} times");
        if more.is_empty() {
            assert!(
                outputs[0].stdout.contains(r"ffn_up\u{1b}[2J\u{9b}1m\u{d}\u{a}error"),
                "{:?}",
                outputs[0]
            );
            continue;
        }
        for outcome in &outputs {
            let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert!(json.is_object());
        }
        // What is escaped is not lost: JSON gives the name back.
        let report: Value = serde_json::from_str(&outputs[0].stdout).unwrap();
        let found = strings(&report).into_iter().any(|text| text == LINEAR);
        assert!(found, "{report}");
    }
    run(&folder, &["diff", "model.gguf", "pack.safetensors"], 1);
}

/// All texts in a document.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(strings).collect(),
        Value::Object(fields) => fields.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn chat_templates_are_carried_and_never_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    evil_model().write(folder.path(), "model.gguf");
    let shown = run(&folder, &["inspect", "model.gguf"], 0).stdout;
    assert!(shown.contains("{{ 7 * 7 }}") && !shown.contains("49"), "{shown}");
    run(&folder, &["convert", "model.gguf", "-o", "pack.safetensors"], 0);
    let pack = fs::read(folder.path().join("pack.safetensors")).unwrap();
    let template = b"{{ 7 * 7 }}\x1b[2J";
    assert!(pack.windows(template.len()).any(|window| window == template), "carried as it is");
}

#[test]
fn names_of_files_are_harmless_in_messages() {
    let folder = tempfile::tempdir().unwrap();
    let name = "\u{1b}[2J\u{9b}1m\r\nerror: forged\u{202e}\u{200b}";
    let file = |ending: &str| format!("{name}{ending}");
    let write =
        |ending: &str, bytes: &[u8]| fs::write(folder.path().join(file(ending)), bytes).unwrap();
    for ending in ["bad.gguf", ".toml", ".json", ".txt", ".dat", ".logits", ".safetensors", ".so"] {
        write(ending, b"\xff not what it should be");
    }
    fs::copy(tiny_model(), folder.path().join(file(".gguf"))).unwrap();
    let [model, bad, toml, json, text, dat, logits, pack, library, missing] = [
        ".gguf",
        "bad.gguf",
        ".toml",
        ".json",
        ".txt",
        ".dat",
        ".logits",
        ".safetensors",
        ".so",
        "missing",
    ]
    .map(file);
    let deep = format!("{missing}/x.safetensors");
    let refused: [&[&str]; 24] = [
        &["inspect", &bad],
        &["inspect", &missing],
        &["inspect", &pack],
        &["convert", &bad, "-o", "x.safetensors"],
        &["convert", &model, "-o", &pack],
        &["convert", &model, "-o", &deep],
        &["convert", &model, "-o", "x.safetensors", "--recipe", &toml],
        &["convert", &model, "-o", "x.safetensors", "--target", &json],
        &["convert", &model, "-o", "x.safetensors", "--target", &missing],
        &["convert", &model, "-o", "x.safetensors", "--calibration", &dat],
        &["convert", &model, "-o", "x.safetensors", "--calibration", &pack],
        &["convert", &model, "-o", "x.safetensors", "--dataset", &text],
        &["verify", &pack],
        &["verify", &model],
        &["diff", &pack, &model],
        &["eval", &model, "--text", &text],
        &["eval", &model, "--text", &missing],
        &["eval", &model, "--from-logits", &logits],
        &["eval", &format!("{model}@w9a9"), "--text", &text],
        &["eval", &model, "--text", &text, "--device", "rknn", "--library", &library],
        &["rotate", &model, "-o", &bad],
        &["report", &json, "-o", &missing],
        &["sensitivity", &model, "-o", &json],
        &["calibrate", &model, "-o", &pack],
    ];
    for arguments in refused {
        let outcome = run(&folder, arguments, 2);
        assert!(outcome.stderr.contains(r"\u{1b}[2J"), "{arguments:?}: {outcome:?}");
        assert!(!folder.path().join(file("x.safetensors")).exists());
    }
    // And where all is well.
    let out = file("out.safetensors");
    run(&folder, &["convert", &model, "-o", &out], 0);
    run(&folder, &["verify", &out, "--source", &model], 0);
    let json = run(&folder, &["inspect", &out, "--json"], 0);
    assert!(serde_json::from_str::<Value>(&json.stdout).is_ok(), "{json:?}");
}

#[test]
fn what_a_model_says_does_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&tiny_model()).unwrap();
    let tokens = gguf.metadata().get("tokenizer.ggml.tokens").unwrap().as_strings().unwrap();
    // Every word that it can say clears the screen.
    let evil: Strings = (0..tokens.len())
        .map(|index| match tokens.get(index).unwrap() {
            token if index < 259 => token.to_owned(),
            token => format!("{token}\u{1b}[2J\u{9b}{index}m"),
        })
        .collect();
    let model = Model::read(&tiny_model()).key("tokenizer.ggml.tokens", evil);
    model.write(folder.path(), "model.gguf");
    let said = run(&folder, &["run", "model.gguf", "-p", "Once", "-n", "40", "--temp", "0"], 0);
    assert!(said.stdout.contains(r"\u{1b}[2J\u{9b}"), "{said:?}");
    assert!(!said.stdout.contains(steers));
}

/// A page's names are text: no element, no attribute, no script comes of them.
#[test]
fn names_in_statistics_and_sensitivities_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny_model(), folder.path().join("model.gguf")).unwrap();
    let text = folder.path().join("\u{1b}[2J\u{202e}\r\nerror: forged.txt");
    fs::write(&text, "once upon a time there was a little girl ".repeat(40)).unwrap();
    let text = text.to_str().unwrap();
    let calibrate = ["calibrate", "model.gguf", "--tokens", "64", "--ctx", "16", "--dataset", text];
    let outcome = run(&folder, &[&calibrate[..], &["-o", "s.safetensors"]].concat(), 0);
    assert!(outcome.stdout.contains(r"\u{1b}[2J"), "{outcome:?}");
    let json = run(&folder, &[&calibrate[..], &["-o", "t.safetensors", "--json"]].concat(), 0);
    assert!(serde_json::from_str::<Value>(&json.stdout).is_ok());
    let convert =
        ["convert", "model.gguf", "-o", "pack.safetensors", "--calibration", "s.safetensors"];
    run(&folder, &convert, 0);
    run(&folder, &["inspect", "pack.safetensors"], 0);
}

/// What tessera writes for others to read has no formulas and no lines of its own making.
#[test]
fn nothing_is_written_that_a_spreadsheet_or_a_shell_would_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            // No CSV, and no program is started, so that names have nowhere to be a formula or a command.
            for word in [".csv\"", "text/csv", "process::Command", "Command::new("] {
                assert!(!source.contains(word), "{}: {word}", path.display());
            }
        }
    }
}
