//! Weights of a pack's linears, rebuilt from tiles, and how far they are from others.

mod deviation;
mod histogram;
mod lane;
mod tiled;

use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::Input;
use tessera_runtime::rotation::Rotation;

pub use self::deviation::Deviation;
pub use self::histogram::Steps;
pub use self::lane::Lane;
pub use self::tiled::{Panels, TiledLinear};

/// The basis in which a linear's integers stand: a row of weights w is w ⊘ v, rotated.
pub struct Basis {
    /// The orthogonal matrix.
    pub rotation: Rotation,
    /// v, of k elements; absent where every one is 1.
    pub vector: Option<Vec<f32>>,
}

impl Basis {
    /// Reads the vector and the factor of an input.
    pub fn read(pack: &PackReader, input: &Input) -> anyhow::Result<Self> {
        let factor = match &input.rotation.factor {
            Some(factor) => Some(pack.read_f32(&factor.tensor)?),
            None => None,
        };
        let vector = match &input.vector {
            Some(name) => Some(pack.read_f32(name)?),
            None => None,
        };
        let rotation = Rotation::from_manifest(&input.rotation, factor.as_deref())?;
        Ok(Basis { rotation, vector })
    }

    /// Element of v.
    pub fn factor(&self, column: usize) -> f64 {
        self.vector.as_ref().map_or(1.0, |vector| f64::from(vector[column]))
    }
}
