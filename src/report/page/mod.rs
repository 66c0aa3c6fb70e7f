//! The page: one HTML file that loads nothing.
//!
//! Names come from files that nobody has checked: they are shown through [`Escaped`], and the templates
//! escape whatever they are given. Beside each number, `data-field` is its place in the JSON, as a JSON
//! pointer, and `data-value` the number as it stands there.

mod cells;
mod figures;
mod tables;
mod verdict;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use tessera_formats::escape::{Escaped, escaped};

use self::cells::{count, figure, hash, optional};
use super::data::{HashedFile, Model, Report};

/// How the page looks.
const STYLE: &str = include_str!("style.css");

/// What sorts the table of linears.
const SORTING: &str = include_str!("sort.js");

/// SHA-256 of [`SORTING`] in base64: the only script that a browser runs on the page.
const SORTING_DIGEST: &str = "IcvsqLD82NCT1/7nRPgWfiptuItrxzfCAxyw/RjMQc8=";

/// The page of a report.
///
/// # Errors
///
/// Where a picture cannot be drawn.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{SORTING_DIGEST}'; \
         base-uri 'none'; form-action 'none'"
    );
    let name = escaped(&report.model.name);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(format!("tessera {}", env!("CARGO_PKG_VERSION")));
                // Without it, a browser asks a server for an icon.
                link rel="icon" href="data:,";
                title { (name) " – bits of its linears" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Bits of " (name) }
                    (verdict::verdict(report))
                }
                main {
                    (tables::ladder(report))
                    (figures::frontier(report)?)
                    (tables::prediction(report))
                    (figures::layers(report)?)
                    (tables::tensors(&report.tensors))
                    (figures::histograms(report)?)
                    (recipe(&report.recipe))
                    (provenance(report))
                }
                script { (PreEscaped(SORTING)) }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

/// The recipe, as JSON.
fn recipe(recipe: &Value) -> Markup {
    html! {
        section aria-labelledby="recipe" {
            h2 id="recipe" { "Recipe" }
            p.note { "The rules that convert the model the same way again." }
            pre.scroll tabindex="0" role="region" aria-label="Recipe" { (pretty(recipe)) }
        }
    }
}

/// JSON on several lines, with escapes for characters that a reader could misread.
fn pretty(value: &Value) -> String {
    let text = format!("{value:#}");
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        // Outside of strings there are no others, so that an escape is the same JSON.
        let plain = matches!(character, '\n' | '\\')
            || Escaped(character.encode_utf8(&mut [0; 4])).to_string().chars().count() == 1;
        if plain {
            shown.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

fn provenance(report: &Report) -> Markup {
    let Model { name, architecture, parameters, files } = &report.model;
    let made = &report.provenance;
    html! {
        section aria-labelledby="provenance" {
            h2 id="provenance" { "Provenance" }
            dl {
                dt { "tessera" } dd { (escaped(&report.tessera)) }
                dt { "model" } dd { (escaped(name)) ", " (escaped(architecture)) }
                dt { "weights" } dd { (count("/model/parameters", *parameters)) }
                dt { "files" } dd { (hashed(files)) }
                dt { "calibrated on" } dd { (hashed(&made.datasets)) }
                dt { "tokens" } dd { (count("/provenance/tokens", made.tokens)) }
                dt { "tokens of a chunk" } dd { (count("/provenance/context", made.context)) }
                dt { "seed" } dd { (count("/provenance/seed", made.seed)) }
                dt { "evaluated on" } dd { (hashed(made.evaluation_text.as_slice())) }
                dt { "chunks" } dd { (count("/provenance/chunks", made.chunks)) }
                @if let Some(sensitivity) = &report.sensitivity {
                    dt { "seconds of measuring" }
                    dd { (figure("/sensitivity/seconds_measured", sensitivity.seconds_measured)) }
                    dt { "seconds of estimating" }
                    dd { (figure("/sensitivity/seconds_proxy", sensitivity.seconds_proxy)) }
                }
            }
            p.note {
                "All numbers of this page are in " code { (super::JSON_FILE) } " beside it, digit for digit."
            }
        }
    }
}

/// Files with their digests, a line each.
fn hashed(files: &[HashedFile]) -> Markup {
    html! {
        @if files.is_empty() { (optional(None)) }
        @for file in files {
            div { (escaped(&file.name)) " " (hash(&file.sha256)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let word =
                (0..3).fold(0, |word, at| word << 8 | usize::from(*group.get(at).unwrap_or(&0)));
            for digit in 0..4 {
                let shown = digit <= group.len();
                text.push(if shown { DIGITS[word >> (18 - 6 * digit) & 63].into() } else { '=' });
            }
        }
        text
    }

    #[test]
    fn the_policy_allows_the_script() {
        assert_eq!(base64(b"M"), "TQ==");
        assert_eq!(base64(b"Man"), "TWFu");
        assert_eq!(base64(&Sha256::digest(SORTING)), SORTING_DIGEST);
    }

    #[test]
    fn a_recipe_stays_json_whatever_is_in_it() {
        let value = serde_json::json!({ "rule": ["a\\b\"\n\u{202e}x\u{e0001}", "größe", 1.5] });
        let shown = pretty(&value);
        assert!(shown.contains(r#"a\\b\"\n\u202ex\udb40\udc01"#), "{shown}");
        assert!(shown.contains("größe"));
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }
}
