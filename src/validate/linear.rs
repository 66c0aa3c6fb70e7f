//! One linear: its engines' results, segment by segment, against the pack's golden vectors.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Linear, Segment};
use tessera_runtime::golden::ROWS;
use tessera_runtime::host::EngineResults;

use super::Depth;
use super::device::{Engines, SegmentMatrix};
use super::golden::{Digester, Golden};
use super::report::{Fault, LinearReport, Mismatch};

/// Channels that one lane of the float engine is one of: in one lane, measurements found sums of 32 products that
/// were a little too low.
const FLOAT_LANES: usize = 16;

/// How far such a result may be off, relative to the greatest of its row.
const LANE_DEVIATION: f32 = 4e-6;

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
        let mismatches = report.mismatches;
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
                let is_base = base.is_none();
                let base = base.get_or_insert_with(|| found.clone());
                let wrong = if is_base {
                    digester.add(&found);
                    // Without vectors in the pack, the simulator says what is right.
                    !self.golden.is_stored() && {
                        let expected = place.simulated(&rows)?;
                        self.count(&place, run, &found, &expected, (index, faults), report) > 0
                    }
                } else {
                    differs(&found, base, run.first)
                };
                if wrong && !is_base {
                    let expected = place.simulated(&rows)?;
                    self.count(&place, run, &found, &expected, (index, faults), report);
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
            let expected = place.simulated(&rows)?;
            self.count(&place, run, &found, &expected, (index, faults), report);
        }
        let only_lanes = report.lane_deviations > 0 && report.mismatches == mismatches;
        if report.mismatches == mismatches && !only_lanes {
            report.disagree(index);
        }
        Ok(())
    }

    /// Counts results that are wrong, and describes the first of the linear; how many there are.
    fn count(
        &self,
        place: &SegmentMatrix<'_>,
        run: Run,
        found: &EngineResults,
        expected: &EngineResults,
        (segment, faults): (usize, &[Fault]),
        report: &mut LinearReport,
    ) -> u64 {
        let n = place.n;
        let mut count = 0;
        for (at, (found, expected, lane)) in elements(found, expected, n).enumerate() {
            if lane {
                report.lane_deviations += 1;
                continue;
            }
            if found.to_bits() == expected.to_bits() {
                continue;
            }
            count += 1;
            let (row, channel) = (at / n, at % n);
            if report.first.is_none() {
                let core = self.engines.core_of(n, channel, run.turn);
                let engine = place.layout.engine();
                let (m, matrix) = (run.m, place.matrix);
                let mismatch = Mismatch {
                    segment,
                    expert: report.experts.map(|_| matrix),
                    m,
                    row,
                    channel,
                    core,
                    found,
                    expected,
                    cause: String::new(),
                };
                report.first = Some(mismatch.explained(engine, faults));
            }
        }
        report.mismatches += count;
        count
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

/// Pairs of results as f64, which holds each exactly, and whether they differ only as the float engine's one lane
/// may.
fn elements(
    found: &EngineResults,
    expected: &EngineResults,
    n: usize,
) -> Box<dyn Iterator<Item = (f64, f64, bool)>> {
    match (found, expected) {
        (
            EngineResults::Integers { values: found, .. },
            EngineResults::Integers { values: expected, .. },
        ) => {
            let pairs: Vec<_> = found.iter().zip(expected).map(|(f, e)| (*f, *e)).collect();
            Box::new(pairs.into_iter().map(|(f, e)| (f.into(), e.into(), false)))
        }
        (
            EngineResults::Floats { values: found, .. },
            EngineResults::Floats { values: expected, .. },
        ) => {
            let rows = found.chunks_exact(n).zip(expected.chunks_exact(n));
            let pairs: Vec<_> = rows
                .flat_map(|(found, expected)| {
                    let greatest =
                        expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                    let pairs = found.iter().zip(expected).enumerate();
                    pairs.map(move |(channel, (&f, &e))| {
                        let near = (f - e).abs() <= greatest * LANE_DEVIATION;
                        let lane = channel % FLOAT_LANES == 0 && f.to_bits() != e.to_bits() && near;
                        (f64::from(f), f64::from(e), lane)
                    })
                })
                .collect();
            Box::new(pairs.into_iter())
        }
        // Of one engine; if not, everything is wrong.
        _ => Box::new((0..n).map(|_| (f64::NAN, 0.0, false))),
    }
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
