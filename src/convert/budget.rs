//! Memory and threads that a conversion may use.

use anyhow::ensure;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::Gguf;
use tessera_runtime::golden::{self, GoldenInputs};

use super::plan::{InputEqualization, Plan};
use super::{inputs, linear, scales};
use crate::size;

/// Bytes of a chunk beyond which larger reads gain nothing.
const LARGEST_CHUNK: usize = 8 << 20;

/// Memory and threads that a conversion may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes.
    pub bytes: u64,
    /// Worker threads.
    pub threads: usize,
}

impl Budget {
    /// Panels to work on at a time, when each takes `panel` bytes while it is in flight and each
    /// thread `scratch` bytes. Half of the budget is for panels in flight; the rest holds what
    /// stays: metadata, scales, the program.
    pub fn panels(&self, name: &str, panel: usize, scratch: usize) -> anyhow::Result<usize> {
        self.hold(name, self.needed(panel, scratch))?;
        let half = usize::try_from(self.bytes / 2).unwrap_or(usize::MAX);
        let available = half - scratch.saturating_mul(self.threads);
        let wanted = (LARGEST_CHUNK / panel.max(1)).max(2 * self.threads);
        Ok(wanted.min(available / panel.max(1)).max(1))
    }

    /// Bytes of half a budget that holds one panel in flight.
    fn needed(&self, panel: usize, scratch: usize) -> usize {
        panel.saturating_add(scratch.saturating_mul(self.threads))
    }

    /// Refuses what needs `bytes` of half the budget and has less.
    pub fn hold(&self, name: &str, bytes: usize) -> anyhow::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        ensure!(
            bytes <= self.bytes / 2,
            "a memory budget of {} is too small for `{}`, which needs at least {}",
            size::show(self.bytes),
            Escaped(name),
            size::show(bytes.saturating_mul(2)),
        );
        Ok(())
    }
}

/// Refuses a plan of which some tensor does not fit the budget, before hours went into the others.
/// The error names the one that needs most.
pub fn check(gguf: &Gguf, plan: &Plan, budget: Budget) -> anyhow::Result<()> {
    let mut most = (0, "");
    for linear in &plan.linears {
        let tensor = &gguf.tensors()[linear.source];
        let input = &plan.inputs[linear.input];
        let row_bytes = usize::try_from(tensor.row_bytes())?;
        let scratch_len = input.rotation.scratch_len();
        let mut pieces = vec![
            linear::memory(linear, row_bytes, scratch_len),
            scales::memory(linear, row_bytes, scratch_len),
        ];
        if input.equalization != InputEqualization::None {
            pieces.push(inputs::memory(linear.k, row_bytes));
        }
        // Beside the work stay the linear's scales, its input's vectors and the golden inputs.
        let scales = linear.matrices() * linear.fewest_segments * linear.n * size_of::<f32>();
        let golden = plan.golden_columns().map_or(0, |columns| golden::ROWS * columns)
            + GoldenInputs::operand_bytes(linear.engine(), linear.k_padded);
        let stays = scales + inputs::resident(linear.k) + golden;
        let works = pieces.into_iter().map(|(panel, scratch)| budget.needed(panel, scratch));
        let needed = works.fold(stays, usize::max);
        if needed > most.0 {
            most = (needed, &linear.name);
        }
    }
    budget.hold(most.1, most.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_cannot_hold_a_panel_is_refused_with_the_size_it_needs() {
        let budget = Budget { bytes: 1 << 20, threads: 2 };
        let error = budget.panels("w", 1 << 20, 1 << 10).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("at least"), "{error}");
        // Half of 1 MiB, less 1 KiB for each of 2 threads, holds 510 panels of 1 KiB.
        assert_eq!(budget.panels("w", 1 << 10, 1 << 10).unwrap(), 510);
        assert_eq!(budget.panels("w", 510 << 10, 1 << 10).unwrap(), 1);
        assert!(budget.panels("w", (510 << 10) + 1, 1 << 10).is_err());
    }
}
