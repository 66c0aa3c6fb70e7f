//! Weights of two tensors side by side, read in rows within a memory budget.

use anyhow::{Context, ensure};
use rayon::prelude::*;
use tessera_formats::escape::Escaped;
use tessera_formats::ggml;
use tessera_formats::npu::Engine;
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::Linear;

use super::content::{Blocks, Content};
use super::file::Tensor;
use crate::convert::budget::Budget;
use crate::weights::{Deviation, Lane, Panels, TiledLinear};

/// Rows of a matrix that are read together: a multiple of every engine's rows of a tile.
const GROUP: usize = Engine::I4.tile_n();

/// Elements of a piece of a tensor that is compared without regard to its rows: whole blocks of
/// every type.
const PIECE: usize = 1 << 13;

/// Weights of a tensor that has rows.
pub enum Weights<'a> {
    /// A linear of a pack.
    Tiled(Box<TiledLinear<'a>>),
    /// A tensor of blocks.
    Blocks(&'a Blocks<'a>),
}

/// What was found of two tensors.
pub struct Measured {
    /// Of B's weights from A's; absent where a type cannot be dequantized.
    pub deviation: Option<Deviation>,
    /// Bytes of blocks of one type that differ; integers or halves of linears that stand in the
    /// same place.
    pub changed: Option<u64>,
}

/// What one row gave.
#[derive(Clone, Copy, Default)]
struct Row {
    deviation: Deviation,
    changed: u64,
}

impl<'a> Weights<'a> {
    /// Opens a tensor.
    pub fn of(tensor: &'a Tensor<'a>) -> anyhow::Result<Self> {
        match &tensor.content {
            Content::Linear(pack, linear) => Self::open(pack, linear),
            Content::Blocks(blocks) => Ok(Weights::Blocks(blocks)),
        }
    }

    /// Opens a linear.
    pub fn open(pack: &'a PackReader, linear: &'a Linear) -> anyhow::Result<Self> {
        let tiled = TiledLinear::open(pack, linear);
        let tiled = tiled.with_context(|| format!("`{}`", Escaped(&linear.name)))?;
        Ok(Weights::Tiled(Box::new(tiled)))
    }

    /// Scales of a linear; none of a tensor of blocks.
    pub fn scales(&self) -> &[f32] {
        self.tiled().map_or(&[], TiledLinear::scales)
    }

    fn tiled(&self) -> Option<&TiledLinear<'a>> {
        match self {
            Weights::Tiled(tiled) => Some(tiled),
            Weights::Blocks(_) => None,
        }
    }

    /// Bytes of a group of rows, and of the buffers for one row of k elements.
    fn memory(&self, k: usize) -> anyhow::Result<(usize, usize)> {
        Ok(match self {
            Weights::Tiled(tiled) => {
                let panels = GROUP / tiled.engine().tile_n();
                (panels * tiled.panel_bytes(), tiled.lane_bytes() + k * size_of::<f64>())
            }
            Weights::Blocks(blocks) => {
                let group = GROUP.saturating_mul(blocks.bytes_of(k)?);
                (group, k * (size_of::<f32>() + size_of::<f64>()))
            }
        })
    }

    /// Bytes that stay while rows are read.
    fn resident(&self) -> usize {
        self.tiled().map_or(0, |tiled| {
            let vector = tiled.basis().vector.as_ref().map_or(0, Vec::len);
            let factor = tiled.basis().rotation.factor().map_or(0, <[f32]>::len);
            (tiled.scales().len() + vector + factor) * size_of::<f32>()
        })
    }

    /// Reads rows of one matrix; the first is one that a group begins with.
    fn read(&self, rows: std::ops::Range<usize>, k: usize) -> anyhow::Result<Rows> {
        Ok(match self {
            Weights::Tiled(tiled) => {
                let first = tiled.place(rows.start).0;
                Rows::Tiled(tiled.read(first..tiled.place(rows.end - 1).0 + 1)?)
            }
            Weights::Blocks(blocks) => {
                let row_bytes = blocks.bytes_of(k)?;
                let mut bytes = vec![0; rows.len() * row_bytes];
                let offset = rows.start.checked_mul(row_bytes).context("offset of a row")?;
                blocks.read_at(u64::try_from(offset)?, &mut bytes)?;
                Rows::Blocks { first: rows.start, row_bytes, bytes }
            }
        })
    }

    fn scratch(&self, k: usize) -> Scratch {
        Scratch {
            lane: self.tiled().map(TiledLinear::lane),
            floats: if self.tiled().is_some() { Vec::new() } else { vec![0.0; k] },
            weights: vec![0.0; k],
        }
    }

    /// Makes the weights of a row that was read.
    fn rebuild(&self, rows: &Rows, row: usize, scratch: &mut Scratch) -> anyhow::Result<()> {
        match (self, rows, &mut scratch.lane) {
            (Weights::Tiled(tiled), Rows::Tiled(panels), Some(lane)) => {
                let (panel, index) = tiled.place(row);
                tiled.unpack(panels, panel, index, lane);
                tiled.rebuild(row, lane);
                tiled.weights(lane, &mut scratch.weights);
            }
            (Weights::Blocks(blocks), Rows::Blocks { first, row_bytes, bytes }, _) => {
                let bytes = &bytes[(row - first) * row_bytes..][..*row_bytes];
                ggml::dequantize(blocks.ggml_type, bytes, &mut scratch.floats)?;
                widen(&scratch.floats, &mut scratch.weights);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Blocks<'_> {
    /// Bytes of so many elements.
    fn bytes_of(&self, elements: usize) -> anyhow::Result<usize> {
        let bytes = self.ggml_type.row_bytes(u64::try_from(elements)?);
        Ok(usize::try_from(bytes.context("a row that is no whole blocks")?)?)
    }
}

/// Rows of one tensor as they were read.
enum Rows {
    Tiled(Panels),
    Blocks { first: usize, row_bytes: usize, bytes: Vec<u8> },
}

/// Buffers for a row of one tensor.
struct Scratch {
    lane: Option<Lane>,
    floats: Vec<f32>,
    weights: Vec<f64>,
}

fn widen(floats: &[f32], weights: &mut [f64]) {
    for (weight, &float) in weights.iter_mut().zip(floats) {
        *weight = f64::from(float);
    }
}

/// Σ over the pairs of two rows.
fn deviation(a: &[f64], b: &[f64]) -> Deviation {
    let mut sums = Deviation::default();
    for (&a, &b) in a.iter().zip(b) {
        sums.pair(a, b);
    }
    sums
}

/// Adds rows in their order: the sums do not depend on how many were read together.
fn add(total: &mut Row, rows: &[Row]) {
    for row in rows {
        total.deviation.add(&row.deviation);
        total.changed += row.changed;
    }
}

/// Compares tensors of one shape of which one at least is a linear, in the model's own basis.
/// `name` is for errors.
pub fn rows(
    name: &str,
    a: &Weights<'_>,
    b: &Weights<'_>,
    budget: Budget,
) -> anyhow::Result<Measured> {
    let tiled = a.tiled().or(b.tiled()).context("neither tensor is a linear")?;
    let (matrices, n, k) = (tiled.matrices(), tiled.n(), tiled.k());
    // Integers have the same place where engine and rotated length are the same.
    let columns = match (a.tiled(), b.tiled()) {
        (Some(a), Some(b)) => {
            let size = a.basis().rotation.size();
            (a.engine() == b.engine() && b.basis().rotation.size() == size).then_some(size)
        }
        _ => None,
    };
    budget.hold(name, a.resident() + b.resident())?;
    let ((group_a, scratch_a), (group_b, scratch_b)) = (a.memory(k)?, b.memory(k)?);
    let group = group_a.saturating_add(group_b).saturating_add(GROUP * size_of::<Row>());
    let groups = budget.panels(name, group, scratch_a + scratch_b)?;
    let mut total = Row::default();
    for matrix in 0..matrices {
        for start in (0..n).step_by(GROUP * groups) {
            let rows = matrix * n + start..matrix * n + (start + GROUP * groups).min(n);
            let (of_a, of_b) = (a.read(rows.clone(), k)?, b.read(rows.clone(), k)?);
            let found = rows
                .into_par_iter()
                .map_init(
                    || (a.scratch(k), b.scratch(k)),
                    |(scratch_a, scratch_b), row| {
                        a.rebuild(&of_a, row, scratch_a)?;
                        b.rebuild(&of_b, row, scratch_b)?;
                        let changed = match (columns, &scratch_a.lane, &scratch_b.lane) {
                            (Some(columns), Some(a), Some(b)) => a.differing(b, 0..columns),
                            _ => 0,
                        };
                        let deviation = deviation(&scratch_a.weights, &scratch_b.weights);
                        Ok(Row { deviation, changed })
                    },
                )
                .collect::<anyhow::Result<Vec<_>>>()?;
            add(&mut total, &found);
        }
    }
    Ok(Measured { deviation: Some(total.deviation), changed: columns.map(|_| total.changed) })
}

/// Compares tensors of blocks, of one shape, piece by piece. `name` is for errors.
pub fn blocks(
    name: &str,
    a: &Blocks<'_>,
    b: &Blocks<'_>,
    budget: Budget,
) -> anyhow::Result<Measured> {
    ensure!(a.elements == b.elements, "tensors of {} and {} elements", a.elements, b.elements);
    let same_type = a.ggml_type == b.ggml_type;
    let weights = a.ggml_type.can_dequantize() && b.ggml_type.can_dequantize();
    let elements = usize::try_from(a.elements)?;
    let (bytes_a, bytes_b) = (a.bytes_of(PIECE)?, b.bytes_of(PIECE)?);
    let scratch = PIECE * 2 * (size_of::<f32>() + size_of::<f64>());
    let pieces = budget.panels(name, bytes_a + bytes_b, scratch)?;
    let mut total = Row::default();
    for first in (0..elements).step_by(PIECE * pieces) {
        let length = (elements - first).min(PIECE * pieces);
        let read = |blocks: &Blocks<'_>| -> anyhow::Result<Vec<u8>> {
            let mut bytes = vec![0; blocks.bytes_of(length)?];
            blocks.read_at(u64::try_from(blocks.bytes_of(first)?)?, &mut bytes)?;
            Ok(bytes)
        };
        let (of_a, of_b) = (read(a)?, read(b)?);
        let found = of_a
            .par_chunks(bytes_a)
            .zip(of_b.par_chunks(bytes_b))
            .enumerate()
            .map(|(piece, (of_a, of_b))| {
                let length = (length - piece * PIECE).min(PIECE);
                let mut row = Row::default();
                if same_type {
                    let differ = of_a.iter().zip(of_b).filter(|(a, b)| a != b);
                    row.changed = u64::try_from(differ.count())?;
                }
                if weights {
                    let mut floats = vec![0.0; length];
                    let mut widened = [vec![0.0; length], vec![0.0; length]];
                    for ((blocks, bytes), widened) in
                        [(a, of_a), (b, of_b)].into_iter().zip(&mut widened)
                    {
                        ggml::dequantize(blocks.ggml_type, bytes, &mut floats)?;
                        widen(&floats, widened);
                    }
                    row.deviation = deviation(&widened[0], &widened[1]);
                }
                Ok(row)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        add(&mut total, &found);
    }
    Ok(Measured {
        deviation: weights.then_some(total.deviation),
        changed: same_type.then_some(total.changed),
    })
}
