//! Statistics files of calibrations.

use tessera_calibration::statistics::{Statistics, StatisticsFile};

use crate::input;

/// Any bytes as a statistics file: an error, or inputs each of which loads or gives an error.
pub fn statistics(data: &[u8]) {
    let path = input::file("model.statistics", data);
    let file = match StatisticsFile::open(&path) {
        Ok(file) => file,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    for index in 0..file.inputs().len() {
        let entry = &file.inputs()[index];
        for linear in &entry.linears {
            assert_eq!(file.index_of(linear), Some(index));
        }
        let experts = entry.experts;
        match file.load(index) {
            Ok(input) => {
                let _ = (input.channel_rms(), input.robust_channel_rms(), input.sampled());
            }
            Err(error) => {
                let _ = error.to_string();
            }
        }
        let _ = file.load_sums(index).map(drop);
        let _ = file.load_sums_and_rows(index).map(drop);
        let _ = file.load_hessian(index, None).map(drop);
        if experts.is_some_and(|experts| experts > 0) {
            let _ = file.load_hessian(index, Some(0)).map(drop);
        }
    }
    if let Ok(whole) = Statistics::read(&path) {
        // What was read can be written, and read again.
        let copy = input::path("copy.statistics");
        whole.write(&copy).expect("it was read");
        Statistics::read(&copy).expect("it was written");
    }
}
