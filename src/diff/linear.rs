//! Two linears of packs: by their entries and the digests first, and read where these differ.

use std::borrow::Cow;

use anyhow::Context;
use tessera_formats::npu::Engine;
use tessera_formats::pack::manifest::{Activation, Granularity, Input, Linear, Rounding, Segment};
use tessera_formats::pack::{PackReader, names};

use super::Comparison;
use super::change::Change;
use super::measure::{self, Weights};
use crate::convert::budget::Budget;
use crate::weights::Basis;

/// A linear and the pack it stands in.
type Place<'a> = (&'a PackReader, &'a Linear);

/// Compares two linears.
pub fn compare(a: Place<'_>, b: Place<'_>, budget: Budget) -> anyhow::Result<Comparison> {
    let mut changes = Changes(Vec::new());
    let (of_a, of_b) = (a.1, b.1);
    changes.value("scheme", of_a.scheme.name(), of_b.scheme.name());
    let shape = |linear: &Linear| (linear.experts, linear.n, linear.k);
    let same_shape = shape(of_a) == shape(of_b);
    changes.value("shape", &shown_shape(of_a), &shown_shape(of_b));
    let (input_a, input_b) = (input(a)?, input(b)?);
    let same_basis = same_shape && same_basis(a, b, input_a, input_b, &mut changes)?;
    let same_layout = layout(of_a, of_b, &mut changes);
    options(of_a, of_b, &mut changes);
    if !same_shape {
        return Ok(Comparison::incomparable(changes.0));
    }
    correction(a, b, &mut changes)?;
    let scales = same_digest(a, &of_a.scale, b, &of_b.scale);
    changes.value("scale type", &scale_type(a), &scale_type(b));
    let tiles = of_a.segments.iter().map(|segment| &segment.sha256);
    let tiles = tiles.eq(of_b.segments.iter().map(|segment| &segment.sha256));
    if scales && tiles && same_layout && same_basis {
        records(of_a, of_b, input_a, input_b, &mut changes);
        let golden = names::GOLDEN_INPUTS;
        // Results of the same tiles are those of the same inputs and operands.
        if same_digest(a, golden, b, golden) && of_a.activation_range() == of_b.activation_range() {
            changes.segments("golden results", of_a, of_b, |a, b| a.golden != b.golden);
        }
        return Ok(Comparison::same_weights(changes.0));
    }

    let (tiled_a, tiled_b) = (Weights::open(a.0, of_a)?, Weights::open(b.0, of_b)?);
    // Scales of other integers tell nothing.
    if !scales && of_a.scheme.engine() == of_b.scheme.engine() {
        let (scales_a, scales_b) = (tiled_a.scales(), tiled_b.scales());
        if scales_a.len() == scales_b.len() {
            changes.0.extend(Change::between("scales", scales_a, scales_b));
        } else {
            let [count_a, count_b] = [scales_a, scales_b].map(|scales| scales.len().to_string());
            changes.value("scales", &count_a, &count_b);
        }
    }
    let measured = measure::rows(&of_a.name, &tiled_a, &tiled_b, budget)?;
    if let Some(changed) = measured.changed.filter(|_| !tiles) {
        let what = match of_a.scheme.engine() {
            Engine::F16 => "halves",
            Engine::I8 | Engine::I4 => "integers",
        };
        let rows = of_a.n.saturating_mul(of_a.experts.unwrap_or(1));
        let of = rows.saturating_mul(input_a.rotation.size);
        changes.0.push(Change::numbers(what, changed, of, None));
    }
    Ok(Comparison::measured(changes.0, &measured))
}

/// What was found so far.
struct Changes(Vec<Change>);

impl Changes {
    /// Adds a property if its values differ.
    fn value(&mut self, what: &'static str, a: &str, b: &str) {
        if a != b {
            self.0.push(Change::value(what, a, b));
        }
    }

    /// Adds how many segments of two linears differ in something, if any do.
    fn segments(
        &mut self,
        what: &'static str,
        a: &Linear,
        b: &Linear,
        differ: impl Fn(&Segment, &Segment) -> bool,
    ) {
        let changed = a.segments.iter().zip(&b.segments).filter(|(a, b)| differ(a, b)).count();
        if changed > 0 {
            let [changed, of] =
                [changed, a.segments.len()].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
            self.0.push(Change::numbers(what, changed, of, None));
        }
    }
}

fn input<'a>((pack, linear): Place<'a>) -> anyhow::Result<&'a Input> {
    pack.input(&linear.input).context("input of a linear")
}

/// Shape as a tensor has it, the slowest dimension first.
fn shown_shape(linear: &Linear) -> String {
    let dims = [linear.experts, Some(linear.n), Some(linear.k)];
    format!("{:?}", dims.into_iter().flatten().collect::<Vec<_>>())
}

/// The digest that a pack records of a tensor that is no tiles and not carried.
fn digest<'a>(pack: &'a PackReader, tensor: &str) -> Option<&'a String> {
    let shard = pack.tensor_info(tensor)?.shard;
    pack.manifest(shard)?.digests.get(tensor)
}

/// Whether two packs record one digest of their tensors, which is all there is to know of them.
fn same_digest((a, _): Place<'_>, tensor_a: &str, (b, _): Place<'_>, tensor_b: &str) -> bool {
    let dtype = |pack: &PackReader, tensor| pack.tensor_info(tensor).map(|info| info.dtype);
    digest(a, tensor_a).is_some_and(|found| Some(found) == digest(b, tensor_b))
        && dtype(a, tensor_a) == dtype(b, tensor_b)
}

fn scale_type((pack, linear): Place<'_>) -> String {
    pack.tensor_info(&linear.scale).map_or_else(String::new, |info| info.dtype.to_string())
}

/// Whether integers stand in the same basis; how rotations, signs and diagonals differ.
fn same_basis(
    a: Place<'_>,
    b: Place<'_>,
    input_a: &Input,
    input_b: &Input,
    changes: &mut Changes,
) -> anyhow::Result<bool> {
    let rotation_a = &input_a.rotation;
    let rotation_b = &input_b.rotation;
    let factors = match (&rotation_a.factor, &rotation_b.factor) {
        (Some(factor_a), Some(factor_b)) => same_digest(a, &factor_a.tensor, b, &factor_b.tensor),
        (None, None) => true,
        _ => false,
    };
    let vectors = match (&input_a.vector, &input_b.vector) {
        (Some(vector_a), Some(vector_b)) => same_digest(a, vector_a, b, vector_b),
        (None, None) => true,
        _ => false,
    };
    let same_rotation = factors && rotation_a == rotation_b;
    if same_rotation && vectors {
        changes.value("equalization", &input_a.equalization, &input_b.equalization);
        return Ok(true);
    }
    let (basis_a, basis_b) = (Basis::read(a.0, input_a)?, Basis::read(b.0, input_b)?);
    if !same_rotation {
        let [shown_a, shown_b] = [&basis_a, &basis_b].map(|basis| basis.rotation.to_string());
        if shown_a == shown_b {
            let factor = |basis: &Basis| basis.rotation.factor().unwrap_or_default().to_vec();
            changes.0.extend(Change::between("rotation", &factor(&basis_a), &factor(&basis_b)));
        } else {
            changes.value("rotation", &shown_a, &shown_b);
        }
    }
    if !vectors {
        let (vector_a, vector_b) = (elements(&basis_a), elements(&basis_b));
        let signs = |vector: &[f32]| -> Vec<f32> { vector.iter().map(|v| v.signum()).collect() };
        let diagonal = |vector: &[f32]| -> Vec<f32> { vector.iter().map(|v| v.abs()).collect() };
        if let Some(Change::Numbers { changed, of, .. }) =
            Change::between("signs", &signs(&vector_a), &signs(&vector_b))
        {
            changes.0.push(Change::numbers("signs", changed, of, None));
        }
        changes.value("equalization", &input_a.equalization, &input_b.equalization);
        let diagonals = (diagonal(&vector_a), diagonal(&vector_b));
        changes.0.extend(Change::between("diagonal", &diagonals.0, &diagonals.1));
    } else {
        changes.value("equalization", &input_a.equalization, &input_b.equalization);
    }
    Ok(false)
}

/// The vector of a basis, ones where it has none.
fn elements(basis: &Basis) -> Cow<'_, [f32]> {
    match &basis.vector {
        Some(vector) => Cow::Borrowed(vector),
        None => Cow::Owned(vec![1.0; basis.rotation.k()]),
    }
}

/// Whether tiles and scales are laid out alike, so that the same bytes mean the same weights.
fn layout(a: &Linear, b: &Linear, changes: &mut Changes) -> bool {
    let granularity = |linear: &Linear| match linear.granularity {
        Granularity::Tensor => "tensor",
        Granularity::Channel => "channel",
    };
    changes.value("granularity", granularity(a), granularity(b));
    let lengths = |linear: &Linear| -> Vec<u64> {
        linear.segments.iter().map(|segment| segment.length).collect()
    };
    let (lengths_a, lengths_b) = (lengths(a), lengths(b));
    if a.scheme.engine() == b.scheme.engine() {
        let shown = |lengths: &[u64]| match lengths_a.len() == lengths_b.len() {
            true => format!("{lengths:?}"),
            false => lengths.len().to_string(),
        };
        changes.value("segments", &shown(&lengths_a), &shown(&lengths_b));
    }
    a.scheme.engine() == b.scheme.engine()
        && a.granularity == b.granularity
        && lengths_a == lengths_b
}

/// How the linears' options differ, as far as entries record them.
fn options(a: &Linear, b: &Linear, changes: &mut Changes) {
    changes.value("calibrator", &a.calibrator, &b.calibrator);
    let rounding = |linear: &Linear| match linear.rounding {
        Rounding::Nearest => "nearest",
        Rounding::Gptq => "gptq",
    };
    changes.value("rounding", rounding(a), rounding(b));
    match (&a.activation, &b.activation) {
        (Activation::Static { threshold: a }, Activation::Static { threshold: b })
            if a.len() == b.len() =>
        {
            changes.0.extend(Change::between("activation thresholds", a, b));
        }
        (a, b) if a != b => changes.value("activation scale", &activation(a), &activation(b)),
        _ => {}
    }
}

/// How activations are scaled, in the words of the command line.
fn activation(activation: &Activation) -> String {
    match activation {
        Activation::Dynamic { rms_clip, asymmetric, fitted } => {
            let scale = rms_clip.map_or_else(|| "dynamic".to_owned(), |clip| format!("rms:{clip}"));
            let zero_point = match (asymmetric, fitted) {
                (false, _) => "",
                (true, false) => " with a zero point",
                (true, true) => " with a fitted zero point",
            };
            scale + zero_point
        }
        Activation::Static { threshold } => match &threshold[..] {
            [threshold] => format!("static, {threshold}"),
            thresholds => format!("static, {} thresholds", thresholds.len()),
        },
    }
}

fn correction(a: Place<'_>, b: Place<'_>, changes: &mut Changes) -> anyhow::Result<()> {
    match (&a.1.correction, &b.1.correction) {
        (None, None) => {}
        (Some(tensor_a), Some(tensor_b)) => {
            if !same_digest(a, tensor_a, b, tensor_b) {
                let (values_a, values_b) = (a.0.read_f32(tensor_a)?, b.0.read_f32(tensor_b)?);
                changes.0.extend(Change::between("correction", &values_a, &values_b));
            }
        }
        (has_a, has_b) => {
            let [shown_a, shown_b] =
                [has_a, has_b].map(|has| if has.is_some() { "present" } else { "none" });
            changes.value("correction", shown_a, shown_b);
        }
    }
    Ok(())
}

/// How records differ that follow from the weights, of linears that hold the same.
fn records(a: &Linear, b: &Linear, input_a: &Input, input_b: &Input, changes: &mut Changes) {
    let show = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |v| v.to_string());
    for (what, value_a, value_b) in [
        ("recorded error", Some(a.relative_rms), Some(b.relative_rms)),
        ("recorded clip", Some(a.mean_clip), Some(b.mean_clip)),
        ("recorded output error", a.output_error, b.output_error),
    ] {
        changes.value(what, &show(value_a), &show(value_b));
    }
    let trial = |input: &Input| input.sign_trial.map_or("none".to_owned(), |t| t.to_string());
    changes.value("sign trial", &trial(input_a), &trial(input_b));
    // A certificate holds for a range of activations.
    if a.activation_range() == b.activation_range() {
        changes.segments("certificates", a, b, |a, b| a.accumulator != b.accumulator);
    }
}
