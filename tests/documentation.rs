//! The documentation runs: each `console` block of a page prints what stands there, so do the
//! messages in `tests/cmd`, and every command's help is on the page of commands.
//!
//! `TRYCMD=overwrite cargo test --test documentation` writes into the pages what is printed now.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use harness::{tessera, tiny_model};

/// Pages with commands to run, which must not lose them unnoticed.
const PAGES: [&str; 4] =
    ["README.md", "docs/commands.md", "docs/convert.md", "tests/cmd/messages.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Content of the first block of a page in `language`.
fn first_block<'a>(page: &'a str, language: &str) -> Option<&'a str> {
    let (_, block) = page.split_once(&format!("\n```{language}\n"))?;
    Some(block.split_once("```")?.0)
}

/// Puts a page into `folder`, beside the files that its commands find in their working folder: the
/// model under two names, half of it, a copy that differs in its padding, the page's recipe and its text.
fn stage(page: &str, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(root().join(page)).unwrap();
    assert!(text.contains("\n```console\n"), "{page} has nothing to run");
    let staged = folder.join(page.replace('/', "-"));
    let before = staged.with_extension("in");
    fs::create_dir_all(before.join("tests/data")).unwrap();
    // A folder of expected files, although there are none, gives the page a copy to write to.
    fs::create_dir(staged.with_extension("out")).unwrap();
    fs::copy(tiny_model(), before.join("model.gguf")).unwrap();
    fs::copy(tiny_model(), before.join("tests/data/stories260K-Q8_0.gguf")).unwrap();
    let model = fs::read(tiny_model()).unwrap();
    fs::write(before.join("cut.gguf"), &model[..model.len() / 2]).unwrap();
    // The last byte is padding: the same tensors, another file.
    let (last, rest) = model.split_last().unwrap();
    fs::write(before.join("other.gguf"), [rest, &[last ^ 1]].concat()).unwrap();
    if let Some(recipe) = first_block(&text, "toml") {
        fs::write(before.join("mixed.toml"), recipe).unwrap();
    }
    if let Some(story) = first_block(&text, "text") {
        fs::write(before.join("text.txt"), story).unwrap();
    }
    symlink(root().join(page), &staged).unwrap();
    staged
}

#[test]
fn pages_show_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let cases = trycmd::TestCases::new();
    // Help is wrapped to the width of the terminal, or else to COLUMNS.
    cases
        .register_bin("tessera", Path::new(env!("CARGO_BIN_EXE_tessera")))
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1");
    for page in PAGES {
        cases.case(stage(page, folder.path()));
    }
    cases.run();
}

#[test]
fn every_class_of_attack_has_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/hostile-files.md")).unwrap();
    let (_, table) = page.split_once("\n| class | what is tried | tests | result |\n").unwrap();
    let rows: Vec<_> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    let mut tests = 0;
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [class, _, named, _] = cells[..] else { panic!("{row}") };
        assert_eq!(class, (index + 1).to_string(), "{row}");
        let named: Vec<_> = named.split('`').filter(|part| part.contains("::")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            let (path, name) = test.split_once("::").unwrap();
            let source = fs::read_to_string(root().join(path));
            let source = source.unwrap_or_else(|error| panic!("{test}: {error}"));
            let (before, _) = source
                .split_once(&format!("fn {name}("))
                .unwrap_or_else(|| panic!("{path} has no test `{name}`"));
            let attributes = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
            let is_test = attributes.contains("#[test]") || before.contains("proptest! {");
            assert!(is_test && !attributes.contains("#[ignore"), "{test} is not run");
            tests += 1;
        }
    }
    assert_eq!(rows.len(), 45);
    assert!(tests > 80, "{tests}");
}

#[test]
fn every_command_has_its_help_on_the_page() {
    let page = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let help = tessera().arg("--help").assert().success();
    let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names: Vec<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&name| name != "help")
        .collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("$ tessera {name} --help\n")), "`{name}` is not there");
    }
}
