//! The carried model with outlier channels and with massive tokens, as trained models have them: the
//! same function, harder to quantize.

#![allow(clippy::cast_possible_truncation, reason = "values of a model are f32")]

use super::model::Model;

const LAYERS: usize = 5;
const WIDTH: usize = 64;
/// A width with a channel for a massive token, of whole tiles.
const WIDE: usize = 96;
const HEADS_OF_A_VALUE: usize = 2;
const HEAD: usize = 8;
const EPSILON: f64 = 1e-5;
const BOS: usize = 1;

/// Norms of a layer, and what reads them.
const READERS: [(&str, &[&str]); 2] =
    [("attn_norm", &["attn_q", "attn_k", "attn_v"]), ("ffn_norm", &["ffn_gate", "ffn_up"])];

fn weight(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}.weight")
}

/// The gains of some channels of every norm multiplied by up to `strength`, the columns that read them
/// divided.
pub fn with_channels(mut model: Model, seed: usize, strength: f32) -> Model {
    for layer in 0..LAYERS {
        let channels = [seed * 7 + layer * 13, seed * 29 + layer * 3 + 11].map(|c| c % WIDTH);
        let factors = [strength, strength / 2.0];
        let factor = |channel: usize| match channels.iter().position(|&c| c == channel) {
            Some(at) => factors[at],
            None => 1.0,
        };
        for (norm, readers) in READERS {
            model = model.map(&weight(layer, norm), |channel, gain| gain * factor(channel));
            for reader in readers {
                model = model.map(&weight(layer, reader), |index, w| w / factor(index % WIDTH));
            }
        }
    }
    model
}

/// With a channel that is `magnitude` in the residual stream of the first token, BOS, and zero in that of
/// others, as the massive activations of trained models. The columns that read it give queries, keys,
/// values, gates and ups that the token had without it, so that the function is the same. With a
/// magnitude of zero the model is widened only.
pub fn with_massive_token(model: &Model, magnitude: f64) -> Model {
    let values =
        |name: &str| -> Vec<f64> { model.values(name).into_iter().map(f64::from).collect() };
    let channel = WIDTH + 5;
    let shrink = (WIDTH as f64 / WIDE as f64).sqrt();
    let epsilon = EPSILON * WIDTH as f64 / WIDE as f64;
    let gains = |narrow: &[f64]| -> Vec<f64> {
        (0..WIDE).map(|i| narrow.get(i).map_or(1.0, |gain| gain * shrink)).collect()
    };

    let embedding = values("token_embd.weight");
    let mut stream = embedding[BOS * WIDTH..(BOS + 1) * WIDTH].to_vec();
    let mut wide = widened(&embedding);
    wide[BOS * WIDE + channel] = magnitude;
    // The head is as it was, whatever becomes of the embedding.
    let mut made = with(model.clone(), "token_embd.weight", WIDE, &wide);
    made = with(made, "output.weight", WIDE, &widened(&embedding));
    made = with(made, "output_norm.weight", WIDE, &gains(&values("output_norm.weight")));
    for layer in 0..LAYERS {
        for (norm, readers) in READERS {
            let narrow = values(&weight(layer, norm));
            let x = normalized(&stream, &narrow, EPSILON);
            let mut massive = stream.clone();
            massive.resize(WIDE, 0.0);
            massive[channel] = magnitude;
            let massive = normalized(&massive, &gains(&narrow), epsilon);
            for reader in readers {
                let w = values(&weight(layer, reader));
                let mut wide = widened(&w);
                if magnitude != 0.0 {
                    let lost = product(&w, &x).into_iter().zip(product(&w, &massive[..WIDTH]));
                    for (row, (expected, found)) in wide.chunks_exact_mut(WIDE).zip(lost) {
                        row[channel] = (expected - found) / massive[channel];
                    }
                }
                made = with(made, &weight(layer, reader), WIDE, &wide);
            }
            made = with(made, &weight(layer, norm), WIDE, &gains(&narrow));
            let of = |reader: &str| product(&values(&weight(layer, reader)), &x);
            // The first token sees itself alone.
            let (output, inner) = if norm == "attn_norm" {
                let heads =
                    of("attn_v").chunks_exact(HEAD).map(<[f64]>::to_vec).collect::<Vec<_>>();
                ("attn_output", heads.iter().flat_map(|v| v.repeat(HEADS_OF_A_VALUE)).collect())
            } else {
                let gates = of("ffn_gate").into_iter().map(|gate| gate / (1.0 + libm::exp(-gate)));
                (
                    "ffn_down",
                    gates.zip(of("ffn_up")).map(|(gate, up)| gate * up).collect::<Vec<_>>(),
                )
            };
            let mut w = values(&weight(layer, output));
            stream.iter_mut().zip(product(&w, &inner)).for_each(|(stream, y)| *stream += y);
            w.resize(WIDE * inner.len(), 0.0);
            made = with(made, &weight(layer, output), inner.len(), &w);
        }
    }
    let length = u32::try_from(HEAD).unwrap();
    made.key("llama.embedding_length", u32::try_from(WIDE).unwrap())
        .key("llama.attention.layer_norm_rms_epsilon", epsilon as f32)
        .key("llama.attention.key_length", length)
        .key("llama.attention.value_length", length)
}

/// Rows of `WIDTH` with zeros up to `WIDE`.
fn widened(rows: &[f64]) -> Vec<f64> {
    let zeros = [0.0; WIDE - WIDTH];
    rows.chunks_exact(WIDTH).flat_map(|row| [row, &zeros].concat()).collect()
}

/// The model with another tensor of rows of `k` in place of one that it may have.
fn with(model: Model, name: &str, k: usize, values: &[f64]) -> Model {
    let model = if model.has(name) { model.without(name) } else { model };
    let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    match (k as u64, (values.len() / k) as u64) {
        (k, 1) => model.tensor(name, &[k], &narrow),
        (k, n) => model.tensor(name, &[k, n], &narrow),
    }
}

/// `gain · x / rms(x)`.
fn normalized(x: &[f64], gains: &[f64], epsilon: f64) -> Vec<f64> {
    let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
    x.iter().zip(gains).map(|(x, gain)| gain * x / rms).collect()
}

/// `W · x` of rows as long as `x`.
fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}
