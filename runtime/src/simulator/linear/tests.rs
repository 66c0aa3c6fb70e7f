//! Whole linears against dense sums that are taken from the tiles by the layout's formula.
#![expect(clippy::cast_possible_truncation, reason = "f64 is rounded to f32 on purpose")]

use half::f16;
use tessera_formats::npu::Scheme;
use tessera_formats::npu::tiles::TileLayout;
use tessera_formats::pack::manifest::Granularity;

use super::*;
use crate::host::{ActivationScale, Digits, Overflow};
use crate::quantize::{self, Affine, Fit};
use crate::rotation::Rotation;

/// Numbers from a linear congruential generator.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap()
    }

    fn uniform(&mut self) -> f32 {
        (self.bits() & 0xff_ffff) as f32 / 16_777_216.0 - 0.5
    }

    fn row(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.uniform() + self.uniform() + self.uniform()).collect()
    }
}

/// A linear with its tiles beside it.
#[derive(Clone)]
struct Case {
    weights: Weights,
    tiles: Vec<Vec<u8>>,
    rotation: Arc<Rotation>,
    vector: Option<Vec<f32>>,
}

impl Case {
    fn new(
        scheme: Scheme,
        (experts, n, k): (Option<usize>, usize, usize),
        cuts: &[usize],
        granularity: Granularity,
    ) -> Self {
        let mut noise = Noise(n as u64 * 1000 + k as u64);
        let rotation = Rotation::hadamard(k).unwrap();
        let segments: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let matrices = experts.unwrap_or(1);
        let count = match granularity {
            Granularity::Tensor => matrices,
            Granularity::Channel => matrices * segments.len() * n,
        };
        let scales = (0..count).map(|_| 0.02 + noise.uniform().abs() / 50.0).collect();
        let name = "blk.0.ffn_up.weight".to_owned();
        let activation = ActivationScale::default();
        let weights = Weights {
            name,
            scheme,
            n,
            k,
            experts,
            segments,
            granularity,
            scales,
            activation,
            correction: None,
        };
        let mut case = Case {
            weights,
            tiles: Vec::new(),
            rotation: Arc::new(rotation),
            vector: Some((0..k).map(|_| if noise.bits() & 1 == 0 { 1.5 } else { -0.5 }).collect()),
        };
        for segment in 0..case.weights.segments.len() {
            let layout = case.layout(segment);
            let mut tiles = vec![0u8; matrices * layout.bytes()];
            let columns = case.weights.segments[segment].clone();
            for matrix in 0..matrices {
                let tiles = &mut tiles[matrix * layout.bytes()..][..layout.bytes()];
                for row in 0..n {
                    for (column, _) in columns.clone().enumerate().filter(|(_, c)| *c < k) {
                        put(layout, tiles, row, column, &mut noise);
                    }
                }
            }
            case.tiles.push(tiles);
        }
        case
    }

    /// The same linear, with what calibration may add to it.
    fn calibrated(mut self, activation: ActivationScale) -> Self {
        let Weights { experts, n, .. } = self.weights;
        self.weights.correction = Some(Noise(41).row(experts.unwrap_or(1) * n));
        self.weights.activation = activation;
        self
    }

    fn correction(&self, matrix: usize, n: usize) -> f32 {
        let correction = self.weights.correction.as_ref();
        correction.map_or(0.0, |correction| correction[matrix * self.weights.n + n])
    }

    fn layout(&self, segment: usize) -> TileLayout {
        let engine = self.weights.scheme.engine();
        let n_padded = self.weights.n.next_multiple_of(engine.tile_n());
        TileLayout::new(engine, n_padded, self.weights.segments[segment].len()).unwrap()
    }

    fn load(&self, simulation: Simulation) -> Result<SimulatedLinear, LinearError> {
        let input = LinearInput::new(Arc::clone(&self.rotation), self.vector.clone());
        let (weights, tiles) = (self.weights.clone(), self.tiles.clone());
        SimulatedLinear::new(weights, tiles, Arc::new(input), simulation, Arc::default())
    }

    /// w[n, column] of the stored form, unscaled.
    fn stored(&self, matrix: usize, segment: usize, n: usize, column: usize) -> f64 {
        let layout = self.layout(segment);
        let tiles = &self.tiles[segment][matrix * layout.bytes()..];
        let index = layout.element_index(n, column);
        match layout.engine() {
            Engine::I8 => tiles[index].cast_signed().into(),
            Engine::I4 => {
                let nibble = tiles[index / 2] >> (4 * (index % 2)) & 15;
                f64::from(nibble) - if nibble > 7 { 16.0 } else { 0.0 }
            }
            Engine::F16 => f16::from_le_bytes([tiles[2 * index], tiles[2 * index + 1]]).to_f64(),
        }
    }

    fn scale(&self, matrix: usize, segment: usize, n: usize) -> f64 {
        let Weights { granularity, scales, segments, .. } = &self.weights;
        match granularity {
            Granularity::Tensor => scales[matrix].into(),
            Granularity::Channel => {
                scales[(matrix * segments.len() + segment) * self.weights.n + n].into()
            }
        }
    }

    /// The rotated row, by the dense matrix.
    fn rotated(&self, x: &[f32]) -> Vec<f32> {
        let mut row = x.to_vec();
        let mut scratch = vec![0.0; self.rotation.scratch_len()];
        self.rotation.apply_scaled(&mut row, self.vector.as_ref().unwrap(), &mut scratch);
        row
    }

    fn with(mut self, activation: ActivationScale) -> Self {
        self.weights.activation = activation;
        self
    }

    /// The grid of some columns of a row, what its integers stand for, least and greatest integer.
    fn points(&self, segment: usize, values: &[f32], digits: Digits) -> (Fit, f32, f32) {
        let plain = |scale, zero| Fit::of(Affine { scale, zero });
        let fold = |start, f: fn(f32, f32) -> f32| values.iter().copied().fold(start, f);
        let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        let rms = (squares / values.len() as f64).sqrt();
        let qmax = match self.weights.scheme {
            Scheme::W8A8 => 127.0,
            Scheme::W4A4 => 7.0,
            _ => f32::from(digits.qmax()),
        };
        let clip = |factor: Option<f32>| match factor {
            Some(factor) if squares > 0.0 => (f64::from(factor) * rms) as f32,
            _ => f32::INFINITY,
        };
        let amax = match &self.weights.activation {
            &ActivationScale::Dynamic { rms_clip, asymmetric: true, fitted } => {
                let (low, high) = match (self.weights.scheme, digits) {
                    (Scheme::W8A8, _) => (-128.0, 127.0),
                    (Scheme::W4A4, _) => (-8.0, 7.0),
                    (_, Digits::Base15) => (-112.0, 112.0),
                    (_, Digits::Base16) => (-136.0, 119.0),
                };
                if values.is_empty() {
                    return (plain(1.0, 0.0), low, high);
                }
                let clip = clip(rms_clip);
                let least = fold(f32::INFINITY, f32::min).clamp(-clip, clip);
                let greatest = fold(f32::NEG_INFINITY, f32::max).clamp(-clip, clip);
                if fitted {
                    // Tested where it is defined.
                    let range = (low as i16, high as i16);
                    return (quantize::fit_row(values, least, greatest, range), low, high);
                }
                if least == greatest {
                    return (plain(1.0, greatest), low, high);
                }
                let scale = (greatest / 2.0 - least / 2.0) / ((high - low) / 2.0);
                let scale = scale.max(f32::MIN_POSITIVE);
                return (plain(scale, greatest - scale * high), low, high);
            }
            &ActivationScale::Dynamic { rms_clip, asymmetric: false, .. } => {
                fold(0.0, |amax, x| amax.max(x.abs())).min(clip(rms_clip))
            }
            ActivationScale::Static(thresholds) => thresholds[segment],
        };
        let scale = if amax == 0.0 { 1.0 } else { (amax / qmax).max(f32::MIN_POSITIVE) };
        (plain(scale, 0.0), -qmax, qmax)
    }

    /// What the NPU gives for a row: operands by the formulas, sums in f64, which are exact.
    fn expected(&self, matrix: usize, x: &[f32], digits: Digits) -> Vec<f32> {
        let row = self.rotated(x);
        (0..self.weights.n)
            .map(|n| {
                let mut total = 0.0f32;
                for (segment, columns) in self.weights.segments.iter().enumerate() {
                    let end = columns.end.min(row.len());
                    let values = &row[columns.start.min(end)..end];
                    let scale = self.scale(matrix, segment, n) as f32;
                    let w = |column: usize| self.stored(matrix, segment, n, column);
                    let (sum, row_scale, zero) = match self.weights.scheme {
                        Scheme::W16A16 => {
                            let mut sum = 0.0f32;
                            for (group, values) in values.chunks(32).enumerate() {
                                let products = values
                                    .iter()
                                    .enumerate()
                                    .map(|(i, &x)| f16::from_f32(x).to_f64() * w(group * 32 + i));
                                // Few bits: exact in f64.
                                sum += products.sum::<f64>() as f32;
                            }
                            (sum, 1.0, None)
                        }
                        _ => {
                            let (fit, low, high) = self.points(segment, values, digits);
                            let Affine { scale: row_scale, zero } = fit.value;
                            let inverse = 1.0 / fit.grid.scale;
                            let integer = |x: f32| {
                                ((x - fit.grid.zero) * inverse).round_ties_even().clamp(low, high)
                            };
                            let products = values
                                .iter()
                                .enumerate()
                                .map(|(i, &x)| f64::from(integer(x)) * w(i));
                            let weights = (0..values.len()).map(w).sum::<f64>() as f32;
                            let asymmetric = self.weights.activation.is_asymmetric();
                            (
                                products.sum::<f64>() as f32,
                                row_scale,
                                asymmetric.then_some(zero * weights * scale),
                            )
                        }
                    };
                    let mut value = sum * row_scale * scale;
                    if let Some(zero) = zero {
                        value += zero;
                    }
                    total = if segment == 0 { value } else { total + value };
                }
                if self.weights.correction.is_some() {
                    total += self.correction(matrix, n);
                }
                total
            })
            .collect()
    }
}

/// Every case with integers, and the activation scales of a calibration.
fn calibrated_cases() -> Vec<Case> {
    let scale = |index: usize, case: &Case| match index % 3 {
        _ if case.weights.scheme == Scheme::W16A16 => ActivationScale::default(),
        0 => dynamic(Some(1.75), false),
        1 => ActivationScale::Static(
            case.weights.segments.iter().map(|s| 0.4 + s.end as f32 / 200.0).collect(),
        ),
        // Nothing is clipped.
        _ => dynamic(Some(1000.0), false),
    };
    let cases = cases().into_iter().enumerate();
    cases
        .map(|(index, case)| {
            let scale = scale(index, &case);
            case.calibrated(scale)
        })
        .collect()
}

fn put(layout: TileLayout, tiles: &mut [u8], n: usize, k: usize, noise: &mut Noise) {
    let index = layout.element_index(n, k);
    match layout.engine() {
        Engine::I8 => {
            let q = i8::try_from(noise.bits() % 255).unwrap_or(-127);
            tiles[index] = q.cast_unsigned();
        }
        Engine::I4 => {
            let q = u8::try_from(noise.bits() % 15).unwrap().wrapping_sub(7) & 15;
            tiles[index / 2] |= q << (4 * (index % 2));
        }
        Engine::F16 => {
            let w = f16::from_f32(noise.uniform() * 0.25);
            tiles[2 * index..2 * index + 2].copy_from_slice(&w.to_le_bytes());
        }
    }
}

fn cases() -> Vec<Case> {
    use Granularity::{Channel, Tensor};
    vec![
        Case::new(Scheme::W8A8, (None, 32, 64), &[0, 64], Channel),
        Case::new(Scheme::W8A8, (None, 100, 96), &[0, 64, 96], Channel),
        Case::new(Scheme::W8A8, (None, 65, 1100), &[0, 608, 1120], Tensor),
        Case::new(Scheme::W8A8, (Some(3), 70, 96), &[0, 32, 96], Channel),
        Case::new(Scheme::W4A4, (None, 130, 160), &[0, 96, 160], Channel),
        Case::new(Scheme::W4A4, (Some(2), 64, 100), &[0, 128], Tensor),
        Case::new(Scheme::W4A8, (None, 80, 576), &[0, 320, 576], Channel),
        Case::new(Scheme::W4A8, (Some(2), 17, 64), &[0, 64], Channel),
        Case::new(Scheme::W16A16, (None, 48, 96), &[0, 64, 96], Channel),
        Case::new(Scheme::W16A16, (Some(2), 90, 576), &[0, 576], Tensor),
    ]
}

/// All rows of one matrix.
fn apply(linear: &SimulatedLinear, case: &Case, matrix: usize, x: &[f32]) -> Vec<f32> {
    let rows: Vec<usize> = (0..x.len() / case.weights.k).collect();
    let mut out = vec![f32::NAN; rows.len() * case.weights.n];
    let x = Activations::new(x, case.weights.k);
    match case.weights.experts {
        None => linear.apply(&x, &mut out).unwrap(),
        Some(_) => linear.apply_expert(matrix, &x, &rows, &mut out).unwrap(),
    }
    out
}

#[test]
fn equals_dense_sums_from_the_tiles() {
    for case in cases().into_iter().chain(calibrated_cases()) {
        for digits in [Digits::Base15, Digits::Base16] {
            let linear = case.load(Simulation { digits, ..Simulation::default() }).unwrap();
            for matrix in 0..case.weights.experts.unwrap_or(1) {
                for m in [1, 2, 7, 20] {
                    let mut x = Noise(5 + matrix as u64).row(m * case.weights.k);
                    // A row of zeros among them.
                    x[(m - 1) / 2 * case.weights.k..][..case.weights.k].fill(0.0);
                    let out = apply(&linear, &case, matrix, &x);
                    for (x, out) in x.chunks(case.weights.k).zip(out.chunks(case.weights.n)) {
                        let expected = case.expected(matrix, x, digits);
                        let Weights { scheme, activation, .. } = &case.weights;
                        assert_eq!(out, expected, "{scheme} {activation:?} {m} rows");
                        if x[0] == 0.0 {
                            let added = |(n, &y): (usize, &f32)| y == case.correction(matrix, n);
                            assert!(out.iter().enumerate().all(added));
                        }
                    }
                }
            }
            assert_eq!(linear.saturated(), 0);
        }
    }
}

fn dynamic(rms_clip: Option<f32>, asymmetric: bool) -> ActivationScale {
    ActivationScale::Dynamic { rms_clip, asymmetric, fitted: false }
}

/// With a zero point, fitted to rows.
fn fitted(rms_clip: Option<f32>) -> ActivationScale {
    ActivationScale::Dynamic { rms_clip, asymmetric: true, fitted: true }
}

/// Rows that quantizers treat specially.
fn special_rows(k: usize) -> Vec<f32> {
    let mut noise = Noise(19);
    let mut rows = vec![0.0; k];
    rows.extend(vec![-0.0; k]);
    for constant in [1.0, -3.0e-3, 1e-30] {
        rows.extend(vec![constant; k]);
    }
    for unit in [1e30, 1.0, 1e-20, 1e-36, 1e-42] {
        rows.extend(noise.row(k).iter().map(|x| x * unit));
        // One sign, far from zero.
        rows.extend(noise.row(k).iter().map(|x| (x + 40.0) * unit));
        // An outlier.
        rows.extend(noise.row(k));
        let last = rows.len() - 1;
        rows[last - k / 3] = 50.0 * unit;
    }
    rows
}

#[test]
fn zero_points_equal_dense_sums_from_the_tiles() {
    for identity in [false, true] {
        let clips = [None, Some(0.25), Some(2.5)];
        let scales = clips.iter().flat_map(|&clip| [dynamic(clip, true), fitted(clip)]);
        for scale in scales {
            for case in cases().into_iter().filter(|case| case.weights.scheme != Scheme::W16A16) {
                let mut case = case.with(scale.clone());
                let k = case.weights.k;
                if identity {
                    case.rotation = Arc::new(Rotation::identity(k));
                    case.vector = Some(vec![1.0; k]);
                }
                let x = special_rows(k);
                for digits in [Digits::Base15, Digits::Base16] {
                    let linear = case.load(Simulation { digits, ..Simulation::default() }).unwrap();
                    for matrix in 0..case.weights.experts.unwrap_or(1) {
                        let out = apply(&linear, &case, matrix, &x);
                        for (x, out) in x.chunks(k).zip(out.chunks(case.weights.n)) {
                            let expected = case.expected(matrix, x, digits);
                            let bits =
                                |row: &[f32]| row.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                            assert_eq!(bits(out), bits(&expected), "{} {x:?}", case.weights.scheme);
                            if x.iter().all(|&x| x == 0.0) {
                                assert!(out.iter().all(|y| y.to_bits() == 0));
                            }
                        }
                    }
                    assert_eq!(linear.saturated(), 0);
                }
            }
        }
    }
}

/// One-sided rows use all of the integers: half the error, or less.
#[test]
fn zero_points_lessen_errors() {
    for case in cases().into_iter().filter(|case| case.weights.scheme != Scheme::W16A16) {
        let mut case = case.with(dynamic(None, false));
        let k = case.weights.k;
        case.rotation = Arc::new(Rotation::identity(k));
        case.vector = None;
        let x: Vec<f32> = Noise(4).row(8 * k).into_iter().map(|x| x + 1.5).collect();
        let error = |case: &Case| -> f64 {
            let outputs = |arithmetic| {
                let linear = case.load(Simulation { arithmetic, ..Simulation::default() }).unwrap();
                apply(&linear, case, 0, &x)
            };
            let exact = outputs(Arithmetic::FloatActivations);
            let found = outputs(Arithmetic::Integer);
            exact.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        let symmetric = error(&case);
        let case = case.with(dynamic(None, true));
        let asymmetric = error(&case);
        assert!(asymmetric < symmetric * 0.35, "{}", case.weights.scheme);
        if case.weights.scheme == Scheme::W4A4 {
            // Uniform rows have no tails to cut: only what integers stand for is better.
            let case = case.with(fitted(None));
            assert!(error(&case) < asymmetric, "{} {asymmetric}", error(&case));
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for case in cases() {
        for asymmetric in [false, true] {
            if asymmetric && case.weights.scheme == Scheme::W16A16 {
                continue;
            }
            let case = case.clone().with(dynamic(None, asymmetric));
            let x = Noise(8).row(7 * case.weights.k);
            let mut first: Option<Vec<u32>> = None;
            for isa in Isa::available() {
                let mut linear = case.load(Simulation::default()).unwrap();
                linear.isa = isa;
                let bits: Vec<u32> =
                    apply(&linear, &case, 0, &x).into_iter().map(f32::to_bits).collect();
                assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{isa:?}");
            }
        }
    }
}

#[test]
fn experts_read_the_rows_they_are_given() {
    for case in [cases().swap_remove(3), cases().swap_remove(3).with(dynamic(None, true))] {
        read_rows_as_given(&case);
    }
}

fn read_rows_as_given(case: &Case) {
    let linear = case.load(Simulation::default()).unwrap();
    let (k, n) = (case.weights.k, case.weights.n);
    let values = Noise(9).row(9 * k);
    let x = Activations::new(&values, k);
    for rows in [&[2usize][..], &[0, 3, 8], &[1, 2, 3, 4, 5, 6, 7, 8], &[]] {
        let mut out = vec![f32::NAN; rows.len() * n];
        linear.apply_expert(1, &x, rows, &mut out).unwrap();
        for (row, out) in rows.iter().zip(out.chunks(n)) {
            assert_eq!(out, case.expected(1, &values[row * k..][..k], Digits::default()));
        }
    }
}

#[test]
fn float_activations_leave_the_weights_error_alone() {
    let simulation =
        Simulation { arithmetic: Arithmetic::FloatActivations, ..Simulation::default() };
    for case in cases().into_iter().chain(calibrated_cases()) {
        let linear = case.load(simulation).unwrap();
        let x = Noise(77).row(5 * case.weights.k);
        for matrix in 0..case.weights.experts.unwrap_or(1) {
            let out = apply(&linear, &case, matrix, &x);
            for (x, out) in x.chunks(case.weights.k).zip(out.chunks(case.weights.n)) {
                let row = case.rotated(x);
                for (n, &found) in out.iter().enumerate() {
                    let mut sum = f64::from(case.correction(matrix, n));
                    let mut magnitude = sum.abs();
                    for (segment, columns) in case.weights.segments.iter().enumerate() {
                        for column in columns.clone().filter(|&column| column < row.len()) {
                            let w = case.stored(matrix, segment, n, column - columns.start);
                            let term = f64::from(row[column]) * w * case.scale(matrix, segment, n);
                            sum += term;
                            magnitude += term.abs();
                        }
                    }
                    assert!((f64::from(found) - sum).abs() <= 1e-5 * magnitude);
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (one, three) = (pool(1), pool(3));
    let with_zero_points = cases()
        .into_iter()
        .filter(|case| case.weights.scheme != Scheme::W16A16)
        .map(|case| case.with(dynamic(Some(3.0), true)));
    for case in cases().into_iter().chain(calibrated_cases()).chain(with_zero_points) {
        for arithmetic in [Arithmetic::Integer, Arithmetic::FloatActivations] {
            let linear = case.load(Simulation { arithmetic, ..Simulation::default() }).unwrap();
            let x = Noise(3).row(250 * case.weights.k);
            let bits = |out: Vec<f32>| out.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let first = bits(one.install(|| apply(&linear, &case, 0, &x)));
            assert_eq!(first, bits(three.install(|| apply(&linear, &case, 0, &x))));
        }
    }
}

/// The probe for boards: all −8 by all −8, where the exact sum just leaves 16 bits.
#[test]
fn sixteen_bits_saturate_or_wrap_and_are_counted() {
    for (k, saturated, wrapped, overflows) in
        [(480, 30720.0, 30720.0, 0), (512, 32767.0, -32768.0, 64), (1024, 32767.0, 0.0, 64)]
    {
        // One more tile column, without weights, for the element that makes the scale 1.
        let columns = k + 32;
        let mut case =
            Case::new(Scheme::W4A8, (None, 64, columns), &[0, columns], Granularity::Tensor);
        case.tiles[0].fill(0);
        case.tiles[0][..k / 32 * 1024].fill(0x88);
        case.weights.scales = vec![1.0];
        case.rotation = Arc::new(Rotation::identity(columns));
        case.vector = None;
        // −8 is the digits 0 and −8.
        let mut x = vec![-8.0f32; columns];
        x[k] = 119.0;
        for (overflow, expected) in [(Overflow::Saturate, saturated), (Overflow::Wrap, wrapped)] {
            let linear = case.load(Simulation { overflow, ..Simulation::default() }).unwrap();
            let mut out = vec![0.0; 64];
            linear.apply(&Activations::new(&x, columns), &mut out).unwrap();
            assert_eq!(out, [expected; 64]);
            assert_eq!(linear.saturated(), overflows);
        }
    }
}

#[test]
fn rows_that_are_not_finite_are_named() {
    let case = &cases()[0];
    let linear = case.load(Simulation::default()).unwrap();
    let mut values = Noise(1).row(4 * 64);
    values[2 * 64 + 5] = f32::NAN;
    values[3 * 64] = f32::INFINITY;
    let error = linear.apply(&Activations::new(&values, 64), &mut [0.0; 4 * 32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the input of `blk.0.ffn_up.weight` has a value that is not finite (NaN) in row 2: the \
         model is damaged, or overflows"
    );
    // Finite before the rotation and the vector, not after.
    let error = linear.apply(&Activations::new(&[f32::MAX; 64], 64), &mut [0.0; 32]).unwrap_err();
    assert!(matches!(error, LinearError::NotFinite { row: 0, .. }), "{error}");
}

#[test]
fn wrong_calls_are_refused() {
    let case = &cases()[3];
    let linear = case.load(Simulation::default()).unwrap();
    let values = vec![0.5; 2 * 96];
    let x = Activations::new(&values, 96);
    let mut out = vec![0.0; 70];
    assert!(matches!(linear.apply(&x, &mut out), Err(LinearError::Expert { expert: None, .. })));
    for (expert, rows, length) in [(3, 0, 70), (0, 2, 70), (0, 1, 69)] {
        assert!(linear.apply_expert(expert, &x, &[rows], &mut out[..length]).is_err());
    }
    let error = linear.apply_expert(0, &x, &[0, 2], &mut [0.0; 140]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`blk.0.ffn_up.weight` has rows to choose from of 2, and was given 2"
    );
    let other = Activations::new(&values, 64);
    assert!(linear.apply_expert(0, &other, &[0], &mut out).is_err());
}

#[test]
fn wrong_weights_are_refused() {
    type Change = fn(&mut Case);
    let changes: [(Change, &str); 21] = [
        (
            |case| case.weights.activation = dynamic(Some(-1.0), true),
            "its activation clip is -1, which is not finite and above zero",
        ),
        (
            |case| {
                *case =
                    Case::new(Scheme::W16A16, (None, 100, 96), &[0, 64, 96], Granularity::Channel)
                        .with(dynamic(None, true));
            },
            "its activations are floats, and have no scale to choose",
        ),
        (|case| case.weights.scales[5] = 0.0, "its scale 5 is 0, which is zero or not finite"),
        (
            |case| case.weights.scales[9] = f32::NAN,
            "its scale 9 is NaN, which is zero or not finite",
        ),
        (
            |case| case.weights.scales[0] = f32::INFINITY,
            "its scale 0 is inf, which is zero or not finite",
        ),
        (|case| case.weights.scales.truncate(199), "it has 199 scales, expected 200"),
        (|case| case.tiles[1].truncate(4095), "segment 1 has 4095 bytes of tiles, expected 4096"),
        (|case| drop(case.tiles.pop()), "segment 1 has 1 bytes of tiles, expected 2"),
        (|case| case.weights.segments[1] = 32..96, "columns 32..96 are no segment at column 64"),
        (|case| case.weights.segments[1] = 64..90, "columns 64..90 are no segment at column 64"),
        (|case| case.weights.segments[1] = 64..64, "columns 64..64 are no segment at column 64"),
        (
            |case| {
                case.weights.segments.truncate(1);
                case.tiles.truncate(1);
                case.weights.scales.truncate(100);
            },
            "its segments end at column 64, its rotated input at 96",
        ),
        (|case| case.vector = Some(vec![1.0; 95]), "its input has a vector of 95, expected 96"),
        (
            |case| (case.weights.k, case.vector) = (95, None),
            "its input has rows of 96, expected 95",
        ),
        (
            |case| case.weights.activation = dynamic(Some(0.0), false),
            "its activation clip is 0, which is not finite and above zero",
        ),
        (
            |case| case.weights.activation = dynamic(Some(f32::INFINITY), false),
            "its activation clip is inf, which is not finite and above zero",
        ),
        (
            |case| case.weights.activation = ActivationScale::Static(vec![1.0]),
            "it has 1 activation thresholds, expected one for each of 2 segments",
        ),
        (
            |case| case.weights.activation = ActivationScale::Static(vec![1.0, f32::NAN]),
            "its activation threshold is NaN, which is not finite and above zero",
        ),
        (
            |case| {
                *case = Case::new(Scheme::W16A16, (None, 100, 96), &[0, 96], Granularity::Channel);
                case.weights.activation = dynamic(Some(2.5), false);
            },
            "its activations are floats, and have no scale to choose",
        ),
        (
            |case| case.weights.correction = Some(vec![0.0; 101]),
            "it has 101 corrections, expected 100",
        ),
        (
            |case| {
                let mut correction = vec![0.0; 100];
                correction[99] = f32::NAN;
                case.weights.correction = Some(correction);
            },
            "its correction 99 is NaN, which is not finite",
        ),
    ];
    for (change, message) in changes {
        let mut case = Case::new(Scheme::W8A8, (None, 100, 96), &[0, 64, 96], Granularity::Channel);
        change(&mut case);
        let error = case.load(Simulation::default()).unwrap_err();
        assert_eq!(error.to_string(), "`blk.0.ffn_up.weight`");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), message);
    }
}
