//! The ggml tensor types: ids, names, block shapes.

use std::fmt;

/// Declares the type table once: variant, id, name, elements and bytes of a block.
macro_rules! ggml_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $elements:literal, $bytes:literal;)*) => {
        /// A tensor type of a GGUF file, as `enum ggml_type` of ggml.h numbers them.
        ///
        /// A row of K elements is stored as K / [`block_elements`](Self::block_elements) blocks of
        /// [`block_bytes`](Self::block_bytes) bytes each, with nothing between them. Every
        /// multi-byte field of a block is little-endian.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum GgmlType {
            $($(#[$doc])* $variant,)*
        }

        impl GgmlType {
            /// Every type, in order of id.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$variant,)*];

            /// The type that a GGUF file writes as `id`; `None` for ids that were never given or
            /// were withdrawn (see [`removed_name`](Self::removed_name)).
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(GgmlType::$variant),)*
                    _ => None,
                }
            }

            /// The number that a GGUF file writes for this type.
            pub const fn id(self) -> u32 {
                match self {
                    $(GgmlType::$variant => $id,)*
                }
            }

            /// The name as gguf-py writes it, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(GgmlType::$variant => $name,)*
                }
            }

            /// Elements of one block; 1 for plain numbers.
            pub const fn block_elements(self) -> usize {
                match self {
                    $(GgmlType::$variant => $elements,)*
                }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(GgmlType::$variant => $bytes,)*
                }
            }
        }
    };
}

ggml_types! {
    /// IEEE binary32.
    F32 = 0, "F32", 1, 4;
    /// IEEE binary16.
    F16 = 1, "F16", 1, 2;
    /// 4-bit, f16 scale per 32.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4-bit, f16 scale and minimum per 32.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5-bit, f16 scale per 32.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5-bit, f16 scale and minimum per 32.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8-bit, f16 scale per 32.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 8-bit, f16 scale and scaled sum per 32; an operand of dot products, not a storage type.
    Q8_1 = 9, "Q8_1", 32, 36;
    /// 2-bit, 4-bit scales and minima per 16 under f16 ones per 256.
    Q2K = 10, "Q2_K", 256, 84;
    /// 3-bit, 6-bit scales per 16 under an f16 one per 256.
    Q3K = 11, "Q3_K", 256, 110;
    /// 4-bit, 6-bit scales and minima per 32 under f16 ones per 256.
    Q4K = 12, "Q4_K", 256, 144;
    /// 5-bit, 6-bit scales and minima per 32 under f16 ones per 256.
    Q5K = 13, "Q5_K", 256, 176;
    /// 6-bit, 8-bit scales per 16 under an f16 one per 256.
    Q6K = 14, "Q6_K", 256, 210;
    /// 8-bit, f32 scale per 256, with sums of 16; an operand of dot products, not a storage type.
    Q8K = 15, "Q8_K", 256, 292;
    /// Codebook of 8-element vectors, 2.06 bits.
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    /// Codebook of 8-element vectors, 2.31 bits.
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    /// Codebook of 4-element vectors, 3.06 bits.
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    /// Codebook of ternary 8-element vectors, 1.56 bits.
    Iq1S = 19, "IQ1_S", 256, 50;
    /// 4-bit index into a table of 16 unequally spaced levels, f16 scale per 32.
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    /// Codebook of 4-element vectors, 3.44 bits.
    Iq3S = 21, "IQ3_S", 256, 110;
    /// Codebook of 8-element vectors, 2.5 bits.
    Iq2S = 22, "IQ2_S", 256, 82;
    /// The levels of IQ4_NL, 6-bit scales per 32 under an f16 one per 256.
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    /// Signed 8-bit integer.
    I8 = 24, "I8", 1, 1;
    /// Signed 16-bit integer.
    I16 = 25, "I16", 1, 2;
    /// Signed 32-bit integer.
    I32 = 26, "I32", 1, 4;
    /// Signed 64-bit integer.
    I64 = 27, "I64", 1, 8;
    /// IEEE binary64.
    F64 = 28, "F64", 1, 8;
    /// Codebook of ternary 8-element vectors, 1.75 bits.
    Iq1M = 29, "IQ1_M", 256, 56;
    /// The upper half of an IEEE binary32.
    Bf16 = 30, "BF16", 1, 2;
    /// Ternary, five to a byte, f16 scale per 256.
    Tq1_0 = 34, "TQ1_0", 256, 54;
    /// Ternary, four to a byte, f16 scale per 256.
    Tq2_0 = 35, "TQ2_0", 256, 66;
    /// OCP MX: E2M1 elements, E8M0 scale per 32.
    Mxfp4 = 39, "MXFP4", 32, 17;
    /// E2M1 elements, unsigned E4M3 scale per 16, four groups to a block.
    Nvfp4 = 40, "NVFP4", 64, 36;
    /// Sign bits, f16 scale per 128.
    Q1_0 = 41, "Q1_0", 128, 18;
    /// 2-bit, f16 scale per 64.
    Q2_0 = 42, "Q2_0", 64, 18;
}

impl GgmlType {
    /// The type of that name, in either case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `n` elements; `None` if `n` is not a multiple of the block, or on
    /// overflow.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let elements = u64::try_from(self.block_elements()).ok()?;
        let bytes = u64::try_from(self.block_bytes()).ok()?;
        if !n.is_multiple_of(elements) {
            return None;
        }
        (n / elements).checked_mul(bytes)
    }

    /// Whether [`dequantize`](super::dequantize) reads this type. It does not read the codebook
    /// types (IQ1, IQ2, IQ3), Q8_1, which ggml itself never turns back into floats, integers and
    /// F64.
    pub const fn can_dequantize(self) -> bool {
        !matches!(
            self,
            GgmlType::Iq2Xxs
                | GgmlType::Iq2Xs
                | GgmlType::Iq3Xxs
                | GgmlType::Iq1S
                | GgmlType::Iq3S
                | GgmlType::Iq2S
                | GgmlType::Iq1M
                | GgmlType::Q8_1
                | GgmlType::I8
                | GgmlType::I16
                | GgmlType::I32
                | GgmlType::I64
                | GgmlType::F64
        )
    }

    /// The former name of a type id that ggml has withdrawn, for messages about old files.
    pub fn removed_name(id: u32) -> Option<&'static str> {
        match id {
            4 => Some("Q4_2"),
            5 => Some("Q4_3"),
            31 => Some("Q4_0_4_4"),
            32 => Some("Q4_0_4_8"),
            33 => Some("Q4_0_8_8"),
            36 => Some("IQ4_NL_4_4"),
            37 => Some("IQ4_NL_4_8"),
            38 => Some("IQ4_NL_8_8"),
            _ => None,
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_return_to_their_type() {
        for (position, &ty) in GgmlType::ALL.iter().enumerate() {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(GgmlType::from_name(ty.name()), Some(ty));
            assert_eq!(GgmlType::from_name(&ty.name().to_lowercase()), Some(ty));
            assert!(GgmlType::ALL[..position].iter().all(|earlier| earlier.id() < ty.id()));
        }
        assert_eq!(GgmlType::from_name("Q4_K_M"), None);
    }

    #[test]
    fn every_id_up_to_the_last_is_a_type_or_removed() {
        for id in 0..=42 {
            assert_ne!(
                GgmlType::from_id(id).is_some(),
                GgmlType::removed_name(id).is_some(),
                "id {id}"
            );
        }
        for id in [43, 255, u32::MAX] {
            assert_eq!(GgmlType::from_id(id), None);
            assert_eq!(GgmlType::removed_name(id), None);
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        let cases = [
            (GgmlType::F32, 3, Some(12)),
            (GgmlType::Q4_0, 64, Some(36)),
            (GgmlType::Q4_0, 0, Some(0)),
            (GgmlType::Q4_0, 48, None),
            (GgmlType::Q4K, 256, Some(144)),
            (GgmlType::Q4K, 128, None),
            (GgmlType::F64, u64::MAX / 4, None),
            (GgmlType::Q8_0, u64::MAX - 31, None),
            (GgmlType::Q4_0, u64::MAX - 31, Some((u64::MAX - 31) / 32 * 18)),
        ];
        for (ty, n, bytes) in cases {
            assert_eq!(ty.row_bytes(n), bytes, "{ty} {n}");
        }
    }
}
