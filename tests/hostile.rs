//! Hostile GGUF files through the program itself, under limits of memory and time: every one gets the
//! verdict that stands beside it, and the page shows them all.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]
#![allow(dead_code, reason = "other files of tests use the rest")]

mod harness;
#[path = "hostile/mod.rs"]
mod hostile;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use hostile::Verdict::{Converted, NotConverted, NotPlanned, NotRun, Refused, Runs};
use hostile::limits::{self, Outcome, tessera};
use hostile::{Case, names};
use tessera_formats::pack::PackReader;

/// The exit code of bad input.
const BAD_INPUT: i32 = 2;

/// The page with every file.
const PAGE: &str = "docs/hostile-files.md";

/// Commands that read a model, with options that a case adds to its conversion.
fn commands(case: &Case) -> [Vec<&str>; 4] {
    let convert = [&["convert", "model.gguf", "-o", "pack.safetensors"], case.options].concat();
    [
        vec!["inspect", "model.gguf", "--tensors"],
        [&convert[..], &["--dry-run"]].concat(),
        convert,
        vec!["eval", "model.gguf", "--text", "text.txt", "--ctx", "16", "--chunks", "1"],
    ]
}

/// A folder with the file and a text.
fn folder_of(case: &Case) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.gguf"), &case.bytes).unwrap();
    fs::copy(harness::short_text(), folder.path().join("text.txt")).unwrap();
    folder
}

/// How many of the commands take the file; after them, all refuse it.
fn taken(case: &Case) -> usize {
    match case.verdict {
        Refused(_) => 0,
        NotPlanned => 1,
        NotConverted => 2,
        Converted | NotRun => 3,
        Runs => 4,
    }
}

/// Runs all commands on the file and checks what each says and leaves.
fn check(case: &Case) {
    let Case { name, words, verdict, .. } = case;
    let folder = folder_of(case);
    for (index, command) in commands(case).iter().enumerate() {
        let outcome = tessera(folder.path(), command);
        let what = format!("{name}: {command:?}: {outcome:?}");
        let pack = folder.path().join("pack.safetensors");
        if index < taken(case) {
            assert_eq!(outcome.code, 0, "{what}");
            if index == 2 {
                verified(folder.path(), &what);
                fs::remove_file(&pack).unwrap();
            }
        } else {
            assert_eq!(outcome.code, BAD_INPUT, "{what}");
            let message = outcome.message();
            assert!(!message.is_empty(), "{what}");
            // Whether it runs is not what a case of conversion is about.
            let about = *verdict != Converted && (index == taken(case) || taken(case) == 0);
            if let Refused(byte) = verdict {
                assert!(message.contains(&format!("`model.gguf`, byte {byte}, ")), "{what}");
            }
            for word in words.iter().filter(|_| about) {
                assert!(message.contains(word), "no {word:?}: {what}");
            }
        }
        assert_eq!(names(folder.path()), ["model.gguf", "text.txt"], "{what}");
    }
}

/// Checks the pack against its source.
fn verified(folder: &Path, what: &str) {
    let arguments = ["verify", "pack.safetensors", "--source", "model.gguf", "--json"];
    let outcome = tessera(folder, &arguments);
    assert_eq!(outcome.code, 0, "{what}: {outcome:?}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]), "{what}");
}

/// Checks all files, and says of all that fail why.
fn check_all(cases: &[Case]) {
    let failed = cases.iter().filter(|case| {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)));
        checked.is_err()
    });
    let failed: Vec<_> = failed.map(|case| case.name).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn headers() {
    check_all(&hostile::headers::cases());
}

#[test]
fn keys_and_values() {
    check_all(&hostile::keys::cases());
}

#[test]
fn tensor_infos() {
    check_all(&hostile::tensors::cases());
}

#[test]
fn hyperparameters() {
    check_all(&hostile::hyperparameters::cases());
}

#[test]
fn tokenizers() {
    check_all(&hostile::tokenizers::cases());
}

#[test]
fn weights_as_data() {
    check_all(&hostile::weights::cases());
}

/// Names of llama.cpp's own list of broken files, without those of the same file under two names.
const LLAMA_CPP: &[&str] = &[
    "HEADER_BAD_MAGIC",
    "HEADER_BAD_VERSION_0",
    "HEADER_BAD_VERSION_1",
    "HEADER_BAD_VERSION_FUTURE",
    "HEADER_BAD_N_TENSORS",
    "HEADER_BAD_N_KV",
    "HEADER_EMPTY",
    "KV_BAD_KEY_SIZE",
    "KV_EMPTY_KEY",
    "KV_BAD_TYPE",
    "KV_DUPLICATE_KEY",
    "KV_BAD_ALIGN",
    "KV_WRONG_TYPE_ALIGN",
    "KV_SUCCESS",
    "TENSORS_BAD_NAME_SIZE",
    "TENSORS_BAD_N_DIMS",
    "TENSORS_BAD_SHAPE",
    "TENSORS_ZERO_DIM",
    "TENSORS_NE_TOO_BIG",
    "TENSORS_NBYTES_TOO_BIG",
    "TENSORS_NBYTES_PAD_WRAP",
    "TENSORS_BAD_TYPE",
    "TENSORS_BAD_OFFSET",
    "TENSORS_DUPLICATE_NAME",
    "TENSORS_INCONSISTENT_ALIGN",
    "TENSORS_CUSTOM_ALIGN",
    "DATA_NOT_ENOUGH_DATA",
    "DATA_MEM_SIZE_OVERFLOW",
    "DATA_SUCCESS",
];

#[test]
fn no_class_is_without_a_file() {
    let cases = hostile::all();
    let different: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(different.len(), cases.len(), "two files of one name");
    let classes: BTreeSet<u8> = cases.iter().map(|case| case.class).collect();
    assert_eq!(classes.into_iter().collect::<Vec<_>>(), (1..=35).collect::<Vec<_>>());
    for name in LLAMA_CPP {
        assert!(different.contains(name), "{name}");
    }
    assert!(cases.len() >= 150, "{} files", cases.len());
}

/// What a converter cannot see is at least written down: which bytes a pack was made from, and what
/// was made of them.
#[test]
fn a_pack_says_which_weights_it_was_made_from() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    harness::convert(&harness::tiny_model(), &pack, &["--scheme", "w4a8"]);
    let reader = PackReader::open(&pack).unwrap();
    let source = &reader.manifest(0).unwrap().sources[0];
    assert_eq!(source.sha256, sha256(&fs::read(harness::tiny_model()).unwrap()));
    assert_eq!(source.file, "stories260K-Q8_0.gguf");
    assert!(reader.linears().all(|linear| linear.scheme.to_string() == "w4a8"));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The beginning of a message that is longer than a line.
fn brief(message: &str) -> String {
    match message.char_indices().nth(150) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// The row of a file on the page.
fn row(case: &Case) -> String {
    let folder = folder_of(case);
    let commands = commands(case);
    let said = match commands.get(taken(case)).filter(|_| case.verdict != Converted) {
        Some(command) => {
            let outcome: Outcome = tessera(folder.path(), command);
            brief(outcome.message()).replace('|', "\\|").replace('<', "&lt;")
        }
        None => String::new(),
    };
    format!("| {} | `{}` | {} | {said} |", case.class, case.name, case.verdict.words())
}

/// `TRYCMD=overwrite cargo test --test hostile` writes the table anew.
#[test]
fn the_page_shows_every_file() {
    let mut cases = hostile::all();
    cases.sort_by_key(|case| case.class);
    let rows: Vec<_> = cases.iter().map(row).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (before, table) = page.split_once("\n| class | file | verdict | what is said |\n").unwrap();
    let head = "\n| class | file | verdict | what is said |\n|---:|---|---|---|\n";
    let expected = format!("{before}{head}{}\n", rows.join("\n"));
    if std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite") {
        fs::write(&path, expected).unwrap();
        return;
    }
    let shown: Vec<_> = table.lines().skip(1).collect();
    for (expected, shown) in rows.iter().zip(&shown) {
        assert_eq!(expected, shown);
    }
    assert_eq!(rows.len(), shown.len(), "`TRYCMD=overwrite cargo test --test hostile` writes them");
    let count = format!("{} files", rows.len());
    assert!(before.contains(&count), "the page does not say {count:?}");
}

#[test]
fn a_run_that_would_not_end_is_noticed() {
    // The limits themselves: a loop is ended by a signal, and memory is not there.
    let limited = |script: &str| {
        let limits = "ulimit -v 1000000; ulimit -t 1; exec sh -c \"$0\"";
        std::process::Command::new("sh").args(["-c", limits, script]).status().unwrap()
    };
    assert_eq!(limited("while :; do :; done").code(), None);
    assert!(limits::steers('\u{1b}') && limits::steers('\u{202e}') && !limits::steers('ö'));
}
