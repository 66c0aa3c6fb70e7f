//! Rates, operators, submits and sensors of `tessera bench`, through a library that stands in for the vendor's, on the
//! simulator, and of GGUF files.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::path::Path;

use harness::board::Planted;
use harness::model::Model;
use harness::{convert, figure, run, stand_in, tessera, tiny_model};
use serde_json::{Value, json};
use tessera_formats::pack::PackReader;

/// Fields that llama-bench has, too.
const FIELDS: [&str; 14] = [
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_threads",
    "n_prompt",
    "n_gen",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
];

/// Fields of sensors that are null without them.
const SENSORS: [&str; 6] = ["npu_load", "npu_mhz", "ddr_mhz", "cpu_mhz", "npu_celsius", "power"];

/// Channels that a core is given together.
const GROUP: u64 = 64;

/// Cores of the chip.
const CORES: u64 = 3;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Measures, and gives an object for each test.
fn bench(model: &str, root: &Path, options: &[&str]) -> Vec<Value> {
    let output = tessera()
        .args(["bench", model, "--json", "--root", text(root)])
        .args(options)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{options:?}: {said}");
    let tests: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = tests.as_array().unwrap().clone();
    tests.iter().for_each(agree);
    tests
}

/// Checks what is so of every test.
fn agree(test: &Value) {
    for field in FIELDS {
        assert!(!test[field].is_null(), "{field} of {test:#}");
    }
    let tokens = figure(test, "n_prompt") + figure(test, "n_gen");
    let numbers = |field: &str| -> Vec<f64> {
        test[field].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (times, rates) = (numbers("samples_ns"), numbers("samples_ts"));
    assert_eq!(times.len(), rates.len());
    for (time, rate) in times.iter().zip(&rates) {
        assert!((rate * time * 1e-9 / tokens - 1.0).abs() < 1e-6, "{test:#}");
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!((figure(test, "avg_ns") - mean(&times)).abs() <= 1.0, "{test:#}");
    assert!((figure(test, "avg_ts") / mean(&rates) - 1.0).abs() < 1e-9, "{test:#}");
    let wall = mean(&times) / tokens;
    let operators = test["operators"].as_array().unwrap();
    let sum: f64 = operators.iter().map(|operator| figure(operator, "ns_per_token")).sum();
    let shares: f64 = operators.iter().map(|operator| figure(operator, "share")).sum();
    assert!((sum / wall - 1.0).abs() < 1e-6 && (shares - 1.0).abs() < 1e-6, "{test:#}");
    let (other, linears) = operators.split_last().unwrap();
    assert_eq!((&other["name"], &other["calls_per_token"]), (&json!("other"), &Value::Null));
    for linear in linears {
        assert!(figure(linear, "ns_per_token") > 0.0, "{linear}");
    }
    let sensors = &test["sensors"];
    assert!(sensors["samples"].as_u64().unwrap() > 0);
    for field in SENSORS {
        assert_eq!(sensors[field].is_null(), sensors["unread"][field].is_string(), "{sensors:#}");
    }
}

/// Times that an operator is applied for a token.
fn calls(test: &Value, name: &str) -> f64 {
    let operators = test["operators"].as_array().unwrap();
    let operator = operators.iter().find(|operator| operator["name"] == name);
    figure(operator.unwrap_or_else(|| panic!("{name} of {test:#}")), "calls_per_token")
}

/// Matmuls of all linears but the head, and of the head, for a few rows: those of `used` experts.
fn submits(pack: &Path, used: u64) -> (u64, u64) {
    let pack = PackReader::open(pack).unwrap();
    let mut of = (0, 0);
    for linear in pack.linears() {
        let parts = linear.n.div_ceil(GROUP).min(CORES);
        let segments = u64::try_from(linear.segments.len()).unwrap();
        let matmuls = parts * segments * linear.experts.map_or(1, |_| used);
        let of = if linear.name == "output.weight" { &mut of.1 } else { &mut of.0 };
        *of += matmuls;
    }
    assert!(of.0 > 0 && of.1 > 0, "{of:?}");
    of
}

#[test]
fn a_pack_on_the_stand_in_has_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let (library, empty) = (stand_in(), Planted::empty());
    let device = ["--device", "stand-in", "--library", text(&library)];
    for scheme in ["w8a8", "w4a8"] {
        let pack = folder.path().join(format!("{scheme}.safetensors"));
        convert(&tiny_model(), &pack, &["--scheme", scheme]);
        let options = ["-p", "8,12", "-b", "4,12", "-n", "3", "-r", "2", "--threads", "2"];
        let tests = bench(text(&pack), empty.root(), &[&device[..], &options].concat());
        let shape = |test: &Value| {
            ["n_prompt", "n_gen", "n_batch"].map(|field| test[field].as_u64().unwrap())
        };
        let shapes: Vec<_> = tests.iter().map(shape).collect();
        assert_eq!(shapes, [[8, 0, 4], [8, 0, 12], [12, 0, 4], [12, 0, 12], [0, 3, 1]]);
        let (layers, head) = submits(&pack, 0);
        for (test, batches) in tests.iter().zip([2, 1, 3, 1, 0]) {
            assert_eq!(test["device"], "stand-in");
            assert_eq!(test["is_npu"], false);
            assert!(test["note"].as_str().unwrap().contains("no NPU"), "{test:#}");
            assert!(test["library"].as_str().unwrap().contains("stand-in"), "{test:#}");
            assert!(test["driver"].is_string());
            assert_eq!(test["cores"], CORES);
            assert_eq!(test["n_threads"], 2);
            assert_eq!(test["model_n_params"], 260_032);
            assert_eq!(test["model_type"], format!("llama {scheme}"));
            assert_eq!(test["samples_ns"].as_array().unwrap().len(), 2);
            let tokens = figure(test, "n_prompt") + figure(test, "n_gen");
            // A prompt's head gives the logits of its last token.
            let (passes, heads) = if batches > 0 { (batches, 1) } else { (3, 3) };
            let expected = (passes * layers + heads * head) as f64 / tokens;
            assert!((figure(test, "submits_per_token") - expected).abs() < 1e-9, "{test:#}");
            assert_eq!(calls(test, "output"), heads as f64 / tokens);
            assert_eq!(calls(test, "ffn_down"), (5 * passes) as f64 / tokens);
            for field in SENSORS {
                assert_eq!(test["sensors"][field], Value::Null, "{test:#}");
            }
        }
    }
}

#[test]
fn experts_of_a_token_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (library, empty) = (stand_in(), Planted::empty());
    let model = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let pack = folder.path().join("experts.safetensors");
    convert(&model, &pack, &["--scheme", "w8a8"]);
    let options = ["--device", "stand-in", "--library", text(&library)];
    let options = [&options[..], &["-p", "0", "-n", "4", "-r", "1", "--threads", "2"]].concat();
    let tests = bench(text(&pack), empty.root(), &options);
    let [test] = &tests[..] else { panic!("{tests:#?}") };
    // Two experts in each of five layers.
    assert_eq!(calls(test, "ffn_down_exps"), 10.0);
    let (layers, head) = submits(&pack, 2);
    assert_eq!(figure(test, "submits_per_token"), (layers + head) as f64);
}

#[test]
fn sensors_of_a_board_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let board = Planted::rk3588();
    board
        .write("/sys/kernel/debug/rknpu/load", "NPU load:  Core0: 42%, Core1:  7%, Core2:  0%,\n")
        .write("/sys/class/hwmon/hwmon3/name", "ina226\n")
        .write("/sys/class/hwmon/hwmon3/power1_input", "7500000\n");
    let tests =
        bench(text(&pack), board.root(), &["--device", "sim", "-p", "8", "-n", "4", "-r", "3"]);
    assert_eq!(tests.len(), 2);
    let still = |value: f64| json!({ "min": value, "mean": value, "max": value });
    for test in tests {
        assert_eq!((&test["device"], &test["submits_per_token"]), (&json!("sim"), &Value::Null));
        assert!(test["note"].as_str().unwrap().contains("no NPU"));
        let sensors = &test["sensors"];
        assert_eq!(sensors["npu_load"], json!([still(42.0), still(7.0), still(0.0)]));
        assert_eq!(sensors["npu_mhz"], still(1000.0));
        assert_eq!(sensors["ddr_mhz"], still(2112.0));
        let cpus =
            json!({ "policy0": still(1800.0), "policy4": still(2352.0), "policy6": still(2352.0) });
        assert_eq!(sensors["cpu_mhz"], cpus);
        assert_eq!(sensors["unread"], json!({}));
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
        for field in ["min", "mean", "max"] {
            assert!(near(figure(&sensors["npu_celsius"], field), 43.461), "{sensors:#}");
        }
        let [power] = &sensors["power"].as_array().unwrap()[..] else { panic!("{sensors:#}") };
        assert_eq!((&power["name"], &power["watts"]), (&json!("ina226 power1"), &still(7.5)));
        let times = test["samples_ns"].as_array().unwrap();
        let seconds: f64 = times.iter().map(|time| time.as_f64().unwrap() * 1e-9).sum();
        let tokens = 3.0 * (figure(&test, "n_prompt") + figure(&test, "n_gen"));
        assert!(near(figure(power, "joules"), 7.5 * seconds), "{test:#}");
        assert!(near(figure(power, "joules_per_token"), 7.5 * seconds / tokens), "{test:#}");
    }
}

#[test]
fn gguf_files_are_measured() {
    let empty = Planted::empty();
    let model = tiny_model();
    for (how, options, kind, device) in [
        ("", &[][..], "llama float", "reference"),
        ("", &["--cpu-like"], "llama cpu-like", "reference"),
        ("@w8a8", &[], "llama w8a8", "sim"),
    ] {
        let name = format!("{}{how}", text(&model));
        let tests =
            bench(&name, empty.root(), &[&["-p", "0", "-n", "2", "-r", "1"][..], options].concat());
        let [test] = &tests[..] else { panic!("{tests:#?}") };
        assert_eq!((&test["model_type"], &test["device"]), (&json!(kind), &json!(device)));
        assert_eq!(test["model_filename"], name);
        assert_eq!((&test["stddev_ns"], &test["stddev_ts"]), (&json!(0), &json!(0.0)));
        for field in ["submits_per_token", "library", "driver", "cores"] {
            assert_eq!(test[field], Value::Null, "{test:#}");
        }
        assert_eq!(test["model_n_params"], 260_032);
        assert!(figure(test, "model_size") > 2e5);
    }
    // Layers that do not fit are loaded again, and that takes time.
    let options = ["-p", "0", "-n", "2", "-r", "1", "--memory-budget", "100K"];
    let tests = bench(text(&model), empty.root(), &options);
    assert!(figure(&tests[0], "passing_layers") > 0.0, "{tests:#?}");
}

#[test]
fn people_get_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (library, board) = (stand_in(), Planted::rk3588());
    board.write("/sys/class/hwmon/hwmon3/power1_input", "7500000\n");
    board.remove("/sys/class/devfreq/dmc");
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let output = tessera()
        .args(["bench", text(&pack), "--device", "stand-in", "--library", text(&library)])
        .args(["-p", "8", "-n", "4", "-r", "2", "--root", text(board.root())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    for words in [
        "note: the library is a stand-in",
        "rates of no NPU",
        "librknnrt 2.3.2 (stand-in",
        "llama w8a8",
        "pp8, batch 512:",
        "tg4, batch 1:",
        "ffn_down",
        "other",
        "NPU core 2, % load",
        "CPU policy4, MHz",
        "J/token",
        "no ddr_mhz: ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let lines = text.lines().filter(|line| line.contains(" llama w8a8 "));
    assert_eq!(lines.filter(|line| line.contains(" ± ")).count(), 2, "{text}");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack.safetensors");
    convert(&tiny_model(), &pack, &["--scheme", "w8a8"]);
    let (library, model, root) = (stand_in(), tiny_model(), folder.path().join("none"));
    let (pack, library, model) = (text(&pack), text(&library), text(&model));
    for (name, options, words) in [
        (pack, &["--device", "rknn", "--library", "/nonexistent.so"][..], "/nonexistent.so"),
        (pack, &["--device", "rknn", "--library", library], "stand-in"),
        (model, &["--device", "stand-in", "--library", library], "the NPU executes packs"),
        (pack, &["-p", "0", "-n", "0"], "there is nothing to measure"),
        (pack, &["-p", "8,100000"], "was trained for"),
        (pack, &["-b", "4,0"], "must be 1 or more"),
        (pack, &["-r", "many"], "`many` is no number"),
        (pack, &["--root", text(&root)], "root `"),
    ] {
        let (code, said) = run(&[&["bench", name][..], options].concat());
        println!("{said}");
        assert!((2..=3).contains(&code) && said.contains(words), "{options:?}: {code}: {said}");
    }
}
