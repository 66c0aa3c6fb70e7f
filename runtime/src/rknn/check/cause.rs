//! Why sums are wrong: each explanation is tried on all results.

use std::fmt;

use tessera_formats::npu::Engine;

use super::Operands;

/// Rows of which explanations are tried.
const TRIED_ROWS: usize = 4;

/// What is likely wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The halves of bytes are taken in the other order in weights than in activations.
    NibbleOrder,
    /// The tiles of weights are taken in the other order.
    TileOrder,
    /// Integers are taken without their sign, or −8 as another.
    Sign,
    /// Sums of 4 bits leave out what does not fit 16 bits.
    Wrap,
    /// The NPU reads what the processor had written before, or the processor what the NPU had.
    StaleMemory,
    /// Zeros alone.
    DeadCore,
    /// A call failed.
    Call,
    /// None of the others explains it.
    Unknown,
}

impl Cause {
    /// Its name, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::NibbleOrder => "nibble-order",
            Cause::TileOrder => "tile-order",
            Cause::Sign => "sign",
            Cause::Wrap => "wrap",
            Cause::StaleMemory => "stale-memory",
            Cause::DeadCore => "dead-core",
            Cause::Call => "call",
            Cause::Unknown => "unknown",
        }
    }

    /// Whether packs give wrong results by it. They are made so that sums of 4 bits fit, unless they were asked not
    /// to be.
    pub const fn is_fatal(self) -> bool {
        !matches!(self, Cause::Wrap)
    }

    /// What it means.
    pub const fn explanation(self) -> &'static str {
        match self {
            Cause::NibbleOrder => {
                "the NPU takes the even column of weights from the high half of a byte, and packs have it in the low one"
            }
            Cause::TileOrder => {
                "the NPU takes tiles of weights column after column, and packs have them row after row"
            }
            Cause::Sign => "the NPU takes negative integers for others",
            Cause::Wrap => {
                "sums beyond 16 bits wrap, and do not saturate: packs whose sums are certified to fit are right"
            }
            Cause::StaleMemory => {
                "what the processor wrote did not reach the NPU, or what the NPU wrote did not reach the processor \
                 (`rknn_mem_sync` does not work)"
            }
            Cause::DeadCore => {
                "all results are zeros: the core does not work, or, if so are those of all cores, the NPU does not see \
                 its operands"
            }
            Cause::Call => "a call failed",
            Cause::Unknown => {
                "neither the order of halves or tiles, signs nor old memory explain it"
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a run gave, and what there was before it.
pub(super) struct Seen<'a> {
    /// Its operands.
    pub operands: &'a Operands,
    /// Its results, `[m, n]`.
    pub found: &'a [f64],
    /// What stood in the results before.
    pub before: &'a [f64],
    /// Operands of the run before.
    pub previous: Option<&'a Operands>,
}

impl Seen<'_> {
    /// What explains its results, some of which are wrong.
    pub fn cause(&self) -> Cause {
        let (operands, shape) = (self.operands, self.operands.shape());
        if self.found.iter().all(|&found| found == 0.0) {
            return Cause::DeadCore;
        }
        let expected = operands.sums();
        let old = |((found, before), expected): ((&f64, &f64), &i64)| {
            is(*found, *expected) || found.to_bits() == before.to_bits()
        };
        if self.found.iter().zip(self.before).zip(&expected).all(old) {
            return Cause::StaleMemory;
        }
        if let Some(previous) = self.previous {
            let mixed = [
                Operands { rows: previous.rows.clone(), ..operands.clone() },
                Operands { weights: previous.weights.clone(), ..operands.clone() },
                previous.clone(),
            ];
            if mixed.iter().any(|mixed| self.explains(mixed)) {
                return Cause::StaleMemory;
            }
        }
        let wrapped = |(found, sum): (&f64, i64)| is(*found, (sum << 48) >> 48);
        if shape.engine == Engine::I4 && self.found.iter().zip(operands.wide_sums()).all(wrapped) {
            return Cause::Wrap;
        }
        if shape.engine == Engine::I4 && self.explains(&operands.with_halves_swapped()) {
            return Cause::NibbleOrder;
        }
        if self.explains(&operands.with_tiles_in_columns()) {
            return Cause::TileOrder;
        }
        if operands.with_other_signs().iter().any(|other| self.explains(other)) {
            return Cause::Sign;
        }
        Cause::Unknown
    }

    /// Whether the NPU computed with these operands.
    fn explains(&self, operands: &Operands) -> bool {
        let sums = operands.sums_of_rows(TRIED_ROWS);
        sums.iter().zip(self.found).all(|(sum, found)| is(*found, *sum))
    }
}

/// Whether a result is the integer. The f16 engine may lower a sum by less than a half.
#[expect(clippy::cast_precision_loss, reason = "sums of all engines here fit an f64")]
pub(super) fn is(found: f64, expected: i64) -> bool {
    (found - expected as f64).abs() < 0.5
}
