//! Models as users name them: `FILE`, or `FILE@HOW` for what is to be made of it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;

use crate::options::{Overrides, Preset, SchemeChoice};

/// A model that is to be run, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// As the user wrote it.
    pub text: String,
    /// GGUF file or pack.
    pub path: PathBuf,
    /// How it is run, where the user said so.
    pub how: Option<How>,
}

/// How a GGUF file is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// Dequantized weights, activations as they are.
    Float,
    /// Activations rounded as llama.cpp's CPU backend rounds them.
    CpuLike,
    /// Quantized in memory, with options on top of the command line's.
    Quantized(Overrides),
}

impl FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "float" => return Ok(How::Float),
            "cpu" => return Ok(How::CpuLike),
            _ => {}
        }
        let scheme = |name: &str| SchemeChoice::from_str(name, true).ok();
        let preset = |name: &str| Preset::from_str(name, true).ok();
        let options = match text.split_once(':') {
            Some((first, second)) => preset(first).zip(scheme(second)).map(|(preset, scheme)| {
                Overrides { preset: Some(preset), scheme: Some(scheme), ..Overrides::default() }
            }),
            None => {
                let scheme = scheme(text);
                // Another system's preset says nothing of the bits.
                let preset = preset(text).filter(|preset| preset.system().is_none());
                let known = scheme.is_some() || preset.is_some();
                known.then(|| Overrides { scheme, preset, ..Overrides::default() })
            }
        };
        options.map(How::Quantized).ok_or_else(|| {
            format!(
                "`@{text}` is not known: use @float, @cpu, a scheme such as @w8a8, a preset such as \
                 @w4, or one with a scheme such as @rk-llama-v3:w4a4"
            )
        })
    }
}

/// Reads a model's name. A file of exactly that name is meant if there is one.
pub fn parse(text: &str) -> Result<ModelSpec, String> {
    let spec = |path: &str, how| ModelSpec { text: text.to_owned(), path: path.into(), how };
    match text.rsplit_once('@') {
        Some((path, how)) if !Path::new(text).exists() && !how.contains('/') => {
            how.parse().map(|how| spec(path, Some(how)))
        }
        _ => Ok(spec(text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_made_of_a_file() {
        let how = |text: &str| parse(text).map(|spec| (spec.path.display().to_string(), spec.how));
        let quantized = |scheme, preset| {
            Some(How::Quantized(Overrides { scheme: Some(scheme), preset, ..Overrides::default() }))
        };
        for (text, path, expected) in [
            ("m.gguf", "m.gguf", None),
            ("m.gguf@cpu", "m.gguf", Some(How::CpuLike)),
            ("m.gguf@float", "m.gguf", Some(How::Float)),
            ("a@b/m.gguf", "a@b/m.gguf", None),
            ("a@b/m.gguf@w4a8", "a@b/m.gguf", quantized(SchemeChoice::W4A8, None)),
            (
                "m.gguf@rk-llama-v2:w4a4",
                "m.gguf",
                quantized(SchemeChoice::W4A4, Some(Preset::RkLlamaV2)),
            ),
        ] {
            assert_eq!(how(text), Ok((path.to_owned(), expected)), "{text}");
        }
        assert_eq!(how("m.gguf@w4").unwrap().1, {
            let preset = Some(Preset::W4);
            Some(How::Quantized(Overrides { preset, ..Overrides::default() }))
        });
        for text in ["m.gguf@w5a5", "m.gguf@", "m.gguf@rk-llama-v2", "m.gguf@rk-llama-v9:w4a4"] {
            assert!(how(text).unwrap_err().contains("is not known"), "{text}");
        }
    }
}
