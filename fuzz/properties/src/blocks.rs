//! Blocks of ggml types.

use tessera_formats::ggml::{self, GgmlType};

/// Any bytes as blocks of any type: the right lengths give values, other lengths an error.
///
/// The first byte chooses the type, the second how many bytes too many or too few are passed.
pub fn dequantize(data: &[u8]) {
    let [choice, excess, blocks @ ..] = data else { return };
    let ty = GgmlType::ALL[usize::from(*choice) % GgmlType::ALL.len()];
    let count = blocks.len() / ty.block_bytes();
    let whole = &blocks[..count * ty.block_bytes()];
    let mut values = vec![0.0; count * ty.block_elements()];
    assert_eq!(ggml::dequantize(ty, whole, &mut values).is_ok(), ty.can_dequantize());

    let mut again = vec![1.0; values.len()];
    if ggml::dequantize(ty, whole, &mut again).is_ok() {
        assert!(values.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    let wrong = usize::from(*excess) % (whole.len() + 1);
    if wrong != whole.len() {
        assert!(ggml::dequantize(ty, &whole[..wrong], &mut values).is_err());
    }
}
