//! What ggml's CPU backend makes of activations before a product with quantized weights.

use half::{bf16, f16};
use tessera_formats::ggml::GgmlType;

/// The form that activations are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// None: f32.
    None,
    /// To f16.
    F16,
    /// To bf16.
    Bf16,
    /// To 8 bits in blocks of 32 with an f16 scale: Q8_0.
    Q8_0,
    /// To 8 bits in blocks of 256 with an f32 scale: Q8_K.
    Q8K,
}

impl Rounding {
    /// The form that ggml multiplies weights of type `ty` with (the `vec_dot_type` of its table).
    ///
    /// Q8_1, for Q4_1 and Q5_1, has the integers and scales of Q8_0, beside sums that are exact here.
    pub fn of(ty: GgmlType) -> Self {
        match ty.name() {
            "F16" => Rounding::F16,
            "BF16" => Rounding::Bf16,
            "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q8_0" | "Q8_1" | "IQ4_NL" | "MXFP4" | "NVFP4"
            | "Q1_0" | "Q2_0" => Rounding::Q8_0,
            name if name.ends_with("_K") || name.starts_with("IQ") || name.starts_with("TQ") => {
                Rounding::Q8K
            }
            _ => Rounding::None,
        }
    }

    /// Rounds a row in place. What is not finite stays so.
    pub fn apply(self, row: &mut [f32]) {
        match self {
            Rounding::None => {}
            Rounding::F16 => row.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            Rounding::Bf16 => row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            Rounding::Q8_0 => row.chunks_mut(32).for_each(round_q8_0),
            Rounding::Q8K => row.chunks_mut(256).for_each(round_q8_k),
        }
    }
}

/// d = amax / 127 in f32 makes the integers, and rounded to f16 the values.
fn round_q8_0(block: &mut [f32]) {
    let amax = block.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    let scale = amax / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale).to_f32();
    block.iter_mut().for_each(|x| *x = (*x * inverse).round_ties_even() * stored);
}

/// The element of largest magnitude becomes −127.
fn round_q8_k(block: &mut [f32]) {
    let largest = block.iter().fold(0.0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    if largest == 0.0 {
        return block.fill(0.0);
    }
    let inverse = -127.0 / largest;
    let scale = 1.0 / inverse;
    block.iter_mut().for_each(|x| *x = (*x * inverse).round_ties_even().min(127.0) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_rounded_on_their_own() {
        let mut row: Vec<f32> =
            (0..64).map(|i| i as f32 * if i < 32 { 0.01 } else { 1.0 }).collect();
        Rounding::Q8_0.apply(&mut row);
        let scale = f16::from_f32(0.31 / 127.0).to_f32();
        assert_eq!(row[31], 127.0 * scale);
        assert_eq!(row[1], (0.01f32 * (127.0 / 0.31)).round() * scale);
        assert_eq!(row[63], 127.0 * f16::from_f32(63.0 / 127.0).to_f32());
        let mut row = vec![-2.0, 1.0, 0.0];
        Rounding::Q8K.apply(&mut row);
        assert_eq!(row, [-2.0, 64.0 * (2.0 / 127.0), 0.0]);
    }

    #[test]
    fn forms_are_those_of_ggml() {
        for (name, rounding) in [
            ("F32", Rounding::None),
            ("F16", Rounding::F16),
            ("Q4_0", Rounding::Q8_0),
            ("Q5_1", Rounding::Q8_0),
            ("IQ4_NL", Rounding::Q8_0),
            ("IQ4_XS", Rounding::Q8K),
            ("Q6_K", Rounding::Q8K),
            ("TQ1_0", Rounding::Q8K),
        ] {
            assert_eq!(Rounding::of(GgmlType::from_name(name).unwrap()), rounding, "{name}");
        }
    }
}
