//! One linear of a pack: its tiles' digest, its certificate, its padding, its error.

use std::ops::Range;

use anyhow::Context;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tessera_formats::ggml;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Accumulator, Linear};
use tessera_runtime::accumulator::{AccumulatorBound, RowSums};
use tessera_runtime::golden::{GoldenInputs, GoldenOperands, LaneBuffer};

use super::report::{Report, TensorReport};
use crate::hash::hex;
use crate::weights::{Basis, Deviation, Lane, Panels, TiledLinear};

/// Bytes of tiles that are checked at a time.
const BLOCK: usize = 8 << 20;

/// By how much the measured error may differ from the recorded one, which was summed before the
/// scales were applied in another order.
const TOLERANCE: f64 = 1e-3;

/// Sum of the weights' squares, 2^-200, below which the measured error says nothing: f32 has no
/// digits left for the rotation of such weights.
const LEAST_ENERGY: f64 = 1.0 / ((1u128 << 100) as f64 * (1u128 << 100) as f64);

/// Checks the linear and adds what was found to the report; `source` is the source and whether it may
/// be another than the recorded one.
pub fn check(
    pack: &PackReader,
    linear: &Linear,
    source: Option<(&Gguf, bool)>,
    golden: Option<&GoldenInputs>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let tiled = TiledLinear::open(pack, linear)?;
    let basis = tiled.basis();
    if basis.vector.iter().flatten().any(|v| !v.is_finite() || *v == 0.0) {
        report.problem(&linear.input, "its vector has an element that is zero or not a number");
    }
    let any_source = source.is_some_and(|(_, any_source)| any_source);
    let tensor = match source {
        Some((gguf, _)) => match matching_tensor(gguf, linear) {
            Ok(tensor) => Some((gguf, tensor)),
            Err(problem) => {
                report.problem(&linear.name, &problem);
                None
            }
        },
        None => None,
    };
    if !tiled.scales().iter().all(|scale| scale.is_finite() && *scale != 0.0) {
        report.problem(&linear.scale, "it has a scale that is zero or not finite");
    }
    if let Some(correction) = &linear.correction
        && !pack.read_f32(correction)?.iter().all(|value| value.is_finite())
    {
        report.problem(correction, "it has a correction that is no number");
    }
    let operands = golden
        .map(|golden| golden.operands(tiled.engine(), linear.activation_range(), tiled.k_padded()));
    let operands = operands.transpose()?;
    let totals = Check { tiled: &tiled, golden: operands.as_ref() }.run(tensor)?;
    for (segment, digest) in linear.segments.iter().zip(&totals.digests) {
        if *digest != segment.sha256 {
            report.problem(&segment.tiles, "its tiles do not have the recorded SHA-256");
        }
    }
    for (index, (segment, digest)) in linear.segments.iter().zip(&totals.golden).enumerate() {
        if segment.golden.as_ref() != Some(digest) {
            let problem = format!(
                "segment {index}: what its tiles give for the golden inputs does not have the recorded \
                 SHA-256"
            );
            report.problem(&linear.name, &problem);
        }
    }
    for (segment, found) in linear.segments.iter().zip(&totals.bounds) {
        let found = found.map(|bound| bound.certificate(tiled.engine()));
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
    tiled: &'a TiledLinear<'a>,
    /// Operands whose results are hashed.
    golden: Option<&'a GoldenOperands>,
}

/// Sums over panels, added in order.
struct Totals {
    digests: Vec<String>,
    /// Of the results for the golden inputs; empty where there are none.
    golden: Vec<String>,
    bounds: Vec<Option<AccumulatorBound>>,
    padding: u64,
    errors: Errors,
}

/// What one panel gave.
struct PanelTotals {
    bounds: Vec<Option<AccumulatorBound>>,
    /// Results for the golden inputs, of each segment.
    golden: Vec<Vec<u8>>,
    padding: u64,
    errors: Errors,
}

/// Sums over source weights w and rebuilt weights r.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    /// Of w and r.
    weights: Deviation,
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
        self.weights.add(&other.weights);
        self.basis_error += other.basis_error;
        self.basis_energy += other.basis_energy;
    }

    fn measured(&self) -> Measured {
        let (error, energy) = (self.basis_error, self.basis_energy);
        Measured {
            relative_rms: self.weights.relative_rms().unwrap_or(0.0),
            cosine: self.weights.cosine().unwrap_or(1.0),
            in_basis: if energy > 0.0 { (error / energy).sqrt() } else { 0.0 },
            energy: self.weights.energy,
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

impl Check<'_> {
    fn run(&self, source: Option<(&Gguf, &TensorInfo)>) -> anyhow::Result<Totals> {
        let count = self.tiled.panels();
        let segments = self.tiled.segments().count();
        let per_block = (BLOCK / self.tiled.panel_bytes()).max(1);
        let mut hashers = vec![Sha256::new(); segments];
        let mut golden = vec![Sha256::new(); if self.golden.is_some() { segments } else { 0 }];
        let mut totals = Totals {
            digests: Vec::new(),
            golden: Vec::new(),
            bounds: vec![None; segments],
            padding: 0,
            errors: Errors::default(),
        };
        for first in (0..count).step_by(per_block) {
            let numbers = first..(first + per_block).min(count);
            let panels = self.tiled.read(numbers.clone())?;
            for (hasher, tiles) in hashers.iter_mut().zip(panels.segments()) {
                hasher.update(tiles);
            }
            let rows = source.map(|source| self.read_rows(source, &numbers)).transpose()?;
            let results = numbers
                .into_par_iter()
                .map(|panel| self.panel(panel, &panels, rows.as_ref()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            for result in results {
                golden.iter_mut().zip(&result.golden).for_each(|(hash, part)| hash.update(part));
                totals.padding += result.padding;
                totals.errors.add(&result.errors);
                for (total, bound) in totals.bounds.iter_mut().zip(result.bounds) {
                    *total = AccumulatorBound::union_of(*total, bound);
                }
            }
        }
        let digests = |hashers: Vec<Sha256>| -> Vec<String> {
            hashers.into_iter().map(|hasher| hex(&hasher.finalize())).collect()
        };
        (totals.digests, totals.golden) = (digests(hashers), digests(golden));
        Ok(totals)
    }

    /// Reads the source rows of consecutive panels.
    fn read_rows<'t>(
        &self,
        (gguf, tensor): (&Gguf, &'t TensorInfo),
        panels: &Range<usize>,
    ) -> anyhow::Result<SourceRows<'t>> {
        let rows = self.tiled.rows(panels.start).start..self.tiled.rows(panels.end - 1).end;
        let row_bytes = usize::try_from(tensor.row_bytes())?;
        let mut bytes = vec![0; rows.len() * row_bytes];
        gguf.read_at(tensor, u64::try_from(rows.start * row_bytes)?, &mut bytes)?;
        Ok(SourceRows { tensor, first: rows.start, row_bytes, bytes })
    }

    /// Checks one panel of those that were read.
    fn panel(
        &self,
        panel: usize,
        panels: &Panels,
        source: Option<&SourceRows<'_>>,
    ) -> anyhow::Result<PanelTotals> {
        let rows = self.tiled.rows(panel);
        let (k_padded, size) = (self.tiled.k_padded(), self.tiled.basis().rotation.size());
        let mut lane = self.tiled.lane();
        let mut result = PanelTotals {
            bounds: vec![None; self.tiled.segments().count()],
            golden: self.results(panel, panels),
            padding: 0,
            errors: Errors::default(),
        };
        let mut weights = vec![0.0; self.tiled.k()];
        for index in 0..self.tiled.engine().tile_n() {
            self.tiled.unpack(panels, panel, index, &mut lane);
            let Some(row) = rows.clone().nth(index) else {
                result.padding += lane.nonzero(0..k_padded);
                continue;
            };
            result.padding += lane.nonzero(size..k_padded);
            self.bound(&lane, &mut result.bounds);
            let Some(source) = source else { continue };
            source.dequantize(row, &mut weights)?;
            self.tiled.rebuild(row, &mut lane);
            result.errors.add(&self.compare(&weights, lane.values()));
        }
        Ok(result)
    }

    /// What each segment of a panel of those that were read gives for the golden inputs.
    fn results(&self, panel: usize, panels: &Panels) -> Vec<Vec<u8>> {
        let Some(golden) = self.golden else { return Vec::new() };
        let (rows, mut buffer) = (self.tiled.rows(panel).len(), LaneBuffer::default());
        let segments = self.tiled.segments().enumerate();
        segments
            .map(|(segment, columns)| {
                let mut results = Vec::new();
                let tiles = self.tiled.tiles(panels, panel, segment);
                golden.panel(columns, tiles, rows, &mut buffer, &mut results);
                results
            })
            .collect()
    }

    /// Widens the segments' bounds by the row in `lane`.
    fn bound(&self, lane: &Lane, bounds: &mut [Option<AccumulatorBound>]) {
        let Some((low, high)) = self.tiled.linear().activation_range() else { return };
        for (columns, bound) in self.tiled.segments().zip(bounds) {
            let row = RowSums::new(&lane.integers()[columns]).bound(low.into(), high.into());
            *bound = AccumulatorBound::union_of(*bound, Some(row));
        }
    }

    /// Compares source weights w with rebuilt ones, given in the quantizer's basis.
    fn compare(&self, weights: &[f32], rebuilt: &[f32]) -> Errors {
        let mut errors = Errors::default();
        for (column, (&w, &b)) in weights.iter().zip(rebuilt).enumerate() {
            let v = self.tiled.basis().factor(column);
            let (w, b) = (f64::from(w), f64::from(b));
            errors.weights.pair(w, b * v);
            errors.basis_error += (w / v - b) * (w / v - b);
            errors.basis_energy += (w / v) * (w / v);
        }
        errors
    }
}

/// Rows of the source as they were read.
struct SourceRows<'t> {
    tensor: &'t TensorInfo,
    /// Number of the first in the whole tensor.
    first: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl SourceRows<'_> {
    /// The weights of a row.
    fn dequantize(&self, row: usize, weights: &mut [f32]) -> anyhow::Result<()> {
        let bytes = &self.bytes[(row - self.first) * self.row_bytes..][..self.row_bytes];
        ggml::dequantize(self.tensor.ggml_type, bytes, weights).context("source row")
    }
}
