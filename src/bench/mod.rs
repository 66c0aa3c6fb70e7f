//! How fast a model is: prefill and decode rates, what each operator takes, what the board does meanwhile.

mod operators;
mod power;
mod report;
mod sampler;
mod sensors;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tessera_formats::escape::Escaped;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::generate::{Generator, random_tokens};
use tessera_runtime::rknn::Npu;

use crate::doctor::System;
use crate::models::{Device, Model, ModelSpec, Opening};
use crate::progress::Progress;
use crate::talk::say;
use operators::{Clock, Timed};
pub use report::Report;
use report::{Measured, Subject};
use sampler::Sampler;

/// Seed of the tokens.
const SEED: u64 = 0;

/// What is to be measured.
pub struct Request<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// Lengths of prompts; 0 for none.
    pub prompts: &'a [usize],
    /// Numbers of tokens to generate; 0 for none.
    pub generated: &'a [usize],
    /// Tokens of a prompt that go through the layers together.
    pub batches: &'a [usize],
    /// How often each test is done.
    pub repetitions: usize,
    /// Memory for weights; all of them where nothing is said.
    pub memory_budget: Option<u64>,
    /// How the model is opened.
    pub opening: &'a Opening,
    /// Where sensors are read.
    pub system: &'a System,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, so many at once.
    Prompt { tokens: usize, batch: usize },
    /// So many tokens, one after the other.
    Generation { tokens: usize },
}

impl Test {
    /// Every test that is asked for.
    fn all(request: &Request<'_>) -> Vec<Test> {
        let prompts = request.prompts.iter().filter(|&&tokens| tokens > 0);
        let prompts = prompts.flat_map(|&tokens| {
            request.batches.iter().map(move |&batch| Test::Prompt { tokens, batch })
        });
        let generated = request.generated.iter().filter(|&&tokens| tokens > 0);
        prompts.chain(generated.map(|&tokens| Test::Generation { tokens })).collect()
    }

    /// Tokens that go through the model.
    fn tokens(self) -> usize {
        match self {
            Test::Prompt { tokens, .. } | Test::Generation { tokens } => tokens,
        }
    }

    /// Tokens that go through the layers together.
    fn batch(self) -> usize {
        match self {
            Test::Prompt { batch, .. } => batch,
            Test::Generation { .. } => 1,
        }
    }

    /// Does it once.
    fn run(self, generator: &mut Generator<'_>, tokens: &[u32]) -> anyhow::Result<Duration> {
        generator.clear();
        generator.set_batch(self.batch());
        let started = Instant::now();
        match self {
            Test::Prompt { .. } => {
                generator.extend(tokens)?;
            }
            Test::Generation { .. } => {
                for token in tokens {
                    generator.extend(std::slice::from_ref(token))?;
                }
            }
        }
        Ok(started.elapsed())
    }
}

/// Measures.
pub fn bench(request: &Request<'_>) -> anyhow::Result<Report> {
    let tests = Test::all(request);
    let longest = tests.iter().map(|test| test.tokens()).max();
    let longest = longest.context("there is nothing to measure: give `-p` or `-n`")?;
    let model = Model::open(request.model, request.opening)?;
    let named = || format!("`{}`", Escaped(&model.name));
    let checkpoint = model.checkpoint(request.opening)?;
    let clock = Clock::new();
    let timed = Timed::new(&*checkpoint, &clock);
    let decoder = Decoder::for_context(&timed, longest).with_context(named)?;
    let trained = decoder.model().context_length;
    ensure!(
        longest <= trained,
        "{longest} tokens are more than the {trained} that {} was trained for: ask for fewer with `-p` and `-n`",
        named(),
    );
    let device = model.device(request.opening);
    let npu = request.opening.npu.as_deref();
    let npu = npu.filter(|_| matches!(device, Device::Rknn | Device::StandIn));
    let mut generator = load(&decoder, request.memory_budget).with_context(named)?;
    let subject = Subject::new(&model, &*checkpoint, (device, npu), request.opening.budget.threads);
    let mut report = Report::new(subject, generator.passing_layers());
    let tokens = random_tokens(SEED, longest, decoder.model().vocabulary);
    let runs = request.repetitions.saturating_add(1).saturating_mul(tests.len());
    let progress = Progress::of_steps("measuring");
    let mut done = 0u64;
    for test in tests {
        let measured = measure(test, request, (&mut generator, &tokens), (&clock, npu), || {
            done += 1;
            progress.set(done, u64::try_from(runs).unwrap_or(u64::MAX));
        });
        report.add(test, measured.with_context(named)?);
    }
    progress.finish();
    Ok(report)
}

/// Loads the layers that fit.
fn load<'a>(decoder: &'a Decoder<'a>, budget: Option<u64>) -> anyhow::Result<Generator<'a>> {
    let layers = u64::try_from(decoder.model().layers)?;
    let progress = Progress::of_steps("loading");
    let generator = Generator::new(decoder, budget.unwrap_or(u64::MAX), |loaded| {
        progress.set(u64::try_from(loaded).unwrap_or(layers), layers);
    });
    progress.finish();
    let generator = generator?;
    if generator.passing_layers() > 0 {
        say(format_args!(
            "warning: {} of {layers} layers do not fit the memory budget: rates are those of loading them again",
            generator.passing_layers(),
        ));
    }
    Ok(generator)
}

/// Does a test once to warm up, and then as often as is asked for; `ran` is told of each.
fn measure(
    test: Test,
    request: &Request<'_>,
    (generator, tokens): (&mut Generator<'_>, &[u32]),
    (clock, npu): (&Clock, Option<&Npu>),
    mut ran: impl FnMut(),
) -> anyhow::Result<Measured> {
    let tokens = &tokens[..test.tokens()];
    test.run(generator, tokens)?;
    ran();
    clock.take();
    let submits = npu.map(Npu::submits);
    let sampler = Sampler::start(request.system)?;
    let mut samples = Vec::with_capacity(request.repetitions);
    for _ in 0..request.repetitions {
        samples.push(test.run(generator, tokens)?);
        ran();
    }
    Ok(Measured {
        samples,
        recording: sampler.finish(),
        operators: clock.take(),
        submits: npu.zip(submits).map(|(npu, before)| npu.submits().saturating_sub(before)),
    })
}

/// Bytes of a model's tensors as they are stored, and the elements of those that the GGUF file has.
fn bytes_and_elements(model: &Model, checkpoint: &dyn Checkpoint) -> (u64, u64) {
    checkpoint.names().into_iter().fold((0u64, 0u64), |(bytes, elements), name| {
        let dims = checkpoint.dims(name).unwrap_or_default();
        let count = dims.into_iter().fold(1u64, u64::saturating_mul);
        let count = if model.is_copy(name) { 0 } else { count };
        (bytes.saturating_add(checkpoint.linear_bytes(name)), elements.saturating_add(count))
    })
}
