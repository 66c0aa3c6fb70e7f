//! Numbers of rows that are neither 1 nor a multiple of 4, in the NPU's own layout: old versions of the library lay
//! them out otherwise than they say, and write behind the results.

use std::sync::Arc;

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::{OddRows, RowStride};
use tessera_runtime::rknn::check::{ENGINES, Operands, Trial, shape};
use tessera_runtime::rknn::{Core, Layout, Library, Operand, RknnError, Shape};

use super::questions::Questions;

const ROWS: [u32; 3] = [2, 3, 5];

/// A byte that no sum here consists of.
const FILL: u8 = 0x5c;

/// Asks of every engine.
pub fn ask(library: &Arc<Library>, questions: &mut Questions) -> Vec<OddRows> {
    let mut answers = Vec::new();
    for engine in ENGINES {
        for m in ROWS {
            let question = format!("{m} rows of {}", super::report::engine(engine));
            answers.extend(questions.ask(&question, || of_rows(library, engine, m)));
        }
    }
    answers
}

fn of_rows(library: &Arc<Library>, engine: Engine, m: u32) -> Result<OddRows, RknnError> {
    let shape = Shape { layout: Layout::Native, ..shape(engine, m, 64, 2, 0) };
    let results = shape.bytes(Operand::C);
    let rounded = Shape { m: m.next_multiple_of(4), ..shape }.bytes(Operand::C);
    let mut trial = Trial::guarded(library, shape, Core::Any, rounded - results + 4096)?;
    let operands = Operands::random(shape, 77 + m);
    let (tight, mut guard_intact) = run(&mut trial, &operands)?;
    let mut rows = RowStride::Tight;
    if !tight {
        // What stands in the first columns is at one place however rows are laid out.
        let (first, k) = (8, operands.columns());
        let mut operands = operands;
        for (at, weight) in operands.weights.iter_mut().enumerate() {
            *weight = if at % k < first { *weight } else { 0 };
        }
        let (_, intact) = run(&mut trial, &operands)?;
        guard_intact &= intact;
        let apart = trial.results_of_rows_apart(m.next_multiple_of(4));
        let padded = operands.agree_with(&apart);
        rows = if padded { RowStride::Padded } else { RowStride::Wrong };
    }
    Ok(OddRows { engine, m, rows, guard_intact })
}

/// Whether results are right, and nothing is written behind them.
fn run(trial: &mut Trial, operands: &Operands) -> Result<(bool, bool), RknnError> {
    trial.set_weights(&operands.tiles()?)?;
    trial.set_rows(operands);
    trial.matmul().fill_results(FILL)?;
    trial.run()?;
    let behind = usize::try_from(operands.shape().bytes(Operand::C)).unwrap_or(usize::MAX);
    let guard_intact = trial.matmul().results().iter().skip(behind).all(|byte| *byte == FILL);
    Ok((operands.agree_with(&trial.results()), guard_intact))
}
