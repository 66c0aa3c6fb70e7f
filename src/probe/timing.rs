//! Times of matmuls, of one alone and of one on every core at once.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use tessera_runtime::rknn::check::Trial;
use tessera_runtime::rknn::{Core, Library, Operand, RknnError, Shape};

/// Runs that a time is the median of at least, where the first is left out.
const LEAST_RUNS: usize = 3;

/// Runs beyond which a median does not change.
const MOST_RUNS: usize = 20_000;

/// Weights of matmuls that are timed.
const WEIGHTS: u8 = 0x11;

/// Times of a matmul on all cores.
#[derive(Clone, Copy, Debug)]
pub struct Together {
    /// Median seconds of a run.
    pub seconds: f64,
    /// Runs in a second, of all cores.
    pub runs_per_second: f64,
}

/// A matmul whose weights are any. Old libraries write as many rows as the next multiple of 4: there is room for them.
pub fn trial(library: &Arc<Library>, shape: Shape, core: Core) -> Result<Trial, RknnError> {
    let rounded = Shape { m: shape.m.next_multiple_of(4), ..shape };
    let guard = rounded.bytes(Operand::C) - shape.bytes(Operand::C);
    let mut trial = Trial::guarded(library, shape, core, guard)?;
    let bytes = usize::try_from(shape.bytes(Operand::B)).unwrap_or(usize::MAX);
    trial.set_weights(&vec![WEIGHTS; bytes])?;
    trial.matmul().activations().fill(WEIGHTS);
    Ok(trial)
}

/// Median seconds of a run.
pub fn seconds(trial: &mut Trial, patience: Duration) -> Result<f64, RknnError> {
    Ok(median(&mut times(trial, patience)?))
}

/// Median seconds of a run, and runs in a second, of the same matmul on every core.
pub fn together(
    library: &Arc<Library>,
    shape: Shape,
    cores: usize,
    patience: Duration,
) -> Result<Together, RknnError> {
    let trials: Result<Vec<_>, _> =
        (0..cores).map(|core| trial(library, shape, Core::Number(core))).collect();
    let barrier = Barrier::new(cores);
    let times: Vec<Result<Vec<f64>, RknnError>> = thread::scope(|scope| {
        let start = |mut trial: Trial| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                times(&mut trial, patience)
            })
        };
        let threads: Vec<_> = trials?.into_iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok::<_, RknnError>(threads.into_iter().map(join).collect())
    })?;
    let mut all = Vec::new();
    let mut runs_per_second = 0.0;
    for times in times {
        let times = times?;
        runs_per_second += as_f64(times.len()) / times.iter().sum::<f64>();
        all.extend(times);
    }
    Ok(Together { seconds: median(&mut all), runs_per_second })
}

fn times(trial: &mut Trial, patience: Duration) -> Result<Vec<f64>, RknnError> {
    // The first run may wake something up.
    trial.run()?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < LEAST_RUNS || (begin.elapsed() < patience && times.len() < MOST_RUNS) {
        let run = Instant::now();
        trial.run()?;
        times.push(run.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "a count of runs")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
