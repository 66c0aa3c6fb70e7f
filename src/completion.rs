//! A model's continuation of a prompt.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tessera_formats::escape::Escaped;
use tessera_runtime::decoder::Decoder;
use tessera_runtime::generate::{Generator, Sampler, Sampling};
use tessera_runtime::tokenizer::Special;

use crate::models::{self, Model, ModelSpec, Opening};
use crate::progress::Progress;
use crate::talk::say;

/// What is to be continued.
pub struct Request<'a> {
    /// The model.
    pub model: &'a ModelSpec,
    /// The prompt.
    pub prompt: &'a str,
    /// Most tokens to generate.
    pub tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Memory for weights; all of them where nothing is said.
    pub memory_budget: Option<u64>,
    /// How the model is opened.
    pub opening: &'a Opening,
}

/// How fast it went.
pub struct Rates {
    prompt: (usize, Duration),
    generated: (usize, Duration),
    saturated: u64,
}

impl Rates {
    /// For people.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn text(&self) -> String {
        let rate = |(tokens, time): (usize, Duration)| tokens as f64 / time.as_secs_f64().max(1e-9);
        let mut text = format!(
            "prompt: {} tokens, {:.1} tokens/s; generated: {} tokens, {:.1} tokens/s",
            self.prompt.0,
            rate(self.prompt),
            self.generated.0,
            rate(self.generated),
        );
        if self.saturated > 0 {
            text += &format!("; {} accumulators saturated at 16 bits", self.saturated);
        }
        text
    }
}

/// Generates until a token ends the text, or enough are generated; `print` gets the prompt, and then
/// each piece of text as it is known, and says whether anyone reads on.
pub fn complete(
    request: &Request<'_>,
    print: impl Fn(&str) -> anyhow::Result<bool>,
) -> anyhow::Result<Rates> {
    let model = Model::open(request.model, request.opening)?;
    let checkpoint = model.checkpoint(request.opening)?;
    let named = || format!("`{}`", Escaped(&model.name));
    let decoder = Decoder::new(&*checkpoint).with_context(named)?;
    let tokenizer = models::shared_tokenizer(&[(&model, &*checkpoint, &decoder)])?;
    let prompt = tokenizer.encode(request.prompt, Special { add: true, parse: true })?;
    ensure!(
        !prompt.is_empty(),
        "the prompt has no tokens, and the model begins with none: give one"
    );
    let context = prompt.len().saturating_add(request.tokens);
    let decoder = Decoder::for_context(&*checkpoint, context).with_context(named)?;
    let longest = decoder.model().context_length;
    ensure!(
        context <= longest,
        "{} tokens of prompt and {} to generate are more than the {longest} that {} was trained for: \
         ask for fewer with `-n`",
        prompt.len(),
        request.tokens,
        named(),
    );
    let progress = Progress::of_steps("loading");
    let layers = u64::try_from(decoder.model().layers)?;
    let budget = request.memory_budget.unwrap_or(u64::MAX);
    let generator = Generator::new(&decoder, budget, |loaded| {
        progress.set(u64::try_from(loaded).unwrap_or(layers), layers);
    });
    progress.finish();
    let mut generator = generator.with_context(named)?;
    if generator.passing_layers() > 0 {
        say(format_args!(
            "warning: {} of {layers} layers do not fit the memory budget: they are loaded again for \
             every token",
            generator.passing_layers(),
        ));
    }
    print(request.prompt)?;
    let started = Instant::now();
    let mut logits = generator.extend(&prompt).with_context(named)?;
    let mut rates = Rates {
        prompt: (prompt.len(), started.elapsed()),
        generated: (0, Duration::ZERO),
        saturated: 0,
    };
    let started = Instant::now();
    let mut sampler = Sampler::new(request.sampling);
    let mut text = Pieces::default();
    for index in 0..request.tokens {
        let token = sampler
            .sample(&logits)
            .with_context(|| format!("{} gives logits that are not finite", named()))?;
        if tokenizer.is_end(token) {
            break;
        }
        rates.generated.0 += 1;
        // Control tokens are not part of the text, as for llama.cpp.
        let shown = !tokenizer.is_control(token);
        if shown && !print(&text.push(&tokenizer.piece(token)))? {
            break;
        }
        if index + 1 < request.tokens {
            logits = generator.extend(&[token]).with_context(named)?;
        }
    }
    print(&text.finish())?;
    rates.generated.1 = started.elapsed();
    rates.saturated = model.saturated();
    Ok(rates)
}

/// Bytes of tokens, given out as text: a character may span tokens.
#[derive(Default)]
struct Pieces {
    pending: Vec<u8>,
}

impl Pieces {
    /// The text that is complete with these bytes; what is no UTF-8 becomes U+FFFD.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(wrong) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push('\u{FFFD}');
                    self.pending.drain(..valid + wrong);
                }
            }
        }
    }

    /// What is left at the end.
    fn finish(&self) -> String {
        if self.pending.is_empty() { String::new() } else { "\u{FFFD}".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_given_out_whole() {
        let mut pieces = Pieces::default();
        let bytes = "aß€".as_bytes();
        assert_eq!(pieces.push(&bytes[..2]), "a");
        assert_eq!(pieces.push(&bytes[2..4]), "ß");
        assert_eq!(pieces.push(&bytes[4..]), "€");
        assert_eq!(pieces.push(b"\xffb\xe2\x82"), "\u{FFFD}b");
        assert_eq!(pieces.push(b"x"), "\u{FFFD}x");
        assert_eq!(pieces.push(b"\xe2"), "");
        assert_eq!(pieces.finish(), "\u{FFFD}");
    }
}
