//! Questions to the engine of 4 bits: sums beyond 16 bits, the order of halves, and −8.

use std::sync::Arc;

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::{Int4, NibbleOrder, Overflow, OverflowSum};
use tessera_runtime::rknn::check::{Operands, Trial, shape};
use tessera_runtime::rknn::{Core, Library, RknnError};

use super::questions::Questions;

/// Activations, weights and columns whose sums do not fit 16 bits: 32768, 65536 and −57344.
const OVERFLOWS: [(i8, i8, u32); 3] = [(-8, -8, 512), (-8, -8, 1024), (7, -8, 1024)];

/// Asks them.
pub fn ask(library: &Arc<Library>, questions: &mut Questions) -> Int4 {
    let first = |k, row: &dyn Fn(usize) -> i8, weight: &dyn Fn(usize) -> i8| {
        let operands = Operands::of(shape(Engine::I4, 1, k, 1, 0), |_, k| row(k), |_, k| weight(k));
        first_result(library, &operands)
    };
    let mut sums = Vec::new();
    for (activation, weight, k) in OVERFLOWS {
        let question = format!("int4 sum of {k} products {activation}·{weight}");
        let found = questions.ask(&question, || first(k, &|_| activation, &|_| weight));
        let exact = i64::from(activation) * i64::from(weight) * i64::from(k);
        sums.extend(found.map(|found| OverflowSum { activation, weight, k, exact, found }));
    }
    // 832 products of 49, then 416 of −49: 20384, by way of 40768.
    let in_the_end = questions.ask("int4 sum that fits in the end", || {
        first(1248, &|_| 7, &|k| if k < 832 { 7 } else { -7 })
    });
    // Column 0 alone counts: 3, where the halves of bytes are not swapped, else −5.
    let order = questions.ask("nibble order", || {
        first(32, &|k| i8::from(k == 0), &|k| match k {
            0 => 3,
            1 => -5,
            _ => 0,
        })
    });
    let in_activations = questions.ask("−8 in activations", || first(32, &|_| -8, &|_| 1));
    let in_weights = questions.ask("−8 in weights", || first(32, &|_| 1, &|_| -8));
    Int4 {
        overflow: overflow(&sums),
        fits_in_the_end: in_the_end.map(|found| found == 20384.0),
        nibble_order: order.map(|found| match found {
            3.0 => NibbleOrder::LowFirst,
            -5.0 => NibbleOrder::HighFirst,
            _ => NibbleOrder::Other,
        }),
        least_in_activations: in_activations.map(|found| found == -256.0),
        least_in_weights: in_weights.map(|found| found == -256.0),
        sums,
    }
}

fn first_result(library: &Arc<Library>, operands: &Operands) -> Result<f64, RknnError> {
    let results = Trial::results_of(library, operands, Core::Any)?;
    Ok(results.first().copied().unwrap_or(f64::NAN))
}

/// What all sums agree on.
#[expect(clippy::cast_precision_loss, reason = "sums of 20 bits")]
fn overflow(sums: &[OverflowSum]) -> Option<Overflow> {
    if sums.len() < OVERFLOWS.len() {
        return None;
    }
    let saturated = |sum: &OverflowSum| sum.exact.clamp(i16::MIN.into(), i16::MAX.into()) as f64;
    let wrapped = |sum: &OverflowSum| ((sum.exact << 48) >> 48) as f64;
    Some(if sums.iter().all(|sum| sum.found == saturated(sum)) {
        Overflow::Saturate
    } else if sums.iter().all(|sum| sum.found == wrapped(sum)) {
        Overflow::Wrap
    } else {
        Overflow::Other
    })
}
