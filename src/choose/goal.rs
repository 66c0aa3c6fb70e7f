//! What a choice of schemes is to meet, and the choice that does by sensitivities.

use anyhow::{Context, ensure};
use tessera_calibration::allocate::{Allocation, Choice, Frontier};
use tessera_formats::npu::{Rates, Scheme};

use crate::sensitivity::file::{Demotion, Linear, Sensitivities, work};
use crate::size;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most this many bits per weight, scales counted and the padding of tiles not.
    BitsPerWeight(f64),
    /// At most this many bytes of all files of the pack.
    Size(u64),
    /// At most this mean KL divergence from the model in floats, in nats, as few bytes as do.
    Divergence(f64),
    /// So many tokens a second, at least, that the linears leave room for on a board: one after another,
    /// or of a prompt.
    Speed {
        /// What is done.
        phase: Phase,
        /// Tokens in a second.
        tokens_per_second: f64,
    },
}

/// What a model does, as llama-bench tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One token after another.
    Decode,
    /// A prompt, [`PROMPT`] tokens at once.
    Prefill,
}

/// Tokens of a prompt that pass a linear at once.
pub const PROMPT: u64 = 512;

/// Units of time that are spent, in a second: picoseconds, of which 64 bits hold months.
const UNITS: f64 = 1e12;

impl Phase {
    /// Rows that linears multiply at once.
    fn rows(self) -> u64 {
        match self {
            Phase::Decode => 1,
            Phase::Prefill => PROMPT,
        }
    }
}

impl Goal {
    /// What is spent.
    fn cost(self, rates: &Rates, linear: &Linear, option: &Demotion) -> u64 {
        match self {
            Goal::BitsPerWeight(_) => option.bits(linear.weights),
            Goal::Size(_) | Goal::Divergence(_) => option.bytes(),
            Goal::Speed { phase, .. } => {
                let seconds = rates.seconds(&work(linear, option), phase.rows());
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "not negative, and saturates: sums beyond 64 bits are refused"
                )]
                let units = (seconds * UNITS).ceil() as u64;
                units
            }
        }
    }
}

/// A scheme for every linear.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Linears and their schemes, those that the recipe pins left out.
    pub schemes: Vec<(String, Scheme)>,
    /// Index of every linear's option.
    pub options: Vec<usize>,
    /// Sum of damages: the divergence that is to be expected.
    pub predicted: f64,
    /// Bits per weight of all linears, scales counted and padding not.
    pub bits_per_weight: f64,
    /// Bytes of tiles, scales and corrections.
    pub bytes: u64,
    /// Tokens a second that the linears leave room for, by the board's rates.
    pub speed: Speed,
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// One after another.
    pub decode: f64,
    /// Of a prompt.
    pub prefill: f64,
}

/// All choices that no other is better than in both cost and damage.
pub struct Choices<'a> {
    sensitivities: &'a Sensitivities,
    rates: &'a Rates,
    frontier: Frontier,
    weights: u64,
}

impl<'a> Choices<'a> {
    /// By what the goal spends, on a board of such rates.
    pub fn new(
        sensitivities: &'a Sensitivities,
        rates: &'a Rates,
        goal: Goal,
    ) -> anyhow::Result<Self> {
        let items = sensitivities.linears.iter().map(|linear| {
            let choice = |option: &Demotion| Choice {
                cost: goal.cost(rates, linear, option),
                damage: sensitivities.damage(linear, option).unwrap_or(f64::NAN),
            };
            linear.options.iter().map(choice).collect()
        });
        let items: Vec<Vec<Choice>> = items.collect();
        ensure!(!items.is_empty(), "there is no linear to choose a scheme for");
        let frontier = Frontier::new(&items).context("the sensitivities")?;
        let weights = sensitivities.linears.iter().map(|linear| linear.weights).sum();
        Ok(Choices { sensitivities, rates, frontier, weights })
    }

    /// Whether the choices are exactly the best.
    pub fn are_exact(&self) -> bool {
        self.frontier.is_exact()
    }

    /// The best with at most so many bits per weight.
    pub fn of_bits(&self, bits_per_weight: f64) -> anyhow::Result<Chosen> {
        let budget = bits_per_weight * self.weights as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let found = self.frontier.within(budget as u64);
        let least = || {
            let (bits, _) = self.frontier.points().next().unwrap_or_default();
            format!(
                "{bits_per_weight} bits per weight are too few: the schemes that may be chosen take {:.3} at least",
                bits as f64 / self.weights as f64,
            )
        };
        Ok(self.chosen(found.with_context(least)?))
    }

    /// The best with at most so many bytes of linears; `beside` are those of the rest of the pack.
    pub fn of_bytes(&self, target: u64, beside: u64) -> anyhow::Result<Chosen> {
        let found = target.checked_sub(beside).and_then(|budget| self.frontier.within(budget));
        let least = || {
            let (bytes, _) = self.frontier.points().next().unwrap_or_default();
            format!(
                "a pack of {} is too small: what is not quantized takes {}, and the schemes that may be \
                 chosen {} at least",
                size::show(target),
                size::show(beside),
                size::show(bytes),
            )
        };
        Ok(self.chosen(found.with_context(least)?))
    }

    /// The best of those that leave room for so many tokens a second.
    pub fn of_speed(&self, phase: Phase, tokens_per_second: f64) -> anyhow::Result<Chosen> {
        let seconds = phase.rows() as f64 / tokens_per_second;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let found = self.frontier.within((seconds * UNITS) as u64);
        let fastest = || {
            let (units, _) = self.frontier.points().next().unwrap_or_default();
            format!(
                "{tokens_per_second} tokens a second are too many: by the board's rates the schemes that may be chosen \
                 leave room for {:.2} at most",
                phase.rows() as f64 / (units as f64 / UNITS),
            )
        };
        Ok(self.chosen(found.with_context(fastest)?))
    }

    /// The cheapest whose damages add up to at most `most`; the one of least damage if none do.
    pub fn of_damage(&self, most: f64) -> Chosen {
        let least = || self.frontier.within(u64::MAX);
        let found = self.frontier.cheapest(most).or_else(least);
        self.chosen(found.unwrap_or(Allocation { options: Vec::new(), cost: 0, damage: 0.0 }))
    }

    /// Weights of all linears.
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// At most about `most` of the choices, evenly spread, by ascending cost, `this` one among them;
    /// with each, whether it is that.
    pub fn sample(&self, most: usize, this: &Chosen) -> Vec<(Chosen, bool)> {
        let costs: Vec<u64> = self.frontier.points().map(|(cost, _)| cost).collect();
        let step = costs.len().div_ceil(most.max(1)).max(1);
        let sampled = costs.iter().step_by(step).chain(costs.last());
        let found = sampled.filter_map(|&cost| self.frontier.within(cost));
        let mut found: Vec<_> = found.map(|found| self.chosen(found)).collect();
        found.push(this.clone());
        // Bits ascend as bytes do but for the padding of tiles, in which some bits cost nothing.
        found.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.predicted.total_cmp(&b.predicted)));
        found.dedup_by(|a, b| a.options == b.options);
        let mut least = f64::INFINITY;
        let better = found.into_iter().filter_map(|chosen| {
            let same = chosen.options == this.options;
            let better = chosen.predicted < least;
            least = least.min(chosen.predicted);
            (better || same).then_some((chosen, same))
        });
        better.collect()
    }

    fn chosen(&self, allocation: Allocation) -> Chosen {
        let linears = &self.sensitivities.linears;
        let options = || linears.iter().zip(&allocation.options).map(|(l, &o)| (l, &l.options[o]));
        let bits: u64 = options().map(|(linear, option)| option.bits(linear.weights)).sum();
        let speed = |phase: Phase| {
            let seconds =
                |(linear, option)| self.rates.seconds(&work(linear, option), phase.rows());
            phase.rows() as f64 / options().map(seconds).sum::<f64>()
        };
        let free = options().filter(|(linear, _)| !linear.pinned);
        Chosen {
            schemes: free.map(|(linear, option)| (linear.name.clone(), option.scheme)).collect(),
            predicted: options()
                .map(|(linear, option)| self.sensitivities.damage(linear, option).unwrap_or(0.0))
                .sum(),
            bits_per_weight: bits as f64 / self.weights.max(1) as f64,
            bytes: options().map(|(_, option)| option.bytes()).sum(),
            speed: Speed { decode: speed(Phase::Decode), prefill: speed(Phase::Prefill) },
            options: allocation.options,
        }
    }
}
