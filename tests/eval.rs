//! Evaluation, end to end: packs beside models quantized in memory, what figures depend on, logits
//! files, and how figures are printed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use harness::model::Model;
use harness::{convert, eval, figure, near, short_text, tessera, tiny_model, with};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What depends on neither the file's name nor the machine's speed.
fn figures(report: &Value) -> Value {
    let mut report = report.clone();
    for key in ["model", "scheme", "seconds"] {
        report.as_object_mut().unwrap().remove(key).unwrap();
    }
    report
}

#[test]
fn packs_have_the_figures_of_models_quantized_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let story = short_text();
    for (model, cases) in [
        (
            tiny_model(),
            &[
                ("w8a8", &["--scheme", "w8a8"][..]),
                ("w4a8", &["--scheme", "w4a8"]),
                ("w4a4", &["--scheme", "w4a4"]),
                ("w16a16", &["--scheme", "w16a16"]),
                ("rk-llama-v2:w4a4", &["--preset", "rk-llama-v2", "--scheme", "w4a4"]),
                ("rk-llama-v3:w4a4", &["--preset", "rk-llama-v3", "--scheme", "w4a4"]),
                ("rk-llama-v3:w8a8", &["--preset", "rk-llama-v3", "--scheme", "w8a8"]),
                ("w4a8", &["--scheme", "w4a8", "--shard-size", "200K"]),
            ][..],
        ),
        (experts, &[("w8a8", &["--scheme", "w8a8"]), ("w4a4", &["--scheme", "w4a4"])]),
    ] {
        let mut models = Vec::new();
        for (index, (how, options)) in cases.iter().enumerate() {
            let pack = folder.path().join(format!("{index}.safetensors"));
            convert(&model, &pack, &[options, &["--force"][..]].concat());
            let sharded = pack.with_extension("safetensors.index.json");
            let pack = if sharded.exists() { sharded } else { pack };
            models.extend([with(&model, how), pack.to_str().unwrap().to_owned()]);
        }
        let arguments = ["--text", text(&story), "--ctx", "128", "--chunks", "2"];
        let reports = eval(&models, &[&arguments[..], &["--reference", text(&model)]].concat());
        assert_eq!(reports.len(), models.len());
        for pair in reports.chunks(2) {
            let name = &pair[0]["model"];
            assert_eq!(figures(&pair[0]), figures(&pair[1]), "{name}");
            assert!(figure(&pair[0], "mean_kld") > 1e-7, "{name}");
            let form = pair[0]["scheme"].as_str().unwrap();
            assert!(form.ends_with(pair[1]["scheme"].as_str().unwrap()), "{name}");
        }
    }
}

/// Options and a recipe on the command line make of a file what `convert` makes of it.
#[test]
fn options_quantize_as_convert_does() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(
        &recipe,
        "[defaults]\nscheme = \"w4a8\"\n[[rule]]\nmatch = 'ffn_down'\nscheme = \"keep\"\n",
    )
    .unwrap();
    let (model, pack, story) = (tiny_model(), folder.path().join("p.safetensors"), short_text());
    let arguments = ["--text", text(&story), "--ctx", "128", "--chunks", "1"];
    let mut found = Vec::new();
    // A name takes the place of what the recipe says by default, and not of its rules.
    convert(&model, &pack, &["--recipe", text(&recipe), "--scheme", "w8a8", "--force"]);
    let packed = eval(&[text(&pack)], &arguments);
    let named =
        eval(&[&with(&model, "w8a8")], &[&arguments[..], &["--recipe", text(&recipe)]].concat());
    assert_eq!(figures(&packed[0]), figures(&named[0]));
    for options in [
        &["--recipe", text(&recipe)][..],
        &["--scheme", "w4a4"],
        &["--scheme", "w4a4", "--seed", "7"],
        &["--scheme", "w4a8", "--scale-type", "bf16"],
        &["--scheme", "w4a4", "--rotation", "none", "--calibrator", "amax"],
        &["--scheme", "w4a4", "--granularity", "tensor", "--target", "rk3576"],
    ] {
        convert(&model, &pack, &[options, &["--force"]].concat());
        let packed = eval(&[text(&pack)], &arguments);
        let report = eval(&[text(&model)], &[&arguments[..], options].concat());
        assert_eq!(figures(&packed[0]), figures(&report[0]), "{options:?}");
        found.push(report[0]["ppl"].to_string());
    }
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{found:?}");
}

#[test]
fn figures_depend_on_neither_threads_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let experts = Model::with_experts(&tiny_model()).write(folder.path(), "experts.gguf");
    let (model, story) = (tiny_model(), short_text());
    let models = [
        with(&model, "cpu"),
        with(&model, "w4a8"),
        text(&experts).to_owned(),
        with(&experts, "w4a4"),
    ];
    let base = ["--text", text(&story), "--ctx", "64", "--reference", text(&model)];
    let measure = |more: &[&str]| -> Vec<Value> {
        eval(&models, &[&base[..], more].concat()).iter().map(figures).collect()
    };
    let expected = measure(&["--threads", "1"]);
    for more in [
        &["--threads", "3"][..],
        &["--threads", "2", "--memory-budget", "2M"],
        &["--threads", "1", "--memory-budget", "8M"],
    ] {
        assert_eq!(measure(more), expected, "{more:?}");
    }
}

#[test]
fn a_split_model_has_the_figures_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let split = Model::read(&tiny_model()).write_split(folder.path(), "split", 3);
    let story = short_text();
    let models = ["float", "w4a8"].map(|how| [with(&tiny_model(), how), with(&split, how)]);
    let reports = eval(models.as_flattened(), &["--text", text(&story), "--ctx", "64"]);
    for pair in reports.chunks(2) {
        assert_eq!(figures(&pair[0]), figures(&pair[1]), "{}", pair[0]["model"]);
    }
}

#[test]
fn saved_logits_stand_in_for_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (own, reference) = (folder.path().join("own.logits"), folder.path().join("base.logits"));
    let (model, story) = (tiny_model(), short_text());
    let base = ["--text", text(&story), "--ctx", "128"];
    let plain = eval(&[text(&model)], &[&base[..], &["--save-logits", text(&own)]].concat());
    let four = with(&model, "w4a8");
    let reference_arguments = ["--reference", text(&model), "--save-logits", text(&reference)];
    let compared = eval(&[&four], &[&base[..], &reference_arguments].concat());
    assert!(fs::read(&own).unwrap() == fs::read(&reference).unwrap());

    let again = eval(&[text(&model)], &["--from-logits", text(&own)]);
    assert_eq!(again[0]["ppl"], plain[0]["ppl"]);
    // Log-probabilities are stored in 16 bits, and no lower than 16 below the greatest.
    assert!(figure(&again[0], "mean_kld").abs() < 5e-6, "{}", again[0]);
    near(&again[0], "ppl_ref", figure(&plain[0], "ppl"), 0.01);
    assert_eq!(figure(&again[0], "same_top"), 100.0);

    let from_file = eval(&[&four], &["--from-logits", text(&own)]);
    assert_eq!(from_file[0]["ppl"], compared[0]["ppl"]);
    near(&from_file[0], "mean_kld", figure(&compared[0], "mean_kld"), 1e-4);
    let with_text = eval(&[&four], &[&base[..2], &["--from-logits", text(&own)]].concat());
    assert_eq!(figures(&with_text[0]), figures(&from_file[0]));
    let fewer = eval(&[&four], &["--from-logits", text(&own), "--chunks", "2"]);
    assert_eq!(fewer[0]["tokens"], 2 * 63);
}

/// Keys that programs rely on.
#[test]
fn json_is_a_line_for_each_model() {
    let (model, story) = (tiny_model(), short_text());
    let models = [text(&model).to_owned(), with(&model, "w8a8")];
    let arguments = ["--text", text(&story), "--ctx", "64", "--chunks", "2"];
    let compared =
        ["ppl_ratio", "mean_kld", "mean_kld_error", "max_kld", "median_kld", "same_top", "rms_dp"];
    let alone = eval(&models, &arguments);
    let against = eval(&models, &[&arguments[..], &["--reference", text(&model)]].concat());
    for (index, scheme) in ["float", "w8a8"].iter().enumerate() {
        for report in [&alone[index], &against[index]] {
            assert_eq!(report["model"], models[index]);
            assert_eq!(report["scheme"], *scheme);
            assert_eq!(report["tokens"], 2 * 31);
            for key in ["ppl", "ppl_error", "bits_per_weight", "seconds"] {
                assert!(figure(report, key) > 0.0, "{key}");
            }
        }
        for key in compared {
            assert_eq!(alone[index].as_object().unwrap().get(key), Some(&Value::Null), "{key}");
            assert!(against[index][key].is_number(), "{key}");
        }
    }
    assert!(figure(&against[1], "mean_kld") > 0.0);
}

#[test]
fn people_get_llama_cpps_list_or_a_table() {
    let (model, story) = (tiny_model(), short_text());
    let base =
        ["--text", text(&story), "--ctx", "64", "--chunks", "2", "--reference", text(&model)];
    let print = |models: &[&str]| {
        let output = tessera().arg("eval").args(models).args(base).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (eight, four) = (with(&model, "w8a8"), with(&model, "rk-llama-v2:w4a4"));
    let list = print(&[&eight]);
    for name in [
        "Mean PPL(Q)",
        "Mean PPL(base)",
        "Mean PPL(Q)/PPL(base)",
        "Mean    KLD",
        "Maximum KLD",
        "99.9%   KLD",
        "99.0%   KLD",
        "95.0%   KLD",
        "90.0%   KLD",
        "Median  KLD",
        "10.0%   KLD",
        " 5.0%   KLD",
        " 1.0%   KLD",
        "Minimum KLD",
        "Mean    Δp",
        "RMS Δp",
        "Same top p",
    ] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{name:?} in\n{list}");
    }
    let table = print(&[&eight, &four]);
    for (how, scheme) in [("w8a8", " w8a8 "), ("rk-llama-v2:w4a4", " rk-llama-v2 w4a4 ")] {
        let name = format!("stories260K-Q8_0.gguf@{how}");
        let row = table.lines().find(|line| line.contains(&name));
        assert!(row.is_some_and(|row| row.contains(scheme)), "{table}");
    }
}
