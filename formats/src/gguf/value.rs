//! Metadata values: scalars, strings and arrays.

use std::fmt;
use std::sync::Arc;

/// The type of a value, or of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// IEEE 754 binary32.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// UTF-8 with a 64-bit length.
    String,
    /// Elements of one type.
    Array,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE 754 binary64.
    F64,
}

impl ValueType {
    /// All types; the position is the number in the file.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type of a number in the file.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The number in the file.
    pub fn id(self) -> u32 {
        match self {
            Self::U8 => 0,
            Self::I8 => 1,
            Self::U16 => 2,
            Self::I16 => 3,
            Self::U32 => 4,
            Self::I32 => 5,
            Self::F32 => 6,
            Self::Bool => 7,
            Self::String => 8,
            Self::Array => 9,
            Self::U64 => 10,
            Self::I64 => 11,
            Self::F64 => 12,
        }
    }

    /// The name, as in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// The fewest bytes that one element takes in a file.
    pub(super) fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Unsigned, 8 bits.
    U8(u8),
    /// Signed, 8 bits.
    I8(i8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Signed, 16 bits.
    I16(i16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// IEEE 754 binary32; any bit pattern, NaN included.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// UTF-8; may hold NUL and control characters, print it through [`crate::escape::Escaped`].
    String(String),
    /// Elements of one type.
    Array(Array),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Signed, 64 bits.
    I64(i64),
    /// IEEE 754 binary64; any bit pattern, NaN included.
    F64(f64),
}

impl Value {
    /// The type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The name of the type: "u32", "string", "array".
    pub fn type_name(&self) -> &'static str {
        self.value_type().name()
    }

    /// An integer of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// An integer of any width that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// A float of either width. Integers are not converted.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(value) => Some(value),
            _ => None,
        }
    }

    /// The strings of an array of strings.
    pub fn as_strings(&self) -> Option<&Strings> {
        self.as_array()?.as_strings()
    }
}

/// An array value. All elements have one type; arrays of arrays are not read.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Unsigned, 8 bits.
    U8(Vec<u8>),
    /// Signed, 8 bits.
    I8(Vec<i8>),
    /// Unsigned, 16 bits.
    U16(Vec<u16>),
    /// Signed, 16 bits.
    I16(Vec<i16>),
    /// Unsigned, 32 bits.
    U32(Vec<u32>),
    /// Signed, 32 bits.
    I32(Vec<i32>),
    /// IEEE 754 binary32.
    F32(Vec<f32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Strings, in one buffer.
    Strings(Strings),
    /// Unsigned, 64 bits.
    U64(Vec<u64>),
    /// Signed, 64 bits.
    I64(Vec<i64>),
    /// IEEE 754 binary64.
    F64(Vec<f64>),
}

/// Evaluates an expression with the elements of any array.
macro_rules! with_elements {
    ($array:expr, $elements:ident => $body:expr) => {
        match $array {
            Array::U8($elements) => $body,
            Array::I8($elements) => $body,
            Array::U16($elements) => $body,
            Array::I16($elements) => $body,
            Array::U32($elements) => $body,
            Array::I32($elements) => $body,
            Array::F32($elements) => $body,
            Array::Bool($elements) => $body,
            Array::Strings($elements) => $body,
            Array::U64($elements) => $body,
            Array::I64($elements) => $body,
            Array::F64($elements) => $body,
        }
    };
}

/// A typed slice of the array's elements, if they have that type.
macro_rules! slices {
    ($($(#[$doc:meta])* $name:ident $variant:ident $element:ty;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> Option<&[$element]> {
            match self {
                Self::$variant(elements) => Some(elements),
                _ => None,
            }
        })*
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_elements!(self, elements => elements.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Strings(_) => ValueType::String,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The element at a position, as a value of its own.
    pub fn get(&self, index: usize) -> Option<Value> {
        match self {
            Self::U8(elements) => elements.get(index).copied().map(Value::U8),
            Self::I8(elements) => elements.get(index).copied().map(Value::I8),
            Self::U16(elements) => elements.get(index).copied().map(Value::U16),
            Self::I16(elements) => elements.get(index).copied().map(Value::I16),
            Self::U32(elements) => elements.get(index).copied().map(Value::U32),
            Self::I32(elements) => elements.get(index).copied().map(Value::I32),
            Self::F32(elements) => elements.get(index).copied().map(Value::F32),
            Self::Bool(elements) => elements.get(index).copied().map(Value::Bool),
            Self::Strings(elements) => elements.get(index).map(Value::from),
            Self::U64(elements) => elements.get(index).copied().map(Value::U64),
            Self::I64(elements) => elements.get(index).copied().map(Value::I64),
            Self::F64(elements) => elements.get(index).copied().map(Value::F64),
        }
    }

    /// The elements, each as a value of its own.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    slices! {
        /// The elements of an array of u8.
        as_u8s U8 u8;
        /// The elements of an array of i8.
        as_i8s I8 i8;
        /// The elements of an array of u16.
        as_u16s U16 u16;
        /// The elements of an array of i16.
        as_i16s I16 i16;
        /// The elements of an array of u32.
        as_u32s U32 u32;
        /// The elements of an array of i32.
        as_i32s I32 i32;
        /// The elements of an array of f32.
        as_f32s F32 f32;
        /// The elements of an array of bool.
        as_bools Bool bool;
        /// The elements of an array of u64.
        as_u64s U64 u64;
        /// The elements of an array of i64.
        as_i64s I64 i64;
        /// The elements of an array of f64.
        as_f64s F64 f64;
    }

    /// The elements of an array of strings.
    pub fn as_strings(&self) -> Option<&Strings> {
        match self {
            Self::Strings(elements) => Some(elements),
            _ => None,
        }
    }

    /// The elements of an array of integers of any width, if none is negative.
    pub fn to_u64s(&self) -> Option<Vec<u64>> {
        self.iter().map(|element| element.as_u64()).collect()
    }
}

/// The strings of an array in one buffer, each with its length before it as in the file.
///
/// Strings read from a file share the buffer of all key-values, so that an array costs its bytes
/// in the file and 4 bytes per string.
#[derive(Clone)]
pub struct Strings {
    /// Where each string's length begins in `bytes`.
    starts: Vec<u32>,
    /// A u64 length, little-endian, and as many bytes of UTF-8, for each string.
    bytes: Arc<Vec<u8>>,
}

impl Strings {
    /// Strings of a buffer that is still to be completed, see [`Strings::set_bytes`].
    pub(super) fn of_starts(starts: Vec<u32>) -> Self {
        Self { starts, bytes: Arc::default() }
    }

    /// Gives the strings their buffer.
    pub(super) fn set_bytes(&mut self, bytes: &Arc<Vec<u8>>) {
        self.bytes = Arc::clone(bytes);
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The string at a position.
    pub fn get(&self, index: usize) -> Option<&str> {
        let start = usize::try_from(*self.starts.get(index)?).ok()?;
        let (length, rest) = self.bytes.get(start..)?.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        str::from_utf8(rest.get(..length)?).ok()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        // Every start was checked when the strings were read: the default is never used.
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    /// # Panics
    /// When the strings and their lengths take 4 GiB or more.
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let (mut starts, mut bytes) = (Vec::new(), Vec::new());
        for string in strings {
            let text = string.as_ref().as_bytes();
            let start = u32::try_from(bytes.len());
            assert!(start.is_ok(), "an array of strings of 4 GiB or more");
            starts.push(start.unwrap_or_default());
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text);
        }
        Self { starts, bytes: Arc::new(bytes) }
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Strings {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

macro_rules! conversions {
    ($($variant:ident $scalar:ty),*) => {
        $(impl From<$scalar> for Value {
            fn from(value: $scalar) -> Self {
                Self::$variant(value)
            }
        }
        impl From<Vec<$scalar>> for Value {
            fn from(elements: Vec<$scalar>) -> Self {
                Self::Array(Array::$variant(elements))
            }
        })*
    };
}

conversions!(
    U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, U64 u64, I64 i64, F64 f64
);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<Strings> for Value {
    fn from(elements: Strings) -> Self {
        Self::Array(Array::Strings(elements))
    }
}

impl From<&[&str]> for Value {
    fn from(elements: &[&str]) -> Self {
        Self::from(elements.iter().collect::<Strings>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_are_the_positions_in_all() {
        for (position, ty) in ValueType::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(ty.id()).expect("small"), position);
            assert_eq!(ValueType::from_id(ty.id()), Some(ty));
        }
        assert_eq!(ValueType::from_id(13), None);
        assert_eq!(ValueType::from_id(u32::MAX), None);
    }

    #[test]
    fn integers_convert_when_they_fit() {
        assert_eq!(Value::I8(-1).as_u64(), None);
        assert_eq!(Value::I8(-1).as_i64(), Some(-1));
        assert_eq!(Value::U64(u64::MAX).as_i64(), None);
        assert_eq!(Value::U64(u64::MAX).as_u64(), Some(u64::MAX));
        assert_eq!(Value::I32(7).as_u64(), Some(7));
        assert_eq!(Value::F32(7.0).as_u64(), None);
        assert_eq!(Value::U32(7).as_f64(), None);
        assert_eq!(Value::Bool(true).as_u64(), None);
    }

    #[test]
    fn strings_are_kept_in_order() {
        let strings: Strings = ["", "a", "größe", "層"].into_iter().collect();
        assert_eq!(strings.len(), 4);
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "größe", "層"]);
        assert_eq!(strings.get(2), Some("größe"));
        assert_eq!(strings.get(4), None);
        assert_eq!(format!("{strings:?}"), r#"["", "a", "größe", "層"]"#);
    }

    #[test]
    fn arrays_of_integers_convert_when_none_is_negative() {
        assert_eq!(Array::I32(vec![4, 0, 2]).to_u64s(), Some(vec![4, 0, 2]));
        assert_eq!(Array::I32(vec![4, -1]).to_u64s(), None);
        assert_eq!(Array::F32(vec![1.0]).to_u64s(), None);
        assert_eq!(Array::U8(vec![]).to_u64s(), Some(vec![]));
    }
}
