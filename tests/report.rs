//! The page of a report says what its JSON says, needs nothing else, and trusts no name.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::report::report;
use harness::run;
use scraper::{ElementRef, Html, Selector};
use serde_json::{Value, json};

fn put(folder: &Path, report: &Value) -> PathBuf {
    let path = folder.join("given.json");
    fs::write(&path, serde_json::to_vec(report).unwrap()).unwrap();
    path
}

/// Runs `tessera report` on a report.
fn render(report: &Value, output: &Path, more: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let given = put(folder.path(), report);
    let command = ["report", given.to_str().unwrap(), "-o", output.to_str().unwrap()];
    run(&[&command[..], more].concat())
}

/// The page of a report, and its JSON.
fn page(report: &Value) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("page");
    let (code, said) = render(report, &output, &[]);
    assert_eq!(code, 0, "{said}");
    let json = fs::read(output.join("report.json")).unwrap();
    let page = fs::read_to_string(output.join("index.html")).unwrap();
    (page, serde_json::from_slice(&json).unwrap())
}

fn select<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

fn text(element: ElementRef<'_>) -> String {
    element.text().collect()
}

/// JSON pointers of every number below a value, except counts of histograms.
fn numbers(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Number(_) => {
            found.insert(at.to_owned());
        }
        Value::Array(values) if !at.ends_with("/counts") => {
            for (index, value) in values.iter().enumerate() {
                numbers(value, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                numbers(value, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_number_is_that_of_the_json() {
    let (page, json) = page(&report());
    assert_eq!(json, report());
    // To look at, with `benches/report_screenshots.py`.
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    assert_eq!(render(&report(), &output, &["--force"]).0, 0);
    let page = Html::parse_document(&page);
    assert_eq!(
        page.errors.iter().filter(|e| !e.contains("doctype")).count(),
        0,
        "{:?}",
        page.errors
    );
    let mut shown = BTreeSet::new();
    for element in select(&page, "[data-value]") {
        let field = element.attr("data-field").unwrap();
        let number = json.pointer(field).unwrap_or_else(|| panic!("{field}"));
        assert!(number.is_number(), "{field}: {number}");
        assert_eq!(element.attr("data-value").unwrap(), number.to_string(), "{field}");
        // What people read is the same number, rounded.
        let said = text(element);
        let said = said.rsplit(": ").next().unwrap().replace('\u{202f}', "");
        if let Ok(said) = said.parse::<f64>() {
            let exact = number.as_f64().unwrap();
            assert!((said - exact).abs() <= 1e-3 * exact.abs(), "{field}: {said} for {exact}");
        } else {
            assert!(field.ends_with("bytes"), "{field}: {said}");
        }
        shown.insert(field.to_owned());
    }
    let mut expected = BTreeSet::new();
    numbers(&json, "", &mut expected);
    // Histograms are drawn of eight linears, two of each; the recipe and the version are no figures.
    expected.retain(|field| {
        !field.starts_with("/version")
            && !field.starts_with("/recipe")
            && !field.contains("histograms")
    });
    let missing: Vec<_> = expected.difference(&shown).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(select(&page, ".multiples figure").len(), 16);
}

#[test]
fn linears_stand_in_the_order_of_their_damage() {
    let (page, json) = page(&report());
    let page = Html::parse_document(&page);
    let table = select(&page, "section[aria-labelledby=linears] table")[0];
    let mut rows = Vec::new();
    for row in table.select(&Selector::parse("tbody tr").unwrap()) {
        let name = text(row.select(&Selector::parse("th[scope=row]").unwrap()).next().unwrap());
        let damage = Selector::parse("td[data-field$='/damage']").unwrap();
        let damage = row.select(&damage).next().map(|cell| cell.attr("data-value").unwrap());
        rows.push((name, damage.map(|damage| damage.parse::<f64>().unwrap())));
    }
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!(rows.len(), tensors.len());
    for pair in rows.windows(2) {
        assert!(pair[0].1.unwrap_or(f64::MIN) >= pair[1].1.unwrap_or(f64::MIN), "{pair:?}");
    }
    for tensor in tensors {
        let expected = (tensor["name"].as_str().unwrap().to_owned(), tensor["damage"].as_f64());
        assert!(rows.contains(&expected), "{expected:?}");
    }
}

#[test]
fn nothing_leaves_the_page() {
    let (text, _) = page(&report());
    let page = Html::parse_document(&text);
    for element in select(&page, "*") {
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on"), "{name}={value}");
            assert!(
                !["src", "srcset", "action", "data", "poster", "style"].contains(&name),
                "{name}"
            );
            if name == "href" || name == "xlink:href" {
                assert!(value.starts_with('#') || value == "data:,", "{value}");
            }
            assert!(!value.contains("://") || name == "xmlns", "{name}={value}");
        }
    }
    for word in ["url(", "@import", "http://", "https://", "fetch(", "import("] {
        assert!(!text.contains(word), "{word}");
    }
    for tag in ["iframe", "img", "object", "embed", "base", "form", "a"] {
        assert!(select(&page, tag).is_empty(), "{tag}");
    }
    assert_eq!(select(&page, "script").len(), 1);
    let policy = select(&page, "meta[http-equiv=Content-Security-Policy]")[0];
    assert!(policy.attr("content").unwrap().starts_with("default-src 'none';"));
}

#[test]
fn pictures_and_tables_say_what_they_are() {
    let (page, _) = page(&report());
    let page = Html::parse_document(&page);
    let pictures = select(&page, "svg:not([aria-hidden])");
    assert_eq!(pictures.len(), 3 + 16);
    for picture in pictures {
        assert_eq!(picture.attr("role"), Some("img"));
        assert!(!picture.attr("aria-label").unwrap().is_empty());
    }
    for head in select(&page, "th") {
        assert!(["col", "row"].contains(&head.attr("scope").unwrap()));
    }
    let columns = select(&page, "section[aria-labelledby=linears] thead")[0];
    let columns = columns.select(&Selector::parse("th").unwrap()).count();
    for row in select(&page, "section[aria-labelledby=linears] > div tbody tr") {
        assert_eq!(row.child_elements().count(), columns);
    }
}

/// The report with a name wherever one can be.
fn named(name: &str) -> Value {
    let mut report = report();
    for place in [
        "/tessera",
        "/model/name",
        "/model/architecture",
        "/model/files/0/name",
        "/model/files/0/sha256",
        "/prediction/text",
        "/ladder/1/name",
        "/tensors/0/name",
        "/tensors/6/name",
        "/recipe/defaults/scheme",
        "/provenance/datasets/0/name",
        "/provenance/evaluation_text/name",
    ] {
        *report.pointer_mut(place).unwrap() = json!(name);
    }
    for tensor in report["tensors"].as_array_mut().unwrap() {
        if tensor["operator"] == "attn_q" {
            tensor["operator"] = json!(name);
        }
        if tensor["scheme"] == "w4a8" {
            tensor["scheme"] = json!(name);
        }
        tensor["options"][1]["scheme"] = json!(name);
    }
    report["recipe"][name] = json!({ name: [name] });
    report
}

#[test]
fn names_are_only_names() {
    let elements = |page: &Html| -> Vec<String> {
        select(page, "*").iter().map(|element| element.value().name().to_owned()).collect()
    };
    for name in [
        "<script>alert(1)</script>",
        "\"onload=alert(1) x=\"",
        "'><img src=x onerror=alert(1)>",
        "</script></style></title></svg><script>alert(1)</script>",
        "<!--",
        "]]>",
        "\u{202e}gnp\u{0}\n&lt;b&gt;",
        "{{7*7}}",
        "javascript:alert(1)",
    ] {
        // As it is shown: with escapes for what a reader could misread.
        let shown = tessera_formats::escape::escaped(name);
        let report = named(name);
        let (text_of_page, json) = page(&report);
        assert_eq!(json, report);
        assert_eq!(text_of_page.matches("<script").count(), 1);
        assert!(!text_of_page.contains(['\u{202e}', '\0']));
        let parsed = Html::parse_document(&text_of_page);
        // A page of names as long has the same elements.
        let harmless = page(&named(&"x".repeat(shown.chars().count()))).0;
        assert!(elements(&parsed) == elements(&Html::parse_document(&harmless)), "{name:?}");
        for element in select(&parsed, "*") {
            assert!(!element.value().attrs().any(|(name, _)| name.starts_with("on")));
        }
        assert!(text(select(&parsed, "h1")[0]).ends_with(&shown));
        assert!(text(select(&parsed, "title")[0]).contains(&shown));
        for cells in ["th[scope=row]", "section[aria-labelledby=linears] td", "figcaption .name"] {
            assert!(select(&parsed, cells).into_iter().any(|cell| text(cell) == shown), "{cells}");
        }
        let recipe = text(select(&parsed, "pre")[0]);
        assert_eq!(serde_json::from_str::<Value>(&recipe).unwrap(), report["recipe"]);
    }
}

#[test]
fn the_same_report_is_the_same_page() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("page");
    assert_eq!(render(&report(), &output, &[]).0, 0);
    let first = fs::read(output.join("index.html")).unwrap();
    // Again from its own JSON, to the same place: nothing has to be replaced.
    let own = output.join("report.json");
    let command = ["report", own.to_str().unwrap(), "-o", output.to_str().unwrap()];
    let (code, said) = run(&command);
    assert_eq!(code, 0, "{said}");
    let other = folder.path().join("other");
    assert_eq!(render(&report(), &other, &[]).0, 0);
    assert_eq!(first, fs::read(output.join("index.html")).unwrap());
    for name in ["index.html", "report.json"] {
        assert_eq!(fs::read(output.join(name)).unwrap(), fs::read(other.join(name)).unwrap());
    }
}

#[test]
fn what_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["index.html", "report.json"] {
        let output = folder.path().join(format!("of-{name}"));
        fs::create_dir(&output).unwrap();
        fs::write(output.join(name), "precious").unwrap();
        let (code, said) = render(&report(), &output, &[]);
        assert_eq!(code, 2);
        assert!(said.contains(name) && said.contains("--force"), "{said}");
        assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
        assert_eq!(fs::read(output.join(name)).unwrap(), b"precious");
        let (code, said) = render(&report(), &output, &["--force"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(fs::read_dir(&output).unwrap().count(), 2);
        assert_ne!(fs::read(output.join(name)).unwrap(), b"precious");
    }
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let (code, said) = render(&report(), &file, &["--force"]);
    assert_eq!((code, said.contains("is not a folder")), (2, true), "{said}");
    let (code, said) = render(&report(), &folder.path().join("missing/page"), &[]);
    assert_eq!((code, said.contains("missing` does not exist")), (2, true), "{said}");
    let blocked = folder.path().join("blocked");
    fs::create_dir_all(blocked.join("index.html")).unwrap();
    let (code, said) = render(&report(), &blocked, &["--force"]);
    assert_eq!((code, said.contains("is a folder")), (2, true), "{said}");
    assert_eq!(fs::read_dir(&blocked).unwrap().count(), 1);
}

#[test]
fn a_report_of_little_has_a_page() {
    let mut report = report();
    for list in ["budget", "ladder", "frontier", "tensors"] {
        report[list] = json!([]);
    }
    for place in ["sensitivity", "recipe"] {
        report[place] = Value::Null;
    }
    report["provenance"]["evaluation_text"] = Value::Null;
    report["prediction"] = json!({ "predicted_kld": 0.0 });
    let (page, _) = page(&report);
    let page = Html::parse_document(&page);
    assert!(select(&page, "svg").is_empty());
    assert!(text(select(&page, ".verdict")[0]).contains("not measured"));
}

#[test]
fn numbers_of_any_size_have_a_page() {
    let mut report = report();
    let tensors = report["tensors"].as_array_mut().unwrap();
    for (tensor, damage) in tensors.iter_mut().zip([5e-324, 1e39, -1e39, -0.0, 1e-300]) {
        tensor["damage"] = json!(damage);
        tensor["layer"] = json!(u32::MAX);
        tensor["weights"] = json!(u64::MAX);
        tensor["histograms"] =
            json!([{ "of": "weights", "bin_width": 1e-320, "counts": [u64::MAX], "clip": 1e308 }]);
    }
    report["frontier"][0]["predicted_kld"] = json!(1e39);
    report["frontier"][1]["predicted_kld"] = json!(-1.0);
    report["ladder"][1]["ppl"] = json!(1e308);
    for tensor in 10..40 {
        report["tensors"][tensor]["operator"] = json!(format!("operator {tensor}"));
    }
    page(&report);
}

#[test]
fn what_is_no_report_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("page");
    let refused = |report: &Value, words: &str| {
        let (code, said) = render(report, &output, &[]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(words) && said.contains("given.json"), "{said}");
        assert!(!output.exists());
    };
    refused(&json!([]), "not the JSON of a report");
    refused(&json!({ "format": "other" }), "not the JSON of a report");
    let changed = |place: &str, value: Value| {
        let mut report = report();
        *report.pointer_mut(place).unwrap() = value;
        report
    };
    refused(&changed("/version", json!([1, 1])), "1.1");
    refused(&changed("/provenance", json!({ "extra": 1 })), "unknown field `extra`");
    refused(&changed("/tensors/3/damage", json!(1e40)), "blk.0.attn_output.weight");
    refused(&changed("/tensors/3/bits_per_weight", json!(-1)), "blk.0.attn_output.weight");
    refused(&changed("/tensors/3/histograms/0/counts", json!([])), "0 bins");
    refused(&changed("/tensors/3/histograms/0/counts", json!(vec![1; 257])), "257 bins");
    refused(&changed("/tensors/3/histograms/0/bin_width", json!(0.0)), "bin_width");
    refused(&changed("/tensors/3/options/0/scheme", json!("w8a8")), "twice");
    refused(&changed("/frontier/0/chosen", json!(true)), "2 points");
    refused(&changed("/budget/0/kind", json!("wishes")), "wishes");
    let row = report()["ladder"][0].clone();
    refused(&changed("/ladder", json!(vec![row; 1001])), "1001 rows");
    let mut many = report();
    for index in 0..17 {
        many["tensors"][index]["options"][0]["scheme"] = json!(format!("scheme {index}"));
    }
    refused(&many, "different schemes");
}
