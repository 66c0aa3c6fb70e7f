//! The type that rotated matrices are stored in.

use clap::ValueEnum;
use tessera_formats::ggml::GgmlType;

/// The type that rotated matrices are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MatrixType {
    /// 4 bytes a weight: what the model computes changes by rounding of f32 only
    F32,
    /// 2 bytes a weight, each rounded to 11 bits, also where the source had no more
    F16,
    /// 2 bytes a weight, each rounded to 8 bits: for weights that F16 cannot hold
    Bf16,
}

impl MatrixType {
    /// The type in the file.
    pub fn ggml_type(self) -> GgmlType {
        match self {
            MatrixType::F32 => GgmlType::F32,
            MatrixType::F16 => GgmlType::F16,
            MatrixType::Bf16 => GgmlType::Bf16,
        }
    }

    /// llama.cpp's number (`llama_ftype`) of a file whose matrices have the type.
    pub fn file_type(self) -> u32 {
        match self {
            MatrixType::F32 => 0,
            MatrixType::F16 => 1,
            MatrixType::Bf16 => 32,
        }
    }
}
