//! What a rotation did, for people and for programs.

use std::fmt::Write;

use serde::Serialize;
use tessera_formats::escape::escaped;

use crate::size;

/// Figures of a rotation.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The GGUF file.
    pub input: String,
    /// The file written.
    pub output: String,
    /// Seed of the signs.
    pub seed: u64,
    /// Rotation of the residual stream, such as `sylvester 64`.
    pub residual: String,
    /// Rotation of the heads of values, of the first layer; absent where they stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<String>,
    /// Type of the matrices written.
    #[serde(rename = "type")]
    pub ggml_type: &'static str,
    /// Tensors by what was done to them.
    pub tensors: Tensors,
    /// Bytes of the source.
    pub bytes_in: u64,
    /// Bytes of the file written.
    pub bytes_out: u64,
    /// Wall time.
    pub seconds: f64,
    /// Largest resident set, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Tensors by what was done to them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tensors {
    /// Rotated.
    pub rotated: usize,
    /// Norms whose gains went into linears.
    pub folded: usize,
    /// Copied bit for bit.
    pub copied: usize,
}

impl Summary {
    /// The figures as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "residual stream: {}, seed {}", self.residual, self.seed);
        if let Some(heads) = &self.heads {
            let _ = writeln!(text, "heads of values: {heads}");
        }
        let Tensors { rotated, folded, copied } = self.tensors;
        let _ = writeln!(
            text,
            "{rotated} tensors rotated to {}, {folded} norms folded, {copied} tensors copied",
            self.ggml_type,
        );
        let _ =
            writeln!(text, "{} in, {} out", size::show(self.bytes_in), size::show(self.bytes_out),);
        let _ = write!(text, "{:.2} s", self.seconds);
        if let Some(peak) = self.peak_memory {
            let _ = write!(text, ", peak memory {}", size::show(peak));
        }
        let _ = writeln!(text, "\n{}", escaped(&self.output));
        text
    }
}
