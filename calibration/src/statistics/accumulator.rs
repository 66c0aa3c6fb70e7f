//! Statistics of one input, from rows as they come.

use rayon::prelude::*;
use tessera_runtime::quantize::first_non_finite;
use tessera_runtime::rotation::{Rotation, signs};

use super::error::StatisticsError;
use super::moments::{self, ChannelSums};
use super::sample::RowSample;
use super::spread::{Medians, RowFigures, Spread};
use super::{ExpertStatistics, InputStatistics};
use crate::clip::TensorStatistics;

/// Rows that are added to the sums at a time.
const UNIT: usize = 1024;

/// Rows of an input of experts that are added at a time: few of them are of the same expert, and
/// adding to its Hessian takes reading and writing all of it.
const EXPERTS_UNIT: usize = 8192;

/// Rows whose histograms a thread takes at a time.
const PANEL: usize = 64;

/// What is observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservationOptions {
    /// Whether Hessians are collected.
    pub hessians: bool,
    /// Most channels of an input with a Hessian.
    pub hessian_limit: usize,
    /// Most bytes of the experts' Hessians of one input; where they would take more, its experts have
    /// the input's Hessian alone.
    pub expert_hessian_bytes: u64,
    /// Sampled rows of an input.
    pub rows: usize,
    /// Sampled rows of an input that has too many channels for a Hessian, where Hessians are wanted.
    pub rows_large: usize,
    /// Rows that will come, about; the sample is spread evenly whether they do or not.
    pub expected_tokens: u64,
    /// Seed of the choice of sampled rows, and of the signs of the rotated histogram.
    pub seed: u64,
}

impl Default for ObservationOptions {
    fn default() -> Self {
        ObservationOptions {
            hessians: true,
            hessian_limit: 8192,
            expert_hessian_bytes: 4 << 30,
            rows: 256,
            rows_large: 4096,
            expected_tokens: 0,
            seed: 0,
        }
    }
}

impl ObservationOptions {
    fn has_hessian(&self, k: usize) -> bool {
        self.hessians && k <= self.hessian_limit
    }

    fn has_expert_hessians(&self, k: usize, experts: usize) -> bool {
        let bytes = hessian_bytes(k).saturating_mul(experts as u128);
        self.has_hessian(k) && bytes <= u128::from(self.expert_hessian_bytes)
    }

    fn sampled(&self, k: usize) -> usize {
        if self.hessians && k > self.hessian_limit { self.rows_large } else { self.rows }
    }

    /// Bytes that an [`Accumulator`] holds, about: its sums, its sample, and rows that wait for a unit.
    pub fn memory(&self, k: usize, experts: Option<usize>) -> u64 {
        let hessians = match experts {
            Some(experts) if self.has_expert_hessians(k, experts) => experts as u128 + 1,
            _ if self.has_hessian(k) => 1,
            _ => 0,
        };
        // Three sums in f64 of the input and of each expert; twice the sample.
        let sums = (experts.unwrap_or(0) as u128 + 1) * 6;
        let rows = sums + unit(experts) as u128 + 2 * self.sampled(k) as u128;
        let bytes = hessians.saturating_mul(hessian_bytes(k)).saturating_add(row_bytes(k) * rows);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Bytes that an [`Accumulator`] takes beside, about, while it adds rows: a unit with its weights,
    /// and the rows of one expert in it.
    pub fn working_memory(k: usize, experts: Option<usize>) -> u64 {
        let units = if experts.is_some() { 2 } else { 1 };
        u64::try_from(row_bytes(k) * units * unit(experts) as u128).unwrap_or(u64::MAX)
    }
}

/// Rows that are added at a time.
fn unit(experts: Option<usize>) -> usize {
    if experts.is_some() { EXPERTS_UNIT } else { UNIT }
}

fn row_bytes(k: usize) -> u128 {
    k as u128 * size_of::<f32>() as u128
}

/// Bytes of a Hessian.
fn hessian_bytes(k: usize) -> u128 {
    (k as u128).saturating_mul(k as u128).saturating_mul(size_of::<f32>() as u128)
}

/// Takes the statistics of one input from its rows.
///
/// Rows are added to the sums in units of a fixed number: into how many calls they are divided, and
/// on how many threads they are added, changes no bit of the result.
pub struct Accumulator {
    linears: Vec<String>,
    k: usize,
    rotation: Rotation,
    signs: Vec<f32>,
    /// Rows that are not added yet, fewer than a unit.
    waiting: Vec<f32>,
    /// Whose they are, for experts.
    waiting_experts: Vec<usize>,
    /// The model's own rows at the same tokens, where they are given.
    waiting_reference: Vec<f32>,
    reference_sum: Vec<f64>,
    cross: Option<Vec<f32>>,
    tokens: u64,
    magnitudes: TensorStatistics,
    rotated: TensorStatistics,
    sums: ChannelSums,
    rms: Spread,
    crest: Spread,
    medians: Option<Medians>,
    weight: f64,
    massive: u64,
    sample: RowSample,
    /// On and above its diagonal only; absent where experts have theirs.
    hessian: Option<Vec<f32>>,
    experts: Vec<Expert>,
}

#[derive(Clone)]
struct Expert {
    tokens: u64,
    sums: ChannelSums,
    hessian: Option<Vec<f32>>,
    weight: f64,
}

impl Accumulator {
    /// Of the input of `linears`, of rows of `k` channels, which `experts` are many, or none for
    /// plain linears.
    ///
    /// # Errors
    ///
    /// If there are no linears, channels or experts, or too little memory for Hessians.
    pub fn new(
        linears: Vec<String>,
        k: usize,
        experts: Option<usize>,
        options: &ObservationOptions,
    ) -> Result<Self, StatisticsError> {
        let name = linears.first().cloned().unwrap_or_default();
        let refused = |what| StatisticsError::Input { input: name.clone(), what };
        if linears.is_empty() {
            return Err(refused("no linear that reads it"));
        }
        if experts == Some(0) {
            return Err(refused("no experts"));
        }
        let rotation = Rotation::hadamard(k).map_err(|_| refused("no channels"))?;
        let hessian = || {
            let bytes = hessian_bytes(k);
            let memory = || StatisticsError::Memory { input: name.clone(), bytes };
            let mut hessian = Vec::new();
            let elements = k.checked_mul(k).ok_or_else(memory)?;
            hessian.try_reserve_exact(elements).map_err(|_| memory())?;
            hessian.resize(elements, 0.0f32);
            Ok::<_, StatisticsError>(hessian)
        };
        let per_expert = experts.is_some_and(|experts| options.has_expert_hessians(k, experts));
        let shared = options.has_hessian(k) && !per_expert;
        let experts = (0..experts.unwrap_or(0))
            .map(|_| {
                let hessian = per_expert.then(hessian).transpose()?;
                Ok(Expert { tokens: 0, sums: ChannelSums::new(k), hessian, weight: 0.0 })
            })
            .collect::<Result<_, StatisticsError>>()?;
        let sample =
            RowSample::new(k, options.sampled(k), options.expected_tokens, options.seed, &name);
        Ok(Accumulator {
            k,
            signs: signs(options.seed, &name, k),
            rotation,
            waiting: Vec::new(),
            waiting_experts: Vec::new(),
            waiting_reference: Vec::new(),
            reference_sum: Vec::new(),
            cross: None,
            tokens: 0,
            magnitudes: TensorStatistics::new(),
            rotated: TensorStatistics::new(),
            sums: ChannelSums::new(k),
            rms: Spread::default(),
            crest: Spread::default(),
            medians: None,
            weight: 0.0,
            massive: 0,
            sample,
            hessian: shared.then(hessian).transpose()?,
            experts,
            linears,
        })
    }

    /// Adds rows `[m, k]`, in the order of the text; for expert linears `expert` says whose.
    ///
    /// # Errors
    ///
    /// If `rows` are no whole rows, a value is not finite, or the expert is missing, unknown or not
    /// wanted. Nothing is added then.
    pub fn add(&mut self, expert: Option<usize>, rows: &[f32]) -> Result<(), StatisticsError> {
        self.add_all(expert, rows, &[])
    }

    /// Adds rows `[m, k]` of a quantized model, x̃, with the model's own at the same tokens, x, of a
    /// plain linear. One accumulator is given either these or [`Self::add`]'s.
    ///
    /// # Errors
    ///
    /// As [`Self::add`], and if the rows are not as many, or too little memory is left.
    pub fn add_pair(&mut self, rows: &[f32], reference: &[f32]) -> Result<(), StatisticsError> {
        self.check(None, reference)?;
        if rows.len() != reference.len() {
            return Err(StatisticsError::Rows {
                input: self.linears.first().cloned().unwrap_or_default(),
                expected: format!("{} values beside the model's own", reference.len()),
                found: format!("{} values", rows.len()),
            });
        }
        if self.reference_sum.is_empty() {
            self.reference_sum = vec![0.0; self.k];
            self.cross = self.hessian.as_ref().map(|hessian| vec![0.0; hessian.len()]);
        }
        self.add_all(None, rows, reference)
    }

    fn add_all(
        &mut self,
        expert: Option<usize>,
        rows: &[f32],
        reference: &[f32],
    ) -> Result<(), StatisticsError> {
        self.check(expert, rows)?;
        let mut reference_rest = reference;
        let unit = if self.experts.is_empty() { UNIT } else { EXPERTS_UNIT };
        let mut rest = rows;
        while !rest.is_empty() {
            if self.experts.is_empty() && self.waiting.is_empty() && rest.len() >= unit * self.k {
                let (whole, after) = rest.split_at(unit * self.k);
                let (own, own_after) =
                    reference_rest.split_at((unit * self.k).min(reference_rest.len()));
                self.add_unit(whole, &[], own);
                (rest, reference_rest) = (after, own_after);
                continue;
            }
            let room = unit * self.k - self.waiting.len();
            let (now, after) = rest.split_at(room.min(rest.len()));
            self.waiting.extend_from_slice(now);
            let (own, own_after) = reference_rest.split_at(now.len().min(reference_rest.len()));
            self.waiting_reference.extend_from_slice(own);
            reference_rest = own_after;
            if let Some(expert) = expert {
                self.waiting_experts.extend(std::iter::repeat_n(expert, now.len() / self.k));
            }
            rest = after;
            if self.waiting.len() == unit * self.k {
                self.add_waiting();
            }
        }
        Ok(())
    }

    fn check(&self, expert: Option<usize>, rows: &[f32]) -> Result<(), StatisticsError> {
        let name = || self.linears.first().cloned().unwrap_or_default();
        let rows_error = |expected, found| StatisticsError::Rows { input: name(), expected, found };
        if !rows.len().is_multiple_of(self.k) {
            let expected = format!("whole rows of {} channels", self.k);
            return Err(rows_error(expected, format!("{} values", rows.len())));
        }
        match (expert, self.experts.len()) {
            (None, 0) => {}
            (Some(expert), 0) => {
                return Err(rows_error(
                    "no experts".to_owned(),
                    format!("rows of expert {expert}"),
                ));
            }
            (Some(expert), experts) if expert < experts => {}
            (expert, experts) => {
                let found = expert.map_or("rows of no expert".to_owned(), |expert| {
                    format!("rows of expert {expert}")
                });
                return Err(rows_error(format!("one of {experts} experts"), found));
            }
        }
        if let Some(index) = first_non_finite(rows) {
            let waiting = self.waiting.len() / self.k + index / self.k;
            return Err(StatisticsError::NotFinite {
                input: name(),
                row: self.tokens.saturating_add(u64::try_from(waiting).unwrap_or(u64::MAX)),
                channel: index % self.k,
                value: rows[index],
            });
        }
        Ok(())
    }

    fn add_waiting(&mut self) {
        let (rows, experts) =
            (std::mem::take(&mut self.waiting), std::mem::take(&mut self.waiting_experts));
        let reference = std::mem::take(&mut self.waiting_reference);
        self.add_unit(&rows, &experts, &reference);
        (self.waiting, self.waiting_experts) = (rows, experts);
        self.waiting_reference = reference;
        self.waiting.clear();
        self.waiting_experts.clear();
        self.waiting_reference.clear();
    }

    /// Adds a unit of rows, or what there is at the end; `experts`, if there are any, says whose each
    /// row is, and `reference`, if it is not empty, is the model's own.
    fn add_unit(&mut self, rows: &[f32], experts: &[usize], reference: &[f32]) {
        let k = self.k;
        let figures: Vec<RowFigures> = rows.par_chunks_exact(k).map(RowFigures::of).collect();
        let medians = *self.medians.get_or_insert_with(|| Medians::of(&figures));
        let weights: Vec<f64> = figures.iter().map(|row| medians.weight(row)).collect();
        for (row, weight) in figures.iter().zip(&weights) {
            self.tokens += 1;
            self.rms.add(row.rms);
            if row.rms > 0.0 {
                self.crest.add(row.crest);
            }
            self.weight += weight;
            self.massive += u64::from(*weight < 1.0);
        }
        self.sample.add(rows);
        self.add_histograms(rows);
        self.sums.add(rows, &weights);
        if let Some(hessian) = &mut self.hessian {
            moments::add_outer_products(hessian, &moments::weighted(rows, &weights, k), k);
        }
        for row in reference.chunks_exact(k) {
            for (sum, &x) in self.reference_sum.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
        if let Some(cross) = self.cross.as_mut().filter(|_| !reference.is_empty()) {
            let reference = moments::weighted(reference, &weights, k);
            moments::add_cross_products(
                cross,
                &reference,
                &moments::weighted(rows, &weights, k),
                k,
            );
        }
        if experts.is_empty() {
            return;
        }
        let (mut of_expert, mut expert_weights) = (Vec::new(), Vec::new());
        for (index, expert) in self.experts.iter_mut().enumerate() {
            of_expert.clear();
            expert_weights.clear();
            for (row, _) in experts.iter().enumerate().filter(|(_, whose)| **whose == index) {
                of_expert.extend_from_slice(&rows[row * k..(row + 1) * k]);
                expert_weights.push(weights[row]);
            }
            expert.add(&of_expert, &expert_weights);
        }
    }

    /// Counts are exact, so that panels may be merged in any order.
    fn add_histograms(&mut self, rows: &[f32]) {
        let merge = |mut a: [TensorStatistics; 2], [magnitudes, rotated]: [TensorStatistics; 2]| {
            a[0].merge(magnitudes);
            a[1].merge(rotated);
            a
        };
        let (rotation, signs, k) = (&self.rotation, &self.signs, self.k);
        let buffers = || (Vec::<f32>::new(), vec![0.0; rotation.scratch_len()]);
        let [magnitudes, rotated] = rows
            .par_chunks(PANEL * k)
            .map_init(buffers, |(copy, scratch), panel| {
                let mut histograms = [TensorStatistics::new(), TensorStatistics::new()];
                histograms[0].add(panel);
                copy.clear();
                copy.extend_from_slice(panel);
                for row in copy.chunks_exact_mut(k) {
                    rotation.apply_scaled(row, signs, scratch);
                }
                histograms[1].add(copy);
                histograms
            })
            .reduce(Default::default, merge);
        self.magnitudes.merge(magnitudes);
        self.rotated.merge(rotated);
    }

    /// The statistics of all rows.
    pub fn finish(mut self) -> InputStatistics {
        if !self.waiting.is_empty() {
            self.add_waiting();
        }
        let k = self.k;
        let mut hessian = self.hessian;
        let experts: Vec<ExpertStatistics> =
            self.experts.into_iter().map(|expert| expert.finish(k)).collect();
        // The input's Hessian is the sum of its experts', in their order.
        for expert in experts.iter().filter_map(|expert| expert.hessian.as_ref()) {
            let all = hessian.get_or_insert_with(|| vec![0.0; expert.len()]);
            all.par_iter_mut().zip(expert).for_each(|(all, expert)| *all += expert);
        }
        if let Some(hessian) = &mut hessian {
            moments::mirror(hessian, k);
        }
        InputStatistics {
            linears: self.linears,
            k,
            tokens: self.tokens,
            magnitudes: self.magnitudes,
            rotated: self.rotated,
            sum: self.sums.sum,
            squares: self.sums.squares,
            rms: self.rms,
            crest: self.crest,
            medians: self.medians.unwrap_or_default(),
            robust_squares: self.sums.robust,
            robust_weight: self.weight,
            massive: self.massive,
            rows: self.sample.finish(),
            hessian,
            reference_sum: self.reference_sum,
            cross: self.cross,
            experts,
        }
    }
}

impl Expert {
    fn add(&mut self, rows: &[f32], weights: &[f64]) {
        self.tokens += u64::try_from(weights.len()).unwrap_or(u64::MAX);
        self.weight = weights.iter().fold(self.weight, |sum, weight| sum + weight);
        self.sums.add(rows, weights);
        if let Some(hessian) = &mut self.hessian {
            let k = self.sums.sum.len();
            moments::add_outer_products(hessian, &moments::weighted(rows, weights, k), k);
        }
    }

    fn finish(mut self, k: usize) -> ExpertStatistics {
        if let Some(hessian) = &mut self.hessian {
            moments::mirror(hessian, k);
        }
        ExpertStatistics {
            tokens: self.tokens,
            sum: self.sums.sum,
            squares: self.sums.squares,
            hessian: self.hessian,
            hessian_weight: self.weight,
        }
    }
}
