//! Digits, scales and plans.
#![expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]

use super::*;

#[test]
fn digits_are_in_range_and_make_the_number() {
    for (digits, least, greatest) in [(Digits::Base15, -7, 7), (Digits::Base16, -8, 7i16)] {
        let qmax = digits.qmax();
        for a in -qmax..=qmax {
            let (mut high, mut low) = ([a], [0]);
            digits.split(&mut high, &mut low);
            let ([high], [low]) = (high, low);
            assert_eq!(i16::from(digits.base()) * i16::from(high) + i16::from(low), i16::from(a));
            let range = least..=greatest;
            assert!(range.contains(&high.into()) && range.contains(&low.into()));
        }
        // One more has no such digits.
        let beyond = i16::from(qmax) + 1;
        let base = i16::from(digits.base());
        let expressed = |high: i16| (least..=greatest).contains(&(beyond - base * high));
        assert!(!(least..=greatest).any(expressed));
    }
}

fn quantized(
    row: &[f32],
    scheme: Scheme,
    digits: Digits,
    segments: &[Range<usize>],
) -> QuantizedRows {
    let input = SimulatedInput::new(Arc::new(Rotation::identity(row.len())), None);
    let plan = input.plan(scheme, digits, &ActivationScale::Dynamic, segments);
    QuantizedRows::new(row, row.len(), &plan)
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
        let input = SimulatedInput::new(Arc::new(Rotation::identity(80)), None);
        let segments = [Range { start: 0, end: 32 }, 32..64, 64..96];
        QuantizedRows::new(
            &row,
            80,
            &input.plan(Scheme::W8A8, Digits::Base16, &activation, &segments),
        )
    };
    let rms = (1120.0f64 / 32.0).sqrt();
    for (activation, thresholds) in [
        (ActivationScale::RmsClip(2.0), [(2.0 * rms) as f32, (2.0 * rms) as f32, 127.0]),
        (ActivationScale::RmsClip(6.0), [33.0, 33.0, 127.0]),
        (ActivationScale::Static(vec![12.7, 25.4, 0.5]), [12.7, 25.4, 0.5]),
    ] {
        let rows = rows(activation);
        assert_eq!(rows.scales, thresholds.map(|threshold| threshold / 127.0));
        let Operands::Integers(q) = &rows.operands else { panic!("integers") };
        assert_eq!((q[5], q[40]), (-127, 127));
        let ones = |scale: f32| (1.0 / scale).round_ties_even() as i8;
        assert_eq!((q[0], q[33]), (ones(rows.scales[0]), -ones(rows.scales[1])));
        assert!(q[64..].iter().all(|&q| q == 0));
    }
}

#[test]
fn segments_have_scales_of_their_own_and_padding_is_zero() {
    let mut row = vec![0.0f32; 80];
    (row[3], row[40], row[50]) = (12.7, -1.4, 0.7);
    let rows = quantized(&row, Scheme::W4A4, Digits::Base15, &[0..32, 32..64, 64..96]);
    assert_eq!(rows.scales, [12.7 / 7.0, 0.2, 1.0]);
    let Operands::Integers(q) = &rows.operands else { panic!("integers") };
    let nonzero: Vec<_> = q.iter().enumerate().filter(|(_, q)| **q != 0).collect();
    assert_eq!(nonzero, [(3, &7), (40, &-7), (50, &4)]);
}

#[test]
fn rows_beyond_f16_are_scaled() {
    let segment = [Range { start: 0, end: 32 }];
    let mut row = vec![999_936.0f32; 32];
    row[1] = -2.0e-3;
    let rows = quantized(&row, Scheme::W16A16, Digits::Base15, &segment);
    let Operands::Halves { values, spans } = &rows.operands else { panic!("f16") };
    assert_eq!(rows.scales, [32.0]);
    assert_eq!(values[0].to_f32() * 32.0, 999_936.0);
    assert_eq!(spans.len(), 1);
    let small = quantized(&[3.0e-6; 32], Scheme::W16A16, Digits::Base15, &segment);
    let Operands::Halves { values, .. } = &small.operands else { panic!("f16") };
    assert!((values[0].to_f32() * small.scales[0] - 3.0e-6).abs() < 3.0e-9);
}

#[test]
fn plans_are_shared() {
    let input = SimulatedInput::new(Arc::new(Rotation::identity(64)), None);
    let dynamic = ActivationScale::Dynamic;
    let plan = |scheme, digits, end| input.plan(scheme, digits, &dynamic, &[0..end, end..64]);
    let one = plan(Scheme::W8A8, Digits::Base15, 32);
    assert!(Arc::ptr_eq(&one, &plan(Scheme::W8A8, Digits::Base16, 32)));
    assert!(!Arc::ptr_eq(&one, &plan(Scheme::W4A4, Digits::Base15, 32)));
    let digits = plan(Scheme::W4A8, Digits::Base15, 32);
    assert!(!Arc::ptr_eq(&digits, &plan(Scheme::W4A8, Digits::Base16, 32)));
    let scaled = |activation: &ActivationScale| {
        input.plan(Scheme::W8A8, Digits::Base15, activation, &[0..32, 32..64])
    };
    let clip = scaled(&ActivationScale::RmsClip(2.5));
    assert!(Arc::ptr_eq(&clip, &scaled(&ActivationScale::RmsClip(2.5))));
    for other in [
        ActivationScale::Dynamic,
        ActivationScale::RmsClip(2.75),
        ActivationScale::Static(vec![1.0; 2]),
    ] {
        assert!(!Arc::ptr_eq(&clip, &scaled(&other)));
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
                f32::from(i16::from(digits.base()) * i16::from(h) + i16::from(l)) * rows.scales[0]
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
