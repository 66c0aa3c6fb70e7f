//! A GGUF file: its model, its tensors, and what each scheme would make of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::gguf::{Gguf, Shard, TensorInfo, Value};
use tessera_formats::npu::{Engine, Scheme, Target};

use super::memory::{self, Fit};
use crate::convert::plan::Plan;
use crate::options::{Overrides, SchemeChoice};
use crate::recipe::Recipe;
use crate::{size, table};

/// Characters of a value that are shown.
const LONGEST_VALUE: usize = 60;

/// Mean magnitude of a 4-bit weight whose clip was chosen for least squared error, measured on
/// rotated rows; with it the number of K segments is estimated.
const MEAN_MAGNITUDE: f64 = 2.35;

/// What a GGUF file holds.
#[derive(Clone, Debug, Serialize)]
pub struct GgufReport {
    /// `gguf`.
    pub kind: &'static str,
    /// Its files.
    pub files: Vec<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// GGUF version.
    pub version: u32,
    /// `general.architecture`.
    pub architecture: String,
    /// Values of all tensors.
    pub parameters: u64,
    /// Every key: its value, or the type and length of an array.
    pub metadata: BTreeMap<String, String>,
    /// Tensors by type.
    pub types: BTreeMap<&'static str, TypeReport>,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorReport>,
    /// Bytes of an f16 key-value cache for up to 4096 tokens.
    pub cache_bytes: u64,
    /// What each scheme would make of it.
    pub schemes: Vec<SchemeReport>,
}

/// Tensors of one type.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TypeReport {
    /// How many.
    pub tensors: usize,
    /// Bytes of all.
    pub bytes: u64,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// ggml type.
    #[serde(rename = "type")]
    pub ggml_type: &'static str,
    /// Shape, slowest dimension first.
    pub shape: Vec<u64>,
    /// Bytes.
    pub bytes: u64,
    /// Offset in its file.
    pub offset: u64,
}

/// What one scheme would make of the file.
#[derive(Clone, Debug, Serialize)]
pub struct SchemeReport {
    /// The scheme.
    pub scheme: Scheme,
    /// Why it cannot be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Tensors that become linears.
    pub linears: usize,
    /// Matrices in them: experts count each.
    pub matrices: usize,
    /// K segments over all matrices; an estimate for 4 bits, where the weights decide.
    pub segments: usize,
    /// Bytes of tiles.
    pub tile_bytes: u64,
    /// Bytes of tiles that are padding.
    pub padding_bytes: u64,
    /// Bytes of tensors that stay as they are.
    pub carried_bytes: u64,
    /// IOMMU domains for the tiles.
    pub domains: usize,
    /// Whether the target has so many.
    pub domains_suffice: bool,
    /// Whether it fits boards of 4, 8, 16 and 32 GiB.
    pub boards: Vec<Fit>,
}

impl GgufReport {
    /// Reads the headers of a GGUF file.
    pub fn read(path: &Path, target: &Target) -> anyhow::Result<Self> {
        let gguf = Gguf::open(path)?;
        let mut types: BTreeMap<_, TypeReport> = BTreeMap::new();
        for tensor in gguf.tensors() {
            let figures = types.entry(tensor.ggml_type.name()).or_default();
            figures.tensors += 1;
            figures.bytes += tensor.bytes;
        }
        let cache_bytes = memory::cache_bytes(&gguf);
        let choices =
            [SchemeChoice::W16A16, SchemeChoice::W8A8, SchemeChoice::W4A8, SchemeChoice::W4A4];
        Ok(GgufReport {
            kind: "gguf",
            files: gguf.shards().iter().map(|shard| shard.path().display().to_string()).collect(),
            bytes: gguf.shards().iter().map(Shard::len).sum(),
            version: gguf.version(),
            architecture: gguf.architecture().unwrap_or_default().to_owned(),
            parameters: gguf
                .tensors()
                .iter()
                .map(TensorInfo::elements)
                .fold(0, u64::saturating_add),
            metadata: gguf
                .metadata()
                .iter()
                .map(|(key, value)| (key.to_owned(), summary(value)))
                .collect(),
            types,
            tensors: gguf
                .tensors()
                .iter()
                .map(|tensor| TensorReport {
                    name: tensor.name.clone(),
                    ggml_type: tensor.ggml_type.name(),
                    shape: tensor.dims.iter().rev().copied().collect(),
                    bytes: tensor.bytes,
                    offset: tensor.offset,
                })
                .collect(),
            cache_bytes,
            schemes: choices
                .into_iter()
                .filter_map(|choice| Some((choice, choice.scheme()?)))
                .map(|(choice, scheme)| scheme_report(&gguf, choice, scheme, target, cache_bytes))
                .collect(),
        })
    }

    /// The report as text; with every tensor if asked.
    pub fn text(&self, tensors: bool) -> String {
        let mut text = String::new();
        for file in &self.files {
            let _ = writeln!(text, "{}", escaped(file));
        }
        let _ = writeln!(
            text,
            "GGUF {}, {}, {} parameters, {}, {} tensors\n",
            self.version,
            escaped(&self.architecture),
            self.parameters,
            size::show(self.bytes),
            self.tensors.len(),
        );
        let mut metadata = table::with_headers(&["key", "value"], &[]);
        for (key, value) in &self.metadata {
            let shown: String = value.chars().take(LONGEST_VALUE).collect();
            let more = if shown.len() < value.len() { "…" } else { "" };
            metadata.add_row([escaped(key), escaped(&shown) + more]);
        }
        let _ = writeln!(text, "{metadata}\n");
        if tensors {
            let mut rows = table::with_headers(&["tensor", "type", "shape", "bytes"], &[3]);
            for tensor in &self.tensors {
                rows.add_row([
                    escaped(&tensor.name),
                    tensor.ggml_type.to_owned(),
                    format!("{:?}", tensor.shape),
                    tensor.bytes.to_string(),
                ]);
            }
            let _ = writeln!(text, "{rows}\n");
        } else {
            let mut rows = table::with_headers(&["type", "tensors", "bytes"], &[1, 2]);
            for (name, figures) in &self.types {
                let bytes = size::show(figures.bytes);
                rows.add_row([(*name).to_owned(), figures.tensors.to_string(), bytes]);
            }
            let _ = writeln!(text, "{rows}\n");
        }
        let _ = writeln!(text, "{}", self.scheme_table());
        for report in &self.schemes {
            if let Some(problem) = &report.problem {
                let _ = writeln!(text, "{}: {problem}", report.scheme);
            }
        }
        let _ = writeln!(
            text,
            "\n4-bit segments are estimated; boards count 1 GiB for the system and {} of cache",
            size::show(self.cache_bytes),
        );
        text
    }

    fn scheme_table(&self) -> String {
        let headers = [
            "scheme", "linears", "segments", "tiles", "padding", "carried", "domains", "4G", "8G",
            "16G", "32G",
        ];
        let mut rows = table::with_headers(&headers, &[1, 2, 3, 4, 5, 6]);
        for report in self.schemes.iter().filter(|report| report.problem.is_none()) {
            let mut row = vec![
                report.scheme.to_string(),
                report.linears.to_string(),
                report.segments.to_string(),
                size::show(report.tile_bytes),
                format!("{:.1} %", percent(report.padding_bytes, report.tile_bytes)),
                size::show(report.carried_bytes),
                report.domains.to_string()
                    + if report.domains_suffice { "" } else { " (too many)" },
            ];
            row.extend(report.boards.iter().map(|fit| if fit.fits { "yes" } else { "no" }.into()));
            rows.add_row(row);
        }
        rows.to_string()
    }
}

/// A value as one line: scalars as they are, arrays by type and length.
fn summary(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(array) => format!("[{}; {}]", array.element_type().name(), array.len()),
        other => other.to_string(),
    }
}

/// What a scheme would make of the file.
fn scheme_report(
    gguf: &Gguf,
    choice: SchemeChoice,
    scheme: Scheme,
    target: &Target,
    cache_bytes: u64,
) -> SchemeReport {
    let recipe = Recipe::uniform(Overrides { scheme: Some(choice), ..Overrides::default() });
    let mut report = SchemeReport {
        scheme,
        problem: None,
        linears: 0,
        matrices: 0,
        segments: 0,
        tile_bytes: 0,
        padding_bytes: 0,
        carried_bytes: 0,
        domains: 0,
        domains_suffice: true,
        boards: Vec::new(),
    };
    let plan = match Plan::new(gguf, &recipe, target) {
        Ok(plan) => plan,
        Err(error) => {
            report.problem = Some(format!("{error:#}"));
            return report;
        }
    };
    for linear in &plan.linears {
        let tensor = &gguf.tensors()[linear.source];
        let bits = u64::try_from(scheme.engine().weight_bits()).unwrap_or(0);
        report.linears += 1;
        report.matrices += linear.matrices();
        report.segments +=
            linear.matrices() * segments(scheme, linear.k_padded, linear.fewest_segments);
        report.tile_bytes += linear.tile_bytes();
        report.padding_bytes +=
            linear.tile_bytes().saturating_sub(tensor.elements().saturating_mul(bits) / 8);
    }
    report.carried_bytes = plan.carried.iter().map(|&tensor| gguf.tensors()[tensor].bytes).sum();
    report.domains = plan.memory.domain_bytes.len();
    report.domains_suffice = plan.fits_domains(target);
    report.boards = memory::fits(report.tile_bytes + report.carried_bytes, cache_bytes);
    report
}

/// K segments of a linear, estimated for the 4-bit engine; activations of `w4a4` have zero points by default.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate from small positive numbers"
)]
fn segments(scheme: Scheme, k_padded: usize, fewest: usize) -> usize {
    let (Engine::I4, Some((low, high))) =
        (scheme.engine(), scheme.activation_range(scheme == Scheme::W4A4))
    else {
        return fewest;
    };
    let digit = (f64::from(high) - f64::from(low)) / 2.0;
    let longest = f64::from(i16::MAX) / (digit * MEAN_MAGNITUDE);
    fewest.max((k_padded as f64 / longest).ceil() as usize)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
