//! A pack as a checkpoint: its linears on the NPU or the simulated one, the rest as floats.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sha2::{Digest, Sha256};
use tessera_formats::escape::Escaped;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{GgufError, LARGEST_HEADER, Metadata};
use tessera_formats::pack::manifest::{self, Activation, Carried};
use tessera_formats::pack::{Dtype, PackError, PackReader, floats, names};
use thiserror::Error;

use super::Checkpoint;
use super::gguf::read_rows;
use crate::host::{ActivationScale, LinearInput, Weights, WeightsError};
use crate::linear::float::FloatLinear;
use crate::linear::{Linear, LinearError};
use crate::rknn::{LoadedWeights, RknnError, RknnLinear};
use crate::rotation::{Rotation, RotationError};
use crate::simulator::{SimulatedLinear, Simulation};

/// Why a pack cannot be used as a model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackCheckpointError {
    /// The pack could not be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Its key-value section is not one.
    #[error("the pack's `{}`", names::GGUF_METADATA)]
    Metadata(#[source] Box<GgufError>),
    /// A tensor's bytes are not those that the manifest has the digest of.
    #[error("`{}` does not have the SHA-256 that the manifest records", Escaped(tensor))]
    Digest {
        /// The tensor.
        tensor: String,
    },
    /// An input's rotation cannot be made.
    #[error("the rotation of `{}`", Escaped(input))]
    Rotation {
        /// The input.
        input: String,
        /// Why.
        source: RotationError,
    },
    /// An input's vector with an element that is zero or no number.
    #[error("element {index} of `{}` is {value}, which is zero or not finite", Escaped(tensor))]
    Vector {
        /// The vector's tensor.
        tensor: String,
        /// Index of the element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A scale that is zero or not finite.
    #[error("scale {index} of `{}` is {scale}, which is zero or not finite", Escaped(tensor))]
    Scale {
        /// The tensor of scales.
        tensor: String,
        /// Index of the scale.
        index: usize,
        /// The scale.
        scale: f32,
    },
    /// A correction that is no number.
    #[error("element {index} of `{}` is {value}, which is not finite", Escaped(tensor))]
    Correction {
        /// The tensor of corrections.
        tensor: String,
        /// Index of the element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A linear whose input the pack does not have.
    #[error("the pack has no input `{}`", Escaped(input))]
    Input {
        /// The input.
        input: String,
    },
    /// A size that this machine cannot address.
    #[error("`{}` is too large for this machine", Escaped(name))]
    Size {
        /// Tensor or linear.
        name: String,
    },
    /// Weights that cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The NPU failed.
    #[error(transparent)]
    Npu(#[from] RknnError),
}

/// A pack, its linears computed as the NPU computes them, or with float activations.
///
/// What is read whole is held against the manifest's SHA-256: tiles, scales, corrections, vectors,
/// factors, the key-value section, carried matrices. Rows of carried tensors that
/// [`Checkpoint::read_rows`] reads are not.
#[derive(Debug)]
pub struct PackCheckpoint {
    pack: PackReader,
    metadata: Metadata,
    carried: HashMap<String, (GgmlType, Vec<u64>)>,
    simulation: Simulation,
    /// Its tiles in the NPU's memory, where the NPU executes it.
    npu: Option<Arc<LoadedWeights>>,
    /// Inputs of linears that are loaded: linears of one input share it.
    inputs: Mutex<HashMap<String, Weak<LinearInput>>>,
    rotations: Mutex<HashMap<RotationKey, Arc<Rotation>>>,
    saturated: Arc<AtomicU64>,
}

/// What a rotation depends on: k, size, order of Sylvester's matrix, kind and order of the factor.
type RotationKey = (u64, u64, u64, Option<(String, u64)>);

impl PackCheckpoint {
    /// A pack that was opened, with its keys and values; weights are read as linears are loaded.
    ///
    /// # Errors
    ///
    /// If the key-value section cannot be read, or is not one.
    pub fn open(pack: PackReader, simulation: Simulation) -> Result<Self, PackCheckpointError> {
        let path = pack.shards().first().map_or(Path::new(""), |shard| shard.path());
        let bytes = read_checked(&pack, names::GGUF_METADATA, LARGEST_HEADER)?;
        let metadata = Metadata::parse(path, bytes)
            .map_err(|error| PackCheckpointError::Metadata(Box::new(error)))?;
        let carried = pack
            .carried()
            .filter_map(|Carried { name, ggml_type, shape, .. }| {
                let dims = shape.iter().rev().copied().collect();
                Some((name.clone(), (GgmlType::from_name(ggml_type)?, dims)))
            })
            .collect();
        Ok(PackCheckpoint {
            metadata,
            carried,
            simulation,
            npu: None,
            inputs: Mutex::default(),
            rotations: Mutex::default(),
            saturated: Arc::default(),
            pack,
        })
    }

    /// The pack.
    pub fn pack(&self) -> &PackReader {
        &self.pack
    }

    /// Counts results of the i4 engine that do not fit 16 bits in `saturated`, which outlives the
    /// checkpoint.
    #[must_use]
    pub fn counting_in(mut self, saturated: Arc<AtomicU64>) -> Self {
        self.saturated = saturated;
        self
    }

    /// Has the NPU execute linears whose tiles are in its memory. Activations are integers, whatever the
    /// simulation says.
    ///
    /// What counts results of the i4 engine then counts those that are the least or the greatest of 16 bits: a
    /// sum that is beyond becomes one of these.
    #[must_use]
    pub fn on_npu(mut self, weights: Arc<LoadedWeights>) -> Self {
        self.npu = Some(weights);
        self
    }

    /// Results of the i4 engine, so far, that did not fit 16 bits, of all linears of this pack.
    pub fn saturated(&self) -> u64 {
        self.saturated.load(Ordering::Relaxed)
    }

    /// Shape, scales and correction of a linear of the manifest, and its input.
    fn weights(
        &self,
        linear: &manifest::Linear,
    ) -> Result<(Weights, Arc<LinearInput>), PackCheckpointError> {
        let mut weights = describe(linear)?;
        weights.scales = read_f32(&self.pack, &linear.scale)?;
        let wrong = |scale: &f32| !(scale.is_finite() && *scale != 0.0);
        if let Some(index) = weights.scales.iter().position(wrong) {
            let (tensor, scale) = (linear.scale.clone(), weights.scales[index]);
            return Err(PackCheckpointError::Scale { tensor, index, scale });
        }
        weights.correction = match &linear.correction {
            Some(tensor) => Some(self.correction(tensor)?),
            None => None,
        };
        let input = self.input(&linear.input)?;
        Ok((weights, input))
    }

    /// A linear whose tiles are in the NPU's memory.
    fn on_chip(
        &self,
        linear: &manifest::Linear,
        loaded: &LoadedWeights,
    ) -> Result<RknnLinear, PackCheckpointError> {
        let (weights, input) = self.weights(linear)?;
        let tiles: Vec<_> = linear.segments.iter().map(|segment| segment.tiles.clone()).collect();
        let (digits, saturated) = (self.simulation.digits, Arc::clone(&self.saturated));
        Ok(RknnLinear::new(weights, &tiles, input, loaded, digits, saturated)?)
    }

    /// Loads a linear of the manifest.
    fn simulated(&self, linear: &manifest::Linear) -> Result<SimulatedLinear, PackCheckpointError> {
        let (weights, input) = self.weights(linear)?;
        let saturated = Arc::clone(&self.saturated);
        SimulatedLinear::load(weights, input, self.simulation, saturated, |segment| {
            let mut tiles = linear.segments.get(segment).map(|segment| Tiles {
                pack: &self.pack,
                segment,
                offset: 0,
                hash: Sha256::new(),
            });
            move |buffer: &mut [u8]| tiles.as_mut().map_or(Ok(()), |tiles| tiles.read(buffer))
        })
    }

    /// The input of that name, shared with all linears that read it and are loaded.
    fn input(&self, name: &str) -> Result<Arc<LinearInput>, PackCheckpointError> {
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(input) = inputs.get(name).and_then(Weak::upgrade) {
            return Ok(input);
        }
        let missing = || PackCheckpointError::Input { input: name.to_owned() };
        let input = self.pack.input(name).ok_or_else(missing)?;
        let rotation = self.rotation(input)?;
        let vector = match &input.vector {
            Some(tensor) => Some(self.vector(tensor)?),
            None => None,
        };
        let input = Arc::new(LinearInput::new(rotation, vector));
        inputs.insert(name.to_owned(), Arc::downgrade(&input));
        Ok(input)
    }

    fn vector(&self, tensor: &str) -> Result<Vec<f32>, PackCheckpointError> {
        let vector = read_f32(&self.pack, tensor)?;
        match vector.iter().position(|value| !value.is_finite() || *value == 0.0) {
            Some(index) => {
                let (tensor, value) = (tensor.to_owned(), vector[index]);
                Err(PackCheckpointError::Vector { tensor, index, value })
            }
            None => Ok(vector),
        }
    }

    fn correction(&self, tensor: &str) -> Result<Vec<f32>, PackCheckpointError> {
        let correction = read_f32(&self.pack, tensor)?;
        match correction.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let (tensor, value) = (tensor.to_owned(), correction[index]);
                Err(PackCheckpointError::Correction { tensor, index, value })
            }
            None => Ok(correction),
        }
    }

    /// The rotation of an input, made once for all inputs that have the same.
    fn rotation(&self, input: &manifest::Input) -> Result<Arc<Rotation>, PackCheckpointError> {
        let manifest::Rotation { k, size, sylvester, factor } = &input.rotation;
        let factor_key = factor.as_ref().map(|factor| (factor.kind.clone(), factor.order));
        let key = (*k, *size, *sylvester, factor_key);
        let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rotation) = rotations.get(&key) {
            return Ok(Arc::clone(rotation));
        }
        let factor = match factor {
            Some(factor) => Some(read_f32(&self.pack, &factor.tensor)?),
            None => None,
        };
        let rotation =
            Rotation::from_manifest(&input.rotation, factor.as_deref()).map_err(|source| {
                PackCheckpointError::Rotation { input: input.name.clone(), source }
            })?;
        let rotation = Arc::new(rotation);
        rotations.insert(key, Arc::clone(&rotation));
        Ok(rotation)
    }

    /// A carried matrix, or matrices, on the float device.
    fn float(&self, name: &str) -> Result<FloatLinear, LinearError> {
        let missing = || LinearError::Missing { name: name.to_owned() };
        let (ggml_type, dims) = self.carried.get(name).ok_or_else(missing)?;
        let dims = dims.iter().map(|&dim| usize::try_from(dim));
        let dims = dims.collect::<Result<Vec<_>, _>>().map_err(|_| missing())?;
        let shape = match dims[..] {
            [k, n] => (None, n, k),
            [k, n, experts] => (Some(experts), n, k),
            _ => return Err(missing()),
        };
        let bytes = read_checked(&self.pack, name, u64::MAX).map_err(|e| of_linear(name, e))?;
        FloatLinear::new(name, *ggml_type, shape, bytes)
    }
}

impl Checkpoint for PackCheckpoint {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn names(&self) -> Vec<&str> {
        let linears = self.pack.linears().map(|linear| linear.name.as_str());
        linears.chain(self.pack.carried().map(|carried| carried.name.as_str())).collect()
    }

    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        match self.pack.linear(name) {
            Some(linear) => Some(
                [Some(linear.k), Some(linear.n), linear.experts].into_iter().flatten().collect(),
            ),
            None => self.carried.get(name).map(|(_, dims)| dims.clone()),
        }
    }

    fn read_rows(&self, name: &str, first: u64, out: &mut [f32]) -> Result<(), LinearError> {
        let missing = || LinearError::Missing { name: name.to_owned() };
        let (ggml_type, dims) = self.carried.get(name).ok_or_else(missing)?;
        let read = |offset: u64, bytes: &mut [u8]| {
            let read = self.pack.read_tensor_at(name, offset, bytes);
            read.map_err(|error| of_linear(name, error.into()))
        };
        read_rows(name, *ggml_type, dims, first, out, read)
    }

    fn linear_bytes(&self, name: &str) -> u64 {
        match self.pack.linear(name) {
            Some(linear) => {
                let tensors = linear.segments.iter().map(|segment| &segment.tiles);
                let stored = tensors.chain([&linear.scale]).chain(&linear.correction);
                let bytes = stored.filter_map(|name| self.pack.tensor_info(name));
                bytes.map(|tensor| tensor.bytes).fold(0, u64::saturating_add)
            }
            None => self.pack.tensor_info(name).map_or(0, |tensor| tensor.bytes),
        }
    }

    fn loaded_bytes(&self, name: &str) -> u64 {
        let stored = self.linear_bytes(name);
        match (&self.npu, self.pack.linear(name)) {
            // Tiles are in the NPU's memory, once for all.
            (Some(_), Some(linear)) => {
                let tiles = linear.segments.iter().map(|segment| &segment.tiles);
                let tiles = tiles.filter_map(|name| self.pack.tensor_info(name));
                tiles.map(|tensor| tensor.bytes).fold(stored, u64::saturating_sub)
            }
            _ => stored,
        }
    }

    fn linear(&self, name: &str) -> Result<Box<dyn Linear>, LinearError> {
        match self.pack.linear(name) {
            Some(linear) => {
                let failed = |error| of_linear(name, error);
                Ok(match &self.npu {
                    Some(loaded) => Box::new(self.on_chip(linear, loaded).map_err(failed)?),
                    None => Box::new(self.simulated(linear).map_err(failed)?),
                })
            }
            None => Ok(Box::new(self.float(name)?)),
        }
    }
}

/// The tiles of a segment, read in order and held against their digest at the end.
struct Tiles<'a> {
    pack: &'a PackReader,
    segment: &'a manifest::Segment,
    offset: u64,
    hash: Sha256,
}

impl Tiles<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), PackCheckpointError> {
        let tensor = &self.segment.tiles;
        self.pack.read_tensor_at(tensor, self.offset, buffer)?;
        self.hash.update(&*buffer);
        // The read was in bounds, so the sum is at most the tensor's length.
        self.offset += u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let last = self.pack.tensor_info(tensor).is_none_or(|info| self.offset >= info.bytes);
        if last && hex(&self.hash.clone().finalize()) != self.segment.sha256 {
            return Err(PackCheckpointError::Digest { tensor: tensor.clone() });
        }
        Ok(())
    }
}

/// Shape, segments and activations of a linear, without its scales and its correction.
fn describe(linear: &manifest::Linear) -> Result<Weights, PackCheckpointError> {
    let size = |x: u64| {
        usize::try_from(x).map_err(|_| PackCheckpointError::Size { name: linear.name.clone() })
    };
    let segments = linear
        .segments
        .iter()
        .map(|segment| {
            let start = size(segment.start)?;
            Ok(start..start.saturating_add(size(segment.length)?))
        })
        .collect::<Result<_, PackCheckpointError>>()?;
    Ok(Weights {
        name: linear.name.clone(),
        scheme: linear.scheme,
        n: size(linear.n)?,
        k: size(linear.k)?,
        experts: linear.experts.map(size).transpose()?,
        segments,
        granularity: linear.granularity,
        scales: Vec::new(),
        activation: match &linear.activation {
            &Activation::Dynamic { rms_clip, asymmetric, fitted } => {
                ActivationScale::Dynamic { rms_clip, asymmetric, fitted }
            }
            Activation::Static { threshold } => ActivationScale::Static(threshold.clone()),
        },
        correction: None,
    })
}

/// Reads a tensor of at most `limit` bytes that is no tiles, and holds it against its digest.
fn read_checked(
    pack: &PackReader,
    tensor: &str,
    limit: u64,
) -> Result<Vec<u8>, PackCheckpointError> {
    let bytes = pack.read_tensor(tensor, limit)?;
    let manifest = pack.tensor_info(tensor).and_then(|info| pack.manifest(info.shard));
    let recorded = manifest.and_then(|manifest| {
        let carried = manifest.carried.iter().find(|carried| carried.name == tensor);
        manifest.digests.get(tensor).or(carried.map(|carried| &carried.sha256))
    });
    if recorded != Some(&hex(&Sha256::digest(&bytes))) {
        return Err(PackCheckpointError::Digest { tensor: tensor.to_owned() });
    }
    Ok(bytes)
}

/// Reads an F32 or BF16 tensor and holds it against its digest. The reader has checked its type.
fn read_f32(pack: &PackReader, tensor: &str) -> Result<Vec<f32>, PackCheckpointError> {
    let bytes = read_checked(pack, tensor, u64::MAX)?;
    let dtype = pack.tensor_info(tensor).map_or(Dtype::F32, |info| info.dtype);
    Ok(floats(dtype, &bytes).unwrap_or_default())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_linear(name: &str, error: PackCheckpointError) -> LinearError {
    LinearError::Weights { name: name.to_owned(), source: Box::new(error) }
}
