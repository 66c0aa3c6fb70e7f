//! The loop over groups, models, layers and blocks.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::heads::HeadPass;
use super::plan::{LEAST_ROWS_OF_A_BLOCK, Plan};
use super::{
    Evaluation, EvaluationError, LoadedHead, Outcome, Participant, Progress, Reference, Report,
};
use crate::perplexity::{Chunks, LogitsFile, LogitsFileWriter, Summary, TokenStatistics};

/// A participant and what has come of it so far.
pub(super) struct Runner<'a> {
    pub(super) participant: &'a Participant<'a>,
    pub(super) tokens: Vec<TokenStatistics>,
    pub(super) writer: Option<LogitsFileWriter>,
    elapsed: Duration,
    /// Hidden states of the group's scored positions, `[rows, width]`.
    scored: Vec<f32>,
}

/// Work done, told to the caller.
pub(super) struct Meter<'a> {
    progress: Progress,
    tell: &'a mut dyn FnMut(Progress),
}

impl Meter<'_> {
    fn add(&mut self, work: u64) {
        self.progress.done = self.progress.done.saturating_add(work).min(self.progress.total);
        (self.tell)(self.progress);
    }
}

impl Evaluation<'_> {
    /// Runs all models over all chunks. `progress` is told of work as it gets done.
    ///
    /// # Errors
    ///
    /// If there is nothing to run, the budget is too small, vocabularies or the logits file do not
    /// agree with the text, a model fails or gives logits that are not finite, or a logits file
    /// cannot be read or written. Logits files appear only after everything has succeeded.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Report, EvaluationError> {
        let (reference, file) = match &self.reference {
            None => (None, None),
            Some(Reference::Model(participant)) => (Some(participant), None),
            Some(Reference::File(file)) => (None, Some(*file)),
        };
        self.check(reference, file)?;
        let models: Vec<_> = self.models.iter().map(|participant| participant.model).collect();
        let plan = Plan::new(
            self.chunks,
            reference.map(|participant| participant.model),
            &models,
            self.memory_budget_bytes,
        )?;
        let mut reference =
            reference.map(|participant| Runner::new(participant, self.chunks)).transpose()?;
        let mut models = self
            .models
            .iter()
            .map(|participant| Runner::new(participant, self.chunks))
            .collect::<Result<Vec<_>, _>>()?;
        let total = reference
            .iter()
            .map(|runner| runner.work(self.chunks, plan.heads.len().max(1)))
            .chain(models.iter().map(|runner| runner.work(self.chunks, 1)))
            .fold(0, u64::saturating_add);
        let mut meter = Meter { progress: Progress { done: 0, total }, tell: progress };
        meter.add(0);
        let mut first = 0;
        while first < self.chunks.len() {
            let group = first..(first + plan.group).min(self.chunks.len());
            for runner in reference.iter_mut().chain(&mut models) {
                runner.layers(self.chunks, group.clone(), plan.call, &mut meter)?;
            }
            let pass =
                HeadPass { chunks: self.chunks, group: group.clone(), block: plan.block, file };
            if plan.heads.is_empty() {
                pass.run(reference.as_mut(), true, &mut [], &mut meter)?;
            }
            for (index, heads) in plan.heads.iter().enumerate() {
                pass.run(reference.as_mut(), index == 0, &mut models[heads.clone()], &mut meter)?;
            }
            first = group.end;
        }
        // Files last: none appears if a later one of the models fails.
        let mut outcomes = Vec::new();
        let count = usize::from(reference.is_some());
        for runner in reference.into_iter().chain(models) {
            outcomes.push(runner.finish()?);
        }
        let models = outcomes.split_off(count);
        Ok(Report { reference: outcomes.pop(), models })
    }

    fn check(
        &self,
        reference: Option<&Participant<'_>>,
        file: Option<&LogitsFile>,
    ) -> Result<(), EvaluationError> {
        let mut all = reference.into_iter().chain(&self.models);
        let first = all.next().ok_or(EvaluationError::NoModel)?;
        let vocabulary = first.model.vocabulary();
        let token = self.chunks.largest_token();
        if token as usize >= vocabulary {
            let name = first.name.clone();
            return Err(EvaluationError::Token { name, token, vocabulary });
        }
        for other in all {
            let found = other.model.vocabulary();
            if found != vocabulary {
                return Err(EvaluationError::Vocabulary {
                    name: other.name.clone(),
                    other: first.name.clone(),
                    expected: vocabulary,
                    found,
                });
            }
        }
        file.map_or(Ok(()), |file| Ok(file.check(self.chunks, vocabulary)?))
    }
}

impl<'a> Runner<'a> {
    fn new(participant: &'a Participant<'a>, chunks: &Chunks) -> Result<Self, EvaluationError> {
        let vocabulary = participant.model.vocabulary();
        let writer = match &participant.save {
            None => None,
            Some(path) => Some(LogitsFileWriter::create(path, chunks, vocabulary)?),
        };
        let (tokens, elapsed, scored) = (Vec::new(), Duration::ZERO, Vec::new());
        Ok(Runner { participant, tokens, writer, elapsed, scored })
    }

    /// All work of this model, its head being run `heads` times.
    fn work(&self, chunks: &Chunks, heads: usize) -> u64 {
        let model = self.participant.model;
        let count = chunks.len();
        let layers = (0..model.layers())
            .map(|index| work(count * chunks.context(), model.layer_bytes(index)))
            .fold(0, u64::saturating_add);
        let head = work(count * chunks.scored().len(), model.head_bytes());
        layers.saturating_add(head.saturating_mul(heads as u64))
    }

    pub(super) fn head(&self) -> Result<LoadedHead<'a>, EvaluationError> {
        self.participant.model.head().map_err(self.failed())
    }

    fn failed(&self) -> impl Fn(super::ModelFailure) -> EvaluationError + use<> {
        let name = self.participant.name.clone();
        move |source| EvaluationError::Model { name: name.clone(), source }
    }

    fn size(
        &self,
        what: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), EvaluationError> {
        if expected == found {
            return Ok(());
        }
        let name = self.participant.name.clone();
        Err(EvaluationError::Size { name, what, expected, found })
    }

    /// Takes a group of chunks through all layers, `call` of them at a time, and keeps the states of
    /// the scored positions.
    fn layers(
        &mut self,
        chunks: &Chunks,
        group: Range<usize>,
        call: usize,
        meter: &mut Meter<'_>,
    ) -> Result<(), EvaluationError> {
        let start = Instant::now();
        let model = self.participant.model;
        let chunk_values = chunks.context() * model.width();
        let mut hidden = Vec::with_capacity(group.len() * chunk_values);
        for index in group.clone() {
            let states = model.embed(&chunks.input(index)).map_err(self.failed())?;
            self.size("values of hidden states", chunk_values, states.len())?;
            hidden.extend(states);
        }
        for index in 0..model.layers() {
            let layer = model.layer(index).map_err(self.failed())?;
            for states in hidden.chunks_mut(call * chunk_values) {
                let count = states.len() / chunk_values;
                layer(states, count).map_err(self.failed())?;
                meter.add(work(count * chunks.context(), model.layer_bytes(index)));
            }
        }
        let scored = chunks.scored();
        let values = scored.start * model.width()..scored.end * model.width();
        self.scored.clear();
        for states in hidden.chunks(chunk_values) {
            self.scored.extend_from_slice(&states[values.clone()]);
        }
        self.elapsed += start.elapsed();
        Ok(())
    }

    /// Logits of the states `rows` of those that were kept, at least one. Too few are filled up with
    /// copies of the last.
    pub(super) fn logits(
        &mut self,
        head: &LoadedHead<'_>,
        rows: Range<usize>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<f32>, EvaluationError> {
        let start = Instant::now();
        let model = self.participant.model;
        let mut states = self.scored[rows.start * model.width()..rows.end * model.width()].to_vec();
        let last = states.len() - model.width();
        let count = rows.len().max(LEAST_ROWS_OF_A_BLOCK);
        for _ in rows.len()..count {
            states.extend_from_within(last..last + model.width());
        }
        let mut logits = head(&states).map_err(self.failed())?;
        self.size("logits", count * model.vocabulary(), logits.len())?;
        logits.truncate(rows.len() * model.vocabulary());
        self.elapsed += start.elapsed();
        meter.add(work(rows.len(), model.head_bytes()));
        Ok(logits)
    }

    fn finish(self) -> Result<Outcome, EvaluationError> {
        if let Some(writer) = self.writer {
            writer.finish(true)?;
        }
        let name = self.participant.name.clone();
        let seconds = self.elapsed.as_secs_f64();
        let summary = Summary::new(&self.tokens).ok_or(EvaluationError::NoModel)?;
        Ok(Outcome { name, summary, tokens: self.tokens, seconds })
    }
}

/// Work of applying weights of so many bytes to rows.
fn work(rows: usize, bytes: u64) -> u64 {
    (rows as u64).saturating_mul(bytes.max(1))
}
