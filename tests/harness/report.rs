//! The JSON of a report with numbers as a model of 24 layers could have them.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers made up here")]

use serde_json::{Value, json};

/// Bits per weight of each scheme.
const SCHEMES: [(&str, f64); 3] = [("w4a4", 4.0625), ("w4a8", 4.1875), ("w8a8", 8.125)];

/// A digest made of one digit.
fn sha256(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

/// A number from 0 to 1 for a place, the same each time.
fn noise(place: u64) -> f64 {
    let mixed = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f64 / (1u64 << 24) as f64
}

/// Counts of magnitudes that fall off like a bell curve, with a tail.
fn counts(place: u64) -> Vec<u64> {
    (0..96)
        .map(|bin| {
            let x = f64::from(bin) / 24.0;
            let height = 40_000.0 * libm::exp(-x * x / 2.0) + 30.0 * libm::exp(-x);
            (height * (0.9 + 0.2 * noise(place * 100 + u64::from(bin as u8)))) as u64
        })
        .collect()
}

fn tensor(place: u64, name: &str, layer: Option<u64>, shape: (&str, u64, u64, f64)) -> Value {
    let (operator, n, k, weight) = shape;
    let depth = layer.map_or(1.0, |layer| 0.4 + 2.5 / (1.0 + layer as f64));
    let damage = 4e-4 * weight * depth * (0.4 + 1.2 * noise(place));
    let chosen = match operator {
        "output" => 2,
        "ffn_down" | "attn_v" => usize::from(damage < 2e-3) ^ 1,
        _ => usize::from(noise(place + 7) > 0.3),
    };
    let bytes = |bits: f64| (n as f64 * k as f64 * bits / 8.0) as u64;
    let options: Vec<Value> = SCHEMES
        .iter()
        .zip([3.1, 1.0, 0.02])
        .map(|(&(scheme, bits), factor)| {
            json!({ "scheme": scheme, "damage": damage * factor, "bytes": bytes(bits) })
        })
        .collect();
    let (scheme, bits) = SCHEMES[chosen];
    let of = if place.is_multiple_of(2) { "inputs" } else { "weights" };
    json!({
        "name": name,
        "layer": layer,
        "operator": operator,
        "scheme": scheme,
        "n": n,
        "k": k,
        "experts": 1,
        "weights": n * k,
        "bytes": bytes(bits),
        "bits_per_weight": bits,
        "relative_error": 0.08 + 0.05 * noise(place + 3),
        "damage": options[chosen]["damage"],
        "pinned": operator == "output",
        "options": options,
        "histograms": [
            { "of": "weights", "bin_width": 0.25, "counts": counts(place + 1), "clip": 7.5 },
            { "of": of, "bin_width": 0.031_25, "counts": counts(place), "clip": 2.1 + noise(place) },
        ],
        "activation_clip": if place.is_multiple_of(3) { json!(2.5 + noise(place)) } else { Value::Null },
    })
}

/// The report.
pub fn report() -> Value {
    let shapes = [
        ("attn_q", 896, 896, 1.0),
        ("attn_k", 128, 896, 0.6),
        ("attn_v", 128, 896, 2.4),
        ("attn_output", 896, 896, 1.3),
        ("ffn_gate", 4864, 896, 1.1),
        ("ffn_up", 4864, 896, 1.4),
        ("ffn_down", 896, 4864, 4.5),
    ];
    let mut tensors = Vec::new();
    for layer in 0..24 {
        for shape in shapes {
            let name = format!("blk.{layer}.{}.weight", shape.0);
            tensors.push(tensor(tensors.len() as u64, &name, Some(layer), shape));
        }
    }
    let head = ("output", 151_936, 896, 9.0);
    tensors.push(tensor(tensors.len() as u64, "output.weight", None, head));
    // One that nobody measured, and one that costs nothing.
    tensors[17]["damage"] = Value::Null;
    tensors[17]["histograms"] = json!([]);
    tensors[31]["damage"] = json!(0.0);
    let frontier: Vec<Value> = (0..18)
        .map(|step| {
            let bits = 4.08 + 0.225 * f64::from(step);
            let kld = 0.19 * libm::exp(-0.95 * (bits - 4.08)) + 0.0011;
            let measured = [0, 3, 8, 17].contains(&step).then_some(kld * 1.06);
            json!({
                "bits_per_weight": bits,
                "bytes": (bits * 61_795_000.0) as u64,
                "predicted_kld": kld,
                "chosen": step == 3,
                "measured_kld": measured,
            })
        })
        .collect();
    let row = |name: &str, bits: f64, ppl: f64, kld: Option<f64>, same: Option<f64>| {
        json!({
            "name": name,
            "bits_per_weight": bits,
            "bytes": (bits * 61_795_000.0) as u64,
            "ppl": ppl,
            "ppl_error": ppl / 140.0,
            "mean_kld": kld,
            "mean_kld_error": kld.map(|kld| kld / 60.0),
            "same_top": same,
        })
    };
    json!({
        "format": "tessera-report",
        "version": [1, 0],
        "tessera": "0.1.0",
        "model": {
            "name": "Qwen2.5 0.5B",
            "architecture": "qwen2",
            "parameters": 494_032_768,
            "files": [{ "name": "qwen2.5-0.5b-f16.gguf", "sha256": sha256('3') }],
        },
        "budget": [{ "kind": "target_bpw", "value": 4.8 }, { "kind": "target_decode", "value": 31.5 }],
        "pack": { "bytes": 331_776_123, "bits_per_weight": 4.75,
            "decode_tokens_per_second": 33.25, "prefill_tokens_per_second": 1204.5 },
        "prediction": {
            "predicted_kld": frontier[3]["predicted_kld"],
            "measured_kld": frontier[3]["measured_kld"],
            "ratio": 1.06,
            "text": "wiki.valid.raw",
        },
        "ladder": [
            row("F16", 16.0, 13.071, None, None),
            row("Q8_0", 8.5, 13.082, Some(0.001_31), Some(98.1)),
            row("w8a8", 8.125, 13.11, Some(0.002_84), Some(97.2)),
            row("Q6_K", 6.5625, 13.14, Some(0.006_2), Some(95.9)),
            row("Q4_K_M", 4.85, 13.92, Some(0.071), Some(87.5)),
            row("w4a8 uniform", 4.1875, 15.2, Some(0.187), Some(80.3)),
            row("w4a4 uniform", 4.0625, 21.4, Some(0.61), Some(66.1)),
            row("automatic", 4.755, 14.02, frontier[3]["measured_kld"].as_f64(), Some(86.8)),
        ],
        "frontier": frontier,
        "tensors": tensors,
        "sensitivity": { "spearman": 0.927, "seconds_measured": 812.4, "seconds_proxy": 11.25 },
        "recipe": {
            "defaults": { "scheme": "w4a8", "preset": "w4" },
            "rule": [
                { "match": "^output\\.weight$", "scheme": "w8a8" },
                { "match": "^blk\\.(0|1|2)\\.ffn_down\\.weight$", "scheme": "w8a8" },
            ],
        },
        "provenance": {
            "datasets": [{ "name": "wiki.train.raw", "sha256": sha256('a') }],
            "tokens": 131_072,
            "context": 512,
            "seed": 7,
            "chunks": 64,
            "evaluation_text": { "name": "wiki.valid.raw", "sha256": sha256('b') },
        },
    })
}
