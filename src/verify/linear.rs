//! One linear of a pack: its tiles' digest, its certificate, its padding, its error.

use std::ops::Range;

use anyhow::Context;
use half::f16;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tessera_formats::ggml;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles;
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Accumulator, Linear};
use tessera_runtime::accumulator::{AccumulatorBound, RowSums};

use super::report::{Report, TensorReport};
use super::{Basis, dimensions};
use crate::hash::hex;

/// Bytes of tiles that are checked at a time.
const BLOCK: usize = 8 << 20;

/// By how much the measured error may differ from the recorded one, which was summed before the
/// scales were applied in another order.
const TOLERANCE: f64 = 1e-3;

/// Sum of the weights' squares, 2^-200, below which the measured error says nothing: f32 has no
/// digits left for the rotation of such weights.
const LEAST_ENERGY: f64 = 1.0 / ((1u128 << 100) as f64 * (1u128 << 100) as f64);

/// Checks the linear and adds what was found to the report.
pub fn check(
    pack: &PackReader,
    linear: &Linear,
    basis: &Basis,
    source: Option<&Gguf>,
    any_source: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let check = Check::new(pack, linear, basis)?;
    let tensor = match source {
        Some(gguf) => match matching_tensor(gguf, linear) {
            Ok(tensor) => Some((gguf, tensor)),
            Err(problem) => {
                report.problem(&linear.name, &problem);
                None
            }
        },
        None => None,
    };
    if !check.scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
        report.problem(&linear.scale, "it has a scale that is no positive number");
    }
    if let Some(correction) = &linear.correction
        && !pack.read_f32(correction)?.iter().all(|value| value.is_finite())
    {
        report.problem(correction, "it has a correction that is no number");
    }
    let totals = check.run(tensor)?;
    for (segment, digest) in linear.segments.iter().zip(&totals.digests) {
        if *digest != segment.sha256 {
            report.problem(&segment.tiles, "its tiles do not have the recorded SHA-256");
        }
    }
    for (segment, found) in linear.segments.iter().zip(&totals.bounds) {
        let found = found.map(|bound| bound.certificate(check.engine));
        if !same_bound(segment.accumulator.as_ref(), found.as_ref()) {
            report.problem(&segment.tiles, "its accumulator certificate is not that of its tiles");
        }
    }
    if totals.padding > 0 {
        report.problem(
            &linear.name,
            &format!("{} values of its padding are not zero", totals.padding),
        );
    }
    let measured = tensor.is_some().then(|| totals.errors.measured());
    // The recorded error is that against the recorded source.
    if let Some(measured) = &measured
        && !any_source
        && !measured.agrees_with(linear.relative_rms, basis)
    {
        report.problem(
            &linear.name,
            &format!(
                "its relative error is {:.6}, and {:.6} is recorded",
                measured.in_basis, linear.relative_rms,
            ),
        );
    }
    report.tensors.push(TensorReport {
        name: linear.name.clone(),
        scheme: linear.scheme,
        segments: linear.segments.len(),
        relative_rms: measured.as_ref().map(|measured| measured.relative_rms),
        cosine: measured.as_ref().map(|measured| measured.cosine),
    });
    Ok(())
}

/// The source's tensor of a linear, if it has the linear's shape.
fn matching_tensor<'a>(gguf: &'a Gguf, linear: &Linear) -> Result<&'a TensorInfo, String> {
    let tensor = gguf.tensor(&linear.source).ok_or("the source has no such tensor")?;
    let expected: Vec<u64> =
        [Some(linear.k), Some(linear.n), linear.experts].into_iter().flatten().collect();
    if tensor.dims != expected {
        return Err(format!("its shape is {expected:?}, and {:?} in the source", tensor.dims));
    }
    if !tensor.ggml_type.can_dequantize() {
        return Err(format!("the source's type {} cannot be dequantized", tensor.ggml_type.name()));
    }
    Ok(tensor)
}

/// Whether a recorded certificate is the one that was found.
fn same_bound(recorded: Option<&Accumulator>, found: Option<&Accumulator>) -> bool {
    match (recorded, found) {
        (None, None) => true,
        (Some(recorded), Some(found)) => {
            recorded.min == found.min
                && recorded.max == found.max
                && recorded.certified == found.certified
                && (recorded.norm - found.norm).abs() <= 1e-9 * found.norm.max(1.0)
        }
        _ => false,
    }
}

/// The check of one linear.
struct Check<'a> {
    pack: &'a PackReader,
    linear: &'a Linear,
    basis: &'a Basis,
    engine: Engine,
    scales: Vec<f32>,
    matrices: usize,
    n: usize,
    k: usize,
    panels_per_matrix: usize,
    /// Columns and bytes per panel of each segment.
    segments: Vec<(Range<usize>, usize)>,
}

/// Sums over panels, added in order.
struct Totals {
    digests: Vec<String>,
    bounds: Vec<Option<AccumulatorBound>>,
    padding: u64,
    errors: Errors,
}

/// What one panel gave.
struct PanelTotals {
    bounds: Vec<Option<AccumulatorBound>>,
    padding: u64,
    errors: Errors,
}

/// Sums of squares and products of source weights w and rebuilt weights r.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    /// Σ (w − r)².
    error: f64,
    /// Σ w².
    energy: f64,
    /// Σ r².
    rebuilt: f64,
    /// Σ w·r.
    product: f64,
    /// Σ ((w − r)/v)², in the basis of the quantizer.
    basis_error: f64,
    /// Σ (w/v)².
    basis_energy: f64,
}

/// The error of a linear.
struct Measured {
    relative_rms: f64,
    cosine: f64,
    in_basis: f64,
    /// Σ w².
    energy: f64,
}

impl Errors {
    fn add(&mut self, other: &Errors) {
        self.error += other.error;
        self.energy += other.energy;
        self.rebuilt += other.rebuilt;
        self.product += other.product;
        self.basis_error += other.basis_error;
        self.basis_energy += other.basis_energy;
    }

    fn measured(&self) -> Measured {
        let ratio =
            |error: f64, energy: f64| if energy > 0.0 { (error / energy).sqrt() } else { 0.0 };
        let norms = (self.energy * self.rebuilt).sqrt();
        Measured {
            relative_rms: ratio(self.error, self.energy),
            cosine: if norms > 0.0 { self.product / norms } else { 1.0 },
            in_basis: ratio(self.basis_error, self.basis_energy),
            energy: self.energy,
        }
    }
}

impl Measured {
    /// Whether the error is the one that the converter recorded. Where the rotation pads the row,
    /// part of the recorded error lies in columns that the model does not have.
    fn agrees_with(&self, recorded: f64, basis: &Basis) -> bool {
        let slack = TOLERANCE * recorded + 1e-6;
        if self.energy < LEAST_ENERGY {
            true
        } else if basis.rotation.size() > basis.rotation.k() {
            self.in_basis <= recorded + slack
        } else {
            (self.in_basis - recorded).abs() <= slack
        }
    }
}

impl<'a> Check<'a> {
    fn new(pack: &'a PackReader, linear: &'a Linear, basis: &'a Basis) -> anyhow::Result<Self> {
        let engine = linear.scheme.engine();
        let (matrices, n, k) = dimensions(linear)?;
        let n_padded = usize::try_from(linear.n_padded)?;
        let segments = linear
            .segments
            .iter()
            .map(|segment| {
                let start = usize::try_from(segment.start)?;
                let length = usize::try_from(segment.length)?;
                let layout = tiles::TileLayout::new(engine, n_padded, length)?;
                Ok((start..start + length, layout.panel_bytes()))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Check {
            pack,
            linear,
            basis,
            engine,
            scales: pack.read_f32(&linear.scale)?,
            matrices,
            n,
            k,
            panels_per_matrix: n_padded / engine.tile_n(),
            segments,
        })
    }

    fn run(&self, source: Option<(&Gguf, &TensorInfo)>) -> anyhow::Result<Totals> {
        let panel_bytes: usize = self.segments.iter().map(|(_, bytes)| bytes).sum();
        let count = self.matrices * self.panels_per_matrix;
        let per_block = (BLOCK / panel_bytes).max(1);
        let mut hashers = vec![Sha256::new(); self.segments.len()];
        let mut totals = Totals {
            digests: Vec::new(),
            bounds: vec![None; self.segments.len()],
            padding: 0,
            errors: Errors::default(),
        };
        for first in (0..count).step_by(per_block) {
            let panels = first..(first + per_block).min(count);
            let tiles = self.read_tiles(&panels, &mut hashers)?;
            let rows = source.map(|source| self.read_rows(source, &panels)).transpose()?;
            let results = panels
                .into_par_iter()
                .map(|panel| {
                    let tiles: Vec<&[u8]> = tiles
                        .iter()
                        .zip(&self.segments)
                        .map(|(tiles, (_, bytes))| &tiles[(panel - first) * bytes..][..*bytes])
                        .collect();
                    self.panel(panel, &tiles, rows.as_ref(), source.map(|(_, tensor)| tensor))
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            for result in results {
                totals.padding += result.padding;
                totals.errors.add(&result.errors);
                for (total, bound) in totals.bounds.iter_mut().zip(result.bounds) {
                    *total = AccumulatorBound::union_of(*total, bound);
                }
            }
        }
        totals.digests = hashers.into_iter().map(|hasher| hex(&hasher.finalize())).collect();
        Ok(totals)
    }

    /// Reads the tiles of consecutive panels, one buffer per segment, and hashes them.
    fn read_tiles(
        &self,
        panels: &Range<usize>,
        hashers: &mut [Sha256],
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        self.segments
            .iter()
            .zip(&self.linear.segments)
            .zip(hashers)
            .map(|(((_, bytes), segment), hasher)| {
                let mut tiles = vec![0; panels.len() * bytes];
                let offset = u64::try_from(panels.start * bytes)?;
                self.pack.read_tensor_at(&segment.tiles, offset, &mut tiles)?;
                hasher.update(&tiles);
                Ok(tiles)
            })
            .collect()
    }

    /// Rows of the source that a panel holds, as numbers of the whole tensor.
    fn rows(&self, panel: usize) -> Range<usize> {
        let (matrix, panel) = (panel / self.panels_per_matrix, panel % self.panels_per_matrix);
        let lanes = self.engine.tile_n();
        let first = (panel * lanes).min(self.n);
        matrix * self.n + first..matrix * self.n + (first + lanes).min(self.n)
    }

    /// Reads the source rows of consecutive panels; the number of the first, and the bytes.
    fn read_rows(
        &self,
        (gguf, tensor): (&Gguf, &TensorInfo),
        panels: &Range<usize>,
    ) -> anyhow::Result<(usize, Vec<u8>)> {
        let rows = self.rows(panels.start).start..self.rows(panels.end - 1).end;
        let row_bytes = usize::try_from(tensor.row_bytes())?;
        let mut bytes = vec![0; rows.len() * row_bytes];
        gguf.read_at(tensor, u64::try_from(rows.start * row_bytes)?, &mut bytes)?;
        Ok((rows.start, bytes))
    }

    /// Checks one panel: `tiles` holds its bytes in each segment.
    fn panel(
        &self,
        panel: usize,
        tiles: &[&[u8]],
        source: Option<&(usize, Vec<u8>)>,
        tensor: Option<&TensorInfo>,
    ) -> anyhow::Result<PanelTotals> {
        let rows = self.rows(panel);
        let k_padded = self.segments.last().map_or(0, |(columns, _)| columns.end);
        let mut lane = Lane::new(k_padded, self.basis.rotation.scratch_len());
        let mut result = PanelTotals {
            bounds: vec![None; self.segments.len()],
            padding: 0,
            errors: Errors::default(),
        };
        let mut weights = vec![0.0; self.k];
        for index in 0..self.engine.tile_n() {
            for ((columns, _), tiles) in self.segments.iter().zip(tiles) {
                lane.unpack(self.engine, columns, tiles, index);
            }
            let size = self.basis.rotation.size();
            let Some(row) = rows.clone().nth(index) else {
                result.padding += lane.nonzero(0..k_padded);
                continue;
            };
            result.padding += lane.nonzero(size..k_padded);
            self.bound(&lane, &mut result.bounds);
            let (Some((first, bytes)), Some(tensor)) = (source, tensor) else { continue };
            let row_bytes = usize::try_from(tensor.row_bytes())?;
            let bytes = &bytes[(row - first) * row_bytes..][..row_bytes];
            ggml::dequantize(tensor.ggml_type, bytes, &mut weights).context("source row")?;
            self.rebuild(row, &mut lane);
            result.errors.add(&self.compare(&weights, &lane.values[..self.k]));
        }
        Ok(result)
    }

    /// Widens the segments' bounds by the row in `lane`.
    fn bound(&self, lane: &Lane, bounds: &mut [Option<AccumulatorBound>]) {
        let Some((low, high)) = self.linear.activation_range() else { return };
        for ((columns, _), bound) in self.segments.iter().zip(bounds) {
            let row = RowSums::new(&lane.integers[columns.clone()]).bound(low.into(), high.into());
            *bound = AccumulatorBound::union_of(*bound, Some(row));
        }
    }

    /// Turns the integers in `lane` into rotated weights, and these back into the quantizer's
    /// basis without the rotation: `values[..k]` becomes w ⊘ v.
    fn rebuild(&self, row: usize, lane: &mut Lane) {
        let (matrix, n) = (row / self.n, row % self.n);
        let count = self.segments.len();
        for (segment, (columns, _)) in self.segments.iter().enumerate() {
            let index = match self.scales.len() == self.matrices * count * self.n {
                true => (matrix * count + segment) * self.n + n,
                false => matrix,
            };
            lane.scale(self.engine, columns.clone(), self.scales[index]);
        }
        let size = self.basis.rotation.size();
        self.basis.rotation.apply_transposed(&mut lane.values[..size], &mut lane.scratch);
    }

    /// Compares source weights w with rebuilt ones, given in the quantizer's basis.
    fn compare(&self, weights: &[f32], rebuilt: &[f32]) -> Errors {
        let mut errors = Errors::default();
        for (column, (&w, &b)) in weights.iter().zip(rebuilt).enumerate() {
            let v = self.basis.vector.as_ref().map_or(1.0, |vector| f64::from(vector[column]));
            let (w, b) = (f64::from(w), f64::from(b));
            let r = b * v;
            errors.error += (w - r) * (w - r);
            errors.energy += w * w;
            errors.rebuilt += r * r;
            errors.product += w * r;
            errors.basis_error += (w / v - b) * (w / v - b);
            errors.basis_energy += (w / v) * (w / v);
        }
        errors
    }
}

/// Buffers for one row of a panel.
struct Lane {
    integers: Vec<i8>,
    halves: Vec<f16>,
    values: Vec<f32>,
    scratch: Vec<f32>,
}

impl Lane {
    fn new(k_padded: usize, scratch: usize) -> Self {
        Lane {
            integers: vec![0; k_padded],
            halves: vec![f16::ZERO; k_padded],
            values: vec![0.0; k_padded],
            scratch: vec![0.0; scratch],
        }
    }

    fn unpack(&mut self, engine: Engine, columns: &Range<usize>, tiles: &[u8], lane: usize) {
        match engine {
            Engine::F16 => tiles::unpack_row_f16(tiles, lane, &mut self.halves[columns.clone()]),
            Engine::I8 => tiles::unpack_row_i8(tiles, lane, &mut self.integers[columns.clone()]),
            Engine::I4 => tiles::unpack_row_i4(tiles, lane, &mut self.integers[columns.clone()]),
        }
    }

    /// Number of values in `columns` that are not zero.
    fn nonzero(&self, columns: Range<usize>) -> u64 {
        let integers = self.integers[columns.clone()].iter().filter(|&&q| q != 0).count();
        let halves = self.halves[columns].iter().filter(|&&h| h != f16::ZERO).count();
        u64::try_from(integers + halves).unwrap_or(u64::MAX)
    }

    fn scale(&mut self, engine: Engine, columns: Range<usize>, scale: f32) {
        for column in columns {
            let value = match engine {
                Engine::F16 => self.halves[column].to_f32(),
                Engine::I8 | Engine::I4 => f32::from(self.integers[column]),
            };
            self.values[column] = scale * value;
        }
    }
}
