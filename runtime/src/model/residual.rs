//! Whether the residual stream of a model can be rotated: whether the weights around it can be
//! replaced so that every state h is R·h, R orthogonal, and the model computes what it computed.
//!
//! They can where a graph reads states only through root mean square norms, whose divisor R leaves as
//! it is because ‖R·h‖ = ‖h‖, followed by linears that take the norm's gain γ and R in:
//! W·(γ ⊙ h/rms) = (W·diag(γ)·Rᵀ)·(R·h/rms); and where it adds only what linears write, R·W·x, and
//! multiplies states only by scalars. Ashkboos et al., *QuaRot* (arXiv 2404.00456), §4.

use thiserror::Error;

use super::Hyperparameters;
use super::architecture::Architecture;

/// Why the residual stream of a model cannot be rotated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResidualRotationError {
    /// What attention and the FFN add is multiplied by a gain per channel.
    #[error(
        "the residual stream of `{architecture}` cannot be rotated: a norm follows attention and the \
         FFN, and its gains, one per channel of the stream, do not commute with a rotation"
    )]
    NormsAfter {
        /// `general.architecture`.
        architecture: String,
    },
}

impl Hyperparameters {
    /// Whether the residual stream can be rotated.
    ///
    /// # Errors
    ///
    /// What stands in the way.
    pub fn check_residual_rotation(&self) -> Result<(), ResidualRotationError> {
        // Every field is named, so that a new one is thought about here.
        let Hyperparameters {
            architecture,
            // Gains before linears are taken into them; after, they act on single channels.
            norms_before,
            norms_after,
            // One for all channels.
            norm_epsilon: _,
            embedding_scale: _,
            residual_scale: _,
            // Of attention and FFN, after their projections and before their outputs.
            head_norms: _,
            activation: _,
            temperature: _,
            shapes: _,
            ropes: _,
            // After the head.
            logit_scale: _,
            logit_soft_cap: _,
            // Sizes.
            layers: _,
            width: _,
            vocabulary: _,
            context_length: _,
        } = self;
        match (norms_before, norms_after) {
            (true, false) => Ok(()),
            _ => Err(ResidualRotationError::NormsAfter { architecture: architecture.clone() }),
        }
    }

    /// Whether llama.cpp takes the embedding for the head in every file of this architecture, and
    /// refuses a file with a head of its own.
    pub fn always_tied(&self) -> bool {
        Architecture::by_name(&self.architecture).is_some_and(|known| known.always_tied)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use tessera_formats::gguf::Gguf;

    use super::super::architecture::known_names;
    use super::*;
    use crate::checkpoint::GgufCheckpoint;

    #[test]
    fn architectures_with_norms_before_only_can_be_rotated() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let (mut rotated, mut refused, mut tied) = (BTreeSet::new(), vec![], BTreeSet::new());
        for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            let gguf = Gguf::open(&file).unwrap();
            let model = Hyperparameters::read(&GgufCheckpoint::new(&gguf), 64).unwrap();
            match model.check_residual_rotation() {
                Ok(()) => drop(rotated.insert(model.architecture.clone())),
                Err(error) => refused.push(error),
            }
            if model.always_tied() {
                tied.insert(model.architecture);
            }
        }
        let all: BTreeSet<_> = known_names().split(", ").map(str::to_owned).collect();
        let error = |architecture: &String| ResidualRotationError::NormsAfter {
            architecture: architecture.clone(),
        };
        let others: Vec<_> = all.difference(&rotated).collect();
        assert_eq!(others, ["gemma2", "gemma3", "olmo2"]);
        assert!(refused.iter().all(|found| others.iter().any(|name| *found == error(name))));
        assert_eq!(refused.len(), 5);
        assert!(tied.iter().eq(["gemma", "gemma2"]), "{tied:?}");
    }
}
