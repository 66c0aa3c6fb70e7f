//! Numbers that readers get wrong, and values that are rarely replaced by them.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Sixty-four bits that overflow, wrap, or ask for too much.
#[derive(Clone, Copy, Debug)]
pub struct Hostile(pub u64);

impl<'a> Arbitrary<'a> for Hostile {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let base = match input.arbitrary::<u8>()? % 14 {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 1 << 63,
            4 => 1 << 62,
            5 => 1 << 61,
            6 => 1 << 32,
            7 => 1 << 31,
            8 => u64::from(u32::MAX),
            9 => 1 << 24,
            10 => 1 << 16,
            11 => 1 << 40,
            12 => u64::from(input.arbitrary::<u16>()?),
            _ => input.arbitrary()?,
        };
        let near = input.arbitrary::<i8>()?;
        Ok(Hostile(base.wrapping_add_signed(i64::from(near) / 16)))
    }
}

/// What is there once in sixteen times, and never where the input has ended.
#[derive(Clone, Debug)]
pub struct Rarely<T>(pub Option<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Rarely<T> {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let there = input.arbitrary::<u8>()? >= 240;
        Ok(Rarely(if there { Some(input.arbitrary()?) } else { None }))
    }
}

impl<T> Default for Rarely<T> {
    fn default() -> Self {
        Rarely(None)
    }
}

impl Rarely<Hostile> {
    /// The hostile number, or else the right one.
    pub fn or(&self, right: u64) -> u64 {
        self.0.map_or(right, |hostile| hostile.0)
    }

    /// The same in 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits of a hostile number")]
    pub fn or_u32(&self, right: u32) -> u32 {
        self.0.map_or(right, |hostile| hostile.0 as u32)
    }
}
