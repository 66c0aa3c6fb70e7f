//! The special tokens of a model: which begin and end a text, which end generation.
//!
//! Files say few of them, so that llama.cpp finds others by their text; the texts and the order
//! of the rules are those of its `llama-vocab.cpp`.

use std::collections::BTreeSet;

use super::TokenizerError;
use super::keys::{ADD_BOS, ADD_EOS, Keys, PRE};
use super::vocabulary::{Attributes, Vocabulary};

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

/// A special token that a key names, or else its text.
struct Role {
    keys: &'static [&'static str],
    texts: &'static [&'static str],
    ends: bool,
}

const ROLES: [Role; 8] = [
    // End of turn.
    Role {
        keys: &["tokenizer.ggml.eot_token_id"],
        texts: &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
        ends: true,
    },
    // End of message.
    Role { keys: &["tokenizer.ggml.eom_token_id"], texts: &["<|eom_id|>"], ends: true },
    // Fill in the middle: prefix, suffix, middle, padding, repository, file separator.
    Role {
        keys: &["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
        texts: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        ends: false,
    },
    Role {
        keys: &["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
        texts: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        ends: false,
    },
    Role {
        keys: &["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
        texts: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        ends: false,
    },
    Role {
        keys: &["tokenizer.ggml.fim_pad_token_id"],
        texts: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
        ends: true,
    },
    Role {
        keys: &["tokenizer.ggml.fim_rep_token_id"],
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        ends: true,
    },
    Role { keys: &["tokenizer.ggml.fim_sep_token_id"], texts: &["<|file_sep|>"], ends: true },
];

/// Texts of tokens that end generation, whatever the keys say.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts of tokens that are always parsed and shown (gpt-oss).
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// What a kind of tokenizer takes for granted where keys are absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: bool,
}

/// The special tokens of a model.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// All tokens that end generation.
    pub ends: BTreeSet<u32>,
}

impl SpecialTokens {
    /// Reads the keys and finds special tokens by text, whose attributes change.
    pub(super) fn find(
        keys: Keys<'_>,
        vocabulary: &mut Vocabulary<'_>,
        defaults: Defaults,
    ) -> Result<Self, TokenizerError> {
        let tokens = vocabulary.len();
        let known = |id: Option<u32>| id.filter(|&id| vocabulary.attributes(id).is_some());
        let bos = keys.token(BOS, tokens)?.or(known(defaults.bos));
        let eos = keys.token(EOS, tokens)?.or(known(defaults.eos));
        let unknown = keys.token(UNKNOWN, tokens)?.or(known(defaults.unknown));
        let add_bos = keys.switch(ADD_BOS)?.unwrap_or(defaults.add_bos);
        let add_eos = keys.switch(ADD_EOS)?.unwrap_or(false);
        for (add, token, key, switch) in
            [(add_bos, bos, BOS, ADD_BOS), (add_eos, eos, EOS, ADD_EOS)]
        {
            if add && token.is_none() {
                return Err(TokenizerError::NoToken { key, switch });
            }
        }
        let mut ends: BTreeSet<u32> = eos.into_iter().collect();
        for role in &ROLES {
            let mut named = None;
            for key in role.keys {
                named = named.or(keys.token(key, tokens)?);
            }
            let token = named.or_else(|| {
                let token = role.texts.iter().filter_map(|text| vocabulary.token(text)).min()?;
                vocabulary.change(token, |attributes| attributes.control = true);
                Some(token)
            });
            if role.ends {
                ends.extend(token);
            }
        }
        for text in ENDS {
            let Some(token) = vocabulary.token(text) else { continue };
            ends.insert(token);
            vocabulary.change(token, |attributes| attributes.control = true);
        }
        for text in SHOWN {
            let Some(token) = vocabulary.token(text) else { continue };
            vocabulary.change(token, |attributes| *attributes = user_defined());
        }
        except(&mut ends, vocabulary);
        strip(keys, vocabulary)?;
        Ok(Self { bos, eos, unknown, add_bos, add_eos, ends })
    }
}

fn user_defined() -> Attributes {
    Attributes { user_defined: true, ..Attributes::default() }
}

/// Takes out tokens that end generation in other models, but not in this one.
fn except(ends: &mut BTreeSet<u32>, vocabulary: &mut Vocabulary<'_>) {
    let ending = |text: &str| vocabulary.token(text).filter(|token| ends.contains(token));
    let calls = ending("<|call|>").or(ending("<|calls|>")).is_some();
    // gpt-oss and Solar Open end a part of an answer, not the answer, with `<|end|>`.
    let part = calls && ending("<|return|>").or(ending("<|flush|>")).is_some();
    let end = ending("<|end|>").filter(|_| part);
    // Gemma 4 and PLaMo have an ordinary `</s>`.
    let ordinary = ending("<|tool_response>").or(ending("<|plamo:eos|>")).is_some();
    let slash_s = ending("</s>").filter(|_| ordinary);
    if let Some(token) = end {
        ends.remove(&token);
        vocabulary.change(token, |attributes| *attributes = user_defined());
    }
    if let Some(token) = slash_s {
        ends.remove(&token);
        let normal = Attributes { normal: true, ..Attributes::default() };
        vocabulary.change(token, |attributes| *attributes = normal);
    }
}

/// Sets which special tokens take white space beside them: files do not say it, so llama.cpp goes
/// by the model's name.
fn strip(keys: Keys<'_>, vocabulary: &mut Vocabulary<'_>) -> Result<(), TokenizerError> {
    let pre = keys.text(PRE)?.unwrap_or_default();
    let name = keys.text("general.name").ok().flatten().unwrap_or_default().to_ascii_lowercase();
    let mut strip_left = |text: &str| {
        if let Some(token) = vocabulary.token(text) {
            vocabulary.change(token, |attributes| attributes.strips_left = true);
        }
    };
    if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|part| pre.contains(part)) {
        strip_left("<mask>");
    } else if name.contains("phi-3") || name.contains("phi3") {
        let kept = ["<unk>", "<s>", "<|endoftext|>"].map(|text| vocabulary.token(text));
        let slash_s = vocabulary.token("</s>");
        let special = vocabulary.iter().filter(|(_, _, attributes)| attributes.is_special());
        let special: Vec<u32> = special.map(|(token, _, _)| token).chain(slash_s).collect();
        for token in special.into_iter().filter(|&token| !kept.contains(&Some(token))) {
            vocabulary.change(token, |attributes| attributes.strips_right = true);
        }
    } else if name.contains("modern-bert") {
        strip_left("[MASK]");
    }
    Ok(())
}
