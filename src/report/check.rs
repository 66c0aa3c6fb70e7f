//! What no report may say.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use tessera_formats::escape::Escaped;

use super::data::{Budget, FORMAT, Histogram, Report, Tensor, VERSION};

/// Most bits per weight: f64, and as much again for scales and padding.
const MOST_BITS: f64 = 128.0;

/// Largest magnitude of a KL divergence, in nats; f32 logits cannot differ by more.
const LARGEST_KLD: f64 = 1e39;

/// Models that a ladder may have.
const MOST_MODELS: usize = 1000;

/// Points that a frontier may have.
const MOST_POINTS: usize = 10_000;

/// Linears that a model may have.
const MOST_TENSORS: usize = 20_000;

/// Refuses a report of another format, or with a number that its page could not show.
pub fn check(report: &Report) -> anyhow::Result<()> {
    ensure!(report.format == FORMAT, "the format is `{}`, not `{FORMAT}`", Escaped(&report.format));
    ensure!(
        report.version == VERSION,
        "the version is {}.{}, and this tessera reads {}.{}",
        report.version[0],
        report.version[1],
        VERSION[0],
        VERSION[1],
    );
    for (list, length, most) in [
        ("ladder", report.ladder.len(), MOST_MODELS),
        ("frontier", report.frontier.len(), MOST_POINTS),
        ("tensors", report.tensors.len(), MOST_TENSORS),
    ] {
        ensure!(length <= most, "`{list}` has {length} rows, and {most} are the most");
    }
    for budget in &report.budget {
        match *budget {
            Budget::TargetBpw(value) => bits("budget", "target_bpw", value)?,
            Budget::MaxKld(value) => kld("budget", "max_kld", Some(value))?,
            Budget::TargetDecode(value) => number("budget", "target_decode", Some(value))?,
            Budget::TargetPrefill(value) => number("budget", "target_prefill", Some(value))?,
            Budget::TargetSize(_) => {}
        }
    }
    number("pack", "bits_per_weight", report.pack.map(|pack| pack.bits_per_weight))?;
    if let Some(pack) = &report.pack {
        number("pack", "decode_tokens_per_second", pack.decode_tokens_per_second)?;
        number("pack", "prefill_tokens_per_second", pack.prefill_tokens_per_second)?;
    }
    let prediction = &report.prediction;
    kld("prediction", "predicted_kld", Some(prediction.predicted_kld))?;
    kld("prediction", "measured_kld", prediction.measured_kld)?;
    number("prediction", "ratio", prediction.ratio)?;
    for row in &report.ladder {
        bits(&row.name, "bits_per_weight", row.bits_per_weight)?;
        number(&row.name, "ppl", Some(row.ppl))?;
        number(&row.name, "ppl_error", Some(row.ppl_error))?;
        kld(&row.name, "mean_kld", row.mean_kld)?;
        kld(&row.name, "mean_kld_error", row.mean_kld_error)?;
        number(&row.name, "same_top", row.same_top)?;
    }
    for point in &report.frontier {
        bits("frontier", "bits_per_weight", point.bits_per_weight)?;
        kld("frontier", "predicted_kld", Some(point.predicted_kld))?;
        kld("frontier", "measured_kld", point.measured_kld)?;
    }
    let chosen = report.frontier.iter().filter(|point| point.chosen).count();
    ensure!(chosen <= 1, "{chosen} points of the frontier are `chosen`, and one at most can be");
    if let Some(sensitivity) = &report.sensitivity {
        number("sensitivity", "spearman", Some(sensitivity.spearman))?;
        number("sensitivity", "seconds_measured", Some(sensitivity.seconds_measured))?;
        number("sensitivity", "seconds_proxy", Some(sensitivity.seconds_proxy))?;
    }
    report.tensors.iter().try_for_each(tensor)?;
    let schemes: BTreeSet<_> =
        report.tensors.iter().flat_map(|t| &t.options).map(|option| &option.scheme).collect();
    ensure!(
        schemes.len() <= Tensor::MOST_OPTIONS,
        "the options have {} different schemes, and {} are the most",
        schemes.len(),
        Tensor::MOST_OPTIONS,
    );
    Ok(())
}

fn tensor(tensor: &Tensor) -> anyhow::Result<()> {
    let name = &tensor.name;
    bits(name, "bits_per_weight", tensor.bits_per_weight)?;
    number(name, "relative_error", tensor.relative_error)?;
    kld(name, "damage", tensor.damage)?;
    number(name, "activation_clip", tensor.activation_clip)?;
    let mut schemes = BTreeSet::new();
    for option in &tensor.options {
        kld(name, "damage", Some(option.damage))?;
        ensure!(
            schemes.insert(&option.scheme),
            "`{}` has the option `{}` twice",
            Escaped(name),
            Escaped(&option.scheme),
        );
    }
    ensure!(
        tensor.histograms.len() <= Tensor::MOST_HISTOGRAMS,
        "`{}` has {} histograms, and {} are the most",
        Escaped(name),
        tensor.histograms.len(),
        Tensor::MOST_HISTOGRAMS,
    );
    for histogram in &tensor.histograms {
        let bins = histogram.counts.len();
        ensure!(
            (1..=Histogram::MOST_BINS).contains(&bins),
            "`{}`: the histogram has {bins} bins, and it must have from 1 to {}",
            Escaped(name),
            Histogram::MOST_BINS,
        );
        let width = histogram.bin_width;
        ensure!(
            width > 0.0 && width < 1e100,
            "`{}`: `bin_width` is {width}, and it must be above 0 and below 1e100",
            Escaped(name),
        );
        number(name, "clip", histogram.clip)?;
    }
    Ok(())
}

/// Refuses what is no number: JSON has no way to write it.
fn number(owner: &str, field: &str, value: Option<f64>) -> anyhow::Result<()> {
    match value {
        Some(value) if !value.is_finite() => {
            bail!("`{}`: `{field}` is {value}, and a number is needed", Escaped(owner))
        }
        _ => Ok(()),
    }
}

fn bits(owner: &str, field: &str, value: f64) -> anyhow::Result<()> {
    ensure!(
        (0.0..=MOST_BITS).contains(&value),
        "`{}`: `{field}` is {value}, and it must be from 0 to {MOST_BITS}",
        Escaped(owner),
    );
    Ok(())
}

fn kld(owner: &str, field: &str, value: Option<f64>) -> anyhow::Result<()> {
    match value {
        Some(value) if value.abs() > LARGEST_KLD => bail!(
            "`{}`: `{field}` is {value}, and no KL divergence is beyond {LARGEST_KLD:e}",
            Escaped(owner),
        ),
        value => number(owner, field, value),
    }
}
