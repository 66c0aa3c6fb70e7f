//! Writes what seeds are made of that tessera itself does not write: `seeds FOLDER`.
//!
//! - `small.gguf`, a model of one layer, 32 channels and 34 tokens, which the packs in `data/` are of;
//! - `small.imatrix.dat` and `small.imatrix.gguf`, importance matrices in both of their formats.

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Array, GgufWriter, Strings, Value, WriteError};

const WIDTH: u64 = 32;
const FEED_FORWARD: u64 = 64;
const TOKENS: u8 = 34;

fn writer() -> Result<GgufWriter, WriteError> {
    let mut writer = GgufWriter::new();
    let specials = ["<unk>", "<s>", "</s>", "\u{2581}"].map(str::to_owned);
    let letters = (b'a'..=b'~').map(|letter| char::from(letter).to_string());
    let tokens: Vec<String> = specials.into_iter().chain(letters).take(TOKENS.into()).collect();
    let types = [2, 3, 3].into_iter().chain(std::iter::repeat(1)).take(tokens.len()).collect();
    let scores = (0..TOKENS).map(|rank| -f32::from(rank)).collect();
    for (key, value) in [
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("llama".to_owned())),
        ("tokenizer.ggml.tokens", Value::from(tokens.iter().collect::<Strings>())),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
    ] {
        writer.metadata(key, value)?;
    }
    let square = [WIDTH, WIDTH];
    for (name, dims) in [
        ("token_embd.weight", &[WIDTH, u64::from(TOKENS)][..]),
        ("output_norm.weight", &[WIDTH]),
        ("blk.0.attn_norm.weight", &[WIDTH]),
        ("blk.0.attn_q.weight", &square),
        ("blk.0.attn_k.weight", &square),
        ("blk.0.attn_v.weight", &square),
        ("blk.0.attn_output.weight", &square),
        ("blk.0.ffn_norm.weight", &[WIDTH]),
        ("blk.0.ffn_gate.weight", &[WIDTH, FEED_FORWARD]),
        ("blk.0.ffn_up.weight", &[WIDTH, FEED_FORWARD]),
        ("blk.0.ffn_down.weight", &[FEED_FORWARD, WIDTH]),
    ] {
        let ty = if dims.len() == 1 { GgmlType::F32 } else { GgmlType::Q8_0 };
        writer.tensor(name, ty, dims)?;
    }
    Ok(writer)
}

/// Weights that are no pattern, and the same every time.
fn weights(state: &mut u32, ty: GgmlType, bytes: u64) -> Vec<u8> {
    let mut next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    if ty == GgmlType::F32 {
        return (0..bytes / 4)
            .flat_map(|_| (0.5 + f32::from(next()) / 256.0).to_le_bytes())
            .collect();
    }
    // A block of Q8_0 is a scale in f16, here 2^-8, and 32 integers.
    let block = |next: &mut dyn FnMut() -> u8| -> Vec<u8> {
        [0x00, 0x1c].into_iter().chain((0..32).map(|_| next())).collect()
    };
    (0..bytes / 34).flat_map(|_| block(&mut next)).collect()
}

/// A file of keys and tensors.
fn file(writer: &GgufWriter) -> Result<Vec<u8>, WriteError> {
    let mut state = 1;
    let mut bytes = Vec::new();
    writer.write(&mut bytes, |tensor| {
        let bytes = weights(&mut state, tensor.ggml_type, tensor.bytes);
        // Counts are whole.
        if tensor.name.ends_with(".counts") {
            2_f32.to_le_bytes().repeat(bytes.len() / 4)
        } else {
            bytes
        }
    })?;
    Ok(bytes)
}

/// An importance matrix as llama.cpp writes it since August 2025: one linear, and one of two experts.
fn imatrix() -> Result<GgufWriter, WriteError> {
    let mut writer = GgufWriter::new();
    writer.metadata("general.type", "imatrix")?;
    writer.metadata("imatrix.chunk_count", 2u32)?;
    writer.metadata("imatrix.chunk_size", 512u32)?;
    writer.metadata("imatrix.datasets", &["alice.txt"][..])?;
    for (name, matrices) in [("blk.0.attn_q.weight", 1), ("blk.0.ffn_gate_exps.weight", 2)] {
        for (part, k) in [("in_sum2", 8), ("in_sum", 8), ("counts", 1)] {
            writer.tensor(format!("{name}.{part}"), GgmlType::F32, &[k, matrices])?;
        }
    }
    Ok(writer)
}

/// The same in the older format.
fn old_imatrix() -> Vec<u8> {
    let mut out = 2i32.to_le_bytes().to_vec();
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_down.weight"] {
        out.extend(i32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(4i32.to_le_bytes());
        out.extend(8i32.to_le_bytes());
        (0..8u8).for_each(|value| out.extend(f32::from(value).to_le_bytes()));
    }
    out.extend(2i32.to_le_bytes());
    out.extend(9i32.to_le_bytes());
    out.extend(b"alice.txt");
    out
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("seeds FOLDER")?;
    let folder = std::path::Path::new(&folder);
    for (name, bytes) in [
        ("small.gguf", file(&writer()?)?),
        ("small.imatrix.gguf", file(&imatrix()?)?),
        ("small.imatrix.dat", old_imatrix()),
    ] {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
