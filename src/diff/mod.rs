//! The comparison of two files, packs or GGUF, tensor by tensor.

mod beside;
mod change;
mod content;
mod file;
mod linear;
mod measure;
mod report;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use self::change::Change;
use self::content::Content;
use self::file::{ModelFile, Tensor};
use self::measure::{Measured, Weights};
pub use self::report::Report;
use self::report::{Status, Stored, TensorReport};
use crate::convert::budget::Budget;
use crate::progress::Progress;

/// What is to be compared.
pub struct Request<'a> {
    /// The file that errors are relative to.
    pub a: &'a Path,
    /// The file that is held against it.
    pub b: &'a Path,
    /// Whether tensors that are equal are listed, too.
    pub all: bool,
    /// Memory and threads.
    pub budget: Budget,
}

/// Compares two files. What is digested in both is compared by the digests that they record, and
/// only what differs is read.
pub fn diff(request: &Request<'_>) -> anyhow::Result<Report> {
    let a = ModelFile::open(request.a)?;
    let b = ModelFile::open(request.b)?;
    let (of_a, of_b) = (a.tensors()?, b.tensors()?);
    let mut report = Report::new((&a, &of_a), (&b, &of_b));
    let names_of_a: HashMap<&str, &Tensor<'_>> = by_name(&of_a);
    let names_of_b: HashMap<&str, &Tensor<'_>> = by_name(&of_b);
    let bytes = of_a.iter().chain(&of_b).map(|tensor| tensor.bytes).fold(0, u64::saturating_add);
    let progress = Progress::start("comparing", bytes);
    let mut taken = HashSet::new();
    for tensor in &of_a {
        let other = names_of_b.get(tensor.name).copied();
        let entry = match other.or_else(|| tied(tensor, &names_of_b)) {
            Some(other) => pair(tensor.name, tensor, other, request.budget)?,
            None => TensorReport::alone(tensor.name, Some(Stored::new(tensor)), None),
        };
        if other.is_some() {
            taken.insert(tensor.name);
        }
        report.add(entry, request.all);
        progress.advance(tensor.bytes.saturating_add(other.map_or(0, |other| other.bytes)));
    }
    for tensor in of_b.iter().filter(|tensor| !taken.contains(tensor.name)) {
        let entry = match tied(tensor, &names_of_a) {
            Some(other) => pair(tensor.name, other, tensor, request.budget)?,
            None => TensorReport::alone(tensor.name, None, Some(Stored::new(tensor))),
        };
        report.add(entry, request.all);
        progress.advance(tensor.bytes);
    }
    progress.finish();
    report.beside = beside::differences(&a, &b)?;
    a.check_unchanged()?;
    b.check_unchanged()?;
    Ok(report.finish())
}

fn by_name<'t, 'a>(tensors: &'t [Tensor<'a>]) -> HashMap<&'a str, &'t Tensor<'a>> {
    tensors.iter().map(|tensor| (tensor.name, tensor)).collect()
}

/// The tensor of the other file that a linear was made from under another name: the embedding that
/// a tied head shares.
fn tied<'t, 'a>(
    tensor: &Tensor<'a>,
    others: &HashMap<&'a str, &'t Tensor<'a>>,
) -> Option<&'t Tensor<'a>> {
    let Content::Linear(_, linear) = &tensor.content else { return None };
    let other = others.get(linear.source.as_str()).copied()?;
    (linear.source != linear.name && other.dims == tensor.dims).then_some(other)
}

/// Compares two tensors that stand for the same one.
fn pair(
    name: &str,
    a: &Tensor<'_>,
    b: &Tensor<'_>,
    budget: Budget,
) -> anyhow::Result<TensorReport> {
    let found = compare(a, b, budget)?;
    // What a tensor of another name takes is counted where that name stands.
    let stored = |tensor: &Tensor<'_>| match tensor.name == name {
        true => Stored::new(tensor),
        false => Stored { bytes: 0, ..Stored::new(tensor) },
    };
    let mut changes = found.changes;
    if a.name != b.name {
        changes.insert(0, Change::value("name", a.name, b.name));
    }
    Ok(TensorReport {
        name: name.to_owned(),
        status: if changes.is_empty() { Status::Equal } else { Status::Different },
        a: Some(stored(a)),
        b: Some(stored(b)),
        changes,
        relative_rms: found.relative_rms,
        cosine: found.cosine,
    })
}

/// What is known of two tensors.
struct Comparison {
    changes: Vec<Change>,
    relative_rms: Option<f64>,
    cosine: Option<f64>,
}

impl Comparison {
    /// Of tensors that hold the same weights.
    fn same_weights(changes: Vec<Change>) -> Self {
        Comparison { changes, relative_rms: Some(0.0), cosine: Some(1.0) }
    }

    /// Of tensors whose weights cannot be compared.
    fn incomparable(changes: Vec<Change>) -> Self {
        Comparison { changes, relative_rms: None, cosine: None }
    }

    fn measured(changes: Vec<Change>, measured: &Measured) -> Self {
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        Comparison {
            changes,
            relative_rms: finite(measured.deviation.and_then(|sums| sums.relative_rms())),
            cosine: finite(measured.deviation.and_then(|sums| sums.cosine())),
        }
    }
}

fn compare(a: &Tensor<'_>, b: &Tensor<'_>, budget: Budget) -> anyhow::Result<Comparison> {
    if let (Content::Linear(pack_a, linear_a), Content::Linear(pack_b, linear_b)) =
        (&a.content, &b.content)
    {
        return linear::compare((*pack_a, *linear_a), (*pack_b, *linear_b), budget);
    }
    let mut changes = Vec::new();
    if a.form() != b.form() {
        let linear = [a, b].iter().any(|t| matches!(t.content, Content::Linear(..)));
        changes.push(Change::value(if linear { "scheme" } else { "type" }, a.form(), b.form()));
    }
    if a.dims != b.dims {
        changes.push(Change::value("shape", &a.shape(), &b.shape()));
        return Ok(Comparison::incomparable(changes));
    }
    if let (Content::Blocks(blocks_a), Content::Blocks(blocks_b)) = (&a.content, &b.content)
        && blocks_a.ggml_type == blocks_b.ggml_type
    {
        if content::equal(blocks_a, blocks_b)? {
            return Ok(Comparison::same_weights(changes));
        }
        let measured = measure::blocks(a.name, blocks_a, blocks_b, budget)?;
        changes.push(Change::numbers("bytes", measured.changed.unwrap_or(0), a.bytes, None));
        return Ok(Comparison::measured(changes, &measured));
    }
    if !a.has_weights() || !b.has_weights() {
        return Ok(Comparison::incomparable(changes));
    }
    let measured = match (&a.content, &b.content) {
        (Content::Blocks(of_a), Content::Blocks(of_b)) => {
            measure::blocks(a.name, of_a, of_b, budget)?
        }
        _ => measure::rows(a.name, &Weights::of(a)?, &Weights::of(b)?, budget)?,
    };
    Ok(Comparison::measured(changes, &measured))
}
