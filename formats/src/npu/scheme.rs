//! Schemes (weight and activation bits) and the matmul engines that execute them.

use serde::{Deserialize, Serialize};

/// A matmul type of the NPU. The RK3588 has no other useful one: mixed types are refused by its
/// runtime library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// f16 × f16 → f32, `RKNN_FLOAT16_MM_FLOAT16_TO_FLOAT32`.
    F16,
    /// i8 × i8 → i32, `RKNN_INT8_MM_INT8_TO_INT32`.
    I8,
    /// i4 × i4 → i16 with saturation, `RKNN_INT4_MM_INT4_TO_INT16`.
    I4,
}

impl Engine {
    /// Bits of one weight.
    pub const fn weight_bits(self) -> usize {
        match self {
            Engine::F16 => 16,
            Engine::I8 => 8,
            Engine::I4 => 4,
        }
    }

    /// Output channels (rows of W) in one tile: N must be padded to a multiple of it.
    pub const fn tile_n(self) -> usize {
        match self {
            Engine::F16 => 16,
            Engine::I8 => 32,
            Engine::I4 => 64,
        }
    }

    /// Largest integer that a scale of `clip / qmax` stands for `clip` by; `None` for the float engine.
    pub const fn qmax(self) -> Option<i8> {
        match self {
            Engine::F16 => None,
            Engine::I8 => Some(127),
            Engine::I4 => Some(7),
        }
    }

    /// Least and greatest integer of a quantized weight: all sixteen values of 4 bits, but not -128,
    /// which would gain nothing; `None` for the float engine.
    pub const fn weight_range(self) -> Option<(i8, i8)> {
        match self {
            Engine::F16 => None,
            Engine::I8 => Some((-127, 127)),
            Engine::I4 => Some((-8, 7)),
        }
    }
}

/// Weight bits and activation bits of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// f16 weights, f16 activations.
    W16A16,
    /// 8-bit weights, 8-bit activations.
    W8A8,
    /// 4-bit weights, 4-bit activations.
    W4A4,
    /// 4-bit weights, activations of two 4-bit digits, on the i4 engine.
    W4A8,
}

impl Scheme {
    /// Every scheme, widest first.
    pub const ALL: [Scheme; 4] = [Scheme::W16A16, Scheme::W8A8, Scheme::W4A8, Scheme::W4A4];

    /// The engine that executes the scheme.
    pub const fn engine(self) -> Engine {
        match self {
            Scheme::W16A16 => Engine::F16,
            Scheme::W8A8 => Engine::I8,
            Scheme::W4A4 | Scheme::W4A8 => Engine::I4,
        }
    }

    /// The name as users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::W16A16 => "w16a16",
            Scheme::W8A8 => "w8a8",
            Scheme::W4A4 => "w4a4",
            Scheme::W4A8 => "w4a8",
        }
    }

    /// Smallest and largest integer that an activation operand of the engine can take under this
    /// scheme; `None` for the float engine. Activations with a zero point, which are `asymmetric`,
    /// use the whole range of the type. So may the digits of a w4a8 activation in any case; the
    /// other symmetric quantizers leave the least integer out.
    pub const fn activation_range(self, asymmetric: bool) -> Option<(i8, i8)> {
        match self {
            Scheme::W16A16 => None,
            Scheme::W8A8 if asymmetric => Some((-128, 127)),
            Scheme::W8A8 => Some((-127, 127)),
            Scheme::W4A4 if !asymmetric => Some((-7, 7)),
            Scheme::W4A4 | Scheme::W4A8 => Some((-8, 7)),
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
