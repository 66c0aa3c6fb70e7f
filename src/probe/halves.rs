//! Results of f16 against the model of its sums, on every core.

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::HalfResults;
use tessera_runtime::rknn::check::{Deviations, Halves, Spread, Trial, shape};
use tessera_runtime::rknn::{Core, RknnError};

use super::Request;
use super::questions::Questions;

/// Asks.
pub fn ask(request: &Request, cores: usize, questions: &mut Questions) -> Vec<HalfResults> {
    let mut answers = Vec::new();
    for core in 0..cores {
        let found = questions.ask(&format!("f16 sums of core {core}"), || of_core(request, core));
        let Some(Deviations { results, lane_zero, elsewhere, explained }) = found else { continue };
        let core = u32::try_from(core).unwrap_or(u32::MAX);
        answers.push(HalfResults { core, results, lane_zero, elsewhere, explained });
    }
    answers
}

fn of_core(request: &Request, core: usize) -> Result<Deviations, RknnError> {
    let (m, k) = if request.quick { (16, 128) } else { (64, 512) };
    let shape = shape(Engine::F16, m, k, 4, 0);
    let mut trial = Trial::new(request.library, shape, Core::Number(core))?;
    let mut all = Deviations::default();
    for (seed, spread) in (1..).zip([Spread::Wide, Spread::Bell, Spread::Small]) {
        all += Halves::random(shape, spread, seed).run(&mut trial)?;
    }
    Ok(all)
}
