//! What a GGUF file says of the rotations that its weights have taken in.

use tessera_formats::gguf::{Metadata, Value};

/// Key of the seed of the residual stream's rotation, a u64.
pub const RESIDUAL: &str = "tessera.rotated.residual";

/// Key of whether the heads of values are rotated, too, a bool.
pub const HEADS: &str = "tessera.rotated.heads";

/// Rotations that a model's weights have taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Seed of the signs.
    pub seed: u64,
    /// Whether the heads of values are rotated.
    pub heads: bool,
}

impl Rotated {
    /// What a model's keys say; `None` where nothing was rotated.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        let heads = metadata.get(HEADS).and_then(Value::as_bool).unwrap_or(false);
        let seed = metadata.get(RESIDUAL)?.as_u64()?;
        Some(Rotated { seed, heads })
    }

    /// Whether the linears of an input, such as `blk.0.attn_input`, are given it rotated.
    pub fn covers(self, input: &str) -> bool {
        match input.rsplit('.').next().unwrap_or(input) {
            "attn_input"
            | "ffn_input"
            | "ffn_experts_input"
            | "ffn_gate_inp_input"
            | "ffn_gate_inp_shexp_input"
            | "output_input" => true,
            "attn_output_input" => self.heads,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::roles::input_of;

    #[test]
    fn only_the_inputs_within_attention_and_ffn_are_left_to_rotate() {
        for (linear, residual, with_heads) in [
            ("blk.0.attn_q.weight", true, true),
            ("blk.12.attn_qkv.weight", true, true),
            ("blk.0.attn_output.weight", false, true),
            ("blk.0.ffn_up.weight", true, true),
            ("blk.0.ffn_gate_up_exps.weight", true, true),
            ("blk.0.ffn_gate_inp.weight", true, true),
            ("blk.0.ffn_down.weight", false, false),
            ("blk.0.ffn_down_exps.weight", false, false),
            ("blk.0.ffn_down_shexp.weight", false, false),
            ("output.weight", true, true),
        ] {
            let covers = |heads| Rotated { seed: 0, heads }.covers(&input_of(linear).name);
            assert_eq!((covers(false), covers(true)), (residual, with_heads), "{linear}");
        }
    }
}
