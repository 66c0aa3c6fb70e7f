//! The clip whose quantized histogram is nearest to the histogram in Kullback-Leibler divergence.
//!
//! This is the rule of TensorRT, as NVIDIA's Model Optimizer publishes it. For counts `c[0..n]` of
//! magnitudes in bins of equal width, and a candidate clip at the upper edge of bin `i - 1`:
//!
//! * `P` is `c[0..i]`, with the clipped mass `t = Σ c[i..]` added to its last bin;
//! * `Q` is `c[0..i]`, without `t`, in `qmax + 1` cells of equal width: a bin `b` belongs to cell
//!   `floor(b · (qmax + 1) / i)`. The mass of a cell is divided evenly among those of its bins that
//!   are not empty; empty bins stay empty. So `Q` lives on the bins of `P`, not on `qmax + 1` spikes
//!   (that is where rk-llama.cpp's search degenerates: its divergence is about 14 nats for any clip);
//! * the divergence is `Σ P ln(P / Q)`, both normalized to 1.
//!
//! The candidate of least divergence wins, the last of equal ones. `c[0]` is replaced by `c[1]`
//! first, as NVIDIA does, so that a spike of exact zeros has no say. On ten histograms of 2048 bins
//! NVIDIA's code chooses the same bin, and `tests/entropy.rs` says why onnxruntime's does not.
//!
//! Choices, with reasons:
//!
//! * **Cells**: `qmax + 1` magnitudes, 0 to qmax, of a symmetric engine: 128 and 8. Cells of equal
//!   width, as in the published rule, are shifted by half a cell against rounding's. Cells as
//!   rounding has them (the outer ones half as wide) give nearly the same clips (4 bits, a million
//!   samples: 3.52 for 3.53 σ on a Gaussian, 5.40 for 5.75 on Student's t5), so the published rule
//!   stays.
//! * **First candidate**: a sixteenth of the range (bin 128 of 2048, NVIDIA's own), at least
//!   `qmax + 1` bins. With one bin per cell `Q` is `P` without its tail, and only the tail speaks.
//! * **Infinite candidates**: where clipped mass falls on an empty last bin, `Q` is 0 there, the
//!   divergence is infinite and the candidate cannot win. Nothing is smoothed: onnxruntime moves an
//!   arbitrary 10⁻⁴ of a count onto empty bins, which lets such candidates in at a divergence set by
//!   that constant. A candidate without any mass, where NVIDIA's divergence is no number and so
//!   the least to NumPy, cannot win either. The full range clips nothing, so a finite candidate always exists (bar
//!   histograms whose mass is all in bin 0; they are not clipped).
//! * **Clipped mass is invisible to `Q`**: it appears as a spike of `P` alone, wherever it came from:
//!   an outlier 6 times or 60 times beyond the clip costs the same. This is a blind spot, but the
//!   variant without it, with the mass in `Q`'s last cell too, collapses at 8 bits: the spike is then
//!   reproduced, and clips of 0.3 σ reach zero divergence. So the rule stays as published.
//!
//! For weights, `mse` is the better choice wherever it was measured, and after a rotation this rule
//! clips a Gaussian row at about 3.5 σ at 4 bits where the least squared error is at 2.5 σ. It is
//! here because people ask for KL, and it is the honest one.

/// Bins of a row's histogram.
pub const BINS: usize = 2048;

/// Candidates begin at this fraction of the range.
const FIRST: usize = 16;

/// A clip that histogram counts have chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bins kept: the clip is the upper edge of bin `bins - 1`.
    pub bins: usize,
    /// The divergence there, in nats.
    pub divergence: f64,
}

/// Sums over the first bins of a histogram, and logarithms.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    counts: Vec<u64>,
    prefix: Prefix,
    /// `ln n` at n; its length bounds n.
    logarithms: Vec<f64>,
}

/// At index `i`, over bins `0..i`.
#[derive(Clone, Debug, Default)]
struct Prefix {
    /// Sum of the counts.
    mass: Vec<u64>,
    /// Number of bins that are not empty.
    occupied: Vec<u64>,
    /// Sum of `c ln c`.
    entropy: Vec<f64>,
}

/// The candidate of least divergence for integers in ±`qmax`. `counts[b]` is the number of magnitudes
/// in bin `b`; the last bin should be the one that holds amax. All bins where no candidate is finite
/// or there are no more than `qmax + 1`.
pub fn choose(counts: &[u64], qmax: i8) -> Choice {
    search(counts, qmax, &mut Prefix::default(), logarithm)
}

/// Divergence of the candidate that keeps `bins` bins, in nats; infinite where `Q` is 0 under `P`, and
/// where `bins` is 0 or more than there are.
pub fn divergence(counts: &[u64], qmax: i8, bins: usize) -> f64 {
    let mut prefix = Prefix::default();
    prefix.fill(counts, logarithm);
    prefix.divergence(bins, cells(qmax), logarithm)
}

/// The clip of one row; `amax` is the row's, at least 2^-100.
pub(super) fn clip(row: &[f32], amax: f32, qmax: i8, scratch: &mut Scratch) -> f32 {
    let Scratch { counts, prefix, logarithms } = scratch;
    counts.clear();
    counts.resize(BINS, 0);
    #[expect(clippy::cast_precision_loss, reason = "2048")]
    let bins = BINS as f32;
    let factor = bins / amax;
    for w in row {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and the floor is wanted"
        )]
        let bin = (w.abs() * factor) as usize;
        if let Some(count) = counts.get_mut(bin.min(BINS - 1)) {
            *count += 1;
        }
    }
    // No count or sum of counts exceeds the row's length, save that bin 0 may repeat bin 1.
    let longest = (2 * row.len()).max(BINS);
    for n in logarithms.len()..=longest {
        logarithms.push(logarithm(n as u64));
    }
    let table = |n: u64| {
        usize::try_from(n).ok().and_then(|n| logarithms.get(n)).copied().unwrap_or_default()
    };
    let kept = search(counts, qmax, prefix, table).bins;
    if kept == BINS {
        return amax;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 2048")]
    let kept = kept as f32;
    amax * (kept / bins)
}

/// Natural logarithm of a count, the same on every machine.
fn logarithm(n: u64) -> f64 {
    libm::log(float(n))
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn float(n: u64) -> f64 {
    n as f64
}

fn cells(qmax: i8) -> usize {
    usize::from(qmax.unsigned_abs()) + 1
}

fn search(
    counts: &[u64],
    qmax: i8,
    prefix: &mut Prefix,
    logarithm: impl Fn(u64) -> f64 + Copy,
) -> Choice {
    prefix.fill(counts, logarithm);
    let cells = cells(qmax);
    let mut best = Choice { bins: counts.len(), divergence: f64::INFINITY };
    for bins in (counts.len() / FIRST).max(cells)..=counts.len() {
        let divergence = prefix.divergence(bins, cells, logarithm);
        if divergence.is_finite() && divergence <= best.divergence {
            best = Choice { bins, divergence };
        }
    }
    best
}

impl Prefix {
    fn fill(&mut self, counts: &[u64], logarithm: impl Fn(u64) -> f64) {
        let Prefix { mass, occupied, entropy } = self;
        mass.clear();
        occupied.clear();
        entropy.clear();
        let mut last = (0, 0, 0.0);
        mass.push(last.0);
        occupied.push(last.1);
        entropy.push(last.2);
        for (bin, &count) in counts.iter().enumerate() {
            let count = if bin == 0 { counts.get(1).copied().unwrap_or(count) } else { count };
            if count > 0 {
                last = (last.0 + count, last.1 + 1, last.2 + float(count) * logarithm(count));
            }
            mass.push(last.0);
            occupied.push(last.1);
            entropy.push(last.2);
        }
    }

    /// With T the whole mass, S that of the kept bins, t = T - S, and for cell j its mass `m`, its
    /// occupied bins `n` and its mass in P `M` (`m`, and t in the last):
    /// `KL = (Σ P ln P - Σ_j M ln(m/n)) / T - ln T + ln S`, P as counts.
    fn divergence(&self, bins: usize, cells: usize, logarithm: impl Fn(u64) -> f64) -> f64 {
        let Prefix { mass, occupied, entropy } = self;
        let (Some(&total), Some(&kept), Some(before)) =
            (mass.last(), mass.get(bins), bins.checked_sub(1))
        else {
            return f64::INFINITY;
        };
        let (clipped, last) = (total - kept, kept - mass[before]);
        if kept == 0 || (clipped > 0 && last == 0) {
            return f64::INFINITY;
        }
        let mut cross = 0.0;
        let (mut low, mut low_mass, mut low_occupied) = (0, 0, 0);
        for cell in 1..=cells {
            let high = (cell * bins).div_ceil(cells);
            if high == low {
                continue;
            }
            let (high_mass, high_occupied) = (mass[high], occupied[high]);
            let cell_mass = high_mass - low_mass;
            if cell_mass > 0 {
                let reference = if high == bins { cell_mass + clipped } else { cell_mass };
                cross += float(reference)
                    * (logarithm(cell_mass) - logarithm(high_occupied - low_occupied));
            }
            (low, low_mass, low_occupied) = (high, high_mass, high_occupied);
        }
        let mut own = entropy[before];
        if last + clipped > 0 {
            own += float(last + clipped) * logarithm(last + clipped);
        }
        (own - cross) / float(total) - logarithm(total) + logarithm(kept)
    }
}
