//! The text, divided: chunks to calibrate on, and others to measure on.

use anyhow::{Context, ensure};
use tessera_runtime::decoder::Decoder;
use tessera_runtime::perplexity::Chunks;

use super::Request;
use crate::calibrate::{self, text, transient};
use crate::models::{self, How, Model, ModelSpec, Opening};

/// Most tokens that are held out.
const HELD_OUT: usize = 16384;

/// One part of the text of this many is held out at most.
const PART: usize = 5;

/// What the text is used for.
pub struct Texts {
    /// Tokens to calibrate on: those that come first.
    pub calibration_tokens: usize,
    /// Chunks that come after them, which nothing is chosen by.
    pub held_out: Chunks,
}

impl Texts {
    /// Tokenizes the text and divides it.
    pub fn read(request: &Request<'_>, opening: &Opening) -> anyhow::Result<Self> {
        let path = request.conversion.input;
        let text = path.display().to_string();
        let spec = ModelSpec { text, path: path.to_owned(), how: Some(How::Float) };
        let model = Model::open(&spec, opening)?;
        let checkpoint = model.checkpoint(opening)?;
        let decoder = Decoder::new(&*checkpoint).with_context(|| format!("`{}`", model.name))?;
        let context = calibrate::context(path, request.context, &decoder)?;
        let tokenizer = models::shared_tokenizer(&[(&model, &*checkpoint, &decoder)])?;
        let selection = text::Selection {
            dataset: transient::texts(request.dataset),
            field: request.field,
            tokens: usize::MAX,
            seed: opening.seed,
        };
        let mut chunks = text::read(selection, &tokenizer, context)?.chunks;
        let held_out = (HELD_OUT / context).max(1).min(chunks.len() / PART);
        ensure!(
            held_out > 0,
            "the text has {} chunks of {context} tokens: too few to hold some out and measure on them; give \
             more, or ask for shorter chunks with `--ctx`",
            chunks.len(),
        );
        let wanted = request.tokens.div_ceil(context).max(1);
        let calibration = wanted.min(chunks.len() - held_out);
        chunks.truncate(calibration + held_out);
        let held_out = chunks.split_off(calibration).concat();
        Ok(Texts {
            calibration_tokens: calibration * context,
            held_out: Chunks::of_whole(held_out, context, None)?,
        })
    }
}
