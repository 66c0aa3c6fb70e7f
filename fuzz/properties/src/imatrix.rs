//! llama.cpp's importance matrices, in both of its formats.

use tessera_calibration::imatrix::ImportanceMatrix;

use crate::input;
use crate::told::told;

/// Any bytes as an importance matrix: an error, or means that are numbers, and statistics of them.
pub fn imatrix(data: &[u8]) {
    let path = input::file("model.imatrix", data);
    let matrix = match ImportanceMatrix::read(&path) {
        Ok(matrix) => matrix,
        Err(error) => {
            told(&error);
            return;
        }
    };
    for entry in matrix.entries.values() {
        assert!(entry.mean_squares.iter().all(|mean| mean.is_finite() && *mean >= 0.0));
        assert!(entry.means.iter().all(|mean| mean.is_finite()));
        assert!(entry.mean_squares.len() <= data.len());
    }
    for channels in [1, 2, 64] {
        let _ = matrix.to_statistics(|_| Some(channels));
    }
    let whole = |name: &str| matrix.entries.get(name).map(|entry| entry.mean_squares.len());
    if let Ok(statistics) = matrix.to_statistics(whole) {
        statistics.inputs.iter().for_each(|input| drop(input.channel_rms()));
    }
}
