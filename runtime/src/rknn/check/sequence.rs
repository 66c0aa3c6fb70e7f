//! Runs of one matmul whose operands change, so that what is old is seen.

use std::sync::Arc;

use super::super::{Core, Library, RknnError, Shape};
use super::cause::{Seen, is};
use super::operands::count;
use super::{Finding, Operands, Trial, Wrong};

/// A byte that no sum here consists of.
const FILL: u8 = 0x5c;

/// Three runs: the second has other rows, the third other weights. What is wrong with the first that is.
pub(super) fn changing(
    library: &Arc<Library>,
    shape: Shape,
    core: usize,
    seed: u32,
) -> Result<Option<Finding>, RknnError> {
    let [first, second] = [0, 1].map(|step| Operands::random(shape, seed + step));
    let third = Operands { rows: second.rows.clone(), ..Operands::random(shape, seed + 2) };
    let second = Operands { weights: first.weights.clone(), ..second };
    let mut trial = Trial::new(library, shape, Core::Number(core))?;
    trial.matmul().fill_results(FILL)?;
    let mut previous: Option<&Operands> = None;
    for operands in [&first, &second, &third] {
        if previous.is_none_or(|previous| previous.weights != operands.weights) {
            trial.set_weights(&operands.tiles()?)?;
        }
        if let Some(finding) = step(&mut trial, operands, previous, core)? {
            return Ok(Some(finding));
        }
        previous = Some(operands);
    }
    Ok(None)
}

/// All −8 times all −8.
pub(super) fn extreme(
    library: &Arc<Library>,
    shape: Shape,
    core: usize,
) -> Result<Option<Finding>, RknnError> {
    let operands = Operands::of(shape, |_, _| -8, |_, _| -8);
    let mut trial = Trial::new(library, shape, Core::Number(core))?;
    trial.matmul().fill_results(FILL)?;
    trial.set_weights(&operands.tiles()?)?;
    step(&mut trial, &operands, None, core)
}

fn step(
    trial: &mut Trial,
    operands: &Operands,
    previous: Option<&Operands>,
    core: usize,
) -> Result<Option<Finding>, RknnError> {
    let before = trial.results();
    trial.set_rows(operands);
    trial.run()?;
    let (found, expected) = (trial.results(), operands.sums());
    let wrong =
        found.iter().zip(&expected).enumerate().filter(|(_, (found, sum))| !is(**found, **sum));
    let mut wrong = wrong.map(|(at, (found, expected))| (at, *found, *expected));
    let Some((at, one, sum)) = wrong.next() else { return Ok(None) };
    let count_of_wrong = wrong.count() + 1;
    let shape = operands.shape();
    let n = count(shape.n);
    let seen = Seen { operands, found: &found, before: &before, previous };
    Ok(Some(Finding {
        engine: shape.engine,
        core,
        shape,
        cause: seen.cause(),
        wrong: Some(Wrong { row: at / n, channel: at % n, found: one, expected: sum }),
        count: count_of_wrong,
        call: None,
    }))
}
