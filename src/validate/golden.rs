//! Golden vectors of a pack: rows of activations, and digests of what engines make of them.

use std::ops::Range;

use anyhow::{Context, ensure};
use half::f16;
use sha2::{Digest, Sha256};
use tessera_formats::npu::Engine;
use tessera_formats::pack::manifest::Linear;
use tessera_formats::pack::{PackReader, names};
use tessera_runtime::golden::{self, GoldenInputs, ROWS};
use tessera_runtime::host::{EngineResults, EngineRows};

use crate::hash::hex;

/// Rows of golden inputs.
pub struct Golden {
    inputs: GoldenInputs,
    stored: bool,
}

impl Golden {
    /// Those that a pack stores. For a pack without, which an older version wrote, rows are made by the same rule,
    /// and the simulator says what they give.
    pub fn read(pack: &PackReader) -> anyhow::Result<Self> {
        let name = names::GOLDEN_INPUTS;
        let Some(tensor) = pack.tensor_info(name) else {
            let columns = pack.linears().map(|linear| linear.k_padded).max().unwrap_or(0);
            let seed = pack.manifest(0).map_or(0, |manifest| manifest.seed);
            let inputs = GoldenInputs::new(seed, usize::try_from(columns)?);
            return Ok(Golden { inputs, stored: false });
        };
        let bytes = pack.read_tensor(name, u64::MAX)?;
        let recorded = pack.manifest(tensor.shard).and_then(|manifest| manifest.digests.get(name));
        ensure!(
            recorded == Some(&hex(&Sha256::digest(&bytes))),
            "`{name}` does not have the SHA-256 that the manifest records",
        );
        let inputs = GoldenInputs::from_bytes(&bytes).with_context(|| format!("`{name}`"))?;
        Ok(Golden { inputs, stored: true })
    }

    /// Whether the pack stores them.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Operands of a linear in columns of its rotated row: the golden rows from `first` on, one after the other
    /// and again, `count` of them.
    pub fn rows(
        &self,
        linear: &Linear,
        columns: Range<usize>,
        first: usize,
        count: usize,
    ) -> EngineRows {
        let engine = linear.scheme.engine();
        let range = linear.activation_range().unwrap_or((i8::MIN, i8::MAX));
        let k = columns.len();
        let values = (first..first + count)
            .flat_map(|row| &self.inputs.row(row % ROWS)[columns.clone()])
            .copied();
        match engine {
            Engine::F16 => EngineRows::Halves {
                values: values.map(golden::float_operand).collect::<Vec<f16>>(),
                k,
            },
            Engine::I8 | Engine::I4 => {
                let operand = |value| golden::integer_operand(engine, range, value);
                EngineRows::Integers { values: values.map(operand).collect(), k }
            }
        }
    }
}

/// The digest of the results of all matrices, taken one after the other.
pub struct Digester {
    engine: Engine,
    hasher: Sha256,
}

impl Digester {
    /// Of an engine's results.
    pub fn new(engine: Engine) -> Self {
        Digester { engine, hasher: Sha256::new() }
    }

    /// Takes in those of a matrix for the golden rows.
    pub fn add(&mut self, results: &EngineResults) {
        let narrow = self.engine == Engine::I4;
        let mut bytes = Vec::new();
        match results {
            EngineResults::Integers { values, n } => {
                for channel in 0..*n {
                    for value in values.iter().skip(channel).step_by(*n) {
                        // 16 bits have all of an i4 result.
                        let value = value.to_le_bytes();
                        bytes.extend_from_slice(if narrow { &value[..2] } else { &value });
                    }
                }
            }
            EngineResults::Floats { values, n } => {
                for channel in 0..*n {
                    for value in values.iter().skip(channel).step_by(*n) {
                        bytes.extend_from_slice(&value.to_le_bytes());
                    }
                }
            }
        }
        self.hasher.update(&bytes);
    }

    /// The digest.
    pub fn finish(self) -> String {
        hex(&self.hasher.finalize())
    }
}
