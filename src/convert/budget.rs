//! Memory and threads that a conversion may use.

use anyhow::ensure;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::Gguf;

use super::plan::Plan;
use super::{inputs, linear};
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
        let half = usize::try_from(self.bytes / 2).unwrap_or(usize::MAX);
        let scratch = scratch.saturating_mul(self.threads);
        let available = half.saturating_sub(scratch);
        ensure!(panel <= available, "{}", self.too_small(name, panel.saturating_add(scratch)),);
        let wanted = (LARGEST_CHUNK / panel.max(1)).max(2 * self.threads);
        Ok(wanted.min(available / panel.max(1)).max(1))
    }
    /// Refuses what stays in memory, `bytes` for one linear, if it takes more than its half.
    fn check_resident(&self, name: &str, bytes: usize) -> anyhow::Result<()> {
        let fits = u64::try_from(bytes).is_ok_and(|bytes| bytes <= self.bytes / 2);
        ensure!(fits, "{}", self.too_small(name, bytes));
        Ok(())
    }

    /// The half of the budget that `name` uses most of would have to be `half` bytes.
    fn too_small(&self, name: &str, half: usize) -> String {
        let needed = u64::try_from(half).unwrap_or(u64::MAX).saturating_mul(2);
        format!(
            "a memory budget of {} is too small for `{}`, which needs at least {}",
            size::show(self.bytes),
            Escaped(name),
            size::show(needed),
        )
    }
}

/// Refuses a plan of which some tensor does not fit the budget, before hours went into the others.
pub fn check(gguf: &Gguf, plan: &Plan, budget: Budget) -> anyhow::Result<()> {
    for linear in &plan.linears {
        let tensor = &gguf.tensors()[linear.source];
        let input = &plan.inputs[linear.input];
        let row_bytes = usize::try_from(tensor.row_bytes())?;
        let (panel, scratch) = linear::memory(linear, row_bytes, input.rotation.scratch_len());
        budget.panels(&linear.name, panel, scratch)?;
        if input.norm.is_some() {
            let (panel, scratch) = inputs::memory(linear.k, row_bytes);
            budget.panels(&linear.name, panel, scratch)?;
        }
        let scales = linear.matrices() * linear.fewest_segments * linear.n * size_of::<f32>();
        budget.check_resident(&linear.name, scales + inputs::resident(linear.k))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_cannot_hold_a_panel_is_refused_with_the_size_it_needs() {
        let budget = Budget { bytes: 1 << 20, threads: 2 };
        let error = budget.panels("w", 1 << 20, 1 << 10).unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("at least"), "{error}");
        assert!(budget.panels("w", 1 << 10, 1 << 10).unwrap() >= 4);
    }
}
