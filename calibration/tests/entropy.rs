//! The search by histogram divergence against public implementations of TensorRT's.
//!
//! `reference/entropy.py` runs them on ten histograms of 2048 bins. NVIDIA's own (Model Optimizer)
//! chooses the same bin in all of them, at 8 and at 4 bits: the rules are the same, and on 2048 bins
//! so is the first candidate, 128.
//!
//! onnxruntime's does not, for its rules differ. What each does was measured by changing that rule
//! alone in NVIDIA's search:
//!
//! * Its cells are of `floor(n / levels)` of n bins, and what is left over goes to the last cell, where
//!   it stands on no bin. So candidates whose length is a multiple of the levels look best: with that
//!   rule alone, all ten clips are such multiples.
//! * The count of zeros stays as it is, where NVIDIA's is replaced by its neighbour. Where zeros are
//!   most of the data, they decide, and the clip falls to the first candidate.
//! * It moves 10⁻⁴ of a count to empty bins. That changes none of the ten.
//! * It cuts shares of cells to integers, which matters where a bin has few counts; it looks at both
//!   signs; and of equal divergences it takes the first.
//!
//! None of these has a reason that the published rule lacks, so ours stays NVIDIA's.

use serde::Deserialize;
use tessera_calibration::clip::histogram_kl::{choose, divergence};

#[derive(Deserialize)]
struct Case {
    name: String,
    nvidia: Clips,
    onnxruntime: f64,
    onnxruntime_cells: usize,
    kept_zeros: usize,
    counts: Vec<u64>,
}

#[derive(Deserialize)]
struct Clips {
    #[serde(rename = "8")]
    eight_bits: usize,
    #[serde(rename = "4")]
    four_bits: usize,
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("reference/entropy.json")).expect("the fixture");
    assert_eq!(cases.len(), 10);
    cases
}

#[test]
fn clips_are_nvidias() {
    for case in cases() {
        assert_eq!(choose(&case.counts, 127).bins, case.nvidia.eight_bits, "{}", case.name);
        assert_eq!(choose(&case.counts, 7).bins, case.nvidia.four_bits, "{}", case.name);
    }
}

/// The reasons above, as far as the figures carry them.
#[test]
fn where_onnxruntime_differs() {
    let (mut multiples, mut near) = (0, 0);
    for Case { name, nvidia, onnxruntime, onnxruntime_cells, kept_zeros, counts } in cases() {
        assert!(onnxruntime_cells.is_multiple_of(128), "{name}: {onnxruntime_cells}");
        // Its candidates have 2i + 1 bins of both signs, and 255 cells.
        let cells = onnxruntime / 127.5;
        multiples += usize::from((cells - cells.round()).abs() < 0.01);
        near += usize::from((onnxruntime / nvidia.eight_bits as f64 - 1.0).abs() < 0.01);
        let zeros = counts[0] as f64 / counts.iter().sum::<u64>() as f64;
        assert_eq!(kept_zeros < onnxruntime_cells, zeros > 0.5, "{name}");
        assert_eq!(onnxruntime < 128.0, zeros > 0.5, "{name}");
        // By the published rule, its clip is worse.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bin")]
        let found = divergence(&counts, 127, onnxruntime.round() as usize);
        assert!(found >= choose(&counts, 127).divergence, "{name}: {found}");
    }
    assert_eq!((multiples, near), (6, 2));
}
