//! A matmul that is run with operands, and its results as numbers.

use std::ffi::c_int;
use std::sync::Arc;

use tessera_formats::npu::Engine;

use super::super::{Arena, Core, Library, Matmul, RknnError, Shape, Slice};
use super::Operands;
use super::operands::{count, place_of_c};

/// A matmul to try.
#[derive(Debug)]
pub struct Trial {
    matmul: Matmul,
}

impl Trial {
    /// Of a shape that packs have.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn new(library: &Arc<Library>, shape: Shape, core: Core) -> Result<Self, RknnError> {
        Ok(Trial { matmul: Matmul::new(library, shape, core)? })
    }

    /// Of any M, with so many bytes behind the results.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn guarded(
        library: &Arc<Library>,
        shape: Shape,
        core: Core,
        guard: u64,
    ) -> Result<Self, RknnError> {
        Ok(Trial { matmul: Matmul::guarded(library, shape, core, guard)? })
    }

    /// The results of operands, `[m, n]`.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn results_of(
        library: &Arc<Library>,
        operands: &Operands,
        core: Core,
    ) -> Result<Vec<f64>, RknnError> {
        let mut trial = Trial::new(library, operands.shape(), core)?;
        trial.set_weights(&operands.tiles()?)?;
        trial.set_rows(operands);
        trial.run()?;
        Ok(trial.results())
    }

    /// The matmul.
    pub fn matmul(&mut self) -> &mut Matmul {
        &mut self.matmul
    }

    /// Gives it weights, by their tiles.
    ///
    /// # Errors
    ///
    /// If the library fails.
    pub fn set_weights(&mut self, tiles: &[u8]) -> Result<(), RknnError> {
        let bytes = u64::try_from(tiles.len()).unwrap_or(u64::MAX);
        let mut arena = Arena::new(&self.matmul, bytes)?;
        arena.bytes_mut().copy_from_slice(tiles);
        let slice = Slice::new(&arena.finish()?, &self.matmul, 0, bytes)?;
        self.matmul.set_weights(&Arc::new(slice))
    }

    /// Gives it activations.
    pub fn set_rows(&mut self, operands: &Operands) {
        operands.write_rows(self.matmul.activations());
    }

    /// Multiplies.
    ///
    /// # Errors
    ///
    /// If the library or the NPU fails.
    pub fn run(&mut self) -> Result<(), RknnError> {
        self.matmul.run()
    }

    /// Results, `[m, n]`.
    pub fn results(&self) -> Vec<f64> {
        self.results_of_rows_apart(self.matmul.shape().m)
    }

    /// Results, `[m, n]`, where the library lays out so many rows instead of M. Beyond the memory they are no numbers.
    pub fn results_of_rows_apart(&self, rows: u32) -> Vec<f64> {
        let shape = self.matmul.shape();
        let bytes = self.matmul.results();
        let mut results = Vec::new();
        for row in 0..count(shape.m) {
            for channel in 0..count(shape.n) {
                let at = place_of_c(shape, count(rows), row, channel);
                let four = || bytes.get(4 * at..)?.first_chunk::<4>().copied();
                let two = || bytes.get(2 * at..)?.first_chunk::<2>().copied();
                let result: Option<f64> = match shape.engine {
                    Engine::I4 => two().map(|two| i16::from_le_bytes(two).into()),
                    Engine::I8 => four().map(|four| i32::from_le_bytes(four).into()),
                    Engine::F16 => four().map(|four| f32::from_le_bytes(four).into()),
                };
                results.push(result.unwrap_or(f64::NAN));
            }
        }
        results
    }
}

/// Whether a matmul takes this mask of cores; the error if not.
///
/// # Errors
///
/// If there is no matmul to ask of.
pub fn core_mask(
    library: &Arc<Library>,
    shape: Shape,
    mask: c_int,
) -> Result<Result<(), RknnError>, RknnError> {
    let matmul = Matmul::new(library, shape, Core::Any)?;
    let handle = matmul.handle();
    Ok(library.matmul_set_core_mask(handle.context, mask, &handle.what).map(drop))
}
