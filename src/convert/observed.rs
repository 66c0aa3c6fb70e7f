//! What calibration observed of an input, in the basis that its linears are quantized in.

use std::ops::Range;

use anyhow::Context;
use tessera_calibration::activation_scale::RotatedRows;
use tessera_calibration::gptq::{self, Descent, Factor};
use tessera_calibration::hessian::{self, RotatedHessian};
use tessera_calibration::retarget::Retarget;
use tessera_calibration::statistics::InputStatistics;
use tessera_formats::npu::Scheme;
use tessera_runtime::host::{ActivationScale, Digits};
use tessera_runtime::rotation::Rotation;

use super::plan::{InputPlan, Plan};
use crate::options::{ActivationScaling, LinearOptions, Rounding};

/// Arrivals of tokens that the pooled Hessian counts for beside an expert's own, as in exllamav3.
const POOLED_TOKENS: f64 = 2048.0;

/// Sampled rows that a Hessian can be made of.
const LEAST_ROWS: usize = 2048;

/// Largest magnitude of a rotated row over its root mean square, about.
const CREST: f64 = 3.0;

/// Columns of a block of such a Hessian.
const BLOCK: usize = 2048;

/// What calibration observed of one input.
pub struct Observed {
    size: usize,
    /// Rotated rows of the sample, `[rows, size]`.
    rows: Vec<f32>,
    /// Rotated mean inputs: of all rows, or of each expert's.
    means: Vec<Vec<f32>>,
    /// Mean squares of the channels of an input that is not rotated.
    importance: Option<Vec<f32>>,
    /// Of all rows, or of each expert's; empty where there are no Hessians or nobody needs them.
    hessians: Vec<Hessian>,
    /// What rows of weights are multiplied by, where the rows that were observed are a quantized
    /// model's.
    retarget: Option<Retarget>,
}

/// A rotated Hessian, and what GPTQ needs of it.
pub struct Hessian {
    /// The second moments.
    pub moments: RotatedHessian,
    /// For the sweep.
    pub factor: Factor,
    /// For the descent.
    pub descent: Descent,
}

/// Rotated mean inputs of a matrix.
#[derive(Clone, Copy)]
pub struct Means<'a>(&'a [f32]);

impl Means<'_> {
    /// What the columns of a row add to the mean error of its output: Σ (w − s·q)·E\[x\].
    pub fn error(
        self,
        columns: &Range<usize>,
        weights: &[f32],
        integers: &[i8],
        scale: f32,
    ) -> f64 {
        let scale = f64::from(scale);
        let last = columns.end.min(self.0.len());
        let means = &self.0[columns.start.min(last)..last];
        let terms = weights.iter().zip(integers).zip(means);
        terms.map(|((&w, &q), &mean)| (f64::from(w) - scale * f64::from(q)) * f64::from(mean)).sum()
    }
}

impl Observed {
    /// Takes the statistics of an input, whose rows are multiplied by `vector` and rotated, into the
    /// basis that its linears are quantized in.
    pub fn new(
        plan: &Plan,
        input: &InputPlan,
        statistics: &InputStatistics,
        vector: Option<&[f32]>,
    ) -> anyhow::Result<Self> {
        let basis = Basis { rotation: &input.rotation, vector };
        let mut linears = input.linears.iter().map(|&linear| &plan.linears[linear]);
        let options = linears.clone().map(|linear| linear.options);
        let gptq = options.clone().find(|options| options.rounding == Rounding::Gptq);
        let experts = match statistics.experts.len() {
            0 => None,
            experts => linears.any(|linear| linear.experts == Some(experts)).then_some(experts),
        };
        Ok(Observed {
            size: basis.rotation.size(),
            rows: basis.rotate(&statistics.rows),
            means: means(statistics, experts.is_some(), basis),
            importance: basis.importance(statistics),
            hessians: match gptq {
                Some(options) => hessians(statistics, experts.is_some(), basis, &options)?,
                None => Vec::new(),
            },
            retarget: match gptq {
                Some(options) => retarget(statistics, basis, &options)?,
                None => None,
            },
        })
    }

    /// Mean squares of the columns of an input that is not rotated, where they are known.
    pub fn importance(&self) -> Option<&[f32]> {
        self.importance.as_deref()
    }

    /// The Hessian of a matrix's input.
    pub fn hessian(&self, matrix: usize) -> Option<&Hessian> {
        of_matrix(&self.hessians, matrix)
    }

    /// Mean inputs of a matrix; none where they are not known.
    pub fn means(&self, matrix: usize) -> Option<Means<'_>> {
        of_matrix(&self.means, matrix).map(|means| Means(means))
    }

    /// Rows of weights, rotated, as they are to be rounded, where that is not as they are.
    pub fn target(&self, weights: &[f32]) -> Option<Vec<f32>> {
        self.retarget.as_ref().map(|retarget| retarget.apply(weights))
    }

    /// How rows of activations get their scales, where that is found from what was observed.
    pub fn activation(
        &self,
        options: &LinearOptions,
        segments: &[Range<usize>],
    ) -> ActivationScale {
        let (asymmetric, fitted) = (options.zero_point, options.activation_fit);
        if self.rows.is_empty() {
            return ActivationScale::Dynamic { rms_clip: None, asymmetric, fitted };
        }
        let rows = RotatedRows { values: &self.rows, k: self.size, segments };
        let qmax = activation_qmax(options.scheme);
        if let ActivationScaling::Static(calibrator) = options.activation_scale {
            return ActivationScale::Static(rows.thresholds(qmax, calibrator));
        }
        let found = match asymmetric {
            true => rows.choose_affine_rms_clip(activation_range(options.scheme), fitted),
            false => rows.choose_rms_clip(qmax),
        };
        ActivationScale::Dynamic { rms_clip: found.factor, asymmetric, fitted }
    }
}

/// The one for all matrices, or a matrix's own.
fn of_matrix<T>(all: &[T], matrix: usize) -> Option<&T> {
    if all.len() > 1 { all.get(matrix) } else { all.first() }
}

/// What is done to a row before it is quantized.
#[derive(Clone, Copy)]
pub struct Basis<'a> {
    /// The orthogonal matrix.
    pub rotation: &'a Rotation,
    /// What a row is multiplied by before.
    pub vector: Option<&'a [f32]>,
}

impl Basis<'_> {
    /// Rows `[m, k]` rotated, `[m, size]`.
    pub fn rotate(self, rows: &[f32]) -> Vec<f32> {
        hessian::rotate_rows(rows, self.vector, self.rotation)
    }

    /// Mean squares of the channels, as they are quantized, where these are not rotated.
    fn importance(self, statistics: &InputStatistics) -> Option<Vec<f32>> {
        let rms = statistics.robust_channel_rms().filter(|_| self.rotation.is_identity())?;
        let factors = (0..).map(|k| self.vector.map_or(1.0, |vector| f64::from(vector[k])));
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
        let square = |(rms, v): (f64, f64)| ((rms * v) * (rms * v)) as f32;
        Some(rms.into_iter().zip(factors).map(square).collect())
    }

    fn hessian(self, hessian: &[f32], weight: f64) -> RotatedHessian {
        hessian::rotate(hessian, weight, self.vector, self.rotation)
    }
}

/// Integers of an activation with a zero point.
fn activation_range(scheme: Scheme) -> (i16, i16) {
    match scheme {
        Scheme::W4A4 => (-8, 7),
        Scheme::W4A8 => Digits::default().range(),
        Scheme::W8A8 | Scheme::W16A16 => (-128, 127),
    }
}

/// Largest integer of an activation.
pub fn activation_qmax(scheme: Scheme) -> i8 {
    match scheme {
        Scheme::W4A4 => 7,
        Scheme::W4A8 => Digits::default().qmax(),
        Scheme::W8A8 | Scheme::W16A16 => 127,
    }
}

/// Mean inputs, rotated: of each expert, or of all rows.
fn means(statistics: &InputStatistics, of_experts: bool, basis: Basis<'_>) -> Vec<Vec<f32>> {
    if statistics.sum.is_empty() {
        return Vec::new();
    }
    let mean = |sum: &[f64], tokens: u64| {
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        let tokens = tokens.max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is wanted")]
        let row: Vec<f32> = sum.iter().map(|sum| (sum / tokens) as f32).collect();
        basis.rotate(&row)
    };
    let pooled = mean(&statistics.sum, statistics.tokens);
    if !of_experts {
        return vec![pooled];
    }
    let experts = statistics.experts.iter();
    // An expert that few tokens reached has no mean of its own.
    let known = |tokens| tokens >= InputStatistics::LEAST_EXPERT_TOKENS;
    experts
        .map(|expert| match known(expert.tokens) && !expert.sum.is_empty() {
            true => mean(&expert.sum, expert.tokens),
            false => pooled.clone(),
        })
        .collect()
}

/// Hessians: each expert's, or that of all rows.
fn hessians(
    statistics: &InputStatistics,
    of_experts: bool,
    basis: Basis<'_>,
    options: &LinearOptions,
) -> anyhow::Result<Vec<Hessian>> {
    let settings = gptq::Options { damping: options.damping, act_order: options.act_order };
    let prepare = |moments: RotatedHessian| {
        let factor = Factor::new(&moments, &settings).context("its Hessian")?;
        let descent = Descent::new(&moments, &factor);
        anyhow::Ok(Hessian { moments, factor, descent })
    };
    let pooled = match &statistics.hessian {
        Some(hessian) => basis.hessian(hessian, statistics.robust_weight),
        None if statistics.sampled() >= LEAST_ROWS => {
            hessian::of_rows(&statistics.rows, basis.vector, basis.rotation, BLOCK)
        }
        None => return Ok(Vec::new()),
    };
    if !of_experts || statistics.experts.iter().all(|expert| expert.hessian.is_none()) {
        return Ok(vec![prepare(pooled)?]);
    }
    let pool = statistics.hessian.as_deref().unwrap_or_default();
    let experts = statistics.experts.iter();
    experts
        .map(|expert| match &expert.hessian {
            Some(hessian) if expert.hessian_weight > 0.0 => {
                let own = (hessian.as_slice(), expert.hessian_weight);
                let pool = (pool, statistics.robust_weight);
                let (sum, weight) = hessian::shrink(own, pool, POOLED_TOKENS);
                prepare(basis.hessian(&sum, weight))
            }
            _ => prepare(pooled.clone()),
        })
        .collect()
}

/// What rows of weights are multiplied by, where a quantized model was observed.
fn retarget(
    statistics: &InputStatistics,
    basis: Basis<'_>,
    options: &LinearOptions,
) -> anyhow::Result<Option<Retarget>> {
    let (Some(cross), Some(hessian)) = (&statistics.cross, &statistics.hessian) else {
        return Ok(None);
    };
    let weight = statistics.robust_weight;
    let hessian = basis.hessian(hessian, weight);
    let cross = hessian::rotate_cross(cross, weight, basis.vector, basis.rotation);
    let [block] = hessian.blocks.as_slice() else { return Ok(None) };
    #[expect(clippy::cast_precision_loss, reason = "a length, for a mean")]
    let mean = block.diagonal().sum::<f64>() / block.columns.len() as f64;
    // Errors of rounding, uniform within a step of twice the crest over as many steps as there are.
    let levels = 2.0 * f64::from(activation_qmax(options.scheme));
    let noise = mean * (2.0 * CREST / levels).powi(2) / 12.0;
    let damping = mean * options.damping;
    Ok(Some(Retarget::new(&cross, block, (noise, damping), options.retarget)?))
}
