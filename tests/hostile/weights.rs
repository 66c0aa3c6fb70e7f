//! Weights as data: classes 34 and 35.

use super::Verdict::{Converted, NotConverted, Runs};
use super::{Case, bytes_of, case};
use crate::harness::model::{Model, bell};
use crate::harness::tiny_model;
use tessera_formats::ggml::GgmlType;

/// The linear.
const NAME: &str = "blk.0.ffn_up.weight";

/// Its input and output channels.
const K: usize = 256;
const N: usize = 4;

fn dims() -> [u64; 2] {
    [K, N].map(|length| u64::try_from(length).unwrap())
}

/// A linear of these values.
fn values(values: &[f32]) -> Vec<u8> {
    bytes_of(&Model::new().tensor(NAME, &dims(), values))
}

/// A linear of ordinary values, of which the one in row 2, column 5 is this.
fn with(value: f32) -> Vec<u8> {
    let mut ordinary = bell(K * N, 3, 0.1);
    ordinary[2 * K + 5] = value;
    values(&ordinary)
}

/// A linear of a type whose blocks are all `block`, but for bytes in the first block of row 2.
fn blocks(ty: GgmlType, block: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let count = K * N / ty.block_elements();
    let mut data = block.repeat(count);
    let place = data.len() / N * 2 + at;
    data[place..place + bytes.len()].copy_from_slice(bytes);
    bytes_of(&Model::new().bytes(NAME, ty, &dims(), data))
}

/// A scale of 1 in f16.
const ONE: [u8; 2] = [0, 0x3c];
const NAN: [u8; 2] = [0, 0x7e];
const INFINITE: [u8; 2] = [0, 0x7c];
/// The smallest number of f16, 2^-24.
const DENORMAL: [u8; 2] = [1, 0];

/// A block of `before` zeros, a scale of 1, and `after` bytes of weights.
fn block(before: usize, after: usize) -> Vec<u8> {
    [vec![0; before], ONE.to_vec(), (0..=u8::MAX).cycle().step_by(37).take(after).collect()]
        .concat()
}

pub fn cases() -> Vec<Case> {
    let not_finite = &[NAME, "not finite", "row 2"];
    let bad = |name, bytes| case(34, name, bytes, NotConverted, not_finite);
    let good = |name, bytes| case(34, name, bytes, Converted, &[]);
    let with_options = |options, case: Case| Case { options, ..case };
    let ordinary = bell(K * N, 3, 0.1);
    let rows = |f: &dyn Fn(usize, usize) -> f32| {
        values(&(0..K * N).map(|index| f(index / K, index % K)).collect::<Vec<_>>())
    };
    let scaled = |factor: f32| values(&ordinary.iter().map(|w| w * factor).collect::<Vec<_>>());
    let (q8, q4) = (block(0, 32), block(0, 16));
    let q4_k = [ONE, ONE].concat().into_iter().chain(block(0, 138)).collect::<Vec<_>>();
    vec![
        bad("NaN-in-F32", with(f32::NAN)),
        bad("Inf-in-F32", with(f32::INFINITY)),
        bad("minus-Inf-in-F32", with(f32::NEG_INFINITY)),
        bad("NaN-in-F16", blocks(GgmlType::F16, &ONE, 10, &NAN)),
        bad("Inf-in-F16", blocks(GgmlType::F16, &ONE, 10, &INFINITE)),
        bad("NaN-in-BF16", blocks(GgmlType::Bf16, &[0x80, 0x3f], 10, &[0xc0, 0x7f])),
        bad("Inf-in-BF16", blocks(GgmlType::Bf16, &[0x80, 0x3f], 10, &[0x80, 0x7f])),
        bad("NaN-scale-in-Q8_0", blocks(GgmlType::Q8_0, &q8, 0, &NAN)),
        bad("Inf-scale-in-Q8_0", blocks(GgmlType::Q8_0, &q8, 0, &INFINITE)),
        bad("NaN-scale-in-Q4_0", blocks(GgmlType::Q4_0, &q4, 0, &NAN)),
        bad("Inf-minimum-in-Q4_K", blocks(GgmlType::Q4K, &q4_k, 2, &INFINITE)),
        bad("NaN-scale-in-Q6_K", blocks(GgmlType::Q6K, &block(208, 0), 208, &NAN)),
        bad("NaN-exponent-in-MXFP4", {
            let block = [vec![127], vec![0x21; 16]].concat();
            blocks(GgmlType::Mxfp4, &block, 0, &[255])
        }),
        good("denormal-scale-in-Q8_0", blocks(GgmlType::Q8_0, &q8, 0, &DENORMAL)),
        good("only-denormal-scales-in-Q4_0", {
            let block = [&DENORMAL[..], &q4[2..]].concat();
            blocks(GgmlType::Q4_0, &block, 0, &DENORMAL)
        }),
        good("denormal-F32", scaled(1e-40)),
        good("beyond-F16", scaled(1e8)),
        with_options(&["--scheme", "w16a16"], good("beyond-F16-in-w16a16", scaled(1e8))),
        with_options(
            &["--scheme", "w16a16", "--preset", "rk-llama-v3"],
            case(34, "beyond-F16-without-a-scale", scaled(1e8), NotConverted, &[NAME]),
        ),
        good("rows-of-zeros", rows(&|row, column| if row == 2 { 0.0 } else { column as f32 })),
        good("only-zeros", rows(&|_, _| 0.0)),
        good("rows-all-equal", rows(&|row, _| row as f32 * 0.25)),
        with_options(
            &["--scheme", "w4a4"],
            good("rows-all-equal-in-w4a4", rows(&|row, _| row as f32 - 1.5)),
        ),
        with_options(
            &["--scheme", "w4a4"],
            good("rows-of-zeros-in-w4a4", rows(&|row, _| f32::from(row == 1))),
        ),
        with_options(
            &["--scheme", "w8a8", "--calibrator", "kl"],
            good("rows-all-equal-by-KL", rows(&|_, _| -3.0)),
        ),
        case(35, "ordinary-weights", std::fs::read(tiny_model()).unwrap(), Runs, &[]),
    ]
}
