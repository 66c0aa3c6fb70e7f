//! Quantizing the linears of a plan, one at a time, for whatever takes their tiles.

use anyhow::Context;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::Gguf;
use tessera_runtime::golden::GoldenInputs;

use super::budget::Budget;
use super::calibration::Calibration;
use super::inputs::PreparedInput;
use super::linear::{ConvertedLinear, LinearJob, TileSink};
use super::plan::Plan;
use super::rows::RowSource;
use super::scales::Scales;
use crate::progress::Progress;

/// A planned conversion, and what it may use.
#[derive(Clone, Copy)]
pub struct Quantizer<'a> {
    /// The source.
    pub gguf: &'a Gguf,
    /// What was decided.
    pub plan: &'a Plan,
    /// Seed of every random choice.
    pub seed: u64,
    /// Memory and threads.
    pub budget: Budget,
    /// What a calibration observed.
    pub calibration: Option<&'a Calibration>,
    /// Rows whose results are hashed, where they are wanted.
    pub golden: Option<&'a GoldenInputs>,
    /// Progress, in bytes of source read.
    pub progress: &'a Progress,
}

impl Quantizer<'_> {
    /// Prepares input `index` of the plan, reading its linears' weights if it is equalized.
    pub fn input(&self, index: usize) -> anyhow::Result<PreparedInput> {
        PreparedInput::new(self, index)
    }

    /// Quantizes linear `index` of the plan, whose input is prepared; its tiles go to `sink`, from
    /// `offset` on.
    pub fn linear(
        &self,
        index: usize,
        input: &PreparedInput,
        sink: &impl TileSink,
        offset: u64,
    ) -> anyhow::Result<ConvertedLinear> {
        let plan = &self.plan.linears[index];
        let source = RowSource {
            gguf: self.gguf,
            tensor: &self.gguf.tensors()[plan.source],
            plan,
            transform: &input.transform,
            budget: self.budget,
        };
        let scales = Scales::find(&source).with_context(|| format!("`{}`", Escaped(&plan.name)))?;
        let observed = input.observed.as_ref();
        let golden = plan.golden_operands(self.golden)?;
        let (golden, progress) = (golden.as_ref(), self.progress);
        LinearJob { source, scales: &scales, observed, golden, progress }.run(sink, offset)
    }
}
