//! A test of the NPU itself: small matmuls of known operands on each engine and core, and why their sums are wrong
//! where they are.
//!
//! What is expected comes from plain loops over integers here, not from the simulator, so that neither hides an error
//! of the other.

mod cause;
mod finding;
mod halves;
mod operands;
mod sequence;
mod trial;

use std::sync::Arc;

use tessera_formats::npu::Engine;

use super::{Layout, Library, RknnError, Shape};

pub use cause::Cause;
pub use finding::{Finding, Wrong};
pub use halves::{Deviations, Halves, Spread, is_lowered};
pub use operands::{Operands, segmented};
pub use trial::{Trial, core_mask};

/// Engines, the one that most packs use first.
pub const ENGINES: [Engine; 3] = [Engine::I8, Engine::I4, Engine::F16];

/// Rows, columns, and tiles of channels of the matmuls that are tried: the smallest first, so that what is wrong with
/// all of them is told of a small one.
const SHAPES: [(u32, u32, u32); 6] =
    [(1, 32, 1), (1, 96, 3), (4, 96, 3), (4, 480, 2), (64, 1024, 2), (1, 4096, 2)];

/// The matmul that the layouts of packs give for these rows, columns, and tiles of channels.
pub fn shape(engine: Engine, m: u32, k: u32, tiles: u32, domain: u32) -> Shape {
    let channels = u32::try_from(engine.tile_n()).unwrap_or(u32::MAX);
    let n = channels.saturating_mul(tiles);
    Shape { m, k, n, engine, layout: Layout::of(engine), domain }
}

/// Tries each engine on each of so many cores, with memory in a domain. Empty if all is right; else one finding for
/// each engine and core that is not.
///
/// # Errors
///
/// If not even the smallest matmul can be made: there is nothing to test.
pub fn self_test(
    library: &Arc<Library>,
    cores: usize,
    domain: u32,
) -> Result<Vec<Finding>, RknnError> {
    drop(Trial::new(library, shape(Engine::I8, 1, 32, 1, domain), super::Core::Any)?);
    let mut findings = Vec::new();
    for core in 0..cores {
        for engine in ENGINES {
            let finding = of_engine(library, engine, core, domain);
            // A core that does not end what it is given takes seconds each time to say so.
            let gone = finding.as_ref().is_some_and(Finding::is_timeout);
            findings.extend(finding);
            if gone {
                break;
            }
        }
    }
    Ok(findings)
}

/// The first that is wrong with an engine on a core.
fn of_engine(library: &Arc<Library>, engine: Engine, core: usize, domain: u32) -> Option<Finding> {
    let shapes = SHAPES.iter().map(|&(m, k, tiles)| shape(engine, m, k, tiles, domain));
    let mut seed = 0;
    for shape in shapes {
        seed += 10;
        let wrong = sequence::changing(library, shape, core, seed);
        if let Some(finding) =
            wrong.unwrap_or_else(|error| Some(Finding::call(shape, core, &error)))
        {
            return Some(finding);
        }
    }
    if engine != Engine::I4 {
        return None;
    }
    // All −8 times all −8: 64·K, beyond 16 bits from K = 512 on.
    for k in [512, 1024] {
        let shape = shape(engine, 1, k, 1, domain);
        let wrong = sequence::extreme(library, shape, core);
        if let Some(finding) =
            wrong.unwrap_or_else(|error| Some(Finding::call(shape, core, &error)))
        {
            return Some(finding);
        }
    }
    None
}
