//! Tokenizers, of whole files and of keys that are made up.

use arbitrary::{Arbitrary, Unstructured};
use tessera_formats::gguf::{Gguf, Metadata};
use tessera_runtime::tokenizer::{Special, Tokenizer};

use crate::gguf_bytes::{Value, put_key};
use crate::hostile::{Hostile, Rarely};
use crate::input;
use crate::told::told;

/// Bytes of a text that is encoded, at most: a short time for each of many runs.
const LONGEST_TEXT: usize = 4096;

/// Texts that are encoded with every vocabulary.
const TEXTS: [&str; 6] = [
    "",
    " ",
    "Once upon a time, there was 1234567 — don't\n\n\t  stop!  ",
    "<s></s><|im_end|><0x0A> <|endoftext|>",
    "\u{2581}\u{2581}a\u{301}é漢字ひらがなกขค\u{1f600}\u{200d}\u{feff}",
    "                                                 x\r\n\r\r\n 0",
];

/// The keys of a GGUF file, or keys that are made up: a tokenizer or an error, and any text gives
/// tokens or an error.
pub fn tokenizer(data: &[u8]) {
    if data.starts_with(b"GGUF") {
        let path = input::file("tokenizer.gguf", data);
        let Ok(gguf) = Gguf::open(&path) else { return };
        check(gguf.metadata(), &TEXTS);
        return;
    }
    let Ok(keys) = Keys::arbitrary(&mut Unstructured::new(data)) else { return };
    let path = input::path("tokenizer.gguf");
    let Ok(metadata) = Metadata::parse(&path, keys.bytes()) else { return };
    let mut end = keys.text.len().min(LONGEST_TEXT);
    while !keys.text.is_char_boundary(end) {
        end -= 1;
    }
    let texts: Vec<&str> = TEXTS.into_iter().chain([&keys.text[..end]]).collect();
    if let Some(tokenizer) = check(&metadata, &texts)
        && keys.gives_texts_back()
    {
        for text in texts {
            let plain = Special { add: false, parse: false };
            let tokens = tokenizer.encode(text, plain).expect("every byte is a token");
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }
}

/// Reads a tokenizer and has it encode and decode.
fn check(metadata: &Metadata, texts: &[&str]) -> Option<Tokenizer> {
    let tokenizer = match Tokenizer::new(metadata) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            told(&error);
            return None;
        }
    };
    let count = u32::try_from(tokenizer.len()).expect("below 2^32 tokens");
    for (add, parse) in [(false, false), (false, true), (true, false), (true, true)] {
        for text in texts {
            let Ok(tokens) = tokenizer.encode(text, Special { add, parse }) else { continue };
            assert!(tokens.iter().all(|&token| token < count));
            let _ = tokenizer.decode(&tokens);
        }
    }
    for special in [tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()].into_iter().flatten() {
        assert!(special < count);
    }
    for token in [0, count / 2, count - 1, count, u32::MAX] {
        let _ = (tokenizer.piece(token), tokenizer.is_end(token), tokenizer.is_control(token));
    }
    let all: Vec<u32> = (0..count.min(4096)).collect();
    let _ = tokenizer.decode(&all);
    Some(tokenizer)
}

/// The keys of a tokenizer.
#[derive(Arbitrary, Debug)]
struct Keys {
    model: Model,
    pre: Pre,
    /// All 256 bytes as tokens, before the others.
    bytes: bool,
    pieces: Vec<Piece>,
    types: Types,
    scores: Scores,
    merges: Vec<Merge>,
    /// Of all that were made of two others.
    no_merges: Rarely<()>,
    specials: Vec<(u8, Id)>,
    switches: Vec<(u8, Rarely<u8>)>,
    name: Rarely<String>,
    text: String,
}

#[derive(Arbitrary, Debug)]
enum Model {
    ByteLevel,
    SentencePiece,
    Other(Rarely<String>),
}

#[derive(Arbitrary, Debug)]
enum Pre {
    Known(u8),
    Other(Rarely<String>),
    Absent,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    /// One of a few letters and signs.
    Letter(u8),
    /// Two pieces before it, which are merged.
    Pair(u8, u8),
    /// A text that tessera knows.
    Special(u8),
    /// A byte as SentencePiece writes it.
    Byte(u8),
    Text(Rarely<String>, u8),
    Spaces(u8),
}

#[derive(Arbitrary, Debug)]
enum Types {
    Absent,
    /// By their texts.
    Right,
    These(Vec<u8>),
    Hostile(Vec<i32>),
}

#[derive(Arbitrary, Debug)]
enum Scores {
    Ranks,
    These(Vec<f32>),
    Absent,
}

#[derive(Arbitrary, Debug)]
enum Merge {
    Pieces(u8, u8),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Id {
    Piece(u8),
    Hostile(Hostile),
}

const LETTERS: [&str; 24] = [
    "a",
    "b",
    "e",
    "t",
    "1",
    "2",
    " ",
    "\n",
    "\u{2581}",
    "Ġ",
    "Ċ",
    "é",
    "漢",
    "'",
    "-",
    "<",
    ">",
    "|",
    "s",
    "\u{301}",
    "\u{1f600}",
    "ĉ",
    "n",
    "x",
];

const SPECIAL: [&str; 14] = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|channel|>",
    "<mask>",
    "[EOT]",
    "▁<PRE>",
    "<|tool_response>",
    "<|eot_id|>",
];

/// One name of each rule that tessera knows.
const PRES: [&str; 40] = [
    "default",
    "gpt-2",
    "llama-bpe",
    "dbrx",
    "chatglm-bpe",
    "glm4",
    "jais-2",
    "minicpm5",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "spark2_5",
    "youtu",
    "falcon",
    "qwen2",
    "qwen35",
    "poro-chat",
    "bloom",
    "viking",
    "tekken",
    "chameleon",
    "gpt-4o",
    "granite-embed-multi-97m",
    "tiny_aya",
    "superbpe",
    "bailingmoe",
    "seed-coder",
    "kimi-k2",
    "ufakzeka",
    "afmoe",
    "laguna",
    "exaone-moe",
    "smollm",
    "starcoder",
    "command-r",
    "jina-v2-de",
    "mpt",
    "olmo",
    "refact",
    "stablelm2",
];

const IDS: [&str; 10] = [
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "eot_token_id",
    "eom_token_id",
    "fim_pre_token_id",
    "prefix_token_id",
    "fim_pad_token_id",
    "padding_token_id",
    "fim_sep_token_id",
];

const SWITCHES: [&str; 4] =
    ["add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"];

fn pick<'a>(choices: &[&'a str], index: u8) -> &'a str {
    choices[usize::from(index) % choices.len()]
}

/// The letter that byte-level vocabularies have for a byte (GPT-2's `bytes_to_unicode`).
fn letter_of(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(byte)).count();
    let code = 256 + u32::try_from(before).unwrap_or(0);
    char::from_u32(code).unwrap_or(' ')
}

impl Keys {
    /// Texts of the tokens, each once, and the pairs that were merged.
    fn pieces(&self) -> (Vec<String>, Vec<String>) {
        let mut pieces: Vec<String> = match (self.bytes, &self.model) {
            (false, _) => Vec::new(),
            (true, Model::ByteLevel) => (0..=255).map(|byte| letter_of(byte).to_string()).collect(),
            (true, _) => (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect(),
        };
        let mut merges = Vec::new();
        for piece in &self.pieces {
            let made = |index: u8| {
                let made = pieces.len().checked_sub(1 + usize::from(index) % pieces.len().max(1));
                made.and_then(|index| pieces.get(index)).cloned().unwrap_or_default()
            };
            let text = match piece {
                Piece::Letter(letter) => pick(&LETTERS, *letter).to_owned(),
                Piece::Pair(left, right) => {
                    let (left, right) = (made(*left), made(*right));
                    let text = format!("{left}{right}");
                    merges.push(format!("{left} {right}"));
                    text
                }
                Piece::Special(index) => pick(&SPECIAL, *index).to_owned(),
                Piece::Byte(byte) => format!("<0x{byte:02X}>"),
                Piece::Text(text, number) => text.0.clone().unwrap_or(format!("t{number}")),
                Piece::Spaces(count) => "\u{2581}".repeat(usize::from(*count)),
            };
            pieces.push(text);
        }
        // A second token of a text is refused, and that ends most runs: it is left out, but for one.
        let mut seen = std::collections::HashSet::new();
        let kept = pieces.iter().filter(|piece| piece.len() < 1024 && seen.insert(piece.as_str()));
        let mut kept: Vec<String> = kept.cloned().collect();
        if self.no_merges.0.is_some() {
            kept.extend(pieces.last().cloned());
        }
        merges.retain(|merge| merge.split(' ').all(|part| !part.is_empty()) && merge.len() < 1024);
        merges.dedup();
        (kept, merges)
    }

    /// Whether what is encoded must come back: bytes for all there is, and no token but ordinary ones.
    fn gives_texts_back(&self) -> bool {
        let ordinary =
            |piece: &Piece| matches!(piece, Piece::Letter(_) | Piece::Pair(..) | Piece::Spaces(_));
        matches!(self.model, Model::ByteLevel)
            && matches!(self.types, Types::Absent)
            && self.bytes
            && self.pieces.iter().all(ordinary)
            && self.specials.is_empty()
            && self.switches.is_empty()
            && self
                .pieces()
                .0
                .iter()
                .all(|piece| !piece.contains(['<', '[', '>']) || piece.len() == 1)
    }

    /// The section of keys.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |key: &str, value: &Value| {
            put_key(&mut out, &format!("tokenizer.ggml.{key}"), value);
        };
        let model = match &self.model {
            Model::ByteLevel => "gpt2",
            Model::SentencePiece => "llama",
            Model::Other(name) => name.0.as_deref().unwrap_or("gpt2"),
        };
        put("model", &Value::text(model));
        match &self.pre {
            Pre::Known(index) => put("pre", &Value::text(pick(&PRES, *index))),
            Pre::Other(name) => {
                put("pre", &Value::text(name.0.as_deref().unwrap_or("default")));
            }
            Pre::Absent => {}
        }
        let (pieces, merges) = self.pieces();
        let count = pieces.len();
        put("tokens", &Value::texts(&pieces));
        match &self.types {
            Types::Absent => {}
            Types::Right => {
                let ty = |piece: &String| match piece.as_str() {
                    "<unk>" => 2,
                    text if text.starts_with("<0x") && text.len() == 6 => 6,
                    text if SPECIAL.contains(&text) => 3,
                    _ => 1,
                };
                put("token_type", &Value::i32s(pieces.iter().map(ty).collect()));
            }
            Types::These(types) => {
                let types = types.iter().map(|ty| i32::from(ty % 7)).chain(std::iter::repeat(1));
                put("token_type", &Value::i32s(types.take(count).collect()));
            }
            Types::Hostile(types) => put("token_type", &Value::i32s(types.clone())),
        }
        match &self.scores {
            Scores::Ranks => {
                let scores = (0..count).map(|rank| -f32::from(u16::try_from(rank).unwrap_or(0)));
                put("scores", &Value::f32s(scores.collect()));
            }
            Scores::These(scores) => {
                let scores = scores.iter().copied().chain(std::iter::repeat(0.0));
                put("scores", &Value::f32s(scores.take(count).collect()));
            }
            Scores::Absent => {}
        }
        let mut all = if self.no_merges.0.is_some() { Vec::new() } else { merges };
        all.extend(self.merges.iter().map(|merge| match merge {
            Merge::Pieces(left, right) => {
                let piece = |index: u8| pieces.get(usize::from(index) % count.max(1)).cloned();
                format!(
                    "{} {}",
                    piece(*left).unwrap_or_default(),
                    piece(*right).unwrap_or_default()
                )
            }
            Merge::Text(text) => text.clone(),
        }));
        if matches!(self.model, Model::ByteLevel | Model::Other(_)) || !all.is_empty() {
            put("merges", &Value::texts(&all));
        }
        let mut seen = std::collections::HashSet::new();
        for (key, id) in self.specials.iter().filter(|(key, _)| seen.insert(key % 10)) {
            let id = match id {
                Id::Piece(index) => {
                    Value::U32(u32::from(*index) % u32::try_from(count.max(1)).unwrap_or(1))
                }
                Id::Hostile(number) => Value::U64(number.0),
            };
            put(pick(&IDS, *key), &id);
        }
        let mut seen = std::collections::HashSet::new();
        for (key, on) in self.switches.iter().filter(|(key, _)| seen.insert(key % 4)) {
            put(pick(&SWITCHES, *key), &Value::Bool(on.0.unwrap_or(key / 128)));
        }
        if let Some(name) = &self.name.0 {
            put_key(&mut out, "general.name", &Value::text(name));
        }
        out
    }
}
