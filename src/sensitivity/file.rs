//! The file of sensitivities: what each scheme of each linear does to the logits, and what it takes.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tessera_calibration::statistics::{DataSource, FileDigest};
use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::npu::{Scheme, Work};
use tessera_formats::temporary::TemporaryFile;

use crate::convert::roles;
use crate::options::SchemeChoice;
use crate::text_file;

/// What the file calls itself.
const FORMAT: &str = "tessera-sensitivity";

/// Major and minor version. A reader refuses another major one and a newer minor one.
const VERSION: [u64; 2] = [1, 0];

/// Largest file that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;

/// More weights than a linear has, and more bytes: sums over all linears that a file has room for
/// stay within 64 bits.
const MOST_WEIGHTS: u64 = 1 << 40;
const MOST_BYTES: u64 = 1 << 40;

/// More matrices, and segments of each, than any linear has.
const MOST_PARTS: u64 = 1 << 20;

/// Most layers and operators: each option is looked up among them.
const MOST_LAYERS: usize = 4096;
const MOST_OPERATORS: usize = 256;

/// What was measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivities {
    format: String,
    version: [u64; 2],
    /// On what, and how.
    pub setting: Setting,
    /// Every linear that is converted, layer by layer, the head last.
    pub linears: Vec<Linear>,
    /// Every layer, whose linears were demoted together, and the head.
    pub layers: Vec<LayerDivergence>,
    /// What errors of outputs do by operator, where linears of a layer were demoted one by one.
    pub operators: Vec<OperatorFactor>,
}

/// What a measurement depends on. Measurements of one setting are one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The model's files.
    pub model: Vec<FileDigest>,
    /// The text.
    pub data: Vec<DataSource>,
    /// Tokens of a chunk.
    pub context: u64,
    /// Chunks, of which the second half of the tokens is scored.
    pub chunks: u64,
    /// Seed of the choice of chunks and of quantization.
    pub seed: u64,
    /// The recipe but for schemes, as in statistics files.
    pub recipe: String,
    /// SHA-256 of the statistics that linears were quantized by.
    pub statistics: String,
    /// The chip.
    pub target: String,
    /// Schemes that were tried, in the order of options.
    pub schemes: Vec<Scheme>,
    /// Whether every linear was demoted on its own, or damages are estimates.
    pub measured: bool,
}

/// One linear, or one tensor of experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Name in the pack.
    pub name: String,
    /// Its layer; none for the head.
    pub layer: Option<u64>,
    /// Weights.
    pub weights: u64,
    /// Matrices: one, or as many as experts.
    pub matrices: u64,
    /// Matrices that a token is multiplied by.
    pub used: u64,
    /// Whether the recipe says its scheme.
    pub pinned: bool,
    /// One for each scheme that may be chosen.
    pub options: Vec<Demotion>,
}

/// A linear at a scheme, all others in floats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demotion {
    /// The scheme.
    pub scheme: Scheme,
    /// Bytes of its tiles.
    pub tile_bytes: u64,
    /// Bytes of its scales and corrections.
    pub vector_bytes: u64,
    /// Segments of K, each of which is a matmul.
    pub segments: u64,
    /// Mean KL divergence of the logits from those of the model in floats, in nats.
    pub kld: Option<f64>,
    /// Standard error of that.
    pub kld_error: Option<f64>,
    /// Squared error of the linear's outputs over their squares, on the sampled rows of its input.
    pub output_error: f64,
    /// Relative root mean square error of the weights, as stored and rotated.
    pub weight_error: f64,
}

/// A layer with all its linears at one scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDivergence {
    /// The layer; none for the head.
    pub layer: Option<u64>,
    /// The scheme.
    pub scheme: Scheme,
    /// Mean KL divergence of the logits.
    pub kld: f64,
    /// What the layer makes of its errors, times those of their operators.
    pub factor: f64,
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorFactor {
    /// Name of the linear without its layer: `ffn_down`.
    pub operator: String,
    /// KL divergence of the logits for a squared relative error of outputs of one, in the layer that
    /// was looked at.
    pub factor: f64,
}

/// What a board does for a linear at an option.
pub fn work(linear: &Linear, option: &Demotion) -> Work {
    Work {
        scheme: option.scheme,
        tile_bytes: option.tile_bytes / linear.matrices.max(1),
        segments: option.segments,
        matrices: linear.matrices,
        used: linear.used,
    }
}

/// A linear's name without its layer: `ffn_down`.
pub fn operator(linear: &Linear) -> &str {
    roles::operator(&linear.name).unwrap_or(&linear.name)
}

/// A linear's option at `scheme`, or the one of fewest bits that stands last.
pub fn at_scheme(linear: &Linear, scheme: Scheme) -> Option<&Demotion> {
    linear.options.iter().find(|option| option.scheme == scheme).or(linear.options.last())
}

impl Demotion {
    /// Bits of the weights and their scales, without the padding of tiles.
    pub fn bits(&self, weights: u64) -> u64 {
        let per_weight = match self.scheme {
            Scheme::W16A16 => 16,
            Scheme::W8A8 => 8,
            Scheme::W4A8 | Scheme::W4A4 => 4,
        };
        weights.saturating_mul(per_weight).saturating_add(self.vector_bytes.saturating_mul(8))
    }

    /// Bytes in a pack.
    pub fn bytes(&self) -> u64 {
        self.tile_bytes.saturating_add(self.vector_bytes)
    }
}

impl Sensitivities {
    /// Of a setting, before anything is measured.
    pub fn new(setting: Setting) -> Self {
        let (format, version) = (FORMAT.to_owned(), VERSION);
        let (linears, layers, operators) = (Vec::new(), Vec::new(), Vec::new());
        Sensitivities { format, version, setting, linears, layers, operators }
    }

    /// Estimated damage of an option: the error of outputs times the factors of its operator and of
    /// its layer.
    pub fn estimate(&self, linear: &Linear, option: &Demotion) -> Option<f64> {
        let layer = self.layers.iter().find(|found| found.layer == linear.layer)?;
        Some(layer.factor * self.operator_factor(linear) * option.output_error)
    }

    fn operator_factor(&self, linear: &Linear) -> f64 {
        let operator = operator(linear);
        let known = self.operators.iter().find(|known| known.operator == operator);
        let mean = || {
            let sum: f64 = self.operators.iter().map(|known| known.factor).sum();
            if self.operators.is_empty() { 1.0 } else { sum / self.operators.len() as f64 }
        };
        known.map_or_else(mean, |known| known.factor)
    }

    /// Finds the factors: those of operators in `layer`, whose linears were demoted one by one at
    /// `scheme`; then those of layers, whose linears were demoted together at it.
    pub fn find_factors(&mut self, layer: u64, scheme: Scheme) {
        let of_layer = self.linears.iter().filter(|linear| linear.layer == Some(layer));
        let factors = of_layer.filter_map(|linear| {
            let option = at_scheme(linear, scheme)?;
            let factor = option.kld? / option.output_error;
            let operator = operator(linear).to_owned();
            (factor.is_finite() && factor > 0.0).then_some(OperatorFactor { operator, factor })
        });
        self.operators = factors.collect();
        let sums = self.layers.iter().map(|layer| {
            let linears = self.linears.iter().filter(|linear| linear.layer == layer.layer);
            let terms = linears.filter_map(|linear| {
                Some(self.operator_factor(linear) * at_scheme(linear, scheme)?.output_error)
            });
            terms.sum::<f64>()
        });
        let sums: Vec<f64> = sums.collect();
        for (layer, sum) in self.layers.iter_mut().zip(sums) {
            layer.factor = if sum > 0.0 { layer.kld / sum } else { 0.0 };
        }
    }

    /// Damage of an option: as measured, or estimated where it was not.
    pub fn damage(&self, linear: &Linear, option: &Demotion) -> Option<f64> {
        option.kld.or_else(|| self.estimate(linear, option))
    }

    /// Leaves those linears that `scheme_of` pins no other option; one that is carried is none to choose for.
    ///
    /// # Errors
    ///
    /// If a linear was not measured at the scheme that it is pinned to.
    pub fn pin(&mut self, scheme_of: impl Fn(&str) -> Option<SchemeChoice>) -> anyhow::Result<()> {
        self.linears.retain(|linear| scheme_of(&linear.name) != Some(SchemeChoice::Keep));
        for linear in &mut self.linears {
            let pinned = scheme_of(&linear.name).and_then(SchemeChoice::scheme);
            linear.pinned = pinned.is_some();
            let Some(pinned) = pinned else { continue };
            linear.options.retain(|option| option.scheme == pinned);
            ensure!(
                !linear.options.is_empty(),
                "`{}` is pinned to {pinned}, which it was not measured at: measure with the same pins, or with {pinned} \
                 among `--schemes`",
                Escaped(&linear.name),
            );
        }
        Ok(())
    }

    /// Reads a file, and refuses what cannot be.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is of another version, or holds what no measurement gives.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("sensitivity file `{}`", escaped_path(path));
        let text = text_file::text(path, "sensitivity file", LARGEST_FILE)?;
        Self::parse(&text).with_context(context)
    }

    /// Parses the text of a file, and refuses what cannot be.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], but for the file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        /// What tells whether the rest can be understood.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: [u64; 2],
        }
        let head: Head = serde_json::from_str(text)?;
        ensure!(head.format == FORMAT, "`format` is `{}`, not `{FORMAT}`", Escaped(&head.format));
        ensure!(
            head.version[0] == VERSION[0] && head.version[1] <= VERSION[1],
            "version {}.{} is not {}.{}, which this tessera reads",
            head.version[0],
            head.version[1],
            VERSION[0],
            VERSION[1],
        );
        let found: Sensitivities = serde_json::from_str(text)?;
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (list, length, most) in [
            ("layers", self.layers.len(), MOST_LAYERS),
            ("operators", self.operators.len(), MOST_OPERATORS),
        ] {
            ensure!(length <= most, "`{list}` has {length} entries, and {most} are the most");
        }
        let mut names = HashSet::new();
        for linear in &self.linears {
            let name = Escaped(&linear.name);
            ensure!(names.insert(&linear.name), "`{name}` is there twice");
            ensure!(
                (1..=MOST_WEIGHTS).contains(&linear.weights),
                "`{name}` has {} weights",
                linear.weights,
            );
            ensure!(
                (1..=MOST_PARTS).contains(&linear.matrices)
                    && (1..=linear.matrices).contains(&linear.used),
                "`{name}` has {} matrices, of which a token uses {}",
                linear.matrices,
                linear.used,
            );
            ensure!(!linear.options.is_empty(), "`{name}` has no options");
            let mut schemes = HashSet::new();
            for option in &linear.options {
                let scheme = option.scheme;
                ensure!(schemes.insert(scheme), "`{name}` has {scheme} twice");
                ensure!(
                    option.tile_bytes.max(option.vector_bytes) <= MOST_BYTES,
                    "`{name}` takes {} and {} bytes for {scheme}",
                    option.tile_bytes,
                    option.vector_bytes,
                );
                ensure!(
                    (1..=MOST_PARTS).contains(&option.segments),
                    "`{name}` has {} segments for {scheme}",
                    option.segments,
                );
                let figures =
                    [Some(option.output_error), Some(option.weight_error), option.kld_error];
                for figure in figures.into_iter().chain([option.kld]).flatten() {
                    if !figure.is_finite() || figure < 0.0 {
                        bail!("`{name}` has a figure of {figure} for {scheme}: none is below zero");
                    }
                }
                ensure!(
                    self.damage(linear, option).is_some_and(f64::is_finite),
                    "`{name}` at {scheme} has neither a measured damage nor a layer to estimate it by",
                );
            }
        }
        for layer in &self.layers {
            ensure!(
                layer.kld.is_finite() && layer.factor.is_finite() && layer.factor >= 0.0,
                "layer {:?} has a divergence of {} and a factor of {}",
                layer.layer,
                layer.kld,
                layer.factor,
            );
        }
        for known in &self.operators {
            ensure!(
                known.factor.is_finite() && known.factor >= 0.0,
                "operator `{}` has a factor of {}",
                Escaped(&known.operator),
                known.factor,
            );
        }
        Ok(())
    }

    /// Writes the file, in place of what stands there, once it is whole.
    ///
    /// # Errors
    ///
    /// If the folder or the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let context = || format!("`{}`", escaped_path(path));
        let mut file = TemporaryFile::beside(path).with_context(context)?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        file.write_all(text.as_bytes()).with_context(context)?;
        Ok(file.place(path, true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every option of every linear is looked up among layers and operators: with as many of each as a
    /// file has room for, that took hours.
    #[test]
    fn layers_and_operators_are_no_more_than_models_have() {
        let text = |layers: usize, operators: usize| {
            serde_json::json!({
                "format": FORMAT, "version": VERSION,
                "setting": {"model": [], "data": [], "context": 1, "chunks": 1, "seed": 0, "recipe": "",
                            "statistics": "", "target": "rk3588", "schemes": [], "measured": true},
                "linears": [],
                "layers": vec![serde_json::json!({"layer": 0, "scheme": "w8a8", "kld": 0.0, "factor": 0.0}); layers],
                "operators": vec![serde_json::json!({"operator": "ffn_up", "factor": 0.0}); operators],
            })
            .to_string()
        };
        assert!(Sensitivities::parse(&text(MOST_LAYERS, MOST_OPERATORS)).is_ok());
        for (layers, operators, expected) in [
            (MOST_LAYERS + 1, 0, "`layers` has 4097"),
            (0, MOST_OPERATORS + 1, "`operators` has 257"),
        ] {
            let error = Sensitivities::parse(&text(layers, operators)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
