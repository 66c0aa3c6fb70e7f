//! GPTQ against the paper's algorithm in NumPy: the same integers.

use serde::Deserialize;
use tessera_calibration::gptq::{Factor, Options, Rows};
use tessera_calibration::hessian::{HessianBlock, RotatedHessian};

#[derive(Deserialize)]
struct Problem {
    rows: usize,
    k: usize,
    segments: Vec<(usize, usize)>,
    hessian_times_1024: Vec<Vec<i32>>,
    weights_times_4096: Vec<i16>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    range: (i8, i8),
    act_order: bool,
    damping: f64,
    scales: Vec<f32>,
    integers: Vec<i8>,
    losses: Vec<f64>,
    rounding_losses: Vec<f64>,
}

/// `reference/gptq.py`, which inverts the Hessian and keeps weights up to date, as the paper does.
#[test]
fn integers_are_those_of_the_papers_algorithm() {
    let problems: Vec<Problem> = serde_json::from_str(include_str!("reference/gptq.json")).unwrap();
    assert_eq!(problems.len(), 3);
    for problem in problems {
        let k = problem.k;
        let mut values = vec![0.0; k * k];
        for (i, row) in problem.hessian_times_1024.iter().enumerate() {
            for (j, &value) in row.iter().enumerate() {
                let value = f64::from(value) / 1024.0;
                (values[i * k + j], values[j * k + i]) = (value, value);
            }
        }
        let hessian = RotatedHessian { blocks: vec![HessianBlock { columns: 0..k, values }] };
        let weights: Vec<f32> =
            problem.weights_times_4096.iter().map(|&w| f32::from(w) / 4096.0).collect();
        let segments: Vec<_> = problem.segments.iter().map(|&(start, end)| start..end).collect();
        assert_eq!(problem.cases.len(), 6);
        for case in problem.cases {
            let options = Options { damping: case.damping, act_order: case.act_order };
            let factor = Factor::new(&hessian, &options).unwrap();
            let rows = Rows {
                values: &weights,
                scales: &case.scales,
                segments: &segments,
                range: case.range,
            };
            let mut integers = vec![0; weights.len()];
            let outcomes = rows.quantize(&factor, &mut integers);
            let name = format!("{} × {k}, {:?}, {options:?}", problem.rows, case.range);
            assert_eq!(outcomes.len(), problem.rows);
            for (row, outcome) in outcomes.iter().enumerate() {
                let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-4;
                assert!(near(outcome.loss, case.losses[row]), "{name}, row {row}: {outcome:?}");
                let expected = case.rounding_losses[row];
                assert!(near(outcome.rounding_loss, expected), "{name}, row {row}: {outcome:?}");
                assert!(!outcome.kept_rounding, "{name}, row {row}: {outcome:?}");
            }
            assert_eq!(integers, case.integers, "{name}");
        }
    }
}
