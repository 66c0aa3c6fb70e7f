//! Names: the generations that are reproduced, and rk-llama.cpp's hardware pipelines.

use std::fmt;
use std::str::FromStr;

use tessera_formats::escape::Escaped;
use tessera_formats::npu::Engine;

/// A generation of rk-llama.cpp whose weight quantization is reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// March to April 2026: one scale per segment of K and core slice of N; 4-bit weights clipped
    /// by the KL search.
    V2,
    /// Commit 39bb8e9: one scale per segment and row, from the largest magnitude.
    V3,
}

impl Preset {
    /// Both presets.
    pub const ALL: [Preset; 2] = [Preset::V2, Preset::V3];

    /// The name as users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Preset::V2 => "rk-llama-v2",
            Preset::V3 => "rk-llama-v3",
        }
    }

    /// The pipelines that the generation gives by default to the tensors of a ggml type, in turn
    /// over the tensors of that type; empty for types it leaves to the CPU.
    pub fn default_pipelines(self, ggml_type: &str) -> &'static [Pipeline] {
        match ggml_type {
            "F16" => &[Pipeline::W16A16Standard],
            "Q8_0" => &[Pipeline::W8A8Standard],
            "Q6_K" => &[Pipeline::W8A8Standard, Pipeline::W4A4Hadamard],
            "Q4_0" => &[Pipeline::W4A4Hadamard],
            _ => &[],
        }
    }
}

/// A hardware pipeline: an engine, with or without the Hadamard transform before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pipeline {
    /// f16, only cast.
    W16A16Standard,
    /// f16, transformed and cast.
    W16A16Hadamard,
    /// 8 bits.
    W8A8Standard,
    /// 8 bits, transformed.
    W8A8Hadamard,
    /// 4 bits.
    W4A4Standard,
    /// 4 bits, transformed.
    W4A4Hadamard,
}

impl Pipeline {
    /// Every pipeline of generations 2 and 3.
    pub const ALL: [Pipeline; 6] = [
        Pipeline::W16A16Standard,
        Pipeline::W16A16Hadamard,
        Pipeline::W8A8Standard,
        Pipeline::W8A8Hadamard,
        Pipeline::W4A4Standard,
        Pipeline::W4A4Hadamard,
    ];

    /// The name in rk-llama.cpp.
    pub const fn name(self) -> &'static str {
        match self {
            Pipeline::W16A16Standard => "W16A16_STANDARD",
            Pipeline::W16A16Hadamard => "W16A16_HADAMARD",
            Pipeline::W8A8Standard => "W8A8_STANDARD",
            Pipeline::W8A8Hadamard => "W8A8_HADAMARD",
            Pipeline::W4A4Standard => "W4A4_STANDARD",
            Pipeline::W4A4Hadamard => "W4A4_HADAMARD",
        }
    }

    /// The name that early releases of generation 2 used.
    pub const fn old_name(self) -> &'static str {
        match self {
            Pipeline::W16A16Standard => "FP16_STANDARD",
            Pipeline::W16A16Hadamard => "FP16_HADAMARD",
            Pipeline::W8A8Standard => "INT8_STANDARD",
            Pipeline::W8A8Hadamard => "INT8_HADAMARD",
            Pipeline::W4A4Standard => "INT4_STANDARD",
            Pipeline::W4A4Hadamard => "INT4_HADAMARD",
        }
    }

    /// The engine that executes it; its `tile_n` is the alignment of N, its `qmax` the largest
    /// integer.
    pub const fn engine(self) -> Engine {
        match self {
            Pipeline::W16A16Standard | Pipeline::W16A16Hadamard => Engine::F16,
            Pipeline::W8A8Standard | Pipeline::W8A8Hadamard => Engine::I8,
            Pipeline::W4A4Standard | Pipeline::W4A4Hadamard => Engine::I4,
        }
    }

    /// Whether rows go through the Hadamard transform.
    pub const fn is_hadamard(self) -> bool {
        matches!(self, Pipeline::W16A16Hadamard | Pipeline::W8A8Hadamard | Pipeline::W4A4Hadamard)
    }
}

/// A name that is neither a preset nor a pipeline, whichever was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{}`, expected one of {expected}", Escaped(.found))]
pub struct UnknownName {
    /// `preset` or `pipeline`.
    pub kind: &'static str,
    /// What was given.
    pub found: String,
    /// The names there are, separated by commas.
    pub expected: String,
}

impl FromStr for Preset {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Preset::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| UnknownName {
            kind: "preset",
            found: name.to_owned(),
            expected: Preset::ALL.map(Preset::name).join(", "),
        })
    }
}

impl FromStr for Pipeline {
    type Err = UnknownName;

    /// Takes old and new names.
    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Pipeline::ALL
            .into_iter()
            .find(|pipeline| pipeline.name() == name || pipeline.old_name() == name)
            .ok_or_else(|| UnknownName {
                kind: "pipeline",
                found: name.to_owned(),
                expected: Pipeline::ALL.map(Pipeline::name).join(", "),
            })
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        for pipeline in Pipeline::ALL {
            assert_eq!(pipeline.to_string().parse(), Ok(pipeline));
            assert_eq!(pipeline.old_name().parse(), Ok(pipeline));
            assert_eq!(pipeline.name().ends_with("HADAMARD"), pipeline.is_hadamard());
        }
    }

    #[test]
    fn unknown_names_are_escaped() {
        let error = "rk\x1b".parse::<Preset>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown preset `rk\\u{1b}`, expected one of rk-llama-v2, rk-llama-v3"
        );
        assert!("W4A8_HADAMARD".parse::<Pipeline>().is_err());
    }

    #[test]
    fn only_four_types_leave_the_cpu() {
        assert_eq!(Preset::V3.default_pipelines("Q6_K").len(), 2);
        assert_eq!(Preset::V2.default_pipelines("Q4_0"), [Pipeline::W4A4Hadamard]);
        for name in ["Q4_K", "BF16", "F32", "Q4_1", ""] {
            assert!(Preset::V2.default_pipelines(name).is_empty(), "{name}");
        }
    }
}
