//! `tessera probe` on the stand-in: what it answers, what it says of planted faults, and what its file is good for.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{convert, short_text, stand_in, tessera, tiny_model};
use serde_json::{Value, json};

/// Exit code, stdout and stderr, with variables that plant faults.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = tessera()
        .args(["probe", "--quick", "--device", "stand-in", "--library"])
        .arg(stand_in())
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

fn keys(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.push(name.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_stand_in_is_in_order_and_its_board_is_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("board.json");
    let board = path.to_str().unwrap();
    let (code, stdout, stderr) = run(&["--json", "-o", board], &[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(stdout, fs::read_to_string(&path).unwrap());
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let probe = &found["probe"];
    assert_eq!(found["version"], json!([1, 1]));
    assert_eq!(found["target"]["domain_capacity"], 2_013_200_383);
    for (pointer, expected) in [
        ("/stand_in", json!(true)),
        ("/library", json!("2.3.2 (stand-in@2026-11-21)")),
        ("/driver", json!("0.9.8")),
        ("/self_test", json!([])),
        ("/failures", json!([])),
        ("/int4/overflow", json!("saturate")),
        ("/int4/sums/0/found", json!(32767.0)),
        ("/int4/nibble_order", json!("low-first")),
        ("/int4/fits_in_the_end", json!(true)),
        ("/int4/least_in_activations", json!(true)),
        ("/int4/least_in_weights", json!(true)),
        ("/domains/working", json!(16)),
        ("/domains/capacity/bytes", json!(2032u64 << 20)),
        ("/domains/capacity/ended_by", json!("refused")),
        ("/core_masks/3", json!({"mask": 3, "accepted": false, "code": -1})),
        ("/core_masks/4", json!({"mask": 4, "accepted": true, "code": null})),
        ("/soc", Value::Null),
    ] {
        assert_eq!(probe.pointer(pointer), Some(&expected), "{pointer}");
    }
    let all = |list: &str, count: usize, field: &str, expected: Value| {
        let list = probe[list].as_array().unwrap();
        assert_eq!(list.len(), count);
        assert!(list.iter().all(|entry| entry[field] == expected), "{field}: {list:?}");
    };
    all("odd_rows", 9, "rows", json!("tight"));
    all("odd_rows", 9, "guard_intact", json!(true));
    all("halves", 3, "lane_zero", json!(0));
    all("halves", 3, "elsewhere", json!(0));
    all("halves", 3, "results", json!(3072));
    all("long_columns", 6, "weights", json!("segments"));
    all("layouts", 4, "same_results", json!(true));
    all("few_rows", 3, "n", json!(512));
    all("products", 3, "cores", json!(3));
    all("reading", 3, "cores", json!(3));
    // The page says what every field means.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probe.md");
    let page = fs::read_to_string(page).unwrap();
    let mut names = Vec::new();
    keys(probe, &mut names);
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
    }
    // It stands until it is to be replaced.
    let (code, _, stderr) = run(&["-o", board], &[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("exists: choose another name, or `--force`"), "{stderr}");
    let (code, stdout, _) = run(&["--no-memory", "-o", board, "--force"], &[]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("This is the stand-in for tests: nothing here is of any NPU.\n"));
    let again: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(again["probe"]["domains"]["capacity"], Value::Null);

    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--target", board]);
    tessera().arg("verify").arg(&pack).assert().success();
    let data = short_text();
    tessera()
        .arg("sensitivity")
        .arg(tiny_model())
        .arg("--dataset")
        .arg(&data)
        .args(["--ctx", "32", "--tokens", "64", "--schemes", "w8a8", "--target", board, "-o"])
        .arg(folder.path().join("s.json"))
        .assert()
        .success();
}

/// Each fault, the exit code, an answer, and what is said.
#[test]
fn planted_faults_are_reported() {
    let of_fault = |fault: &'static str| ("RKNN_STAND_IN_FAULT", fault);
    let domain = ("RKNN_STAND_IN_DOMAIN_BYTES", "314572800");
    for (variable, code, pointer, expected, words) in [
        (of_fault("wrap"), 0, "/probe/int4/overflow", json!("wrap"), ""),
        (
            of_fault("nibbles"),
            1,
            "/probe/int4/nibble_order",
            json!("high-first"),
            "error: nibble-order: core 0, ",
        ),
        (
            of_fault("tile-order"),
            1,
            "/probe/self_test/0/cause",
            json!("tile-order"),
            "error: tile-order: core 2, ",
        ),
        (
            of_fault("core"),
            1,
            "/probe/self_test/2/cause",
            json!("dead-core"),
            "error: dead-core: core 1, ",
        ),
        (of_fault("stale"), 1, "/probe/domains/working", json!(0), "error: stale-memory: core 0, "),
        (
            of_fault("run"),
            1,
            "/probe/failures/0/error",
            json!("not asked: `rknn_matmul_run` failed 3 times before"),
            "error: call: core 1: `rknn_matmul_run` returned -2 (timeout)",
        ),
        (
            of_fault("stride"),
            0,
            "/probe/odd_rows/0",
            json!({"engine": "i8", "m": 2, "rows": "padded", "guard_intact": false}),
            "",
        ),
        (of_fault("one-block"), 0, "/probe/long_columns/0/weights", json!("one-block"), ""),
        (domain, 0, "/target/domain_capacity", json!((288u64 - 128) << 20), ""),
        (
            ("RKNN_STAND_IN_DESCRIPTORS", "2"),
            1,
            "/probe/self_test/8/cause",
            json!("call"),
            "no file descriptors left",
        ),
        (
            ("RKNN_STAND_IN_DOMAIN_BYTES", "10"),
            1,
            "/probe/failures/0/question",
            json!("core mask 0"),
            "error: the NPU was not tested: `rknn_create_mem` gave no memory",
        ),
    ] {
        // Only then is there anything to find out about it.
        let memory = if variable == domain { &["--json"][..] } else { &["--json", "--no-memory"] };
        let (found, stdout, stderr) = run(memory, &[variable]);
        let board: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(found, code, "{variable:?}: {stderr}");
        assert_eq!(board.pointer(pointer), Some(&expected), "{variable:?}: {stdout}");
        assert!(stderr.contains(words), "{variable:?}: {stderr}");
        assert_eq!(stderr.contains("error: "), code == 1, "{stderr}");
    }
    let (code, stdout, _) = run(&["--no-memory"], &[of_fault("wrap")]);
    assert_eq!(code, 0);
    assert!(stdout.contains("\nwarning: wrap: core 0, "), "{stdout}");
    assert!(stdout.contains("wrap: 32768 gives -32768, 65536 gives 0, -57344 gives 8192"));
}

#[test]
fn what_is_no_npu_is_refused() {
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let assert = tessera().arg("probe").args(arguments).assert().code(code);
        let stderr = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    };
    let library = stand_in();
    let library = library.to_str().unwrap();
    refused(
        &["--library", library],
        2,
        "is a stand-in for tests, which computes without an NPU: it is for `--device stand-in`, not for `--device rknn`",
    );
    refused(
        &["--library", "/nonexistent/librknnrt.so"],
        2,
        "`/nonexistent/librknnrt.so` cannot be read: No such",
    );
    refused(&["--device", "stand-in", "--library", "Cargo.toml"], 2, "does not say its version");
    refused(&["--root", "/nonexistent"], 2, "root `/nonexistent`");
}
