//! Rows of operands into the memory of a matmul, and sums of groups out of it.

use half::f16;
use tessera_formats::npu::Engine;

use super::{Layout, Shape};
use crate::host::{GROUP, Sums};

/// Bytes that stand together in [`Layout::Native`].
const PIECE: usize = 16;

/// Writes a row of integers, K of them, as row `row` of A.
///
/// # Panics
///
/// If A is not as long as the shape says, or the row is not one of it.
pub(super) fn write_integers(shape: Shape, row: usize, values: &[i8], a: &mut [u8]) {
    let (m, k) = sizes(shape);
    assert!(values.len() == k && row < m, "a row of A");
    match (shape.layout, shape.engine) {
        (_, Engine::F16) => panic!("halves for the float engine"),
        (Layout::Normal, Engine::I8) => copy(values, &mut a[row * k..][..k]),
        (Layout::Normal, Engine::I4) => pack(values, &mut a[row * k / 2..][..k / 2]),
        (Layout::Native, Engine::I8) => {
            for (piece, place) in values.chunks_exact(PIECE).zip(pieces_mut(m, row, a)) {
                copy(piece, place);
            }
        }
        (Layout::Native, Engine::I4) => {
            for (piece, place) in values.chunks_exact(2 * PIECE).zip(pieces_mut(m, row, a)) {
                pack(piece, place);
            }
        }
    }
}

/// Writes a row of halves as row `row` of A.
///
/// # Panics
///
/// As [`write_integers`].
pub(super) fn write_halves(shape: Shape, row: usize, values: &[f16], a: &mut [u8]) {
    let (m, k) = sizes(shape);
    assert!(values.len() == k && row < m && shape.engine == Engine::F16, "a row of A");
    let write = |values: &[f16], place: &mut [u8]| {
        for (value, bytes) in values.iter().zip(place.as_chunks_mut::<2>().0) {
            *bytes = value.to_le_bytes();
        }
    };
    match shape.layout {
        Layout::Normal => write(values, &mut a[2 * row * k..][..2 * k]),
        Layout::Native => {
            for (piece, place) in values.chunks_exact(PIECE / 2).zip(pieces_mut(m, row, a)) {
                write(piece, place);
            }
        }
    }
}

/// Sums of row `row` of C of an integer engine with the channels from `first` on, a group of them or as many
/// as there are; zeros beyond.
///
/// # Panics
///
/// As [`write_integers`], of C.
pub(super) fn read_integers(shape: Shape, row: usize, first: usize, c: &[u8]) -> Sums {
    match shape.engine {
        Engine::F16 => panic!("sums of the float engine are no integers"),
        Engine::I8 => read(shape, row, first, c, |bytes| i32::from_le_bytes(*bytes)),
        Engine::I4 => read(shape, row, first, c, |bytes| i16::from_le_bytes(*bytes).into()),
    }
}

/// The same of the float engine.
///
/// # Panics
///
/// As [`read_integers`].
pub(super) fn read_floats(shape: Shape, row: usize, first: usize, c: &[u8]) -> [f32; GROUP] {
    assert!(shape.engine == Engine::F16, "sums of floats");
    read(shape, row, first, c, |bytes| f32::from_le_bytes(*bytes))
}

/// Reads the channels of a row from `first` on, up to the end of the group or of the row, each of `B` bytes that
/// `value` makes a sum of.
#[inline(always)]
fn read<const B: usize, T: Copy + Default>(
    shape: Shape,
    row: usize,
    first: usize,
    c: &[u8],
    value: impl Fn(&[u8; B]) -> T,
) -> [T; GROUP] {
    let (m, n) = (index(shape.m), index(shape.n));
    assert!(row < m && first < n, "a row and a channel of C");
    let mut sums = [T::default(); GROUP];
    let count = GROUP.min(n - first);
    match shape.layout {
        Layout::Normal => {
            let bytes = &c[(row * n + first) * B..][..count * B];
            for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks::<B>().0) {
                *sum = value(bytes);
            }
        }
        Layout::Native => {
            // Groups begin with a piece, and channels come in whole pieces.
            let together = PIECE / B;
            let (pieces, _) = c.as_chunks::<PIECE>();
            let of_row = pieces[first / together * m..].iter().skip(row).step_by(m);
            let sums = sums[..count].chunks_exact_mut(together);
            for (sums, piece) in sums.zip(of_row) {
                for (sum, bytes) in sums.iter_mut().zip(piece.as_chunks::<B>().0) {
                    *sum = value(bytes);
                }
            }
        }
    }
    sums
}

/// The pieces of a row of M rows.
fn pieces_mut(m: usize, row: usize, a: &mut [u8]) -> impl Iterator<Item = &mut [u8; PIECE]> {
    a.as_chunks_mut::<PIECE>().0.iter_mut().skip(row).step_by(m)
}

fn copy(values: &[i8], place: &mut [u8]) {
    for (byte, value) in place.iter_mut().zip(values) {
        *byte = value.cast_unsigned();
    }
}

/// Two integers of four bits a byte, the first of them in the low half.
fn pack(values: &[i8], place: &mut [u8]) {
    for (byte, [even, odd]) in place.iter_mut().zip(values.as_chunks::<2>().0) {
        *byte = (even.cast_unsigned() & 15) | (odd.cast_unsigned() << 4);
    }
}

fn sizes(shape: Shape) -> (usize, usize) {
    (index(shape.m), index(shape.k))
}

fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use tessera_formats::npu::tiles::{a_index, c_index};

    use super::*;

    fn shape(engine: Engine, layout: Layout, m: u32, k: u32, n: u32) -> Shape {
        Shape { m, k, n, engine, layout, domain: 0 }
    }

    fn values(count: usize, seed: usize) -> Vec<i8> {
        (0..count).map(|at| i8::try_from((at * 7 + seed * 13) % 16).unwrap() - 8).collect()
    }

    /// Every element of A is where the layout's own formula says.
    #[test]
    fn rows_come_to_their_places() {
        for engine in [Engine::I8, Engine::I4, Engine::F16] {
            for layout in [Layout::Normal, Layout::Native] {
                for m in [1, 4, 12] {
                    let k = 96;
                    let shape = shape(engine, layout, m, k, 64);
                    let bytes = shape.bytes(super::super::Operand::A);
                    let mut a = vec![0; usize::try_from(bytes).unwrap()];
                    let (m, k) = sizes(shape);
                    for row in 0..m {
                        let values = values(k, row);
                        if engine == Engine::F16 {
                            let halves: Vec<_> =
                                values.iter().map(|&q| f16::from_f32(q.into())).collect();
                            write_halves(shape, row, &halves, &mut a);
                        } else {
                            write_integers(shape, row, &values, &mut a);
                        }
                    }
                    for row in 0..m {
                        for (column, &expected) in values(k, row).iter().enumerate() {
                            let at = match layout {
                                Layout::Normal => row * k + column,
                                Layout::Native => a_index(engine, m, row, column),
                            };
                            let found = match engine {
                                Engine::I8 => a[at].cast_signed(),
                                Engine::I4 => {
                                    ((a[at / 2] >> (4 * (at % 2))) << 4).cast_signed() >> 4
                                }
                                Engine::F16 => {
                                    let half = f16::from_le_bytes([a[2 * at], a[2 * at + 1]]);
                                    values(k, row)
                                        .into_iter()
                                        .find(|&q| half.to_f32() == f32::from(q))
                                        .unwrap()
                                }
                            };
                            assert_eq!(found, expected, "{shape} {row} {column}");
                        }
                    }
                }
            }
        }
    }

    /// The same of C, with a last group that is not whole.
    #[test]
    fn sums_are_read_from_their_places() {
        for (engine, n) in [(Engine::I8, 96), (Engine::I4, 128), (Engine::F16, 80)] {
            for layout in [Layout::Normal, Layout::Native] {
                for m in [1, 4, 8] {
                    let shape = shape(engine, layout, m, 32, n);
                    let bytes = shape.bytes(super::super::Operand::C);
                    let (m, n) = (index(m), index(n));
                    let value = |row: usize, channel: usize| {
                        i16::try_from(row * 1000 + channel).unwrap() - 500
                    };
                    let mut c = vec![0xee; usize::try_from(bytes).unwrap()];
                    for row in 0..m {
                        for channel in 0..n {
                            let at = match layout {
                                Layout::Normal => row * n + channel,
                                Layout::Native => c_index(engine, m, row, channel),
                            };
                            let value = value(row, channel);
                            match engine {
                                Engine::I4 => {
                                    c[2 * at..][..2].copy_from_slice(&value.to_le_bytes());
                                }
                                Engine::I8 => c[4 * at..][..4]
                                    .copy_from_slice(&i32::from(value).to_le_bytes()),
                                Engine::F16 => c[4 * at..][..4]
                                    .copy_from_slice(&f32::from(value).to_le_bytes()),
                            }
                        }
                    }
                    for row in 0..m {
                        for first in (0..n).step_by(GROUP) {
                            let expected = |lane: usize| match first + lane < n {
                                true => value(row, first + lane).into(),
                                false => 0i32,
                            };
                            let expected: Sums = std::array::from_fn(expected);
                            if engine == Engine::F16 {
                                let found = read_floats(shape, row, first, &c);
                                assert_eq!(found, expected.map(|sum| sum as f32));
                            } else {
                                assert_eq!(read_integers(shape, row, first, &c), expected);
                            }
                        }
                    }
                }
            }
        }
    }
}
