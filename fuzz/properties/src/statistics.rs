//! Statistics files of calibrations.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use tessera_calibration::statistics::file::FORMAT;
use tessera_calibration::statistics::{
    Accumulator, InputStatistics, ObservationOptions, Provenance, Statistics, StatisticsFile,
};

use crate::changes::{Changes, Header};
use crate::input;
use crate::told::told;

/// Any bytes as a statistics file: an error, or inputs each of which loads or gives an error.
pub fn statistics(data: &[u8]) {
    let path = input::file("model.statistics", data);
    let file = match StatisticsFile::open(&path) {
        Ok(file) => file,
        Err(error) => {
            told(&error);
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
                told(&error);
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

/// Channels of the small file's inputs.
const K: usize = 4;

/// Statistics of a few rows: of an input, of an input of experts, and of one of which only squares are
/// known.
static SMALL: LazyLock<Header> = LazyLock::new(|| {
    let options = ObservationOptions { hessians: true, rows: 4, ..ObservationOptions::default() };
    let rows: Vec<f32> = (0..32_u16).map(|index| f32::from(index) / 64.0 - 0.2).collect();
    let observed = |name: &str, experts: Option<usize>| {
        let mut accumulator =
            Accumulator::new(vec![name.to_owned()], K, experts, &options).expect("small");
        match experts {
            None => accumulator.add(None, &rows).expect("finite"),
            Some(experts) => (0..experts)
                .for_each(|expert| accumulator.add(Some(expert), &rows).expect("finite")),
        }
        accumulator.finish()
    };
    let importance = InputStatistics {
        linears: vec!["output.weight".to_owned()],
        k: K,
        tokens: 9,
        squares: vec![1.0; K],
        ..InputStatistics::default()
    };
    let inputs = vec![
        observed("blk.0.attn_q.weight", None),
        observed("blk.0.ffn_up_exps.weight", Some(2)),
        importance,
    ];
    let path = input::path("small.statistics");
    Statistics { provenance: Provenance::default(), inputs }.write(&path).expect("written");
    Header::of(&std::fs::read(&path).expect("it was written"), FORMAT)
});

/// A small statistics file with changes.
pub fn statistics_structured(data: &[u8]) {
    if let Ok(changes) = Changes::arbitrary(&mut Unstructured::new(data)) {
        statistics(&SMALL.changed(&changes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_file_is_one() {
        let path = input::file("unchanged", &SMALL.changed(&Changes::default()));
        let found = Statistics::read(&path).unwrap();
        assert_eq!(found.inputs.len(), 3);
        assert!(found.inputs[0].hessian.is_some() && found.inputs[1].experts.len() == 2);
    }
}
