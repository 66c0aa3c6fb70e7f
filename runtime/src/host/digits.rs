//! The two digits that a w4a8 activation is.

/// Base of the two digits of a w4a8 activation, `a = base·high + low`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Digits {
    /// Digits in −7…7, |a| ≤ 112.
    Base15,
    /// Digits in −8…7, |a| ≤ 119, or −136…119 with a zero point. Its steps are 112/119 of the
    /// other's, or 224/255, and so is the error.
    #[default]
    Base16,
}

impl Digits {
    /// Worth of the high digit.
    pub const fn base(self) -> i8 {
        match self {
            Digits::Base15 => 15,
            Digits::Base16 => 16,
        }
    }

    /// Largest magnitude of either sign that two digits express.
    pub const fn qmax(self) -> i8 {
        match self {
            Digits::Base15 => 112,
            Digits::Base16 => 119,
        }
    }

    /// Least and greatest integer that two digits express.
    pub const fn range(self) -> (i16, i16) {
        match self {
            Digits::Base15 => (-112, 112),
            Digits::Base16 => (-136, 119),
        }
    }

    /// High digit of `a`, which is at most [`qmax`](Self::qmax) in magnitude.
    const fn high(self, a: i8) -> i8 {
        match self {
            // ⌊(a + 7)/15⌋, of a number that is not negative: ⌊(a + 127)/15⌋ − 8.
            Digits::Base15 => {
                let above = a.cast_unsigned().wrapping_add(127);
                (above / 15).cast_signed() - 8
            }
            // |a| ≤ 119, so a + 8 is at most 127.
            Digits::Base16 => (a + 8) >> 4,
        }
    }

    /// Splits integers, at most [`qmax`](Self::qmax) in magnitude, into high and low digits.
    pub(crate) fn split(self, integers: &mut [i8], low: &mut [i8]) {
        // A loop for each base, so that each becomes one of vectors.
        match self {
            Digits::Base15 => split_by(integers, low, 15, |a| Digits::Base15.high(a)),
            Digits::Base16 => split_by(integers, low, 16, |a| Digits::Base16.high(a)),
        }
    }

    /// Splits integers of [`range`](Self::range), to each of which
    /// [`bias_of`](crate::quantize::bias_of) that range was added, into high and low digits.
    pub(crate) fn split_biased(self, integers: &mut [i8], low: &mut [i8]) {
        match self {
            // Nothing was.
            Digits::Base15 => self.split(integers, low),
            // a + 8 = 16·high + (low + 8), and low + 8 is in 0…15.
            Digits::Base16 => {
                for (a, low) in integers.iter_mut().zip(low) {
                    *low = (*a & 15) - 8;
                    *a >>= 4;
                }
            }
        }
    }
}

fn split_by(integers: &mut [i8], low: &mut [i8], base: i8, high: impl Fn(i8) -> i8) {
    for (a, low) in integers.iter_mut().zip(low) {
        let high = high(*a);
        // Within a byte whatever the product was.
        *low = a.wrapping_sub(high.wrapping_mul(base));
        *a = high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::bias_of;

    #[test]
    fn digits_are_in_range_and_make_the_number() {
        for (digits, least, greatest) in [(Digits::Base15, -7, 7), (Digits::Base16, -8, 7i16)] {
            let qmax = digits.qmax();
            for a in -qmax..=qmax {
                let (mut high, mut low) = ([a], [0]);
                digits.split(&mut high, &mut low);
                let ([high], [low]) = (high, low);
                assert_eq!(
                    i16::from(digits.base()) * i16::from(high) + i16::from(low),
                    i16::from(a)
                );
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

    #[test]
    fn digits_with_a_zero_point_reach_the_whole_range() {
        for (digits, least, greatest) in [(Digits::Base15, -7, 7), (Digits::Base16, -8, 7i8)] {
            let (lo, hi) = digits.range();
            let base = i16::from(digits.base());
            assert_eq!((lo, hi), ((base + 1) * i16::from(least), (base + 1) * i16::from(greatest)));
            for a in lo..=hi {
                let mut high = [i8::try_from(a + bias_of((lo, hi))).unwrap()];
                let mut low = [0];
                digits.split_biased(&mut high, &mut low);
                let ([high], [low]) = (high, low);
                assert_eq!(base * i16::from(high) + i16::from(low), a);
                let range = least..=greatest;
                assert!(range.contains(&high) && range.contains(&low));
            }
        }
    }
}
