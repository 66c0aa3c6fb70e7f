//! One linear: its engines' results, segment by segment, against the pack's golden vectors.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use half::f16;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{TileLayout, unpack_row_f16};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Linear, Segment};
use tessera_runtime::golden::ROWS;
use tessera_runtime::host::{EngineResults, EngineRows};
use tessera_runtime::rknn::check;

use super::Depth;
use super::device::{Engines, SegmentMatrix};
use super::golden::{Digester, Golden};
use super::report::{Fault, LinearReport, Mismatch};

/// The float engine has a lane, the first of so many channels, in which a sum of 32 products may be a little low.
const FLOAT_LANES: usize = 16;

/// What a linear is checked with.
pub struct Work<'a> {
    /// The pack.
    pub pack: &'a PackReader,
    /// Who multiplies.
    pub engines: Engines<'a>,
    /// Rows.
    pub golden: &'a Golden,
    /// How much is done.
    pub depth: Depth,
}

/// A run of a matmul.
#[derive(Clone, Copy)]
struct Run {
    m: usize,
    /// The first golden row.
    first: usize,
    turn: usize,
}

/// Sums over runs of the same M.
#[derive(Default)]
struct Times {
    one: Option<Duration>,
    many: Option<Duration>,
}

impl Work<'_> {
    /// Checks all segments and matrices. `faults` are those that a test of the device itself found.
    pub fn check(&self, linear: &Linear, faults: &[Fault]) -> anyhow::Result<LinearReport> {
        let mut report = LinearReport::new(linear);
        let mut times = Times::default();
        for (index, segment) in linear.segments.iter().enumerate() {
            self.segment(linear, index, segment, faults, &mut report, &mut times)?;
            if report.error.is_some() {
                return Ok(report);
            }
        }
        let bytes = linear
            .segments
            .iter()
            .filter_map(|segment| self.pack.tensor_info(&segment.tiles).map(|tensor| tensor.bytes));
        let matrices = linear.experts.unwrap_or(1);
        let products = linear.n.saturating_mul(linear.k_padded).saturating_mul(matrices);
        report.rates(times.one, times.many, bytes.sum(), products.saturating_mul(64));
        Ok(report)
    }

    fn runs(&self) -> impl Iterator<Item = Run> {
        let turns = self.depth.turns(self.engines.cores());
        (0..turns).flat_map(|turn| {
            self.depth.rows().iter().flat_map(move |&m| {
                let firsts = if m == 1 { 0..ROWS } else { 0..1 };
                firsts.map(move |first| Run { m, first, turn })
            })
        })
    }

    fn segment(
        &self,
        linear: &Linear,
        index: usize,
        segment: &Segment,
        faults: &[Fault],
        report: &mut LinearReport,
        times: &mut Times,
    ) -> anyhow::Result<()> {
        let engine = linear.scheme.engine();
        let start = usize::try_from(segment.start)?;
        let length = usize::try_from(segment.length)?;
        let layout = TileLayout::new(engine, usize::try_from(linear.n_padded)?, length)?;
        let matrices = usize::try_from(linear.experts.unwrap_or(1))?;
        let n = usize::try_from(linear.n)?;
        let mut digester = Digester::new(engine);
        let before = (report.mismatches, report.lane_deviations);
        for matrix in 0..matrices {
            let place =
                SegmentMatrix { pack: self.pack, tensor: &segment.tiles, layout, n, matrix };
            let mut base = None;
            for run in self.runs() {
                let columns = start..start + length;
                let rows = Arc::new(self.golden.rows(linear, columns.clone(), run.first, run.m));
                let (found, time) = match self.engines.products(place, &rows, run.m, run.turn)? {
                    Ok(found) => found,
                    Err(error) => {
                        report.fail(index, matrix, run.m, &error);
                        return Ok(());
                    }
                };
                report.runs += 1;
                times.add(run.m, time);
                let right = match &base {
                    Some(base) => !differs(&found, base, run.first),
                    // Held against the pack's digest below; without one the simulator says what is right.
                    None => self.golden.is_stored(),
                };
                if !right {
                    self.compare(&place, run, &rows, &found, (index, faults), report)?;
                }
                if base.is_none() {
                    digester.add(&found);
                    base = Some(found);
                }
            }
        }
        let digest = digester.finish();
        let right = segment.golden.as_ref().is_none_or(|golden| *golden == digest);
        if right || !self.golden.is_stored() {
            return Ok(());
        }
        // Somewhere in the first runs: the simulator says where.
        for matrix in 0..matrices {
            let place =
                SegmentMatrix { pack: self.pack, tensor: &segment.tiles, layout, n, matrix };
            let rows = Arc::new(self.golden.rows(linear, start..start + length, 0, ROWS));
            let run = Run { m: ROWS, first: 0, turn: 0 };
            let found = self.engines.products(place, &rows, run.m, run.turn)?;
            let (found, _) = found.context("a run that had worked before")?;
            self.compare(&place, run, &rows, &found, (index, faults), report)?;
        }
        if (report.mismatches, report.lane_deviations) == before {
            report.disagree(index);
        }
        Ok(())
    }

    /// Compares results with the simulator's: counts those that are wrong, and describes the first of the linear.
    fn compare(
        &self,
        place: &SegmentMatrix<'_>,
        run: Run,
        rows: &EngineRows,
        found: &EngineResults,
        (segment, faults): (usize, &[Fault]),
        report: &mut LinearReport,
    ) -> anyhow::Result<()> {
        let expected = place.simulated(rows)?;
        let engine = place.layout.engine();
        for Difference { row, channel, found, expected } in differences(found, &expected) {
            if is_low_lane(place, rows, row, channel, found)? {
                report.lane_deviations += 1;
                continue;
            }
            report.mismatches += 1;
            if report.first.is_none() {
                let mismatch = Mismatch {
                    segment,
                    expert: report.experts.map(|_| place.matrix),
                    m: run.m,
                    row,
                    channel,
                    core: self.engines.core_of(place.n, channel, run.turn),
                    found,
                    expected,
                    cause: String::new(),
                };
                report.first = Some(mismatch.explained(engine, faults));
            }
        }
        Ok(())
    }
}

impl Times {
    fn add(&mut self, m: usize, time: Option<Duration>) {
        let Some(time) = time else { return };
        let best = |sum: &mut Option<Duration>, runs: u32| {
            *sum = Some(sum.unwrap_or_default() + time / runs);
        };
        match m {
            // One for each golden row.
            1 => best(&mut self.one, u32::try_from(ROWS).unwrap_or(1)),
            64 => best(&mut self.many, 1),
            _ => {}
        }
    }
}

/// Whether rows differ from golden rows' results, the first of which is number `first`.
fn differs(found: &EngineResults, golden: &EngineResults, first: usize) -> bool {
    fn any<T: Copy>(found: &[T], golden: &[T], first: usize, n: usize, bits: fn(T) -> u32) -> bool {
        found.chunks_exact(n).zip(first..).any(|(found, row)| {
            let golden = &golden[row % ROWS * n..][..n];
            found.iter().zip(golden).any(|(found, golden)| bits(*found) != bits(*golden))
        })
    }
    match (found, golden) {
        (EngineResults::Integers { values, n }, EngineResults::Integers { values: golden, .. }) => {
            any(values, golden, first, *n, i32::cast_unsigned)
        }
        (EngineResults::Floats { values, n }, EngineResults::Floats { values: golden, .. }) => {
            any(values, golden, first, *n, f32::to_bits)
        }
        _ => true,
    }
}

/// A result that is not what it should be; f64 holds those of every engine.
struct Difference {
    row: usize,
    channel: usize,
    found: f64,
    expected: f64,
}

/// Results that differ, by their bits.
fn differences(found: &EngineResults, expected: &EngineResults) -> Vec<Difference> {
    fn all<T: Copy + Into<f64>>(found: &[T], expected: &[T], n: usize) -> Vec<Difference> {
        let pairs = found.iter().zip(expected).map(|(&f, &e)| (f.into(), e.into())).enumerate();
        let differ = pairs.filter(|(_, (f, e)): &(usize, (f64, f64))| f.to_bits() != e.to_bits());
        let described = |(at, (found, expected))| {
            let (row, channel) = (at / n, at % n);
            Difference { row, channel, found, expected }
        };
        differ.map(described).collect()
    }
    match (found, expected) {
        (EngineResults::Integers { values, n }, EngineResults::Integers { values: e, .. }) => {
            all(values, e, *n)
        }
        (EngineResults::Floats { values, n }, EngineResults::Floats { values: e, .. }) => {
            all(values, e, *n)
        }
        // Of one engine, whose results are of one kind.
        _ => Vec::new(),
    }
}

/// Whether a result of the float engine is what measurements found in its one lane: one exact sum lowered.
#[expect(clippy::cast_possible_truncation, reason = "an f32 before")]
fn is_low_lane(
    place: &SegmentMatrix<'_>,
    rows: &EngineRows,
    row: usize,
    channel: usize,
    found: f64,
) -> anyhow::Result<bool> {
    let EngineRows::Halves { values, k } = rows else { return Ok(false) };
    if !channel.is_multiple_of(FLOAT_LANES) {
        return Ok(false);
    }
    let tiles = place.tiles()?;
    let panel = channel / FLOAT_LANES * place.layout.panel_bytes();
    let panel = &tiles[panel..][..place.layout.panel_bytes()];
    let mut weights = vec![f16::ZERO; *k];
    unpack_row_f16(panel, 0, &mut weights);
    Ok(check::is_lowered(&values[row * k..][..*k], &weights, found as f32))
}

impl Mismatch {
    /// With what likely explains it.
    fn explained(self, engine: Engine, faults: &[Fault]) -> Self {
        let of_engine = |fault: &&Fault| fault.engine == super::report::engine_name(engine);
        let of_core = |fault: &&Fault| self.core.is_none_or(|core| fault.core == core);
        let known = faults.iter().filter(of_engine);
        let known = known.clone().find(of_core).or_else(|| known.clone().next());
        let at_the_rail = engine == Engine::I4 && self.expected.abs() >= 32767.0;
        let cause = match known {
            Some(fault) => fault.cause.clone(),
            None if self.core.is_none() => {
                "the simulator and the pack's golden vectors differ".to_owned()
            }
            None if at_the_rail => "wrap".to_owned(),
            None if self.found == 0.0 => {
                "zeros: a core that does not work, or memory that it does not see".to_owned()
            }
            None => "unknown: the test of the NPU itself found nothing wrong".to_owned(),
        };
        Mismatch { cause, ..self }
    }
}
