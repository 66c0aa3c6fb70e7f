//! Statistics of several texts as those of all of them.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::file::{Head, Part, StatisticsFile, Writer};
use super::sample::thinned;
use super::{ExpertStatistics, InputStatistics, Provenance, StatisticsError};

/// Writes to `path` what would have been observed of all texts of `parts`, one after another.
///
/// Counts, sums, histograms and Hessians are added; sampled rows are joined and thinned evenly to the
/// number that was asked for. Each part keeps the weights that its own medians gave its rows; medians
/// are the first part's. One input of two parts is in memory at a time.
///
/// # Errors
///
/// If a part cannot be read, the parts are not of one model, prefix and set of options, or the system
/// refuses.
pub fn merge(parts: &[PathBuf], path: &Path) -> Result<(), StatisticsError> {
    let files: Vec<StatisticsFile> =
        parts.iter().map(|part| StatisticsFile::open(part)).collect::<Result<_, _>>()?;
    let (first, others) = files.split_first().ok_or(StatisticsError::Nothing)?;
    let mut provenance = first.provenance().clone();
    for other in others {
        agree(first, other)?;
        join(&mut provenance, other.provenance());
    }
    let heads: Vec<Head> = (0..first.inputs().len())
        .map(|index| head(first, others, &provenance, index))
        .collect::<Result<_, _>>()?;
    let mut writer = Writer::create(path, &provenance, &heads)?;
    for index in 0..heads.len() {
        let mut input = first.load(index)?;
        for other in others {
            add(&mut input, other.load(place_of(other, first, index)?)?);
        }
        let limit = sampled(&provenance, &input);
        input.rows = thinned(&input.rows, input.k, limit);
        writer.write(index, &input)?;
    }
    writer.finish()
}

/// What the header will say of an input, without reading what is large of it.
fn head(
    first: &StatisticsFile,
    others: &[StatisticsFile],
    provenance: &Provenance,
    index: usize,
) -> Result<Head, StatisticsError> {
    let mut input = first.load_sums(index)?;
    let mut rows = first.inputs()[index].sampled;
    for other in others {
        let at = place_of(other, first, index)?;
        add(&mut input, other.load_sums(at)?);
        rows = rows.saturating_add(other.inputs()[at].sampled);
    }
    let mut head = Head::of(&input);
    let rows = rows.min(sampled(provenance, &input));
    // The parts agree in having Hessians.
    head.tensors.extend(first.head(index).tensors.into_iter().filter_map(|(part, shape)| {
        matches!(part, Part::Hessian | Part::Cross | Part::ExpertHessian).then_some((part, shape))
    }));
    head.tensors.extend((rows > 0).then(|| (Part::Rows, vec![rows, input.k])));
    Ok(head)
}

/// Most sampled rows of an input.
fn sampled(provenance: &Provenance, input: &InputStatistics) -> usize {
    let options = &provenance.options;
    let large = options.hessians && u64::try_from(input.k).is_ok_and(|k| k > options.hessian_limit);
    usize::try_from(if large { options.rows_large } else { options.rows }).unwrap_or(usize::MAX)
}

/// Where `other` has the input that `first` has at `index`.
fn place_of(
    other: &StatisticsFile,
    first: &StatisticsFile,
    index: usize,
) -> Result<usize, StatisticsError> {
    let wanted = &first.inputs()[index].linears;
    let name = wanted.first().map_or("", String::as_str);
    let place = other.index_of(name).filter(|&at| &other.inputs()[at].linears == wanted);
    place.ok_or_else(|| refused(first, other, "inputs", &format!("of {wanted:?}"), "missing"))
}

fn refused(
    first: &StatisticsFile,
    second: &StatisticsFile,
    what: &str,
    expected: &str,
    found: &str,
) -> StatisticsError {
    StatisticsError::Merge {
        first: first.path().to_owned(),
        second: second.path().to_owned(),
        what: what.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

/// Refuses parts that were not observed in the same way.
fn agree(first: &StatisticsFile, second: &StatisticsFile) -> Result<(), StatisticsError> {
    let (a, b) = (first.provenance(), second.provenance());
    if !a.same_model(&b.model) {
        let (expected, found) =
            (super::provenance::files(&a.model), super::provenance::files(&b.model));
        return Err(refused(first, second, "the model", &expected, &found));
    }
    let (context, other) = (a.context.to_string(), b.context.to_string());
    for (what, expected, found) in [
        ("the architecture", &a.architecture, &b.architecture),
        ("the context", &context, &other),
        ("the prefix", &a.options.prefix, &b.options.prefix),
    ] {
        if expected != found {
            return Err(refused(first, second, what, expected, found));
        }
    }
    if a.options != b.options {
        let (expected, found) = (format!("{:?}", a.options), format!("{:?}", b.options));
        return Err(refused(first, second, "the set of options", &expected, &found));
    }
    if first.inputs().len() != second.inputs().len() {
        let (expected, found) = (first.inputs().len(), second.inputs().len());
        let (expected, found) = (expected.to_string(), found.to_string());
        return Err(refused(first, second, "the number of inputs", &expected, &found));
    }
    for (index, input) in first.inputs().iter().enumerate() {
        let at = place_of(second, first, index)?;
        let (head, other) = (first.head(index), second.head(at));
        // A part of no rows has no histograms and no sample.
        let kinds = |head: &Head| -> Vec<Part> {
            let optional = [Part::Rows, Part::Magnitudes, Part::Rotated];
            let parts = head.tensors.iter().map(|(part, _)| *part);
            parts.filter(|part| !optional.contains(part)).collect()
        };
        let figures = (input.k, input.experts, kinds(&head));
        let others = (second.inputs()[at].k, second.inputs()[at].experts, kinds(&other));
        if figures != others {
            let what = format!("the input of `{}`", head.name());
            let describe = |(k, experts, kinds): &(usize, Option<usize>, Vec<Part>)| {
                format!("{k} channels, {} experts, {kinds:?}", experts.unwrap_or(0))
            };
            let (expected, found) = (describe(&figures), describe(&others));
            return Err(refused(first, second, &what, &expected, &found));
        }
    }
    Ok(())
}

/// Adds what `other` says of its text.
fn join(provenance: &mut Provenance, other: &Provenance) {
    provenance.data.extend(other.data.iter().cloned());
    provenance.tokens = provenance.tokens.saturating_add(other.tokens);
}

/// Adds statistics of the same input over another text; rows are joined.
fn add(input: &mut InputStatistics, other: InputStatistics) {
    input.tokens = input.tokens.saturating_add(other.tokens);
    input.magnitudes.merge(other.magnitudes);
    input.rotated.merge(other.rotated);
    add_f64(&mut input.sum, &other.sum);
    add_f64(&mut input.squares, &other.squares);
    add_f64(&mut input.robust_squares, &other.robust_squares);
    input.rms.merge(&other.rms);
    input.crest.merge(&other.crest);
    input.robust_weight += other.robust_weight;
    input.massive = input.massive.saturating_add(other.massive);
    input.rows.extend_from_slice(&other.rows);
    add_f32(input.hessian.as_deref_mut(), other.hessian.as_deref());
    add_f64(&mut input.reference_sum, &other.reference_sum);
    add_f32(input.cross.as_deref_mut(), other.cross.as_deref());
    for (expert, other) in input.experts.iter_mut().zip(other.experts) {
        add_expert(expert, &other);
    }
}

fn add_expert(expert: &mut ExpertStatistics, other: &ExpertStatistics) {
    expert.tokens = expert.tokens.saturating_add(other.tokens);
    add_f64(&mut expert.sum, &other.sum);
    add_f64(&mut expert.squares, &other.squares);
    expert.hessian_weight += other.hessian_weight;
    add_f32(expert.hessian.as_deref_mut(), other.hessian.as_deref());
}

fn add_f64(sums: &mut [f64], other: &[f64]) {
    for (sum, other) in sums.iter_mut().zip(other) {
        *sum += other;
    }
}

fn add_f32(sums: Option<&mut [f32]>, other: Option<&[f32]>) {
    if let (Some(sums), Some(other)) = (sums, other) {
        sums.par_iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
    }
}
