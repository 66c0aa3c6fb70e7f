//! The clip that a percentage of a row's magnitudes lie below.

/// Magnitudes of the row, as bits: those of non-negative floats are in the order of their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    magnitudes: Vec<u32>,
}

/// Index of percentile `percentile` among `count` ascending values: `floor(count · p / 100)`, at most
/// the last. `count` is at least 1.
pub(super) fn rank(count: u64, percentile: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    let position = count as f64 * percentile / 100.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the floor is wanted, and the cast saturates"
    )]
    let index = position as u64;
    index.min(count.saturating_sub(1))
}

/// The clip; `amax`, above 0, where the order statistic is 0.
pub(super) fn clip(row: &[f32], percentile: f64, amax: f32, scratch: &mut Scratch) -> f32 {
    let magnitudes = &mut scratch.magnitudes;
    magnitudes.clear();
    magnitudes.extend(row.iter().map(|w| w.abs().to_bits()));
    let index = rank(row.len() as u64, percentile);
    let Ok(index) = usize::try_from(index) else { return amax };
    if index >= magnitudes.len() {
        return amax;
    }
    let (_, value, _) = magnitudes.select_nth_unstable(index);
    let value = f32::from_bits(*value);
    if value > 0.0 { value } else { amax }
}
