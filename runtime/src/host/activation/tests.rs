//! Scales, integers and plans, worked out by hand.
#![expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]

use super::*;

fn quantized(
    row: &[f32],
    scheme: Scheme,
    digits: Digits,
    segments: &[Range<usize>],
) -> QuantizedRows {
    quantized_by(ActivationScale::default(), row, scheme, digits, segments)
}

fn quantized_by(
    scale: ActivationScale,
    row: &[f32],
    scheme: Scheme,
    digits: Digits,
    segments: &[Range<usize>],
) -> QuantizedRows {
    let input = LinearInput::new(Arc::new(Rotation::identity(row.len())), None);
    QuantizedRows::new(row, row.len(), &input.plan(scheme, digits, &scale, segments))
}

fn symmetric(scale: f32) -> RowScale {
    Affine { scale, zero: 0.0 }
}

#[test]
fn clipped_rows_saturate_on_either_side() {
    // 31 of magnitude 1 and one of 33: rms is √(1120/32).
    let mut row = vec![1.0f32; 64];
    row[1..64].iter_mut().step_by(2).for_each(|x| *x = -1.0);
    (row[5], row[40]) = (-33.0, 33.0);
    // Padding, which is no part of the mean.
    row.extend([0.0; 16]);
    let rows = |activation| {
        let input = LinearInput::new(Arc::new(Rotation::identity(80)), None);
        let segments = [Range { start: 0, end: 32 }, 32..64, 64..96];
        QuantizedRows::new(
            &row,
            80,
            &input.plan(Scheme::W8A8, Digits::Base16, &activation, &segments),
        )
    };
    let dynamic = |factor| ActivationScale::Dynamic {
        rms_clip: Some(factor),
        asymmetric: false,
        fitted: false,
    };
    let rms = (1120.0f64 / 32.0).sqrt();
    for (activation, thresholds) in [
        (dynamic(2.0), [(2.0 * rms) as f32, (2.0 * rms) as f32, 127.0]),
        (dynamic(6.0), [33.0, 33.0, 127.0]),
        (ActivationScale::Static(vec![12.7, 25.4, 0.5]), [12.7, 25.4, 0.5]),
    ] {
        let rows = rows(activation);
        assert_eq!(rows.scales, thresholds.map(|threshold| symmetric(threshold / 127.0)));
        let Operands::Integers(q) = &rows.operands else { panic!("integers") };
        assert_eq!((q[5], q[40]), (-127, 127));
        let ones = |scale: f32| (1.0 / scale).round_ties_even() as i8;
        assert_eq!((q[0], q[33]), (ones(rows.scales[0].scale), -ones(rows.scales[1].scale)));
        assert!(q[64..].iter().all(|&q| q == 0));
    }
}

#[test]
fn segments_have_scales_of_their_own_and_padding_is_zero() {
    let mut row = vec![0.0f32; 80];
    (row[3], row[40], row[50]) = (12.7, -1.4, 0.7);
    let rows = quantized(&row, Scheme::W4A4, Digits::Base15, &[0..32, 32..64, 64..96]);
    assert_eq!(rows.scales, [12.7 / 7.0, 0.2, 1.0].map(symmetric));
    let Operands::Integers(q) = &rows.operands else { panic!("integers") };
    let nonzero: Vec<_> = q.iter().enumerate().filter(|(_, q)| **q != 0).collect();
    assert_eq!(nonzero, [(3, &7), (40, &-7), (50, &4)]);
}

#[test]
fn zero_points_shift_values_and_not_padding() {
    let mut row = vec![-1.0f32; 72];
    row[32..64].fill(0.0);
    (row[3], row[40]) = (14.0, 6.5);
    let scale = ActivationScale::Dynamic { rms_clip: None, asymmetric: true, fitted: false };
    let segments = [0..32, 32..64, 64..96, 96..128];
    let rows = |scheme| quantized_by(scale.clone(), &row, scheme, Digits::Base16, &segments);
    let points = |pairs: [(f32, f32); 4]| pairs.map(|(scale, zero)| Affine { scale, zero });

    // −1 … 14, 0 … 6.5, all −1, and nothing.
    let found = rows(Scheme::W4A4);
    let step = 6.5 / 15.0;
    let zero = 6.5 - step * 7.0;
    assert_eq!(found.scales, points([(1.0, 7.0), (step, zero), (1.0, -1.0), (1.0, 0.0)]));
    let Operands::Integers(q) = &found.operands else { panic!("integers") };
    assert_eq!((q[0], q[3], q[32], q[40]), (-8, 7, -8, 7));
    assert!(q[64..].iter().all(|&q| q == 0));

    let found = rows(Scheme::W4A8);
    let step = 6.5 / 255.0;
    let zero = 6.5 - step * 119.0;
    let first = (15.0 / 255.0, 14.0 - 15.0 / 255.0 * 119.0);
    assert_eq!(found.scales, points([first, (step, zero), (1.0, -1.0), (1.0, 0.0)]));
    let Operands::Integers(q) = &found.operands else { panic!("integers") };
    let (high, low) = q.split_at(128);
    for (at, value) in [(0, -136), (3, 119), (32, -136), (40, 119)] {
        assert_eq!(16 * i16::from(high[at]) + i16::from(low[at]), value);
    }
    assert!(high[64..].iter().chain(&low[64..]).all(|&q| q == 0));
}

#[test]
fn rows_beyond_f16_are_scaled() {
    let segment = [Range { start: 0, end: 32 }];
    let mut row = vec![999_936.0f32; 32];
    row[1] = -2.0e-3;
    let rows = quantized(&row, Scheme::W16A16, Digits::Base15, &segment);
    let Operands::Halves(values) = &rows.operands else { panic!("f16") };
    assert_eq!(rows.scales, [symmetric(32.0)]);
    assert_eq!(values[0].to_f32() * 32.0, 999_936.0);
    let small = quantized(&[3.0e-6; 32], Scheme::W16A16, Digits::Base15, &segment);
    let Operands::Halves(values) = &small.operands else { panic!("f16") };
    assert!((values[0].to_f32() * small.scales[0].scale - 3.0e-6).abs() < 3.0e-9);
}

#[test]
fn plans_are_shared() {
    let input = LinearInput::new(Arc::new(Rotation::identity(64)), None);
    let plan_of = |scheme, digits, scale: &ActivationScale, end| {
        input.plan(scheme, digits, scale, &[0..end, end..64])
    };
    let plan = |scheme, digits, end| plan_of(scheme, digits, &ActivationScale::default(), end);
    let one = plan(Scheme::W8A8, Digits::Base15, 32);
    assert!(Arc::ptr_eq(&one, &plan(Scheme::W8A8, Digits::Base16, 32)));
    assert!(!Arc::ptr_eq(&one, &plan(Scheme::W4A4, Digits::Base15, 32)));
    let digits = plan(Scheme::W4A8, Digits::Base15, 32);
    assert!(!Arc::ptr_eq(&digits, &plan(Scheme::W4A8, Digits::Base16, 32)));
    for scale in [
        ActivationScale::Dynamic { rms_clip: None, asymmetric: true, fitted: false },
        ActivationScale::Dynamic { rms_clip: Some(3.0), asymmetric: false, fitted: false },
        ActivationScale::Dynamic { rms_clip: Some(3.0), asymmetric: true, fitted: false },
        ActivationScale::Dynamic { rms_clip: Some(3.0), asymmetric: true, fitted: true },
        ActivationScale::Static(vec![1.0; 2]),
    ] {
        let other = plan_of(Scheme::W8A8, Digits::Base15, &scale, 32);
        assert!(!Arc::ptr_eq(&one, &other));
        let again = plan_of(Scheme::W8A8, Digits::Base15, &scale, 32);
        assert!(Arc::ptr_eq(&other, &again));
    }
}

/// The figure behind the default of [`Digits`].
#[test]
fn base_16_errs_less() {
    let segment = [Range { start: 0, end: 4096 }];
    let mut state = 1u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    for power in [1, 3] {
        let error = |row: &[f32], digits: Digits| -> f64 {
            let rows = quantized(row, Scheme::W4A8, digits, &segment);
            let Operands::Integers(q) = &rows.operands else { panic!("integers") };
            let (high, low) = q.split_at(4096);
            let rebuilt = high.iter().zip(low).map(|(&h, &l)| {
                f32::from(i16::from(digits.base()) * i16::from(h) + i16::from(l))
                    * rows.scales[0].scale
            });
            row.iter().zip(rebuilt).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        let (mut narrow, mut wide, mut energy) = (0.0, 0.0, 0.0);
        for _ in 0..64 {
            let row: Vec<f32> = (0..4096)
                .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
                .map(|x| x.powi(power))
                .collect();
            narrow += error(&row, Digits::Base15);
            wide += error(&row, Digits::Base16);
            energy += row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        let relative = |error: f64| (error / energy).sqrt();
        assert!((relative(wide) / relative(narrow) - 112.0 / 119.0).abs() < 0.01);
    }
}
