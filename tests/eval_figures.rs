//! Figures of evaluations beside llama.cpp's, and the ladder of quantizations.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{eval, figure, near, shared_models, shared_text, short_text, tiny_model, with};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Log-probabilities that llama-perplexity wrote of stories260K in F32.
fn golden_logits() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("runtime/tests/golden/perplexity/stories260K-F32.logits")
}

/// `tests/data/SOURCES.md` says how the figures were made.
#[test]
fn the_carried_model_has_llama_cpps_figures() {
    let model = tiny_model();
    let models = [with(&model, "float"), with(&model, "cpu")];
    let (story, base) = (short_text(), with(&model, "float"));
    let arguments = ["--text", text(&story), "--ctx", "128", "--reference", &base];
    let reports = eval(&models, &arguments);
    near(&reports[0], "ppl", 20.5467, 0.0005);
    near(&reports[0], "ppl_error", 3.00636, 0.0005);
    assert_eq!(figure(&reports[0], "mean_kld"), 0.0, "the reference against itself");
    assert_eq!(figure(&reports[0], "same_top"), 100.0);
    // Sums in another order round other activations differently: only averages agree.
    near(&reports[1], "ppl", 20.5167, 0.003 * 20.5167);
    near(&reports[1], "mean_kld", 0.000530, 0.15 * 0.000530);
    near(&reports[1], "rms_dp", 0.472, 0.15 * 0.472);
    for report in &reports {
        assert_eq!(report["tokens"], 5 * 63);
    }
}

/// Every figure of llama-perplexity's list, in floats against its own file.
#[test]
fn figures_against_a_file_of_llama_cpp_are_llama_cpps() {
    let report = &eval(&[text(&tiny_model())], &["--from-logits", text(&golden_logits())])[0];
    assert_eq!(report["tokens"], 105);
    for (key, expected) in [
        ("ppl", 38.078995),
        ("ppl_error", 9.828244),
        ("ppl_ref", 37.815217),
        ("ppl_ref_error", 9.753048),
        ("ln_ppl_ratio", 0.006951),
        ("ln_ppl_ratio_error", 0.005567),
        ("ppl_ratio", 1.006975),
        ("ppl_ratio_error", 0.005606),
        ("ppl_difference", 0.263778),
        ("ppl_difference_error", 0.224124),
        ("mean_kld", 0.000651),
        ("mean_kld_error", 0.000054),
        ("max_kld", 0.002999),
        ("kld_99_9", 0.002916),
        ("kld_99", 0.002191),
        ("kld_95", 0.001703),
        ("kld_90", 0.001391),
        ("median_kld", 0.000495),
        ("kld_10", 0.000078),
        ("kld_5", 0.000037),
        ("kld_1", 0.000003),
        ("min_kld", 0.000003),
    ] {
        let tolerance = if key.contains("kld") { 2e-6 } else { 5e-5 };
        near(report, key, expected, tolerance);
    }
    for (key, expected) in [
        ("mean_dp", 0.039),
        ("mean_dp_error", 0.049),
        ("max_dp", 1.852),
        ("min_dp", -1.500),
        ("rms_dp", 0.503),
        ("rms_dp_error", 0.064),
        ("same_top", 95.238),
        ("same_top_error", 2.088),
    ] {
        near(report, key, expected, 0.001);
    }
}

/// PPL of 8 chunks of `eval_60k.txt`, and of all 56.
const FORMS: [(&str, f64, f64); 5] = [
    ("F32", 3.5028, 3.8850),
    ("F16", 3.5024, 3.884894),
    ("as-qwen2-F32", 3.5028, 3.885037),
    ("as-phi3-F32", 3.5028, 3.885028),
    ("as-moe-F32", 3.5028, 3.885038),
];

/// PPL and mean KLD against F32, of 8 chunks and of all 56.
const QUANTIZED: [(&str, [f64; 2], [f64; 2]); 4] = [
    ("Q8_0", [3.508944, 0.000659], [3.890849, 0.000680]),
    ("Q4_0", [3.825006, 0.077720], [4.173788, 0.075151]),
    ("Q4_K_M", [3.542064, 0.015741], [3.954980, 0.014979]),
    ("Q5_K_M", [3.511361, 0.012016], [3.902508, 0.012350]),
];

/// Figures of whole texts are those of `../shared/models/SOURCES.md`; those of fewer chunks were made
/// with the options that `tests/data/SOURCES.md` tells.
fn forms_have_llama_cpps_perplexity(chunks: &str, expected: impl Fn(usize) -> f64) {
    let Some((folder, story)) = shared_models("stories260K").zip(shared_text("eval_60k.txt"))
    else {
        return;
    };
    let path = |form: &str| folder.join(format!("stories260K-{form}.gguf")).display().to_string();
    let models = FORMS.map(|(form, ..)| path(form));
    let reports = eval(&models, &["--text", text(&story), "--chunks", chunks]);
    for (index, report) in reports.iter().enumerate() {
        near(report, "ppl", expected(index), 0.0005);
    }
}

#[test]
fn forms_of_a_model_have_llama_cpps_perplexity() {
    forms_have_llama_cpps_perplexity("8", |index| FORMS[index].1);
}

#[test]
#[ignore = "takes a minute unless built with --release"]
fn forms_of_a_model_have_llama_cpps_perplexity_of_the_whole_text() {
    forms_have_llama_cpps_perplexity("56", |index| FORMS[index].2);
}

fn quantized_have_llama_cpps_figures(chunks: &str, expected: impl Fn(usize) -> [f64; 2]) {
    let Some((folder, story)) = shared_models("stories260K").zip(shared_text("eval_60k.txt"))
    else {
        return;
    };
    let path = |form: &str| folder.join(format!("stories260K-{form}.gguf")).display().to_string();
    let (models, reference) = (QUANTIZED.map(|(form, ..)| path(form)), path("F32"));
    let arguments =
        ["--cpu-like", "--text", text(&story), "--chunks", chunks, "--reference", &reference];
    for (index, report) in eval(&models, &arguments).iter().enumerate() {
        println!("{}: {} {}", report["model"], report["ppl"], report["mean_kld"]);
        let [ppl, mean_kld] = expected(index);
        near(report, "ppl", ppl, 0.003 * ppl);
        near(report, "mean_kld", mean_kld, 0.05 * mean_kld);
        assert_eq!(report["scheme"], "cpu-like");
    }
}

#[test]
fn quantized_forms_have_llama_cpps_figures() {
    quantized_have_llama_cpps_figures("8", |index| QUANTIZED[index].1);
}

#[test]
#[ignore = "takes a minute unless built with --release"]
fn quantized_forms_have_llama_cpps_figures_of_the_whole_text() {
    quantized_have_llama_cpps_figures("56", |index| QUANTIZED[index].2);
}

fn books_have_llama_cpps_perplexity(chunks: &str, ppl: f64, error: f64) {
    let Some((folder, story)) = shared_models("books7m").zip(shared_text("books_eval.txt")) else {
        return;
    };
    let arguments = ["--text", text(&story), "--ctx", "256", "--chunks", chunks];
    let report = &eval(&[text(&folder.join("books7m-F32.gguf"))], &arguments)[0];
    near(report, "ppl", ppl, 0.0005);
    near(report, "ppl_error", error, 0.0005);
}

#[test]
fn a_model_of_books_has_llama_cpps_perplexity() {
    books_have_llama_cpps_perplexity("12", 52.3777, 3.77166);
}

#[test]
#[ignore = "takes a minute unless built with --release"]
fn a_model_of_books_has_llama_cpps_perplexity_of_the_whole_text() {
    books_have_llama_cpps_perplexity("170", 52.0100, 0.9783);
}

/// The rungs from the finest to the coarsest, in one command.
#[test]
fn the_ladder_is_in_order() {
    let Some((folder, story)) = shared_models("stories260K").zip(shared_text("eval_60k.txt"))
    else {
        return;
    };
    let original = folder.join("stories260K-F32.gguf");
    let rungs = [
        (with(&original, "float"), 0.0..=0.0),
        (with(&folder.join("stories260K-Q8_0.gguf"), "cpu"), 0.0005..=0.0009),
        (with(&original, "rk-llama-v3:w8a8"), 0.0005..=0.0014),
        (with(&original, "w8a8"), 0.0005..=0.0014),
        (with(&folder.join("stories260K-Q4_0.gguf"), "cpu"), 0.06..=0.09),
        (with(&original, "w4a8"), 0.08..=0.2),
        (with(&original, "w4a4"), 0.2..=0.35),
        (with(&original, "rk-llama-v3:w4a4"), 0.25..=0.5),
        (with(&original, "rk-llama-v2:w4a4"), 0.9..=2.0),
    ];
    let models: Vec<_> = rungs.iter().map(|(model, _)| model).collect();
    let arguments = ["--text", text(&story), "--chunks", "8", "--reference", text(&original)];
    let reports = eval(&models, &arguments);
    for (report, (model, range)) in reports.iter().zip(&rungs) {
        let kld = figure(report, "mean_kld");
        println!("{model}: {kld:.6} at {} bits", report["bits_per_weight"]);
        assert!(range.contains(&kld), "{model}: {kld}");
        assert_eq!(report["saturated"], 0, "{model}");
    }
    let kld = |index: usize| figure(&reports[index], "mean_kld");
    assert!(kld(3) < kld(5) && kld(5) < kld(6) && kld(6) < kld(7) && kld(7) < kld(8));
    let bits = |index: usize| figure(&reports[index], "bits_per_weight");
    assert_eq!(bits(0), 32.0);
    assert!(bits(5) == bits(6) && bits(5) < bits(4) && bits(3) < bits(1));
}

#[test]
fn files_of_llama_cpp_are_of_the_models_they_name() {
    let Some(folder) = shared_models("stories260K") else { return };
    let logits = golden_logits();
    for form in ["F32", "Q4_0"] {
        let model = folder.join(format!("stories260K-{form}.gguf"));
        let own = logits.with_file_name(format!("stories260K-{form}.logits"));
        let report = &eval(&[text(&model)], &["--cpu-like", "--from-logits", text(&own)])[0];
        let kld = figure(report, "mean_kld");
        println!("{form}: {kld}");
        // Q4_0: its activations are rounded, and the rounding is another after a few layers.
        assert!(kld.abs() < if form == "F32" { 5e-6 } else { 0.002 }, "{form}: {kld}");
    }
    let model = with(&folder.join("stories260K-Q4_0.gguf"), "cpu");
    let report = &eval(&[model], &["--from-logits", text(&logits)])[0];
    near(report, "ppl", 43.203123, 0.02 * 43.2);
    near(report, "mean_kld", 0.193596, 0.05 * 0.193596);
}
