//! What a board's NPU does where nobody could say: asked by small matmuls, safe ones first.

mod domains;
mod halves;
mod integers;
mod long_columns;
mod odd_rows;
mod questions;
mod report;
mod speed;
mod timing;

use std::sync::Arc;
use std::time::Duration;

use tessera_formats::npu::probe::{CoreMask, Probe, SelfTestFinding};
use tessera_formats::npu::{Board, Engine};
use tessera_runtime::rknn::check::{self, Finding, shape};
use tessera_runtime::rknn::{Kind, Library, RknnError, versions};

use self::questions::Questions;
pub use self::report::text;
use crate::doctor::System;

/// What the self-test is called among questions.
const SELF_TEST: &str = "self-test";

/// Masks of cores that are tried: every one of three cores.
const MASKS: std::ops::RangeInclusive<u32> = 0..=7;

/// What is asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The library.
    pub library: &'a Arc<Library>,
    /// What it drives.
    pub kind: Kind,
    /// Whether smaller matmuls are run for shorter.
    pub quick: bool,
    /// Whether it is found out how many bytes a domain gives.
    pub memory: bool,
    /// Where the board's files are.
    pub system: &'a System,
}

impl Request<'_> {
    /// How long a time is taken for.
    fn patience(&self) -> Duration {
        Duration::from_millis(if self.quick { 20 } else { 300 })
    }
}

/// Asks.
///
/// # Errors
///
/// If the library does not find its NPU.
pub fn probe(request: &Request) -> Result<Board, RknnError> {
    let library = request.library;
    let [version, driver] = versions(library)?;
    let read = |path: &str| match request.kind {
        Kind::Board => request.system.line(path).ok().filter(|line| !line.is_empty()),
        Kind::StandIn => None,
    };
    let soc = match request.kind {
        Kind::Board => soc(request.system),
        Kind::StandIn => None,
    };
    let chip = match soc.as_deref() {
        Some("rockchip,rk3576") => "rk3576",
        _ => "rk3588",
    };
    let mut questions = Questions::default();
    let core_masks = core_masks(library, &mut questions);
    let cores = Board::of_chip(chip).map_or(1, |board| board.target.cores);
    let accepted = |core: &u32| core_masks.iter().any(|m| m.mask == 1 << core && m.accepted);
    let cores = (0..cores).take_while(accepted).count();
    let findings =
        questions.ask(SELF_TEST, || check::self_test(library, cores, 0)).unwrap_or_default();
    questions.note(&findings);
    let int4 = integers::ask(library, &mut questions);
    let odd_rows = odd_rows::ask(library, &mut questions);
    let halves = halves::ask(request, cores, &mut questions);
    let long_columns = long_columns::ask(library, &mut questions);
    let speed = speed::ask(request, cores, &mut questions);
    let domains = domains::ask(request, &mut questions);
    let probe = Probe {
        tessera: env!("CARGO_PKG_VERSION").to_owned(),
        library: version,
        driver,
        stand_in: request.kind == Kind::StandIn,
        quick: request.quick,
        machine: read("/proc/device-tree/model"),
        soc,
        kernel: read("/proc/sys/kernel/osrelease"),
        self_test: findings.iter().map(told).collect(),
        int4,
        odd_rows,
        halves,
        long_columns,
        core_masks,
        domains,
        layouts: speed.layouts,
        few_rows: speed.few_rows,
        products: speed.products,
        reading: speed.reading,
        submit: speed.submit,
        failures: questions.failures(),
    };
    // Both chips are known.
    Ok(Board::of_probe(chip, probe).unwrap_or_else(|| unreachable!("`{chip}` is a chip")))
}

/// What packs rely on and this board does not have; empty if it has all.
pub fn problems(probe: &Probe) -> Vec<String> {
    let fatal = probe.self_test.iter().filter(|finding| finding.fatal);
    let mut problems: Vec<_> = fatal.map(|finding| finding.text.clone()).collect();
    let untested = probe.failures.iter().find(|failure| failure.question == SELF_TEST);
    problems.extend(untested.map(|failure| format!("the NPU was not tested: {}", failure.error)));
    if !probe.core_masks.iter().any(|mask| mask.mask == 1 && mask.accepted) {
        problems.push("no matmul can be given a core".to_owned());
    }
    problems
}

/// Rates that were not measured, which are those that others report of the chip.
pub fn unmeasured(probe: &Probe) -> Vec<&'static str> {
    let engines = probe.products.iter().map(|products| products.engine);
    let engines: Vec<_> = engines.collect();
    let rates = [
        ("bytes_per_second", !probe.reading.is_empty()),
        ("submit_seconds", probe.submit.is_some()),
        ("i4_macs_per_second", engines.contains(&Engine::I4)),
        ("i8_macs_per_second", engines.contains(&Engine::I8)),
        ("f16_macs_per_second", engines.contains(&Engine::F16)),
    ];
    rates.into_iter().filter(|(_, measured)| !measured).map(|(name, _)| name).collect()
}

/// The board's chip, by the most general name that its device tree gives.
fn soc(system: &System) -> Option<String> {
    let names = system.strings("/proc/device-tree/compatible").ok()?;
    names.into_iter().rev().find(|name| name.starts_with("rockchip,rk"))
}

fn told(finding: &Finding) -> SelfTestFinding {
    SelfTestFinding {
        cause: finding.cause.name().to_owned(),
        engine: finding.engine,
        core: u32::try_from(finding.core).unwrap_or(u32::MAX),
        fatal: finding.cause.is_fatal(),
        text: finding.to_string(),
    }
}

fn core_masks(library: &Arc<Library>, questions: &mut Questions) -> Vec<CoreMask> {
    let smallest = shape(Engine::I8, 1, 32, 1, 0);
    let mut masks = Vec::new();
    for mask in MASKS {
        let tried = questions.ask(&format!("core mask {mask}"), || {
            check::core_mask(library, smallest, i32::try_from(mask).unwrap_or(i32::MAX))
        });
        let Some(tried) = tried else { continue };
        let code = match &tried {
            Err(RknnError::Call { code, .. }) => Some(*code),
            _ => None,
        };
        masks.push(CoreMask { mask, accepted: tried.is_ok(), code });
    }
    masks
}
