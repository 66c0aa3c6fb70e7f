//! A file that is compared, and its tensors.

use std::path::Path;

use anyhow::Context;
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, LARGEST_HEADER, Metadata};
use tessera_formats::pack::manifest::Linear;
use tessera_formats::pack::{PackReader, ShardFile, names};

use super::content::{Blocks, Content, Place};
use crate::inspect::is_for_gguf;

/// An open pack or GGUF file, with the keys and values of the model.
pub struct ModelFile<'p> {
    /// As the user named it.
    pub path: &'p Path,
    form: Form,
}

enum Form {
    Gguf(Box<Gguf>),
    Pack(Box<PackReader>, Metadata),
}

/// A tensor of a file.
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Elements along each axis, K first; those of the weights, without padding.
    pub dims: Vec<u64>,
    /// Bytes that are stored for it alone.
    pub bytes: u64,
    /// Where its weights are.
    pub content: Content<'a>,
}

impl Tensor<'_> {
    /// Scheme, or ggml type.
    pub fn form(&self) -> &'static str {
        match &self.content {
            Content::Linear(_, linear) => linear.scheme.name(),
            Content::Blocks(blocks) => blocks.ggml_type.name(),
        }
    }

    /// Elements along each axis for people, the slowest first.
    pub fn shape(&self) -> String {
        format!("{:?}", self.dims.iter().rev().collect::<Vec<_>>())
    }

    /// Whether weights can be made of what is stored.
    pub fn has_weights(&self) -> bool {
        match &self.content {
            Content::Linear(..) => true,
            Content::Blocks(blocks) => blocks.ggml_type.can_dequantize(),
        }
    }
}

impl<'p> ModelFile<'p> {
    /// Opens a file; only headers are read.
    pub fn open(path: &'p Path) -> anyhow::Result<Self> {
        let form = if is_for_gguf(path)? {
            Form::Gguf(Box::new(Gguf::open(path)?))
        } else {
            let pack = PackReader::open(path)?;
            let bytes = pack.read_tensor(names::GGUF_METADATA, LARGEST_HEADER)?;
            let first = pack.shards().first().map_or(path, |shard| shard.path());
            let metadata = Metadata::parse(first, bytes)
                .with_context(|| format!("`{}`", names::GGUF_METADATA))?;
            Form::Pack(Box::new(pack), metadata)
        };
        Ok(ModelFile { path, form })
    }

    /// The pack, if it is one.
    pub fn pack(&self) -> Option<&PackReader> {
        match &self.form {
            Form::Gguf(_) => None,
            Form::Pack(pack, _) => Some(pack),
        }
    }

    /// `gguf` or `pack`.
    pub fn kind(&self) -> &'static str {
        match &self.form {
            Form::Gguf(_) => "gguf",
            Form::Pack(..) => "pack",
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        match &self.form {
            Form::Gguf(gguf) => gguf.shards().iter().map(|shard| shard.len()).sum(),
            Form::Pack(pack, _) => pack.shards().iter().map(ShardFile::bytes).sum(),
        }
    }

    /// Bytes of all tensors: in a pack also of vectors and factors, which belong to inputs.
    pub fn tensor_bytes(&self) -> u64 {
        match &self.form {
            Form::Gguf(gguf) => gguf.tensors().iter().map(|tensor| tensor.bytes).sum(),
            Form::Pack(pack, _) => pack
                .tensors()
                .iter()
                .filter(|tensor| {
                    ![names::GGUF_METADATA, names::GOLDEN_INPUTS].contains(&tensor.name.as_str())
                })
                .map(|tensor| tensor.bytes)
                .sum(),
        }
    }

    /// The model's keys and values.
    pub fn metadata(&self) -> &Metadata {
        match &self.form {
            Form::Gguf(gguf) => gguf.metadata(),
            Form::Pack(_, metadata) => metadata,
        }
    }

    /// Every tensor: of a pack its linears, then what it carries.
    pub fn tensors(&self) -> anyhow::Result<Vec<Tensor<'_>>> {
        match &self.form {
            Form::Gguf(gguf) => Ok(of_gguf(gguf)),
            Form::Pack(pack, _) => of_pack(pack),
        }
    }

    /// Fails if the file was written to since it was opened; of packs that is not known.
    pub fn check_unchanged(&self) -> anyhow::Result<()> {
        match &self.form {
            Form::Gguf(gguf) => Ok(gguf.check_unchanged()?),
            Form::Pack(..) => Ok(()),
        }
    }
}

fn of_gguf(gguf: &Gguf) -> Vec<Tensor<'_>> {
    let tensors = gguf.tensors().iter();
    tensors
        .map(|tensor| Tensor {
            name: &tensor.name,
            dims: tensor.dims.clone(),
            bytes: tensor.bytes,
            content: Content::Blocks(Blocks {
                ggml_type: tensor.ggml_type,
                elements: tensor.elements(),
                bytes: tensor.bytes,
                place: Place::Gguf(gguf, tensor),
            }),
        })
        .collect()
}

fn of_pack(pack: &PackReader) -> anyhow::Result<Vec<Tensor<'_>>> {
    let linears = pack.linears().map(|linear| {
        let dims = [Some(linear.k), Some(linear.n), linear.experts].into_iter().flatten().collect();
        let bytes = linear_bytes(pack, linear);
        Ok(Tensor { name: &linear.name, dims, bytes, content: Content::Linear(pack, linear) })
    });
    let carried = pack.carried().map(|carried| {
        let dims: Vec<u64> = carried.shape.iter().rev().copied().collect();
        let ggml_type = GgmlType::from_name(&carried.ggml_type).context("type of a tensor")?;
        let bytes = pack.tensor_info(&carried.name).map_or(0, |tensor| tensor.bytes);
        let content = Content::Blocks(Blocks {
            ggml_type,
            elements: dims.iter().fold(1, |product: u64, &dim| product.saturating_mul(dim)),
            bytes,
            place: Place::Pack(pack, carried),
        });
        Ok(Tensor { name: &carried.name, dims, bytes, content })
    });
    linears.chain(carried).collect()
}

/// Bytes of a linear's tiles, scales and correction.
fn linear_bytes(pack: &PackReader, linear: &Linear) -> u64 {
    let tiles = linear.segments.iter().map(|segment| &segment.tiles);
    let stored = tiles.chain([&linear.scale]).chain(&linear.correction);
    let bytes = stored.filter_map(|name| pack.tensor_info(name)).map(|tensor| tensor.bytes);
    bytes.fold(0, u64::saturating_add)
}
