//! Dequantization against ggml's C code and gguf-py.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tessera_formats::ggml::{DequantizeError, GgmlType, dequantize};
use tessera_formats::gguf::Gguf;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).unwrap())
        .collect()
}

fn little_endian(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect()
}

/// Blocks, their SHA-256 as f32 and the first float of every 16, of each type of the fixture that
/// `golden/make_dequant_goldens.py` wrote.
fn goldens() -> Vec<(GgmlType, Vec<u8>, String, Vec<u8>)> {
    let fixture: Value = serde_json::from_str(include_str!("golden/dequantize.json")).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    fixture
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, entry)| {
            (
                GgmlType::from_name(name).unwrap(),
                from_hex(&text(entry, "blocks")),
                text(entry, "sha256"),
                from_hex(&text(entry, "every_16th")),
            )
        })
        .collect()
}

fn dequantized(ty: GgmlType, blocks: &[u8]) -> Vec<f32> {
    let mut floats = vec![f32::NAN; blocks.len() / ty.block_bytes() * ty.block_elements()];
    dequantize(ty, blocks, &mut floats).unwrap();
    floats
}

#[test]
fn every_type_matches_ggml() {
    for (ty, blocks, sha256, every_16th) in goldens() {
        let floats = dequantized(ty, &blocks);
        let sampled: Vec<f32> = floats.iter().copied().step_by(16).collect();
        assert_eq!(hex(&little_endian(&sampled)), hex(&every_16th), "{ty}, every 16th");
        assert_eq!(hex(&Sha256::digest(little_endian(&floats))), sha256, "{ty}");
    }
}

/// Every tensor of the shared files, whose hashes llama.cpp made. The files are weights of GPT-2 in
/// 16 types; without them the test does nothing.
#[test]
fn shared_models_match_llama_cpp() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/golden-dequant");
    let Ok(expected) = std::fs::read_to_string(folder.join("expected.json")) else {
        println!("skipped: no {}", folder.display());
        return;
    };
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let mut types = BTreeSet::new();
    for (file, tensors) in expected.as_object().unwrap() {
        let model = Gguf::open(&folder.join(file)).unwrap();
        assert_eq!(model.tensors().len(), tensors.as_object().unwrap().len(), "{file}");
        for tensor in model.tensors() {
            let wanted = &tensors[&tensor.name];
            assert_eq!(wanted["type"], tensor.ggml_type.name(), "{file} {}", tensor.name);
            let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap()];
            model.read_at(tensor, 0, &mut bytes).unwrap();
            let floats = dequantized(tensor.ggml_type, &bytes);
            let sha256 = hex(&Sha256::digest(little_endian(&floats)));
            assert_eq!(wanted["sha256_f32_llama_cpp"], sha256, "{file} {}", tensor.name);
            types.insert(tensor.ggml_type);
        }
    }
    assert_eq!(types.len(), 17);
}

#[test]
fn every_type_has_a_golden_or_is_refused() {
    let tested: Vec<GgmlType> = goldens().iter().map(|golden| golden.0).collect();
    for &ty in GgmlType::ALL {
        if ty.can_dequantize() {
            assert!(tested.contains(&ty) || ty == GgmlType::F32, "{ty} has no golden");
        } else {
            let blocks = vec![0; ty.block_bytes()];
            let mut floats = vec![0.0; ty.block_elements()];
            let refused = dequantize(ty, &blocks, &mut floats);
            assert_eq!(refused, Err(DequantizeError::Unsupported { ggml_type: ty }));
        }
    }
}

#[test]
fn any_alignment_and_any_number_of_blocks_give_the_same() {
    for (ty, blocks, ..) in goldens() {
        let floats = little_endian(&dequantized(ty, &blocks));
        let mut shifted = vec![0xee; 3];
        shifted.extend(&blocks);
        assert_eq!(little_endian(&dequantized(ty, &shifted[3..])), floats, "{ty}, at byte 3");
        let one_by_one: Vec<u8> = blocks
            .chunks(ty.block_bytes())
            .flat_map(|block| little_endian(&dequantized(ty, block)))
            .collect();
        assert_eq!(one_by_one, floats, "{ty}, block by block");
        assert!(dequantized(ty, &[]).is_empty());
    }
}

#[test]
fn every_half_is_its_value() {
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (bits, float) in (0..=u16::MAX).zip(dequantized(GgmlType::F16, &halves)) {
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        assert_eq!(float.is_sign_negative(), bits >> 15 == 1, "{bits:#06x}");
        assert!(
            f64::from(float.abs()) == magnitude || (float.is_nan() && magnitude.is_nan()),
            "{bits:#06x} is {float}"
        );
    }
}

#[test]
fn floats_are_unchanged() {
    let bits = [0, 0x8000_0000, 1, 0x7f80_0000, 0xff80_0000, 0x7fc0_1234, 0x3f80_0001];
    let bytes: Vec<u8> = bits.iter().flat_map(|bits: &u32| bits.to_le_bytes()).collect();
    assert_eq!(little_endian(&dequantized(GgmlType::F32, &bytes)), bytes);
}

#[test]
fn lengths_that_disagree_are_refused() {
    let cases = [
        (GgmlType::Q4_0, 18, 31, "31 elements are not whole blocks of 32, as Q4_0 has"),
        (GgmlType::Q4_0, 17, 32, "32 elements of Q4_0 take 18 bytes, not 17"),
        (GgmlType::Q4_0, 36, 32, "32 elements of Q4_0 take 18 bytes, not 36"),
        (GgmlType::F16, 5, 2, "2 elements of F16 take 4 bytes, not 5"),
        (GgmlType::Q6K, 0, 256, "256 elements of Q6_K take 210 bytes, not 0"),
        (GgmlType::Iq2Xxs, 66, 256, "cannot dequantize IQ2_XXS"),
    ];
    for (ty, bytes, elements, message) in cases {
        let mut floats = vec![7.0; elements];
        let error = dequantize(ty, &vec![0; bytes], &mut floats).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(floats.iter().all(|&float| float == 7.0));
    }
}
