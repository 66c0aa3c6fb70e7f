//! How K is cut into segments that the 4-bit engine's accumulator can certify.

use std::ops::Range;

use tessera_formats::npu::Scheme;
use tessera_formats::npu::tiles::TILE_K;
use tessera_runtime::accumulator::even_segments;

use super::plan::LinearPlan;

/// The columns of `count` segments. Ours are as even as tiles allow; a preset's are as long as its
/// system makes them, and the last takes the rest.
pub fn columns(plan: &LinearPlan, count: usize) -> Vec<Range<usize>> {
    if plan.options.preset.is_none() {
        return even_segments(plan.k_padded, count, TILE_K);
    }
    let longest = plan.k_padded.div_ceil(count).next_power_of_two();
    (0..plan.k_padded)
        .step_by(longest)
        .map(|start| start..plan.k_padded.min(start + longest))
        .collect()
}

/// Longest K, a multiple of 32, for which no weights in ±qmax and no activation in the scheme's
/// range can leave int16.
pub fn certified_length(scheme: Scheme) -> usize {
    let qmax = scheme.engine().qmax().map_or(1, i8::unsigned_abs);
    let (low, high) = scheme.activation_range().unwrap_or((-1, 1));
    let digit = low.unsigned_abs().max(high.unsigned_abs());
    let longest = i16::MAX.unsigned_abs() / (u16::from(qmax) * u16::from(digit));
    usize::from(longest / 32 * 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_worst_case() {
        // 7·7·K and 7·8·K within 32767, in multiples of 32.
        assert_eq!(certified_length(Scheme::W4A4), 640);
        assert_eq!(certified_length(Scheme::W4A8), 576);
    }
}
