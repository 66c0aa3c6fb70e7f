//! Whether a device computes what a pack says: integers of every segment, then a forward pass.

mod device;
mod golden;
mod linear;
mod model;
mod report;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tessera_formats::escape::{escaped, escaped_path};
use tessera_formats::pack::PackReader;
use tessera_runtime::rknn::{LoadOptions, LoadedWeights, Npu, check};

use crate::progress::Progress;
use device::Engines;
use golden::Golden;
pub use report::Report;
use report::{DeviceReport, Fault};

/// How much is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// M = 4 alone, tiles not hashed, no forward pass.
    Quick,
    /// M = 1, 4 and 64, each core its channels; the forward pass.
    #[default]
    Normal,
    /// The same with every core given every channel.
    Full,
}

impl Depth {
    /// M of the matmuls.
    fn rows(self) -> &'static [usize] {
        if self == Depth::Quick { &[4] } else { &[4, 1, 64] }
    }

    /// How often the cores are given other channels.
    fn turns(self, cores: usize) -> usize {
        if self == Depth::Full { cores } else { 1 }
    }
}

/// What is to be validated.
pub struct Request<'a> {
    /// The pack.
    pub pack: &'a Path,
    /// The NPU; the simulator where there is none.
    pub npu: Option<Arc<Npu>>,
    /// How much is done.
    pub depth: Depth,
    /// What the forward pass begins with.
    pub prompt: &'a str,
    /// Log-probabilities to compare those of their tokens with.
    pub reference: Option<&'a Path>,
}

/// Validates; an error means that it could not be done, not that something is wrong with the device.
pub fn validate(request: &Request<'_>) -> anyhow::Result<Report> {
    let pack = PackReader::open(request.pack)?;
    ensure!(
        pack.linears().next().is_some(),
        "`{}` has no linears: there is nothing to validate",
        escaped_path(request.pack),
    );
    let mut report = Report::new(request.pack, DeviceReport::of(request.npu.as_deref()));
    if let Some(npu) = &request.npu {
        let findings = check::self_test(npu.library(), npu.cores(), 0)?;
        report.self_test = findings.iter().map(Fault::of).collect();
        // What does not end takes seconds each time.
        if findings.iter().any(|finding| finding.cause == check::Cause::Call) {
            return Ok(report.finish());
        }
    }
    let golden = Golden::read(&pack)?;
    report.golden = golden.is_stored();
    let loaded = match &request.npu {
        None => None,
        Some(npu) => Some(Arc::new(load(npu, &pack, request.depth)?)),
    };
    let engines = match &loaded {
        Some(loaded) => Engines::Npu(loaded),
        None => Engines::Simulator,
    };
    let linears: Vec<_> = pack.linears().collect();
    let total = u64::try_from(linears.len())?;
    let progress = Progress::of_steps("validating");
    for (done, linear) in (0..).zip(linears) {
        progress.set(done, total);
        let context = || format!("`{}`", escaped(&linear.name));
        let work = linear::Work { pack: &pack, engines, golden: &golden, depth: request.depth };
        let found = work.check(linear, &report.self_test).with_context(context)?;
        let failed = found.error.is_some();
        report.linears.push(found);
        if failed {
            progress.finish();
            return Ok(report.finish());
        }
    }
    progress.finish();
    if request.depth != Depth::Quick {
        report.model = Some(model::check(request.pack, loaded.as_ref(), request.prompt)?);
    }
    if let Some(path) = request.reference {
        report.reference = Some(model::compare(request.pack, loaded.as_ref(), path)?);
    }
    Ok(report.finish())
}

/// Reads the tiles into the NPU's memory; they are held against their digests there, unless it is to be quick.
fn load(npu: &Arc<Npu>, pack: &PackReader, depth: Depth) -> anyhow::Result<LoadedWeights> {
    let tiles = pack.manifest(0).map_or(0, |manifest| manifest.memory.tile_bytes);
    let progress = Progress::start("loading", tiles);
    let options = LoadOptions { check: depth != Depth::Quick };
    let loaded = LoadedWeights::load(npu, pack, options, &|bytes| progress.advance(bytes));
    progress.finish();
    Ok(loaded?)
}
