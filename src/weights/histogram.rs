//! Where a source's weights lie on the grids that rows of a pack have.

use anyhow::Context;
use tessera_formats::ggml;
use tessera_formats::gguf::{Gguf, TensorInfo};
use tessera_formats::npu::Engine;

use super::TiledLinear;

/// Rows that are looked at, evenly spaced.
const ROWS: usize = 256;

/// Most bins; what is beyond them counts in the last.
const BINS: usize = 256;

/// Magnitudes of weights, equalized and rotated as the pack's are, over those of their scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Width of a bin; the first begins at 0.
    pub bin_width: f64,
    /// Weights in each, without bins of none at the end.
    pub counts: Vec<u64>,
    /// Half a step beyond the greatest integer: what is further is clipped. On the side of the sixteenth level
    /// of 4 bits it is a step more.
    pub clip: f64,
}

impl Steps {
    /// Of sampled rows of the tensor that `tiled` was made of; `None` where it has halves, not integers.
    ///
    /// # Errors
    ///
    /// If the tensor cannot be read, or is not of the linear's shape.
    pub fn of(
        tiled: &TiledLinear<'_>,
        gguf: &Gguf,
        tensor: &TensorInfo,
    ) -> anyhow::Result<Option<Self>> {
        let engine = tiled.engine();
        let Some(qmax) = engine.qmax() else { return Ok(None) };
        let bin_width = if engine == Engine::I4 { 0.25 } else { 1.0 };
        let (k, all) = (tiled.k(), tiled.matrices() * tiled.n());
        let shape = tensor.dims.first().copied().map(usize::try_from).transpose()?;
        anyhow::ensure!(shape == Some(k), "the source's rows are not the linear's");
        let basis = tiled.basis();
        let inverse: Option<Vec<f32>> =
            basis.vector.as_ref().map(|vector| vector.iter().map(|v| 1.0 / v).collect());
        let mut row = vec![0.0f32; basis.rotation.size().max(k)];
        let mut scratch = vec![0.0; basis.rotation.scratch_len()];
        let mut bytes = vec![0; usize::try_from(tensor.row_bytes())?];
        let mut counts = vec![0u64; BINS];
        let wanted = all.min(ROWS);
        for index in 0..wanted {
            let number = index * all / wanted;
            gguf.read_at(tensor, u64::try_from(number)? * tensor.row_bytes(), &mut bytes)?;
            row.fill(0.0);
            ggml::dequantize(tensor.ggml_type, &bytes, &mut row[..k]).context("source row")?;
            match &inverse {
                Some(inverse) => {
                    basis.rotation.apply_scaled(
                        &mut row[..basis.rotation.size()],
                        inverse,
                        &mut scratch,
                    );
                }
                None => basis.rotation.apply(&mut row[..basis.rotation.size()], &mut scratch),
            }
            for (segment, columns) in tiled.segments().enumerate() {
                let scale = f64::from(tiled.scale(number, segment)).abs();
                let columns = columns.start..columns.end.min(basis.rotation.size());
                for w in row.get(columns).unwrap_or_default() {
                    let bin = f64::from(*w).abs() / scale / bin_width;
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "not negative, and saturates"
                    )]
                    let bin = (bin as usize).min(BINS - 1);
                    counts[bin] += 1;
                }
            }
        }
        let used = counts.iter().rposition(|&count| count > 0).map_or(1, |last| last + 1);
        counts.truncate(used);
        Ok(Some(Steps { bin_width, counts, clip: f64::from(qmax) + 0.5 }))
    }
}
