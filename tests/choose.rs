//! `tessera convert` with a budget or a quality instead of schemes, end to end.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{convert, errors, run, short_text, tessera, tiny_model, verify};
use serde_json::Value;
use tessera_formats::npu::Board;
use tessera_formats::pack::PackReader;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Sensitivities of the carried model on the short text.
fn sensitivities(folder: &Path, more: &[&str]) -> PathBuf {
    let (path, data) = (folder.join("s.json"), short_text());
    tessera()
        .args(["sensitivity", text(&tiny_model()), "--dataset", text(&data), "-o", text(&path)])
        .args(["--ctx", "64", "--tokens", "512", "--scale-type", "bf16", "--force"])
        .args(if more.contains(&"--schemes") { &[][..] } else { &["--schemes", "w4a8,w8a8"] })
        .args(more)
        .assert()
        .success();
    path
}

/// What a conversion with a goal takes beside the goal.
fn common<'a>(data: &'a str, sensitivities: &'a Path) -> Vec<&'a str> {
    let more = ["--dataset", data, "--ctx", "64", "--tokens", "1024", "--force"];
    [&more[..], &["--sensitivity", text(sensitivities)]].concat()
}

fn schemes(pack: &Path) -> BTreeMap<String, String> {
    let reader = PackReader::open(pack).unwrap();
    reader.linears().map(|linear| (linear.name.clone(), linear.scheme.to_string())).collect()
}

fn bytes(pack: &Path) -> u64 {
    fs::metadata(pack).unwrap().len()
}

#[test]
fn bits_are_spent_where_they_save_most() {
    let folder = tempfile::tempdir().unwrap();
    let sensitive = sensitivities(folder.path(), &[]);
    let (data, pack) = (short_text(), folder.path().join("p.safetensors"));
    let common = common(text(&data), &sensitive);
    let mut before = f64::INFINITY;
    for bits in ["4.3", "5", "6.5", "9"] {
        let summary =
            convert(&tiny_model(), &pack, &[&common[..], &["--target-bpw", bits]].concat());
        let choice = &summary["choice"];
        let spent = choice["bits_per_weight"].as_f64().unwrap();
        assert!(spent <= bits.parse().unwrap(), "{bits}: {spent}");
        // No more than one linear's worth is left over.
        assert!(bits == "9" || spent > bits.parse::<f64>().unwrap() - 0.2, "{bits}: {spent}");
        let measured = choice["measured_kld"].as_f64().unwrap();
        let predicted = choice["predicted_kld"].as_f64().unwrap();
        println!("{bits}: {spent} bits, predicted {predicted}, measured {measured}");
        assert!(measured < before && predicted > 0.0, "{bits}: {measured}");
        assert_eq!(choice["exact"], true);
        before = measured;
        assert!(errors(&verify(&pack, &tiny_model())).len() == 36);
    }
    assert!(schemes(&pack).values().all(|scheme| scheme == "w8a8"), "nine bits are enough");
    // The linears at eight bits are those that lose most for the bits they would save.
    let page = folder.path().join("page");
    let arguments = ["--target-bpw", "5", "--report", text(&page)];
    let summary = convert(&tiny_model(), &pack, &[&common[..], &arguments].concat());
    let report: Value =
        serde_json::from_slice(&fs::read(page.join("report.json")).unwrap()).unwrap();
    assert!(fs::read_to_string(page.join("index.html")).unwrap().contains("✓ kept"));
    assert_eq!(report["pack"]["bytes"], bytes(&pack));
    assert_eq!(report["pack"]["bits_per_weight"], summary["choice"]["bits_per_weight"]);
    assert_eq!(report["prediction"]["measured_kld"], summary["choice"]["measured_kld"]);
    assert_eq!(report["ladder"][0]["mean_kld"], summary["choice"]["measured_kld"]);
    assert_eq!(report["ladder"].as_array().unwrap().len(), 6);
    let frontier = report["frontier"].as_array().unwrap();
    assert_eq!(frontier.iter().filter(|point| point["chosen"] == true).count(), 1);
    for tensor in report["tensors"].as_array().unwrap() {
        assert_eq!(tensor["scheme"], schemes(&pack)[tensor["name"].as_str().unwrap()]);
        let [weights, inputs] = tensor["histograms"].as_array().unwrap().as_slice() else {
            panic!("weights and inputs");
        };
        assert_eq!((&weights["of"], &inputs["of"]), (&"weights".into(), &"inputs".into()));
        assert!(inputs["counts"].as_array().unwrap().len() > 50);
        let counts: Vec<u64> =
            weights["counts"].as_array().unwrap().iter().map(|c| c.as_u64().unwrap()).collect();
        let [rows, k] = ["n", "k"].map(|key| tensor[key].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>(), rows.min(256) * k);
        // Eight bits clip next to nothing; four do, and use what they have.
        let (clip, width) =
            (weights["clip"].as_f64().unwrap(), weights["bin_width"].as_f64().unwrap());
        let end = counts.len() as f64 * width;
        match tensor["scheme"].as_str().unwrap() {
            "w8a8" => assert!((120.0..=145.0).contains(&end) && clip == 127.5, "{end} {clip}"),
            _ => assert!((7.5..=20.0).contains(&end) && clip == 7.5, "{end} {clip}"),
        }
    }
    let file: Value = serde_json::from_slice(&fs::read(&sensitive).unwrap()).unwrap();
    let chosen = schemes(&pack);
    let worth = |linear: &Value| {
        let kld = |option: usize| linear["options"][option]["kld"].as_f64().unwrap();
        (kld(0) - kld(1)) / linear["weights"].as_f64().unwrap()
    };
    let (mut kept, mut demoted) = (Vec::new(), Vec::new());
    for linear in file["linears"].as_array().unwrap() {
        match chosen[linear["name"].as_str().unwrap()].as_str() {
            "w8a8" => kept.push(worth(linear)),
            _ => demoted.push(worth(linear)),
        }
    }
    let mean = |worth: &[f64]| worth.iter().sum::<f64>() / worth.len() as f64;
    assert!(mean(&kept) > 1.5 * mean(&demoted), "{kept:?} {demoted:?}");
}

/// To the byte, sharded or not, and the same bytes for any number of threads.
#[test]
fn packs_are_no_larger_than_asked() {
    let folder = tempfile::tempdir().unwrap();
    let sensitive = sensitivities(folder.path(), &["--estimate"]);
    let (data, pack) = (short_text(), folder.path().join("p.safetensors"));
    let common = common(text(&data), &sensitive);
    convert(&tiny_model(), &pack, &["--scheme", "w4a8", "--scale-type", "bf16"]);
    let least = bytes(&pack);
    for more in [8_000, 40_001, 70_000] {
        let size = (least + more).to_string();
        let arguments = [&common[..], &["--target-size", &size, "--threads", "1"]].concat();
        let summary = convert(&tiny_model(), &pack, &arguments);
        let found = bytes(&pack);
        println!("{size}: {found}, {} trials", summary["choice"]["trials"]);
        assert!(found <= least + more && found > least + more - 20_000, "{size}: {found}");
        assert_eq!(summary["bytes_out"], found);
    }
    let one = fs::read(&pack).unwrap();
    let size = (least + 70_000).to_string();
    let arguments = [&common[..], &["--target-size", &size, "--threads", "3"]].concat();
    convert(&tiny_model(), &pack, &arguments);
    assert_eq!(one, fs::read(&pack).unwrap());
    // Too small, with what stands there left alone.
    let model = tiny_model();
    let arguments = ["convert", text(&model), "-o", text(&pack), "--target-size", "100K"];
    let (code, said) = run(&[&arguments[..], &common].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("too small") && said.contains("KiB at least"), "{said}");
    assert_eq!(one, fs::read(&pack).unwrap());
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "the pack and the sensitivities");
}

/// The smallest pack that is good enough on text that was held out; the recipe's rules stay.
#[test]
fn packs_are_as_good_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("pin.toml");
    fs::write(&recipe, "[[rule]]\nmatch = 'blk.2.ffn'\nscheme = 'w4a8'\n").unwrap();
    let sensitive = sensitivities(folder.path(), &["--estimate", "--recipe", text(&recipe)]);
    let (data, pack) = (short_text(), folder.path().join("p.safetensors"));
    let common = common(text(&data), &sensitive);
    let mut before = u64::MAX;
    for most in ["0.04", "0.1"] {
        let arguments = ["--max-kld", most, "--recipe", text(&recipe)];
        let summary = convert(&tiny_model(), &pack, &[&common[..], &arguments].concat());
        let choice = &summary["choice"];
        let [kld, error] =
            ["measured_kld", "measured_kld_error"].map(|key| choice[key].as_f64().unwrap());
        println!("{most}: {kld} ± {error}, {} bytes", bytes(&pack));
        assert!(kld + 2.0 * error <= most.parse().unwrap(), "{most}: {kld} ± {error}");
        assert!(bytes(&pack) < before);
        before = bytes(&pack);
        let found = schemes(&pack);
        for linear in ["blk.2.ffn_up.weight", "blk.2.ffn_down.weight"] {
            assert_eq!(found[linear], "w4a8", "{linear}");
        }
    }
    fs::remove_file(&pack).unwrap();
    let model = tiny_model();
    let arguments = ["convert", text(&model), "-o", text(&pack), "--recipe", text(&recipe)];
    let (code, said) = run(&[&arguments[..], &common, &["--max-kld", "0.0001"]].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("the least that was measured"), "{said}");
    assert!(!pack.exists());
}

/// The board in the book is the one that is taken where nothing is said.
#[test]
fn the_book_shows_a_board() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/choosing.md");
    let book = fs::read_to_string(book).unwrap();
    let (_, after) = book.split_once("```json\n").unwrap();
    let (shown, _) = after.split_once("```").unwrap();
    assert_eq!(Board::parse(shown).unwrap(), Board::of_chip("rk3588").unwrap());
}

/// Rates by which only bytes cost anything, or submits too.
fn board(folder: &Path, submit_seconds: f64) -> PathBuf {
    let path = folder.join("board.json");
    let board = serde_json::json!({
        "format": "tessera-board", "version": [1, 0],
        "target": {
            "name": "rk3588", "cores": 3, "k_align": 32, "k_segment": 8192, "k_segment_f16": 4096,
            "domains": 16, "domain_capacity": 2_000_000_000u64,
        },
        "rates": {
            "bytes_per_second": 1e6, "submit_seconds": submit_seconds,
            "i4_macs_per_second": 4e8, "i8_macs_per_second": 2e8, "f16_macs_per_second": 1e8,
        },
    });
    fs::write(&path, board.to_string()).unwrap();
    path
}

/// Seconds that the pack's linears take on that board, by its manifest: one row, and 512.
fn seconds(pack: &Path, submit_seconds: f64) -> [f64; 2] {
    let reader = PackReader::open(pack).unwrap();
    let mut sums = [0.0; 2];
    for linear in reader.linears() {
        let elements: f64 =
            linear.segments.iter().map(|s| s.length as f64).sum::<f64>() * linear.n_padded as f64;
        let (bytes, rate) = match linear.scheme.to_string().as_str() {
            "w16a16" => (2.0, 1e8),
            "w8a8" => (1.0, 2e8),
            "w4a8" => (0.5, 4e8 / 2.0),
            _ => (0.5, 4e8),
        };
        for (sum, rows) in sums.iter_mut().zip([1.0, 512.0]) {
            let work = (elements * bytes / 1e6).max(rows * elements / rate);
            *sum += linear.segments.len() as f64 * submit_seconds + work;
        }
    }
    sums
}

/// Bits are spent as long as linears are fast enough, by the rates of the board; in prompts the second
/// digit of activations costs as much as eight bits do.
#[test]
fn speeds_are_those_of_the_board() {
    let folder = tempfile::tempdir().unwrap();
    let sensitive = sensitivities(folder.path(), &["--schemes", "w4a4,w4a8,w8a8"]);
    let (data, pack) = (short_text(), folder.path().join("p.safetensors"));
    let common = common(text(&data), &sensitive);
    for (submit, goal, index, rows, asked) in [
        (0.0, "--target-decode", 0, 1.0, ["5", "4", "3.5"]),
        (1e-3, "--target-decode", 0, 1.0, ["4", "3.5", "3.15"]),
        (0.0, "--target-prefill", 1, 512.0, ["1200", "900", "712"]),
    ] {
        let board = board(folder.path(), submit);
        let mut before = f64::INFINITY;
        for rate in asked {
            let arguments = [&common[..], &["--target", text(&board), goal, rate]].concat();
            let summary = convert(&tiny_model(), &pack, &arguments);
            let choice = &summary["choice"];
            let expected = seconds(&pack, submit);
            for (key, seconds, rows) in [
                ("decode_tokens_per_second", expected[0], 1.0),
                ("prefill_tokens_per_second", expected[1], 512.0),
            ] {
                let found = choice[key].as_f64().unwrap();
                assert!((found * seconds / rows - 1.0).abs() < 1e-9, "{key} {found} {seconds}");
            }
            let found = rows / expected[index];
            println!("{submit} {goal} {rate}: {found}, {} bits", choice["bits_per_weight"]);
            let asked: f64 = rate.parse().unwrap();
            assert!(found >= asked && found < 1.06 * asked, "{goal} {rate}: {found}");
            let kld = choice["measured_kld"].as_f64().unwrap();
            assert!(kld < before, "{goal} {rate}: {kld}");
            before = kld;
            assert_eq!(choice["goal"], goal.trim_start_matches("--").replace('-', "_"));
        }
    }
    let board = board(folder.path(), 0.0);
    let model = tiny_model();
    let arguments = ["convert", text(&model), "-o", text(&pack), "--target", text(&board)];
    let (code, said) = run(&[&arguments[..], &common, &["--target-decode", "50"]].concat());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("50 tokens a second are too many") && said.contains("at most"), "{said}");
    // A board that is none.
    for (wrong, words) in [
        ("{}", "no description of a board"),
        ("{\"format\": \"tessera-board\", \"version\": [1, 9]}", "version 1.9"),
    ] {
        fs::write(&board, wrong).unwrap();
        let (code, said) = run(&arguments);
        assert_eq!((code, said.contains(words)), (2, true), "{said}");
    }
    let missing = ["convert", text(&model), "-o", text(&pack), "--target", "none.json"];
    assert!(run(&missing).1.contains("none.json"));
}

/// Parts that are pinned stay, unless a rule says otherwise, and count in what is spent.
#[test]
fn pinned_parts_stay() {
    let folder = tempfile::tempdir().unwrap();
    let sensitive = sensitivities(folder.path(), &["--estimate"]);
    let recipe = folder.path().join("pin.toml");
    fs::write(&recipe, "[[rule]]\nmatch = 'blk.0.attn_q'\nscheme = 'w4a8'\n").unwrap();
    let (data, pack) = (short_text(), folder.path().join("p.safetensors"));
    let common = common(text(&data), &sensitive);
    let pins = ["--pin", "first=w8a8,last=w8a8", "--pin", "head=w4a8", "--recipe", text(&recipe)];
    let goal = ["--target-bpw", "6"];
    let summary = convert(&tiny_model(), &pack, &[&common[..], &pins, &goal].concat());
    let found = schemes(&pack);
    assert_eq!(found["output.weight"], "w4a8");
    assert_eq!(found["blk.0.attn_q.weight"], "w4a8");
    assert!(found.iter().all(|(name, scheme)| {
        let outer = name.starts_with("blk.0.") || name.starts_with("blk.4.");
        !outer || name == "blk.0.attn_q.weight" || scheme == "w8a8"
    }));
    let of_middle = |scheme: &str| {
        found.iter().filter(|(name, of)| name.starts_with("blk.2.") && *of == scheme).count()
    };
    println!("{} of the middle layer at 4 bits", of_middle("w4a8"));
    assert!(summary["choice"]["bits_per_weight"].as_f64().unwrap() <= 6.0);
    convert(&tiny_model(), &pack, &[&common[..], &goal, &["--pin", "head=w8a8"]].concat());
    assert_eq!(schemes(&pack)["output.weight"], "w8a8");
    let model = tiny_model();
    let base = ["convert", text(&model), "-o", text(&pack)];
    for (pin, words) in [
        ("head=w16a16", "`output.weight` is pinned to w16a16, which it was not measured at"),
        ("middle=w8a8", "no part of a model is named `middle`"),
    ] {
        let (code, said) = run(&[&base[..], &common, &goal, &["--pin", pin]].concat());
        assert_eq!((code, said.contains(words)), (2, true), "{said}");
    }
}

#[test]
fn goals_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("p.safetensors");
    let model = tiny_model();
    let base = ["convert", text(&model), "-o", text(&pack)];
    let damaged = folder.path().join("damaged.json");
    fs::write(&damaged, "{\"format\": \"tessera-sensitivity\", \"version\": [1, 7]}").unwrap();
    let (data, other) = (short_text(), folder.path().join("other.gguf"));
    harness::model::Model::floats(&tiny_model()).write(folder.path(), "other.gguf");
    let sensitive = sensitivities(folder.path(), &["--estimate"]);
    let dataset = ["--dataset", text(&data), "--ctx", "64", "--tokens", "512"];
    for (more, words) in [
        (vec!["--target-bpw", "5"], "--dataset"),
        (vec!["--target-bpw", "0", "--dataset", "built-in"], "above zero"),
        (vec!["--max-kld", "nan", "--dataset", "built-in"], "above zero"),
        (vec!["--target-bpw", "5", "--scheme", "w4a8", "--dataset", "built-in"], "--scheme"),
        (vec!["--target-bpw", "5", "--max-kld", "1"], "cannot be used with"),
        (vec!["--target-decode", "inf", "--dataset", "built-in"], "above zero"),
        (vec!["--target-prefill", "0", "--dataset", "built-in"], "above zero"),
        (vec!["--pin", "head=w8a8"], "--target-bpw"),
        (vec!["--sensitivity", "s.json"], "--target-bpw"),
        (
            [&dataset[..], &["--target-bpw", "5", "--sensitivity", text(&damaged)]].concat(),
            "version 1.7",
        ),
        (
            [&dataset[..], &["--target-bpw", "3", "--sensitivity", text(&sensitive)]].concat(),
            "are too few",
        ),
    ] {
        let arguments = [&base[..], &more].concat();
        let (code, said) = run(&arguments);
        assert_eq!(code, 2, "{more:?} {said}");
        assert!(said.contains(words), "{more:?}: {said}");
        assert!(!pack.exists());
    }
    // Figures that no measurement gives.
    let good = fs::read_to_string(&sensitive).unwrap();
    let weights = "\"weights\": 4096";
    for (from, to, words) in [
        (weights, "\"weights\": 18446744073709551615", "18446744073709551615 weights"),
        (weights, "\"weights\": 0", "0 weights"),
        ("\"tile_bytes\": ", "\"tile_bytes\": 9999999999999", "bytes for"),
        ("\"segments\": 1", "\"segments\": 0", "0 segments"),
        ("\"used\": 1", "\"used\": 2", "1 matrices, of which a token uses 2"),
        ("\"output_error\": ", "\"output_error\": -", "none is below zero"),
        ("blk.0.attn_k.weight", "blk.0.attn_q.weight", "is there twice"),
        ("\"factor\": ", "\"factor\": 1e999, \"x\": ", "sensitivity file"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&damaged, good.replacen(from, to, 1)).unwrap();
        let goal = ["--target-size", "1G", "--sensitivity", text(&damaged)];
        let (code, said) = run(&[&base[..], &dataset, &goal].concat());
        assert_eq!(code, 2, "{to} {said}");
        assert!(said.contains(words), "{to}: {said}");
        assert!(!pack.exists());
    }
    let arguments = ["convert", text(&other), "-o", text(&pack), "--target-bpw", "5"];
    let (code, said) =
        run(&[&arguments[..], &dataset, &["--sensitivity", text(&sensitive)]].concat());
    assert_eq!((code, said.contains("another model")), (2, true), "{said}");
}
