//! How fast the NPU is: few rows, either layout, long matrices, weights, and the smallest matmul.

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::{FewRows, LayoutTimes, Products, Reading, Submit};
use tessera_runtime::rknn::check::{ENGINES, Operands, Trial, shape};
use tessera_runtime::rknn::{Core, Layout, RknnError, Shape};

use super::Request;
use super::questions::Questions;
use super::report::rows;
use super::timing::{seconds, together, trial};

/// What was measured.
#[derive(Debug, Default)]
pub struct Speed {
    /// Rows laid out either way.
    pub layouts: Vec<LayoutTimes>,
    /// Few rows.
    pub few_rows: Vec<FewRows>,
    /// Long matrices.
    pub products: Vec<Products>,
    /// Weights.
    pub reading: Vec<Reading>,
    /// The smallest matmul.
    pub submit: Option<Submit>,
}

/// Rows, and columns that are as many as channels, of matmuls that are timed for their products: the largest that does
/// not take too long.
const LONG: [(u32, u32); 5] = [(4, 256), (16, 512), (64, 1024), (256, 2048), (512, 2048)];

/// Columns and channels of matmuls that are timed for their weights.
const WIDE: [u32; 4] = [256, 1024, 2048, 4096];

/// Measures.
pub fn ask(request: &Request, cores: usize, questions: &mut Questions) -> Speed {
    let mut speed = Speed::default();
    if cores == 0 {
        return speed;
    }
    speed.submit = questions.ask("time of the smallest matmul", || submit(request, cores));
    let k = if request.quick { 512 } else { 2048 };
    for m in [1, 2, 4] {
        let shape = square(Engine::I4, m, k);
        let time = questions.ask(&format!("time of {} of int4", rows(m)), || {
            let mut trial = trial(request.library, shape, Core::Number(0))?;
            seconds(&mut trial, request.patience())
        });
        speed.few_rows.extend(time.map(|seconds| FewRows { m, k, n: shape.n, seconds }));
    }
    for engine in [Engine::I8, Engine::F16] {
        for m in [1, 64] {
            let name = super::report::engine(engine);
            let question = format!("{} of {name} laid out either way", rows(m));
            speed.layouts.extend(questions.ask(&question, || layouts(request, engine, m)));
        }
    }
    for engine in ENGINES {
        let question = format!("products of {}", super::report::engine(engine));
        speed.products.extend(questions.ask(&question, || products(request, engine, cores)));
    }
    for engine in ENGINES {
        let question = format!("weights of {}", super::report::engine(engine));
        let submit = speed.submit.map_or(0.0, |submit| submit.all_cores_seconds);
        speed.reading.extend(questions.ask(&question, || reading(request, engine, cores, submit)));
    }
    speed
}

/// As many channels as columns.
fn square(engine: Engine, m: u32, k: u32) -> Shape {
    Shape { n: k, ..shape(engine, m, k, 1, 0) }
}

fn submit(request: &Request, cores: usize) -> Result<Submit, RknnError> {
    let smallest = shape(Engine::I8, 1, 32, 1, 0);
    let mut alone = trial(request.library, smallest, Core::Number(0))?;
    let one_core_seconds = seconds(&mut alone, request.patience())?;
    drop(alone);
    let all = together(request.library, smallest, cores, request.patience())?;
    Ok(Submit { one_core_seconds, all_cores_seconds: all.seconds })
}

fn layouts(request: &Request, engine: Engine, m: u32) -> Result<LayoutTimes, RknnError> {
    let k = if request.quick { 128 } else { 1024 };
    let measure = |layout| {
        let operands = Operands::random(Shape { layout, ..square(engine, m, k) }, 5);
        let mut trial = Trial::new(request.library, operands.shape(), Core::Number(0))?;
        trial.set_weights(&operands.tiles()?)?;
        trial.set_rows(&operands);
        let time = seconds(&mut trial, request.patience())?;
        Ok::<_, RknnError>((time, trial.results()))
    };
    let (normal_seconds, normal) = measure(Layout::Normal)?;
    let (native_seconds, native) = measure(Layout::Native)?;
    let same_results = normal == native;
    Ok(LayoutTimes { engine, m, k, n: k, normal_seconds, native_seconds, same_results })
}

fn products(request: &Request, engine: Engine, cores: usize) -> Result<Products, RknnError> {
    let sizes = LONG.map(|(m, k)| square(engine, m, k));
    let shape = largest(request, cores, &sizes)?;
    let time = together(request.library, shape, cores, request.patience())?;
    Ok(Products {
        engine,
        m: shape.m,
        k: shape.k,
        n: shape.n,
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        macs_per_second: macs(shape) * time.runs_per_second,
    })
}

fn reading(
    request: &Request,
    engine: Engine,
    cores: usize,
    submit: f64,
) -> Result<Reading, RknnError> {
    let sizes = WIDE.map(|k| square(engine, 1, k));
    let shape = largest(request, cores, &sizes)?;
    let time = together(request.library, shape, cores, request.patience())?;
    let reading = time.seconds - submit;
    let seconds = if reading > 0.0 { reading } else { time.seconds };
    let of_all = f64::from(u32::try_from(cores).unwrap_or(u32::MAX));
    Ok(Reading {
        engine,
        k: shape.k,
        n: shape.n,
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        bytes_per_second: macs(shape) * bytes_of(engine) * of_all / seconds,
    })
}

/// The largest of which the least number of runs on all cores does not take longer than patience lasts, by the time of
/// the smallest.
fn largest(request: &Request, cores: usize, sizes: &[Shape]) -> Result<Shape, RknnError> {
    let mut shape = sizes[0];
    for &next in &sizes[1..] {
        let mut trial = trial(request.library, shape, Core::Number(0))?;
        let time = seconds(&mut trial, request.patience() / 16)?;
        let runs = 4.0 * f64::from(u32::try_from(cores).unwrap_or(u32::MAX));
        if runs * time * macs(next) / macs(shape) > request.patience().as_secs_f64() {
            break;
        }
        shape = next;
    }
    Ok(shape)
}

fn macs(shape: Shape) -> f64 {
    f64::from(shape.m) * f64::from(shape.k) * f64::from(shape.n)
}

fn bytes_of(engine: Engine) -> f64 {
    match engine {
        Engine::I4 => 0.5,
        Engine::I8 => 1.0,
        Engine::F16 => 2.0,
    }
}
