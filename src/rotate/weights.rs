//! Reading pieces of tensors, rotating them, and writing them into the new file.

use anyhow::{Context, bail};
use half::{bf16, f16};
use tessera_formats::escape::Escaped;
use tessera_formats::ggml::{self, GgmlType};
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_runtime::checkpoint::{Checkpoint, GgufCheckpoint};
use tessera_runtime::quantize;

use super::pieces::{Piece, Pieces};
use super::plan::{Plan, Step, TensorPlan};
use crate::convert::budget::Budget;
use crate::new_file::NewFile;
use crate::progress::Progress;

/// Bytes copied at a time.
const BLOCK: usize = 1 << 20;

/// What turns tensors of the source into tensors of the new file.
pub struct Rotator<'a> {
    /// The source.
    pub gguf: &'a Gguf,
    /// What is done.
    pub plan: &'a Plan,
    /// The new file.
    pub file: &'a NewFile,
    /// Memory and threads.
    pub budget: Budget,
    /// Counts bytes of the source.
    pub progress: &'a Progress,
}

/// Buffers of one thread.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    scratch: Vec<f32>,
}

/// A tensor with its source and its place in the new file.
struct Job<'a> {
    tensor: &'a TensorPlan,
    source: &'a TensorInfo,
    offset: u64,
}

impl Rotator<'_> {
    /// Makes the tensor that stands at `offset` of the new file.
    pub fn tensor(&self, tensor: &TensorPlan, offset: u64) -> anyhow::Result<()> {
        let source = &self.gguf.tensors()[tensor.source];
        let job = Job { tensor, source, offset };
        match &tensor.step {
            Step::Copy => self.copy(&job),
            Step::Ones => self.vector(&job, |values| {
                finite(source, 0, values)?;
                values.fill(1.0);
                Ok(())
            }),
            Step::Bias => self.vector(&job, |values| {
                finite(source, 0, values)?;
                self.plan.residual.vector(values);
                Ok(())
            }),
            Step::ValueBias(values) => self.vector(&job, |bias| {
                finite(source, 0, bias)?;
                self.plan.heads[values.layer].outputs(
                    &mut bias[values.first..],
                    0,
                    1,
                    &mut Vec::new(),
                );
                Ok(())
            }),
            Step::Rows { gain, values } => {
                let gain = gain.as_deref().map(|gain| self.read(gain)).transpose()?;
                let vector = self.plan.residual.scaled(gain.as_deref());
                self.pieces(&job, |piece, weights, scratch| {
                    self.plan.residual.rows(weights, &vector, scratch);
                    if let Some(values) = values.filter(|values| piece.rows.start >= values.first) {
                        let turn = &self.plan.heads[values.layer];
                        let head = (piece.rows.start - values.first) / turn.length();
                        turn.outputs(weights, head, piece.columns.len(), scratch);
                    }
                })
            }
            Step::Columns { heads } => self.pieces(&job, |piece, weights, scratch| {
                if let Some(turn) = heads.map(|layer| &self.plan.heads[layer]) {
                    let head = piece.columns.start / turn.length();
                    for row in weights.chunks_exact_mut(piece.columns.len()) {
                        turn.inputs(row, head, scratch);
                    }
                }
                self.plan.residual.columns(weights, piece.columns.len(), scratch);
            }),
        }
    }

    /// Copies a tensor bit for bit.
    fn copy(&self, job: &Job<'_>) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < job.source.bytes {
            let left = usize::try_from(job.source.bytes - done).unwrap_or(BLOCK);
            bytes.resize(left.min(BLOCK), 0);
            self.gguf.read_at(job.source, done, &mut bytes)?;
            self.file.write_at(job.offset + done, &bytes)?;
            done += u64::try_from(bytes.len())?;
            self.progress.advance(u64::try_from(bytes.len())?);
        }
        Ok(())
    }

    /// A small tensor as floats.
    fn read(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let tensor = self.gguf.tensor(name).with_context(|| format!("no tensor `{name}`"))?;
        let mut values = vec![0.0; usize::try_from(tensor.elements())?];
        GgufCheckpoint::new(self.gguf).read_rows(name, 0, &mut values)?;
        finite(tensor, 0, &values)?;
        Ok(values)
    }

    /// Makes a small tensor.
    fn vector(
        &self,
        job: &Job<'_>,
        make: impl FnOnce(&mut [f32]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut values = self.read(&job.source.name)?;
        make(&mut values)?;
        let mut bytes = Vec::new();
        encode(&job.tensor.name, job.tensor.ggml_type, &values, &mut bytes)?;
        self.file.write_at(job.offset, &bytes)?;
        self.progress.advance(job.source.bytes);
        Ok(())
    }

    /// Makes a tensor piece by piece.
    fn pieces(
        &self,
        job: &Job<'_>,
        rotate: impl Fn(&Piece, &mut [f32], &mut Vec<f32>) + Sync,
    ) -> anyhow::Result<()> {
        let pieces = Pieces::new(self.plan, job.tensor, job.source, self.budget)?;
        pieces.for_each(Buffers::default, |piece, buffers| {
            let Buffers { values, bytes, scratch } = buffers;
            values.resize(piece.elements(), 0.0);
            self.load(job.source, piece, values, bytes)?;
            rotate(piece, values, scratch);
            self.store(job, piece, values, bytes)
        })
    }

    /// Reads and dequantizes a piece: at once if it is whole rows, else row by row.
    fn load(
        &self,
        source: &TensorInfo,
        piece: &Piece,
        values: &mut [f32],
        bytes: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let ty = source.ggml_type;
        for (rows, values) in strips(source, piece, values) {
            let length = ty.row_bytes(u64::try_from(values.len())?).context("no whole blocks")?;
            bytes.resize(usize::try_from(length)?, 0);
            let start = ty.row_bytes(u64::try_from(piece.columns.start)?);
            let start = start.context("no whole blocks")?;
            let row = u64::try_from(rows)?;
            self.gguf.read_at(source, row * source.row_bytes() + start, bytes)?;
            ggml::dequantize(ty, bytes, values)?;
            finite(source, rows, values)?;
            self.progress.advance(length);
        }
        Ok(())
    }

    /// Writes a piece in the tensor's new type.
    fn store(
        &self,
        job: &Job<'_>,
        piece: &Piece,
        values: &mut [f32],
        bytes: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let ty = job.tensor.ggml_type;
        let stored = |elements: u64| ty.row_bytes(elements).context("no whole blocks");
        let (row_bytes, start) =
            (stored(job.source.dims[0])?, stored(u64::try_from(piece.columns.start)?)?);
        for (rows, values) in strips(job.source, piece, values) {
            encode(&job.tensor.name, ty, values, bytes)?;
            self.file.write_at(job.offset + u64::try_from(rows)? * row_bytes + start, bytes)?;
        }
        Ok(())
    }
}

/// The parts of a piece that lie at once in a file, each with the number of its first row.
fn strips<'v>(
    source: &TensorInfo,
    piece: &Piece,
    values: &'v mut [f32],
) -> impl Iterator<Item = (usize, &'v mut [f32])> {
    let whole = u64::try_from(piece.columns.len()) == Ok(source.dims[0]);
    let length = if whole { values.len() } else { piece.columns.len() };
    piece.rows.clone().zip(values.chunks_exact_mut(length.max(1)))
}

/// Refuses weights that are no numbers; `row` is the number of the first row.
fn finite(source: &TensorInfo, row: usize, values: &[f32]) -> anyhow::Result<()> {
    let Some(index) = quantize::first_non_finite(values) else { return Ok(()) };
    let k = usize::try_from(source.dims[0])?;
    bail!(
        "`{}` has a weight that is not finite ({}) in row {}: the model is damaged, or was \
         made from one that is",
        Escaped(&source.name),
        values[index],
        row + index / k,
    );
}

/// Values as a tensor of type F32, F16 or BF16 stores them, rounded to the nearest, ties to even.
fn encode(name: &str, ty: GgmlType, values: &[f32], bytes: &mut Vec<u8>) -> anyhow::Result<()> {
    bytes.clear();
    let largest = quantize::amax(values);
    let limit = match ty {
        GgmlType::F16 => f16::MAX.to_f32(),
        GgmlType::Bf16 => bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    if largest.is_nan() || largest > limit {
        bail!(
            "`{}` would have a value of magnitude {largest}, more than the {limit} of type {}: choose \
             another `--type`",
            Escaped(name),
            ty.name(),
        );
    }
    match ty {
        GgmlType::F16 => {
            bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
        }
        GgmlType::Bf16 => {
            bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()));
        }
        _ => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_type_cannot_hold_are_refused() {
        let mut bytes = Vec::new();
        for (ty, value, fits) in [
            (GgmlType::F16, 65504.0, true),
            (GgmlType::F16, 70000.0, false),
            (GgmlType::Bf16, 70000.0, true),
            (GgmlType::F32, 1e38, true),
            (GgmlType::F32, f32::INFINITY, false),
            (GgmlType::F32, f32::NAN, false),
        ] {
            let encoded = encode("w", ty, &[1.0, -value], &mut bytes);
            assert_eq!(encoded.is_ok(), fits, "{ty} {value}");
        }
        encode("w", GgmlType::Bf16, &[1.0, -2.5], &mut bytes).unwrap();
        assert_eq!(bytes, [0x80, 0x3f, 0x20, 0xc0]);
    }
}
