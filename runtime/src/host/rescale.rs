//! From the engine's sums to the values of a linear's output.

use super::{GROUP, Isa, Sums};

/// What the i4 engine makes of a sum that its 16 bits cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The nearest of −32768 and 32767, as measurements of the hardware say.
    #[default]
    Saturate,
    /// The low 16 bits.
    Wrap,
}

impl Overflow {
    /// The engine's 16-bit result.
    pub(crate) const fn narrow(self, sum: i32) -> i32 {
        match self {
            Overflow::Saturate if sum > 32767 => 32767,
            Overflow::Saturate if sum < -32768 => -32768,
            Overflow::Saturate => sum,
            Overflow::Wrap => (sum << 16) >> 16,
        }
    }
}

/// How one row's sums over a segment become values.
#[derive(Clone, Copy, Debug)]
pub struct Rescale<'a> {
    /// The engine's overflow; `None` where sums are as wide as the engine's results already.
    pub overflow: Option<Overflow>,
    /// Worth of a unit of the first plane in units of the second; 0 where there is one plane.
    pub base: i32,
    /// Scale of the row.
    pub row_scale: f32,
    /// Scales of the group's channels.
    pub scales: &'a [f32; GROUP],
    /// Zero point of the row and the sums of the group's weights over the segment, where the row's
    /// integers have a zero point.
    pub zero: Option<(f32, &'a Sums)>,
    /// Whether the values are added to those of an earlier segment.
    pub add: bool,
}

impl Rescale<'_> {
    /// Writes, or adds, `(f32(C)·row scale)·scale` for each channel of `out`, with a zero point
    /// `(f32(C)·row scale)·scale + (zero·f32(Σw))·scale`, and returns how many of the engine's
    /// results were not what the sum was. C is the result, or `base·C_high + C_low` where `planes`
    /// are two.
    pub fn apply(&self, isa: Isa, planes: &[Sums], out: &mut [f32]) -> u32 {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => x86::rescale(self, planes, out),
            _ => rescale(self, planes, out),
        }
    }
}

#[inline(always)]
fn rescale(rescale: &Rescale<'_>, planes: &[Sums], out: &mut [f32]) -> u32 {
    let mut overflows = 0;
    let mut total = [0i32; GROUP];
    for plane in planes {
        match rescale.overflow {
            None if rescale.base == 0 => total = *plane,
            None => {
                for (total, sum) in total.iter_mut().zip(plane) {
                    *total = *total * rescale.base + sum;
                }
            }
            Some(Overflow::Saturate) => {
                overflows += add_plane(rescale.base, plane, &mut total, |sum| {
                    Overflow::Saturate.narrow(sum)
                });
            }
            Some(Overflow::Wrap) => {
                overflows +=
                    add_plane(rescale.base, plane, &mut total, |sum| Overflow::Wrap.narrow(sum));
            }
        }
    }
    let mut values = [0.0f32; GROUP];
    let channels = values.iter_mut().zip(total).zip(rescale.scales);
    // A loop for each, so that the common one is as short as it can be.
    match rescale.zero {
        None => {
            for ((value, total), scale) in channels {
                *value = total as f32 * rescale.row_scale * scale;
            }
        }
        Some((zero, sums)) => {
            for (((value, total), scale), &sum) in channels.zip(sums) {
                *value = total as f32 * rescale.row_scale * scale + zero * sum as f32 * scale;
            }
        }
    }
    if rescale.add {
        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    } else {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
    }
    overflows
}

/// `total` becomes `base·total + narrowed plane`; returns how many were narrowed to another value.
#[inline(always)]
fn add_plane(base: i32, plane: &Sums, total: &mut Sums, narrow: impl Fn(i32) -> i32) -> u32 {
    let mut overflows = 0;
    for (total, &sum) in total.iter_mut().zip(plane) {
        let result = narrow(sum);
        overflows += u32::from(result != sum);
        *total = *total * base + result;
    }
    overflows
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "compiled for an instruction set")]

    use super::{Rescale, Sums};

    pub(super) fn rescale(parameters: &Rescale<'_>, planes: &[Sums], out: &mut [f32]) -> u32 {
        #[target_feature(enable = "avx2")]
        fn kernel(parameters: &Rescale<'_>, planes: &[Sums], out: &mut [f32]) -> u32 {
            super::rescale(parameters, planes, out)
        }
        // SAFETY: the caller chose this kernel because the machine has AVX2.
        unsafe { kernel(parameters, planes, out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_beyond_sixteen_bits() {
        // The probe for boards: all -8 by all -8 at K = 512 and 1024.
        for (sum, saturated, wrapped) in [
            (32768, 32767, -32768),
            (65536, 32767, 0),
            (-32769, -32768, 32767),
            (32767, 32767, 32767),
            (-32768, -32768, -32768),
        ] {
            assert_eq!(Overflow::Saturate.narrow(sum), saturated);
            assert_eq!(Overflow::Wrap.narrow(sum), wrapped);
        }
    }

    #[test]
    fn every_instruction_set_rescales_alike() {
        let scales = std::array::from_fn(|n| 1.0 / (n as f32 + 3.0));
        let plane = |seed: i32| -> Sums {
            std::array::from_fn(|n| (i32::try_from(n).unwrap() * 9973 + seed) % 50_000 - 25_000)
        };
        let weights = plane(1234).map(|sum| sum * 999);
        let planes = [plane(3).map(|sum| sum * 2), plane(77)];
        for isa in Isa::available() {
            for (overflow, count) in
                [(None, 1), (Some(Overflow::Saturate), 2), (Some(Overflow::Wrap), 1)]
            {
                for add in [false, true] {
                    for width in [1, 7, 63, GROUP] {
                        for zero in [None, Some((-0.7, &weights))] {
                            let parameters = Rescale {
                                overflow,
                                base: 15,
                                row_scale: 0.3,
                                scales: &scales,
                                zero,
                                add,
                            };
                            let mut out = vec![0.5f32; width];
                            let found = parameters.apply(isa, &planes[..count], &mut out);
                            let mut overflows = 0;
                            for n in 0..GROUP {
                                let mut c = 0;
                                for plane in &planes[..count] {
                                    let exact = plane[n];
                                    let kept = match overflow {
                                        None => exact,
                                        Some(Overflow::Saturate) => exact.clamp(-32768, 32767),
                                        Some(Overflow::Wrap) => {
                                            (exact + 32768).rem_euclid(65536) - 32768
                                        }
                                    };
                                    overflows += u32::from(kept != exact);
                                    c = 15 * c + kept;
                                }
                                if n < width {
                                    let mut value = c as f32 * 0.3 * scales[n];
                                    if zero.is_some() {
                                        value += -0.7 * weights[n] as f32 * scales[n];
                                    }
                                    let expected = if add { 0.5 + value } else { value };
                                    assert_eq!(out[n].to_bits(), expected.to_bits());
                                }
                            }
                            assert_eq!(found, overflows);
                        }
                    }
                }
            }
        }
    }
}
