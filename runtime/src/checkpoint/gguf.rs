//! A GGUF file as a checkpoint: the float reference.

use tessera_formats::ggml::{self, GgmlType};
use tessera_formats::gguf::{Gguf, Metadata, TensorInfo};

use super::Checkpoint;
#[cfg(feature = "candle")]
use crate::linear::candle::{CandleDevice, CandleLinear};
use crate::linear::float::FloatLinear;
use crate::linear::{Linear, LinearError};

/// Bytes of blocks that are read and dequantized at a time where rows are read.
const PIECE: usize = 1 << 20;

/// A GGUF file, its linears in f32.
pub struct GgufCheckpoint<'a> {
    gguf: &'a Gguf,
    device: Device,
}

/// What applies the linears.
enum Device {
    Float,
    LikeGgml,
    #[cfg(feature = "candle")]
    Candle(CandleDevice),
}

impl<'a> GgufCheckpoint<'a> {
    /// Weights dequantized, activations as they are.
    pub fn new(gguf: &'a Gguf) -> Self {
        GgufCheckpoint { gguf, device: Device::Float }
    }

    /// Weights dequantized, activations rounded as ggml's CPU backend rounds them.
    pub fn like_ggml(gguf: &'a Gguf) -> Self {
        GgufCheckpoint { gguf, device: Device::LikeGgml }
    }

    /// Weights dequantized, on a device of candle; activations as they are.
    #[cfg(feature = "candle")]
    pub fn on_candle(gguf: &'a Gguf, device: CandleDevice) -> Self {
        GgufCheckpoint { gguf, device: Device::Candle(device) }
    }

    fn tensor(&self, name: &str) -> Result<&'a TensorInfo, LinearError> {
        self.gguf.tensor(name).ok_or_else(|| LinearError::Missing { name: name.to_owned() })
    }

    /// Loads the weights of a linear.
    ///
    /// # Errors
    ///
    /// If there is no such tensor, it is no matrix, or it cannot be read.
    pub fn float(&self, name: &str) -> Result<FloatLinear, LinearError> {
        let tensor = self.tensor(name)?;
        let missing = || LinearError::Missing { name: name.to_owned() };
        let dims = tensor.dims.iter().map(|&dim| usize::try_from(dim));
        let dims = dims.collect::<Result<Vec<_>, _>>().map_err(|_| missing())?;
        let shape = match dims[..] {
            [k, n] => (None, n, k),
            [k, n, experts] => (Some(experts), n, k),
            _ => return Err(missing()),
        };
        // The tensor lies within its file: its length is justified by bytes that exist.
        let mut bytes = vec![0; usize::try_from(tensor.bytes).map_err(|_| missing())?];
        self.gguf.read_at(tensor, 0, &mut bytes).map_err(|source| LinearError::Weights {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        FloatLinear::new(name, tensor.ggml_type, shape, bytes)
    }
}

impl Checkpoint for GgufCheckpoint<'_> {
    fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    fn names(&self) -> Vec<&str> {
        self.gguf.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        self.gguf.tensor(name).map(|tensor| tensor.dims.clone())
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        let tensor = self.tensor(name)?;
        let weights = |source: Box<dyn std::error::Error + Send + Sync>| LinearError::Weights {
            name: name.to_owned(),
            source,
        };
        let read = |offset: u64, bytes: &mut [u8]| {
            self.gguf.read_at(tensor, offset, bytes).map_err(|source| weights(Box::new(source)))
        };
        read_rows(name, tensor.ggml_type, &tensor.dims, first, out, read)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        self.gguf.tensor(name).map_or(0, |tensor| tensor.bytes)
    }

    #[cfg(feature = "candle")]
    fn loaded_bytes(&self, name: &str) -> u64 {
        let Device::Candle(_) = &self.device else { return self.linear_bytes(name) };
        let bytes = size_of::<f32>() as u64;
        let dims = self.gguf.tensor(name).map_or(&[][..], |tensor| &tensor.dims);
        dims.iter().fold(bytes, |bytes, &dim| bytes.saturating_mul(dim))
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        let linear = self.float(name)?;
        Ok(match &self.device {
            Device::Float => Box::new(linear),
            Device::LikeGgml => Box::new(linear.like_ggml()),
            #[cfg(feature = "candle")]
            Device::Candle(device) => Box::new(CandleLinear::new(&linear, device)?),
        })
    }
}

/// Reads and dequantizes rows of a tensor of blocks, from row `first` on, as many as `out` holds;
/// `read` reads bytes of the tensor from an offset.
///
/// # Errors
///
/// If there are no such rows, the type cannot be dequantized, or `read` fails.
pub(super) fn read_rows(
    name: &str,
    ggml_type: GgmlType,
    dims: &[u64],
    first: u64,
    out: &mut [f32],
    read: impl Fn(u64, &mut [u8]) -> Result<(), LinearError>,
) -> Result<(), LinearError> {
    let missing = || LinearError::Missing { name: name.to_owned() };
    let k = dims.first().copied().unwrap_or(1);
    let row_bytes = ggml_type.row_bytes(k).ok_or_else(missing)?;
    let length = usize::try_from(k).ok().filter(|&k| k > 0).ok_or_else(missing)?;
    let rows: u64 = dims.iter().skip(1).product();
    let wanted = u64::try_from(out.len() / length).map_err(|_| missing())?;
    let enough = first.checked_add(wanted).is_some_and(|end| end <= rows);
    if !enough || !out.len().is_multiple_of(length) {
        return Err(missing());
    }
    let row = usize::try_from(row_bytes).map_err(|_| missing())?;
    let per_piece = (PIECE / row.max(1)).max(1);
    let mut bytes = Vec::new();
    let mut offset = first * row_bytes;
    for piece in out.chunks_mut(per_piece * length) {
        bytes.resize(piece.len() / length * row, 0);
        read(offset, &mut bytes)?;
        ggml::dequantize(ggml_type, &bytes, piece).map_err(|source| LinearError::Weights {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        offset += bytes.len() as u64;
    }
    Ok(())
}
