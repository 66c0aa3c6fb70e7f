//! Tests of the kernels: against each other bit for bit, and against f64 arithmetic.

use proptest::prelude::*;

use super::*;

/// The kernels of this machine, the scalar ones first.
pub(super) fn kernels() -> Vec<Isa> {
    let mut isas = vec![Isa::Scalar];
    if Isa::detect() == Isa::Scalar {
        println!("no SIMD kernel on this machine");
    } else {
        isas.push(Isa::detect());
    }
    isas
}

/// Numbers that rounding and clamping treat specially, in units of `scale`.
fn edges(scale: f32) -> Vec<f32> {
    let mut row = vec![0.0, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, 1e30, -1e30];
    for half in -260i16..=260 {
        let x = f32::from(half) * 0.5 * scale;
        row.extend([x, x.next_up(), x.next_down()]);
    }
    row
}

/// A row with the sizes and magnitudes that kernels meet: tails, several chunks, any finite bits.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let len = prop_oneof![0usize..70, Just(CHUNK - 1), Just(CHUNK), Just(2 * CHUNK + 13)];
    let element = prop_oneof![
        4 => -4.0f32..4.0,
        1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
    ];
    len.prop_flat_map(move |len| prop::collection::vec(element.clone(), len))
}

/// Every result on every kernel equals the scalar twin's, to the bit.
fn compare(row: &[f32], scale: f32, qmax: i8) {
    compare_within(row, scale, (qmax.saturating_neg().saturating_sub(1), qmax));
    let scales = [scale, scale * 0.75, scale * 1.5, scale * 0.1, scale * 3.0];
    let mut first = None;
    for isa in kernels() {
        let mut out = vec![0; row.len()];
        let error = quantize_row_on(isa, row, Grid::symmetric(scale, qmax), &mut out);
        let mut errors = [0.0; 5];
        quantization_errors_on(isa, row, &scales, qmax, &mut errors);
        assert_eq!(error.to_bits(), errors[0].to_bits(), "{isa:?}");
        let norm = squared_norm_on(isa, row);
        let found = (
            out,
            errors.map(f64::to_bits),
            norm.to_bits(),
            isa.magnitude_bits(row),
            error.to_bits(),
        );
        match &first {
            None => first = Some(found),
            Some(first) => assert_eq!(*first, found, "{isa:?} with scale {scale}, qmax {qmax}"),
        }
    }
}

/// The same of integers of which there is one more below zero than above, at either sign of the scale.
fn compare_within(row: &[f32], scale: f32, range: (i8, i8)) {
    for scale in [scale, -scale] {
        let results = kernels().into_iter().map(|isa| {
            let mut out = vec![0; row.len()];
            let error = quantize_row_on(isa, row, Grid::new(scale, range), &mut out);
            assert!(out.iter().all(|q| (range.0..=range.1).contains(q)));
            (error.to_bits(), out)
        });
        let results: Vec<_> = results.collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "scale {scale}, {range:?}");
    }
}

#[test]
fn kernels_agree_on_edges() {
    for scale in [1.0, 0.37, 1.0 / 3.0, 1e-20, MIN_SCALE, 3.0e30, 0.0, -0.37, -MIN_SCALE] {
        for qmax in [1, 7, 127] {
            let row = edges(scale);
            for start in 0..9 {
                compare(&row[start..], scale, qmax);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_agree_on_any_row(row in rows(), scale in 1e-3f32..2.0, qmax in 1i8..=127) {
        compare(&row, scale, qmax);
    }

    /// The definition, element by element, with the standard library's rounding.
    #[test]
    fn integers_are_those_of_the_definition(row in rows(), scale in 1e-3f32..2.0, qmax in 1i8..=127) {
        let mut out = vec![0; row.len()];
        let error = quantize_row(&row, scale, qmax, &mut out);
        let mut exact = 0.0;
        for (&w, &q) in row.iter().zip(&out) {
            let x = (w * (1.0 / scale)).round_ties_even();
            let x = x.clamp(-f32::from(qmax), f32::from(qmax));
            prop_assert_eq!(f32::from(q), x + 0.0);
            exact += (f64::from(w) - f64::from(scale) * f64::from(q)).powi(2);
        }
        if exact < 1e30 {
            // f32 rounds each product `scale * q` by up to 2^-24 of it, squares and lanes a little more.
            let slack = 1e-4 * exact + 1e-9 * f64::from(scale).powi(2) * f64::from(qmax).powi(2)
                * row.len() as f64;
            prop_assert!((error - exact).abs() <= slack, "{} is not {}", error, exact);
        }
    }

    /// A negative scale stands for the same as a positive one with the integers' signs changed.
    #[test]
    fn scales_have_signs(row in rows(), scale in 1e-3f32..2.0) {
        let (mut above, mut below) = (vec![0; row.len()], vec![0; row.len()]);
        let mirrored: Vec<f32> = row.iter().map(|w| -w).collect();
        let errors = [
            quantize_row_within(&row, -scale, (-8, 7), &mut above),
            quantize_row_within(&mirrored, scale, (-8, 7), &mut below),
        ];
        prop_assert_eq!(&above, &below);
        prop_assert_eq!(errors[0].to_bits(), errors[1].to_bits());
        for (&w, &q) in row.iter().zip(&above) {
            let x = (w * (1.0 / -scale)).round_ties_even().clamp(-8.0, 7.0);
            prop_assert_eq!(f32::from(q), x + 0.0);
        }
    }

    #[test]
    fn norm_is_close_to_f64(row in prop::collection::vec(-4.0f32..4.0, 0..9000)) {
        let exact: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        prop_assert!((squared_norm(&row) - exact).abs() <= 1e-5 * exact);
        let greatest = row.iter().fold(0.0f32, |greatest, w| greatest.max(w.abs()));
        prop_assert_eq!(amax(&row), greatest);
    }

    #[test]
    fn non_finite_elements_are_found(len in 1usize..300, at in 0usize..300, kind in 0usize..4) {
        let mut row = vec![f32::MAX; len];
        prop_assert!(is_finite(&row));
        prop_assert_eq!(first_non_finite(&row), None);
        let at = at % len;
        let nan = f32::from_bits(0xff80_0001);
        row[at] = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, nan][kind];
        prop_assert!(!is_finite(&row));
        prop_assert_eq!(first_non_finite(&row), Some(at));
        if at + 1 < len {
            row[len - 1] = f32::NAN;
            prop_assert_eq!(first_non_finite(&row), Some(at));
        }
    }

    /// A row of f16 values is carried to the bit, with any exponent.
    #[test]
    fn f16_rows_are_exact(bits in prop::collection::vec(any::<u16>(), 0..600), mask in any::<u16>()) {
        let source: Vec<f16> = bits
            .iter()
            .map(|&b| f16::from_bits(b & (mask | 0x83ff)))
            .filter(|w| w.is_finite())
            .collect();
        let row: Vec<f32> = source.iter().map(|w| w.to_f32()).collect();
        let scale = f16_scale(amax(&row));
        let mut out = vec![f16::ZERO; row.len()];
        prop_assert_eq!(to_f16_row(&row, scale, &mut out), 0.0);
        for (out, row) in out.iter().zip(&row) {
            prop_assert_eq!((out.to_f32() * scale).to_bits(), row.to_bits());
        }
        if amax(&row) >= 1.0 / 256.0 {
            prop_assert_eq!(&out, &source);
        }
    }

    #[test]
    fn f16_values_are_nearest(row in prop::collection::vec(-70000.0f32..70000.0, 1..600), e in -100i32..60) {
        let power = 2f32.powi(e);
        let row: Vec<f32> = row.iter().map(|w| w * power).collect();
        let scale = f16_scale(amax(&row));
        prop_assert_eq!(scale.to_bits() & 0x007f_ffff, 0);
        prop_assert!(amax(&row) / scale <= 65504.0);
        let mut out = vec![f16::ZERO; row.len()];
        let error = to_f16_row(&row, scale, &mut out);
        let mut exact = 0.0;
        for (&w, &value) in row.iter().zip(&out) {
            prop_assert_eq!(value, f16::from_f32(w / scale));
            exact += (f64::from(w) - f64::from(value.to_f32() * scale)).powi(2);
        }
        if e.abs() < 30 {
            prop_assert!((error - exact).abs() <= 1e-5 * exact);
        }
    }
}

#[test]
fn scales_have_finite_reciprocals() {
    for clip in [0.0, 1e-45, 1e-40, f32::MIN_POSITIVE, 1.0, f32::MAX] {
        for qmax in [1, 7, 127] {
            let scale = scale_of(clip, qmax);
            assert!((1.0 / scale).is_finite() && scale >= MIN_SCALE, "{clip}");
            let row = [clip, -clip];
            let mut out = [0; 2];
            quantize_row(&row, scale, qmax, &mut out);
            if clip >= 1e-30 {
                assert_eq!(out, [qmax, -qmax]);
            }
        }
    }
    assert_eq!(scale_of(0.0, 7), 1.0);
}

#[test]
fn f16_scales() {
    for (amax, scale) in [
        (0.0, 1.0),
        (1.0, 1.0),
        (65504.0, 1.0),
        (65505.0, 2.0),
        (65536.0, 4.0),
        (1.0 / 256.0, 1.0),
        (0.0039, 1.0 / 512.0),
        (1e-45, MIN_SCALE),
        (f32::MAX, 2f32.powi(113)),
    ] {
        assert_eq!(f16_scale(amax), scale, "{amax}");
        assert!(amax / scale <= 65504.0);
    }
}

#[test]
fn clamps_and_rounds_half_to_even() {
    let row = [0.5, 1.5, 2.5, -0.5, -1.5, 7.5, 6.5, 100.0, -100.0];
    let mut out = [0; 9];
    let error = quantize_row(&row, 1.0, 7, &mut out);
    assert_eq!(out, [0, 2, 2, 0, -2, 7, 6, 7, -7]);
    assert_eq!(error, 7.0 * 0.25 + 2.0 * 93.0 * 93.0);
}

#[test]
#[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
fn clips_by_rms() {
    let mut row = vec![0.5f32; 100];
    row[7] = -50.0;
    // rms is √25.2475.
    for (row, factor, clip) in [
        (&row[..], 2.0, (2.0 * 25.2475f64.sqrt()) as f32),
        (&row, 9.9, (f64::from(9.9f32) * 25.2475f64.sqrt()) as f32),
        (&row, 10.0, 50.0),
        (&row[10..], 0.25, 0.125),
        (&[0.0; 5], 2.0, 0.0),
        (&[], 2.0, 0.0),
        // Squares that f32 does not hold.
        (&[1e-30, 0.0, 0.0, 0.0], 0.5, 0.25e-30),
        (&[1e30, 0.0, 0.0, 0.0], 0.5, 0.25e30),
        (&row, 1e-44, (f64::from(1e-44f32) * 25.2475f64.sqrt()) as f32),
    ] {
        assert_eq!(clip_by_rms(row, factor), clip, "{factor}");
    }
}
