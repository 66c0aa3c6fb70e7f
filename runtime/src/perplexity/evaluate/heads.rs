//! Heads over the scored positions: logits, a block of rows at a time, and what they are worth.

use std::ops::Range;

use rayon::prelude::*;

use super::run::{Meter, Runner};
use super::{EvaluationError, Participant};
use crate::perplexity::{
    Chunks, LogSoftmax, LogitsFile, NotFinite, ReferenceRow, StoredRow, TokenStatistics,
};

/// Heads over the scored positions of a group.
pub(super) struct HeadPass<'a> {
    pub(super) chunks: &'a Chunks,
    pub(super) group: Range<usize>,
    /// Rows of logits at a time.
    pub(super) block: usize,
    /// The reference, if it is a file.
    pub(super) file: Option<&'a LogitsFile>,
}

impl HeadPass<'_> {
    /// Compares models with the reference, in blocks of rows. The reference itself is scored and
    /// saved only where it is the first time in its group.
    pub(super) fn run(
        &self,
        mut reference: Option<&mut Runner<'_>>,
        first_time: bool,
        models: &mut [Runner<'_>],
        meter: &mut Meter<'_>,
    ) -> Result<(), EvaluationError> {
        let head_ref = reference.as_deref().map(Runner::head).transpose()?;
        let heads = models.iter().map(Runner::head).collect::<Result<Vec<_>, _>>()?;
        let rows = self.group.len() * self.chunks.scored().len();
        let mut start = 0;
        while start < rows {
            let block = start..(start + self.block).min(rows);
            let logits_ref;
            let mut softmaxes_ref = None;
            if let (Some(runner), Some(head)) = (&mut reference, &head_ref) {
                logits_ref = runner.logits(head, block.clone(), meter)?;
                let softmaxes = self.softmaxes(runner.participant, &logits_ref, block.start)?;
                if first_time {
                    self.score(runner, &softmaxes, block.start, None)?;
                }
                softmaxes_ref = Some(softmaxes);
            }
            for (runner, head) in models.iter_mut().zip(&heads) {
                let logits = runner.logits(head, block.clone(), meter)?;
                let softmaxes = self.softmaxes(runner.participant, &logits, block.start)?;
                self.score(runner, &softmaxes, block.start, softmaxes_ref.as_deref())?;
            }
            start = block.end;
        }
        Ok(())
    }

    /// Chunk of a row of the group, and which of the chunk's scored positions it is.
    fn place(&self, row: usize) -> (usize, usize) {
        let scored = self.chunks.scored().len();
        (self.group.start + row / scored, row % scored)
    }

    /// The rows of a block that starts with the group's row `start`.
    fn softmaxes<'l>(
        &self,
        participant: &Participant<'_>,
        logits: &'l [f32],
        start: usize,
    ) -> Result<Vec<LogSoftmax<'l>>, EvaluationError> {
        let rows = logits.par_chunks(participant.model.vocabulary());
        let softmaxes: Vec<_> = rows.map(LogSoftmax::new).collect();
        let named = softmaxes.into_iter().enumerate().map(|(index, softmax)| {
            softmax.map_err(|NotFinite { token, value }| {
                let (chunk, position) = self.place(start + index);
                let position = self.chunks.scored().start + position;
                let name = participant.name.clone();
                EvaluationError::NotFinite { name, chunk, position, token, value }
            })
        });
        named.collect()
    }

    /// Scores a block of rows, and saves them if they are to be saved.
    fn score(
        &self,
        runner: &mut Runner<'_>,
        rows: &[LogSoftmax<'_>],
        start: usize,
        reference: Option<&[LogSoftmax<'_>]>,
    ) -> Result<(), EvaluationError> {
        let save = runner.writer.is_some();
        let score = |(index, row): (usize, &LogSoftmax<'_>)| {
            let (chunk, position) = self.place(start + index);
            let label = self.chunks.labels(chunk)[position] as usize;
            let stored_ref = self.file.map(|file| file.row(chunk, position)).transpose()?;
            let reference = match (reference, &stored_ref) {
                (Some(rows), _) => Some(ReferenceRow::Logits(&rows[index])),
                (None, Some(stored)) => Some(ReferenceRow::Stored(stored)),
                (None, None) => None,
            };
            let statistics = TokenStatistics::new(row, label, reference);
            Ok((statistics, save.then(|| StoredRow::encode(row))))
        };
        let scored: Vec<Result<_, EvaluationError>> =
            rows.par_iter().enumerate().map(score).collect();
        for row in scored {
            let (statistics, stored) = row?;
            runner.tokens.push(statistics);
            if let (Some(writer), Some(stored)) = (&mut runner.writer, stored) {
                writer.write_row(&stored)?;
            }
        }
        Ok(())
    }
}
