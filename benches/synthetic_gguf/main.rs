//! Writes a GGUF file with the shapes of a real model and made-up weights, for measurements of
//! speed and memory. The same arguments give the same bytes.

#![expect(clippy::print_stderr, reason = "a tool: progress goes to stderr")]

mod noise;
mod shapes;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::GgufWriter;

use self::noise::Noise;
use self::shapes::{Content, Contents, Model};

/// Write a GGUF file with the shapes of a real model and made-up weights
#[derive(Parser)]
struct Arguments {
    /// Model whose shapes to take
    #[arg(value_enum)]
    model: Model,

    /// File to write; an existing one is replaced when the new one is complete
    output: PathBuf,

    /// Type of the weight matrices
    #[arg(long = "type", value_enum, default_value = "f16", value_name = "TYPE")]
    weight_type: WeightType,

    /// Number of layers instead of the model's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,

    /// Number of tokens instead of the model's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    vocabulary: Option<u32>,

    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Say nothing
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightType {
    #[value(name = "f16")]
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl WeightType {
    fn ggml(self) -> GgmlType {
        match self {
            WeightType::F16 => GgmlType::F16,
            WeightType::Q8_0 => GgmlType::Q8_0,
            WeightType::Q4_0 => GgmlType::Q4_0,
        }
    }

    /// `general.file_type`, llama.cpp's number of the file's main type.
    fn file_type(self) -> u32 {
        match self {
            WeightType::F16 => 1,
            WeightType::Q4_0 => 2,
            WeightType::Q8_0 => 7,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut contents = arguments.model.contents(arguments.layers, arguments.vocabulary);
    let file_type = arguments.weight_type.file_type();
    contents.metadata.push(("general.file_type".to_owned(), file_type.into()));
    contents.metadata.push(("general.quantization_version".to_owned(), 2_u32.into()));

    let start = Instant::now();
    let partial = partial_path(&arguments.output);
    let bytes = write(&partial, &contents, arguments.weight_type.ggml(), arguments.seed)
        .with_context(|| format!("cannot write `{}`", partial.display()))?;
    fs::rename(&partial, &arguments.output)
        .with_context(|| format!("cannot write `{}`", arguments.output.display()))?;
    if !arguments.quiet {
        let weights: u64 = contents.tensors.iter().map(shapes::Tensor::elements).sum();
        eprintln!(
            "{}: {bytes} bytes, {} tensors, {weights} weights, {:.1} s",
            arguments.output.display(),
            contents.tensors.len(),
            start.elapsed().as_secs_f64(),
        );
    }
    Ok(())
}

/// The name under which a file is written until it is complete.
fn partial_path(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    output.with_file_name(name)
}

/// Writes the file and returns its size in bytes.
fn write(
    path: &Path,
    contents: &Contents,
    weight_type: GgmlType,
    seed: u64,
) -> anyhow::Result<u64> {
    let mut writer = GgufWriter::new();
    for (key, value) in &contents.metadata {
        writer.metadata(key, value.clone())?;
    }
    for tensor in &contents.tensors {
        let ty = match tensor.content {
            Content::Weight => weight_type,
            Content::FloatWeight | Content::Gain => GgmlType::F32,
        };
        writer.tensor(&tensor.name, ty, &tensor.dims)?;
    }

    let longest_row = contents.tensors.iter().map(shapes::Tensor::k).max().unwrap_or(0);
    let mut noise = Noise::new(seed, weight_type, usize::try_from(longest_row)?)
        .with_context(|| format!("cannot make weights of type {}", weight_type.name()))?;
    let mut file = BufWriter::with_capacity(4 << 20, File::create(path)?);
    writer.write_header(&mut file)?;
    let mut row = Vec::new();
    for (tensor, placed) in contents.tensors.iter().zip(writer.tensors()) {
        let k = usize::try_from(tensor.k())?;
        let mut written = 0;
        for _ in 0..tensor.elements() / tensor.k() {
            row.clear();
            match tensor.content {
                Content::Weight => noise.weights(k, &mut row),
                Content::FloatWeight => noise.float_weights(k, &mut row),
                Content::Gain => noise.gains(k, &mut row),
            }
            file.write_all(&row)?;
            written += row.len() as u64;
        }
        ensure!(written == placed.bytes, "`{}`: {written} of {} bytes", tensor.name, placed.bytes);
        writer.write_padding(placed.bytes, &mut file)?;
    }
    file.into_inner()?.sync_all()?;
    Ok(writer.file_bytes())
}

#[cfg(test)]
mod tests {
    use tessera_formats::gguf::Gguf;

    use super::*;

    #[test]
    fn a_written_file_is_a_gguf_and_the_same_each_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let contents = Model::Llama1b.contents(Some(1), Some(300));
        let read = |name: &str, seed| {
            let path = folder.path().join(name);
            let bytes = write(&path, &contents, GgmlType::Q4_0, seed).expect("written");
            let gguf = Gguf::open(&path).expect("a valid file");
            assert_eq!(gguf.architecture().expect("stated"), "llama");
            assert_eq!(gguf.tensors().len(), contents.tensors.len());
            let file = fs::read(&path).expect("readable");
            assert_eq!(file.len() as u64, bytes);
            file
        };
        let first = read("first.gguf", 0);
        assert!(first == read("second.gguf", 0));
        assert!(first != read("third.gguf", 1));
    }
}
